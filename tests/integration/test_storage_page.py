"""`holdfast guide storage` says enough to read everything that holdfast writes.

What every other test leaves behind is read by the same stranger: see `conftest`.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

import foreign
from holdfast import LocalEngine, Orchestrator, StateManager
from holdfast.attempts.records import ExitRecord
from holdfast.errors import StateCorruptError
from holdfast.guide import page
from holdfast.identity import ProcessIdentity
from holdfast.lifecycle.records import (
    MAX_PROCESSES,
    ExperimentState,
    Origin,
    ProcessProgress,
    ResultRef,
)
from holdfast.lifecycle.reuse import Proof
from holdfast.results import acceptance
from holdfast.status import ExperimentStatus, ProcessStatus, Reason
from holdfast.store import journal, strictjson, view
from holdfast.store import writer as writer_module
from processes import run

ID = "exp_7"

KILLED = """
import os, sys
from holdfast import StateManager
claim = StateManager(sys.argv[1]).claim("exp_7")
claim.record("start")
claim.record_many([("start", 0), ("start", 1)])
claim.record("complete", 0, exit_code=0)
os._exit(9)
"""


@pytest.fixture
def manager(state_dir: Path) -> StateManager:
    found = StateManager(state_dir)
    found.create(ID, num_processes=3, name="näme", config={"b": 1, "a": [2.5]})
    return found


def journals(manager: StateManager) -> list[Path]:
    return sorted((manager.state_dir / ID / "journal").iterdir())


def bare(manager: StateManager) -> None:
    manager.create("größe/ü", num_processes=2)
    manager.create("nul.7")


def claimed(manager: StateManager) -> None:
    with manager.claim(ID) as claim:
        claim.record("start")
        claim.record_many([("start", 0), ("start", 1)])
        claim.note(("complete", 0, {"exit_code": 0}))
        claim.record("fail", 1, exit_code=3, error_message="näh")


def several_epochs(manager: StateManager) -> None:
    claimed(manager)
    with manager.claim(ID) as claim:
        claim.record("requeue", 1, requested_by_user=True)
    with manager.claim(ID) as claim:
        claim.record("start", 1)


#: A model that every process writes.
MODEL = ResultRef(path="models/größe.pt", size=9, sha256="1" * 64)


def proven(*, via: str | None = None) -> dict[str, Any]:
    """Facts of a reuse."""
    origin = Origin(experiment_id="exp_6", process=4, attempt=2, via=via)
    result = ResultRef(path="results/0.0.json", size=2, sha256="0" * 64)
    return {
        **{"proof": Proof(origin=origin, work="0" * 32, status=ProcessStatus.COMPLETED)},
        **{"work": "0" * 32, "code": "c" * 32, "result": result, "outputs": (MODEL, MODEL)},
    }


def reused(manager: StateManager) -> None:
    manager.create("exp_8", num_processes=3, reuse="unchanged")
    with manager.claim("exp_8") as claim:
        claim.record("start")
        claim.record_many([("reuse", 0, proven()), ("reuse", 1, proven(via="exp_7"))])
        claim.record("start", 2, work="2" * 32, code="d" * 32)
        claim.record("complete", 2, exit_code=0, outputs=(MODEL,), code="e" * 32)


def reused_and_lost(manager: StateManager) -> None:
    reused(manager)
    with manager.claim("exp_8") as claim:
        claim.record("requeue", 0, result_lost=True)
        claim.record("requeue", 2, result_lost=True)
        claim.record("start", 0, work="3" * 32)


def killed(manager: StateManager) -> None:
    run(KILLED, manager.state_dir, exit_code=9)


def taken_over(manager: StateManager) -> None:
    killed(manager)
    with journals(manager)[-1].open("ab") as file:
        file.write(b"0123abcd {half a li")
    with manager.claim(ID) as claim:
        claim.record("interrupt", reason="stale", evidence="dead")


def died_before_its_base(manager: StateManager) -> None:
    killed(manager)
    first = journals(manager)[0]
    claim_line = first.read_bytes().splitlines(keepends=True)[0]
    first.with_name("00000002.jsonl").write_bytes(claim_line)


def written_behind_its_successor(manager: StateManager) -> None:
    several_epochs(manager)
    first, second, *_ = journals(manager)
    lines = first.read_bytes().splitlines(keepends=True)
    assert second.read_bytes()
    first.write_bytes(b"".join([*lines, lines[-1]]))


def saved(manager: StateManager) -> None:
    state = manager.load(ID)
    state = manager.save(attrs.evolve(state, status=ExperimentStatus.RUNNING))
    manager.save(attrs.evolve(state, extra={"mine": [1, None]}))


def deleted_half_way(manager: StateManager) -> None:
    claimed(manager)
    view = (manager.state_dir / f"{ID}.json").read_bytes()
    with manager.claim(ID) as claim:
        claim.record_deleted()
    (manager.state_dir / f"{ID}.json").write_bytes(view)


def deleted(manager: StateManager) -> None:
    claimed(manager)
    manager.delete(ID, force=True)
    manager.create("another")


def without_a_view(manager: StateManager) -> None:
    claimed(manager)
    (manager.state_dir / f"{ID}.json").unlink()


def copied(manager: StateManager) -> None:
    claimed(manager)
    shutil.copy(manager.state_dir / f"{ID}.json", manager.state_dir / "exp_8.json")


KINDS: list[Callable[[StateManager], None]] = [
    bare,
    claimed,
    several_epochs,
    killed,
    taken_over,
    died_before_its_base,
    written_behind_its_successor,
    saved,
    reused,
    reused_and_lost,
    deleted_half_way,
    deleted,
    without_a_view,
    copied,
]


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_the_page_is_enough_to_read(make: Callable[[StateManager], None], manager: StateManager):
    """Whatever its life was, a stranger reads the same state and history as holdfast."""
    make(manager)
    assert not foreign.disagreements(manager.state_dir)


def test_the_page_is_enough_to_read_a_compacted_journal(
    manager: StateManager, monkeypatch: pytest.MonkeyPatch
):
    """An owner that goes on in a shorter journal is no new owner."""
    monkeypatch.setattr(writer_module, "COMPACT_BYTES", 2000)
    with manager.claim(ID) as claim:
        claim.record("start")
        for _ in range(20):
            claim.record("start", 0)
            claim.record("fail", 0, exit_code=1)
            claim.record("requeue", 0, requested_by_user=True)
    assert len(journals(manager)) > 2
    assert not foreign.disagreements(manager.state_dir)


def test_the_page_is_enough_to_read_files_of_every_schema(state_dir: Path):
    """Those of the first schemas, too, which were made by hand or by other tools."""
    schemas = Path(__file__).parents[1] / "data" / "schemas"
    shutil.copytree(schemas, state_dir)
    assert len(list(state_dir.iterdir())) > 4
    assert not foreign.disagreements(state_dir)


def test_the_page_says_what_is_torn_and_what_is_damage(manager: StateManager):
    """At whatever byte a journal ends or is altered, both believe and refuse the same."""
    claimed(manager)
    (file,) = journals(manager)
    whole = file.read_bytes()
    begin = sum(map(len, whole.splitlines(keepends=True)[:2]))
    for at in range(begin - 3, len(whole), 3):
        file.write_bytes(whole[:at])
        assert not foreign.disagreements(manager.state_dir), f"cut at {at}"
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert not foreign.disagreements(manager.state_dir), f"altered at {at}"
        file.write_bytes(whole[:at] + bytes(40) + whole[at + 40 :])
        assert not foreign.disagreements(manager.state_dir), f"zeros at {at}"
    for end in (i for i, byte in enumerate(whole) if byte == ord("\n")):
        for other in (b"", b"x", b"\0"):
            file.write_bytes(whole[:end] + other + whole[end + 1 :])
            assert not foreign.disagreements(manager.state_dir), f"line feed at {end}: {other!r}"
    for tail in (
        b"\0" * 4096,
        b"\0" * 99 + whole[-50:],
        whole[-50:] + b"\0" * 99,
        b"\n\n",
        b"torn\ntwice",
        b"00000000 \n",
    ):
        file.write_bytes(whole + tail)
        assert not foreign.disagreements(manager.state_dir), f"followed by {tail[:9]!r}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("outputs", value) for value in ({}, None, "model.pt", ["model.pt"], [None], [{}])),
        ("outputs", [{"path": "model.pt", "size": -1, "sha256": ""}]),
        ("outputs", [{"path": "model.pt", "size": 1}]),
        *(("origin", value) for value in ("exp_6", [], {}, {"experiment_id": "exp_6"})),
        ("origin", {"experiment_id": "", "process": 1, "attempt": 1}),
        ("origin", {"experiment_id": "exp_6", "process": -1, "attempt": 1}),
        ("origin", {"experiment_id": "exp_6", "process": 1, "attempt": True}),
        ("origin", {"experiment_id": "exp_6", "process": 1, "attempt": 1, "via": 7}),
        *(("work", 7), ("code", ["train.py"]), ("reuse", "some")),
    ],
)
def test_the_page_says_what_no_output_and_no_origin_is(
    manager: StateManager, key: str, value: object
):
    """A view that somebody edited is refused by both, and by us with the name of the key."""
    manager.create("exp_8", num_processes=1)
    path = manager.state_dir / "exp_8.json"
    plain = json.loads(path.read_text())
    inner = plain if key == "reuse" else plain["process_progress"]["0"]
    path.write_text(json.dumps(plain))
    assert manager.load("exp_8")
    inner[key] = value
    path.write_text(json.dumps(plain))
    with pytest.raises(StateCorruptError, match=key):
        manager.load("exp_8")
    assert not foreign.disagreements(manager.state_dir)


WORK = """
import json, os
print("out")
with open(os.environ["HOLDFAST_RESULT"], "w") as file:
    json.dump({"loss": float("nan"), "n": {"of": 1}}, file)
