"""What the README tells of a kill beside its peers is what `tests/benchmarks/peers.py` measures.

Of the peers, only make is run here: it is on most machines, and shows that the measurement sees
what it is for. The others need packages of their own.
"""

import re
import shutil
from pathlib import Path

import pytest

from benchmarks import peers
from holdfast.guide import page

#: Nobody is to be let go before the one that comes second has looked around, however slow it is.
LOOK_S = 120.0

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def printed(name: str) -> dict[str, str]:
    """What the README says of the peer called *name*, by story."""
    assert peers.HEADER in README
    [line] = re.findall(rf"^\| {name}[ .\d]* \| (.*) \|$", README, re.MULTILINE)
    return dict(zip(peers.STORIES, line.split(" | "), strict=True))


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "LOOK_S", LOOK_S)


@pytest.mark.parametrize("story", peers.STORIES)
def test_the_readme_tells_of_holdfast_what_is_measured(story, tmp_path):
    """Killed, absent or started twice: four starts, one at a time, one command."""

    def resumed(folder: Path) -> bool:
        return "resuming" in (folder / "said.1").read_text()

    outcome, said = peers.tell(peers.HOLDFAST, peers.STORIES[story], tmp_path / "stage", resumed)
    assert str(outcome) == printed("holdfast")[story], said


@pytest.mark.skipif(shutil.which("make") is None, reason="takes GNU make")
@pytest.mark.parametrize("story", peers.STORIES)
def test_the_measurement_sees_copies_where_there_are_some(story, tmp_path):
    """GNU make starts again what still runs, and what it started is counted."""

    def begun_again(folder: Path) -> bool:
        return (folder / "log").read_text().count("start") >= 2 * peers.JOBS

    outcome, said = peers.tell(peers.MAKE, peers.STORIES[story], tmp_path / "stage", begun_again)
    if story == "twice":
        # Of the second half, each of the two skips what the other has made by then: by chance.
        assert 2 * peers.JOBS < outcome.starts <= 2 * peers.PROCESSES, said
        outcome = outcome._replace(starts=2 * peers.PROCESSES)
    assert str(outcome) == printed("GNU make")[story], said


def test_readme_and_guide_tell_the_same():
    """The guide has every row of the README, and says something of every peer that is measured."""
    told = page("promises").split("\n## Beside its peers\n")[1].split("\n## ")[0]
    for peer in peers.PEERS:
        assert re.search(rf"^\| {re.escape(peer.name)}[ .\d]* \|", told, re.MULTILINE), peer.name
    table = README.split("\n## Beside its peers\n")[1].split("\n## ")[0]
    assert set(re.findall(r"^\|.*\|$", table, re.MULTILINE)) <= set(told.splitlines())
