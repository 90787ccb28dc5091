"""What ranks of one launcher wrote, each for itself or all into one log."""

import json
import re

import pytest

from shell import Shell

#: Rank 1 has output of its own, as under `holdfast rank`, and rank 2 a log of its own.
LAUNCHER = """
import os, time
reports = os.environ["HOLDFAST_REPORTS"]
print("from the launcher", flush=True)
for name, words in (
    ("1.0-9-9-here.out", "out of 1"),
    ("1.0-9-9-here.err", "err of 1"),
    ("2.0-9-9-here.log", "log of 2"),
    ("2.0-9-9-here.progress", '{"step": 1, "total": 4}'),
):
    with open(os.path.join(reports, name), "w") as file:
        file.write(words + "\\n")
open("began.0.1", "w").close()
while os.path.exists("hold"):
    time.sleep(0.01)
"""


@pytest.fixture
def gang(sh: Shell) -> Shell:
    (sh.path / "work.py").write_text(LAUNCHER)
    (sh.path / "g.toml").write_text('command = ["python", "work.py"]\nranks = 4\n')
    return sh


def test_each_rank_has_the_log_that_is_its_own(gang: Shell) -> None:
    """Else its launcher's, which is printed once for all."""
    gang("run", "g.toml")
    assert (
        gang("logs", "@last/1")[0]
        == "==> 1.1 stdout <==\nout of 1\n\n==> 1.1 stderr <==\nerr of 1\n"
    )
    assert gang("logs", "-o", "@last/1")[0] == "out of 1\n"
    shared = "==> launcher-0.1 stdout <==\nfrom the launcher\n"
    assert gang("logs", "@last/0")[0] == shared
    assert gang("logs", "@last/2")[0] == f"{shared}\n==> 2.1 log <==\nlog of 2\n"
    every, _ = gang("logs", "@last")
    assert re.findall("==> (.*) <==", every) == [
        "launcher-0.1 stdout", "1.1 stdout", "1.1 stderr", "2.1 log",
    ]  # fmt: skip


def test_what_only_the_launcher_wrote_is_not_hidden(gang: Shell) -> None:
    """Each rank has files of its own, and nothing in them: why is in their launcher's."""
    words = [f'("{i}.0-9-9-here.{kind}", "")' for i in range(4) for kind in ("out", "err")]
    script = LAUNCHER.partition("for name")[0] + (
        f"for name, words in ({', '.join(words)}):\n"
        "    open(os.path.join(reports, name), 'w').close()\n"
    )
    (gang.path / "work.py").write_text(script)
    gang("run", "g.toml")
    shared = "==> launcher-0.1 stdout <==\nfrom the launcher\n"
    assert gang("logs", "@last")[0] == gang("logs", "@last/3")[0] == shared


def test_a_failed_gang_is_shown_by_the_log_of_the_rank_that_failed(gang: Shell) -> None:
    """Which its reason names; not by that of the first."""
    said = {"error": {"type": "ValueError", "message": "shapes", "rank": 1}}
    script = LAUNCHER + (
        "with open(os.path.join(reports, '1.0-9-9-here.said'), 'w') as file:\n"
        f"    file.write({json.dumps(said)!r})\n"
        "raise SystemExit(1)\n"
    )
    (gang.path / "work.py").write_text(script)
    _, err = gang("run", "g.toml", code=3)
    words = "  rank 1: ValueError: shapes\n    4 processes: 0-3\n    | err of 1\n"
    for told in (err, gang("show", "@last")[0]):
        assert words in told
        assert re.search(r"holdfast logs \S+/1$", told, re.MULTILINE)


def test_ranks_are_shown_with_what_is_theirs(gang: Shell) -> None:
    """Those of whom the same is known, in one line, with their launcher."""
    gang.hold()
    gang.start("run", "g.toml")
    gang.began(1)
    page, _ = gang("show", "@last")
    rows = [line.split() for line in page.partition("PROCESS")[2].partition("\n\n")[0].splitlines()]
    assert [row[0] for row in rows[1:]] == ["0", "1", "2", "3"]
    assert all(re.search(r" launcher-0\b", " ".join(row)) for row in rows[1:])
    assert rows[1][-3:] == rows[4][-3:] == ["from", "the", "launcher"]
    assert rows[2][-3:] in (["out", "of", "1"], ["err", "of", "1"])
    assert rows[3][4:6] == ["1/4", "25%"]
    gang.let_go()