"""


def tables(heading: str) -> set[str]:
    """What stands in code in the first columns of the tables under a heading of the page."""
    text = page("storage").split(f"# {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| (.*?) \|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def keys(heading: str) -> set[str]:
    """Every name in code under a heading of the page."""
    text = page("storage").split(f"# {heading}\n", 1)[1].split("\n## ", 1)[0]
    return set(re.findall(r"[a-z_]+", " ".join(re.findall(r"`([^`]+)`", text))))


def test_the_page_has_every_field():
    """Those of states, processes, identities and ends; every status and every reason."""
    records: tuple[Any, ...] = (ExperimentState, ProcessProgress, ProcessIdentity, Origin)
    fields = {field.name for record in records for field in attrs.fields(record)}
    assert fields <= keys("The state")
    words = {str(word) for kind in (ExperimentStatus, ProcessStatus, Reason) for word in kind}
    assert words <= keys("The state")
    assert {field.name for field in attrs.fields(ExitRecord)} <= keys("Attempts")


def test_the_page_has_the_limits():
    """What is refused for its size, and when a journal gets a successor."""
    text = " ".join(page("storage").split())
    view_mib, journal_gib = view.SIZE_LIMIT >> 20, journal.SIZE_LIMIT >> 30
    assert (
        f"a view {view_mib} MiB, a journal {journal_gib} GiB, an experiment {MAX_PROCESSES:,}"
    ) in text
    assert f"any JSON, up to {acceptance.SIZE_LIMIT >> 20} MB" in text
    assert f"more than {strictjson.MAX_DEPTH} levels" in text
    assert (writer_module.COMPACT_BYTES, writer_module.COMPACT_BASES) == (1 << 20, 4)
    assert "beyond 1 MiB and four times its base" in text


def test_the_page_has_every_file_of_a_run(state_dir: Path, tmp_path: Path):
    """Each file that an experiment with results and an aggregate leaves, and every key in it."""
    (tmp_path / "work.py").write_text(WORK)
    with LocalEngine() as engine:
        config = {
            "command": ["python", str(tmp_path / "work.py")],
            "processes": 2,
            "aggregate": {"command": ["python", str(tmp_path / "work.py")]},
        }
        outcome = Orchestrator(StateManager(state_dir), engine).run(config)
    assert outcome.ok
    assert not foreign.disagreements(state_dir)
    folder = state_dir / outcome.state.experiment_id
    named = set(re.findall(r"[a-z.]+", page("storage")))
    left = {path.name for path in (*state_dir.iterdir(), *folder.iterdir())}
    left -= {folder.name, f"{folder.name}.json"}
    assert {name.rstrip("/") for name in left} <= named
    suffixes = {path.suffix for path in (folder / "attempts").iterdir()}
    assert suffixes == {".live", ".exit", ".out", ".err"}
    assert suffixes <= tables("Attempts")
    records = (folder / "attempts").glob("*.live"), (folder / "attempts").glob("*.exit")
    for path in (each for found in records for each in found):
        assert json.loads(path.read_text()).keys() <= keys("Attempts") | keys("The state"), path
    aggregate = json.loads((folder / "aggregate.json").read_text())
    written = {*aggregate, *aggregate["rows"][0], *next(iter(aggregate["statistics"].values()))}
    assert written <= keys("Results")
