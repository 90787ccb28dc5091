"""Why processes failed: told apart by what their errors say, wherever failures are shown."""

import json
import os
import re
import subprocess
import sys

import pytest

from holdfast.attempts.names import AttemptName, error_path
from holdfast.reading import reasons
from holdfast.store.manager import StateManager
from shell import Shell, Terminal
from waiting import PATIENCE_S

#: Fails in its own way: two for the same cause, of which only numbers and paths differ.
WORKER = """
import os, sys
index = int(os.environ["HOLDFAST_INDEX"])
if index < 2:
    raise ValueError(f"shapes do not match: {index + 3} and 0x{id(index):x} in /data/{index}/a")
if index == 2:
    print("error: no space left on /scratch\\x1b[31m\\r", file=sys.stderr)
    sys.exit(1)
if index == 3:
    raise KeyError("level")
if index == 4:
    sys.exit(2)
if index == 5:
    os.kill(os.getpid(), 11)
"""

FILE = """
command = ["python", "work.py"]
processes = 7
"""


@pytest.fixture
def failed(sh: Shell) -> tuple[Shell, str]:
    """An experiment of which six processes failed, and what was printed meanwhile."""
    (sh.path / "work.py").write_text(WORKER)
    (sh.path / "f.toml").write_text(FILE)
    process = sh.start("run", "f.toml", "-j", "1")
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 3, err
    return sh, err


GROUPS = """\
  exit code 1: ValueError: shapes do not match: 3 and 0xN in /data/0/a
    2 processes: 0-1
  exit code 1: error: no space left on /scratch
    process 2
  exit code 1: KeyError: 'level'
    process 3
  exit code 2
    process 4
  killed by signal 11
    process 5
"""


def headings(page: str) -> str:
    """What stands above the logs, without addresses."""
    wanted = re.compile(r"  +(exit|killed|\d+ p|process )")
    lines = [line for line in page.splitlines() if wanted.match(line)]
    return re.sub("0x[0-9a-f]+", "0xN", "\n".join(lines)) + "\n"


def test_failures_of_one_exit_code_and_several_errors_are_told_apart(
    failed: tuple[Shell, str],
) -> None:
    """At the end of a run and by show; numbers, addresses and paths make no other error."""
    sh, err = failed
    assert headings(err.partition("\nfailed:\n")[2]) == GROUPS
    assert headings(sh("show", "@last")[0]) == GROUPS


def test_a_line_during_a_run_says_what_went_wrong(failed: tuple[Shell, str]) -> None:
    """Off a terminal: one line each, harmless, with the text of the error."""
    _, err = failed
    lines = [line for line in err.splitlines() if line.startswith("failed process ")]
    assert [re.sub("0x[0-9a-f]+", "0xN", line) for line in lines] == [
        "failed process 0: exit code 1: ValueError: shapes do not match: 3 and 0xN in /data/0/a",
        "failed process 1: exit code 1: ValueError: shapes do not match: 4 and 0xN in /data/1/a",
        "failed process 2: exit code 1: error: no space left on /scratch",
        "failed process 3: exit code 1: KeyError: 'level'",
        "failed process 4: exit code 2",
        "failed process 5: killed by signal 11",
    ]
    assert "\x1b" not in err


def test_programs_get_the_error_of_each_process(failed: tuple[Shell, str]) -> None:
    """All of them, however many kinds there are; null where there is none."""
    sh, _ = failed
    processes = sh.json("show", "@last")["processes"]
    assert isinstance(processes, list)
    errors = [each["error"] for each in processes]
    assert errors[2:] == ["error: no space left on /scratch", "KeyError: 'level'", None, None, None]
    assert errors[1].startswith("ValueError: shapes do not match: 4")


def test_a_live_display_counts_failures_of_one_kind(sh: Shell) -> None:
    """The most frequent first, with the newest of them; other errors stand beside it."""
    worker = WORKER.replace("if index == 5:", "while index == 6: pass\nif 0:")
    # As long as it is looked for, no later failure pushes it away.
    held = 'while os.path.exists("hold"): pass\n    print("error'
    worker = worker.replace('print("error', held)
    sh.hold()
    (sh.path / "work.py").write_text(worker)
    (sh.path / "f.toml").write_text(FILE)
    terminal = Terminal(sh, "run", "f.toml", "-j", "1", columns=120, NO_COLOR="1")
    terminal.read(
        r"(?s)failed 2 processes: exit code 1: ValueError: shapes.*last: process 1; all: 0-1"
    )
    sh.let_go()
    terminal.read("failed process 4: exit code 2")
    assert terminal.process.poll() is None
    os.write(terminal.fd, b"\x03")
    terminal.exit_code()


def many(sh: Shell, texts: list[str]) -> None:
    """An experiment of which every process failed with exit code 1 and one of *texts*."""
    manager = StateManager(sh.states)
    manager.create("many", num_processes=len(texts))
    folder = manager.folder("many")
    with manager.claim("many") as claim:
        claim.record("start")
        (folder / "attempts").mkdir(exist_ok=True)
        for index, words in enumerate(texts):
            claim.record("start", index)
            claim.record("fail", index, exit_code=1, reason="exit")
            error_path(folder, AttemptName("many", index, 1)).write_text(words)
        claim.record("fail")


def word(number: int) -> str:
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


def test_of_many_kinds_the_most_frequent_come_first(sh: Shell) -> None:
    """Twenty are shown; the number of the others is."""
    many(sh, [f"error: {word(max(n - 3, 0))}\n" for n in range(26)])
    out, _ = sh("show", "many")
    assert headings(out).startswith("  exit code 1: error: a\n    4 processes: 0-3\n")
    assert out.count("  exit code 1: error: ") == 20
    assert "  … and 3 more kinds of failure (3 processes): see --json" in out


def test_of_very_many_failures_only_some_logs_are_read(sh: Shell) -> None:
    """The rest is shown by its exit code, and that is said."""
    many(sh, [f"{'x' * 100_000}\nerror: {word(n % 2)}\n" for n in range(8)])
    program = (
        "from holdfast.cli import main; from holdfast.reading import reasons;"
        "reasons.MOST_READ = 5; main()"
    )
    out = subprocess.run(
        [sys.executable, "-c", program, "show", "many"],
        cwd=sh.path,
        env=sh.env,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert headings(out) == (
        "  exit code 1: error: a\n    3 processes: 0, 2, 4\n"
        "  exit code 1\n    3 processes: 5-7\n"
        "  exit code 1: error: b\n    2 processes: 1, 3\n"
    )
    assert "the errors of the first 5 that failed were read; of the other 3 only how they" in out


GROUP = """\
  + Exception Group Traceback (most recent call last):
  |   File "x.py", line 1, in <module>
  |     raise ExceptionGroup("two", [])
  | ExceptionGroup: two (2 sub-exceptions)
  +-+---------------- 1 ----------------
    | ValueError: a
    +------------------------------------
"""

TRACEBACK = "Traceback (most recent call last):\n  File 'x', line 1\n    f()\n"


@pytest.mark.parametrize(
    ("log", "error"),
    [
        ("", None),
        ("\n \n---\n", None),
        ("first\nlast one\n\n=====\n", "last one"),
        (f"{TRACEBACK}ValueError: a\nwandb: run ended\n", "ValueError: a"),
        (f"{TRACEBACK}ValueError: a\n\nDuring it:\n\n{TRACEBACK}KeyError: 'b'\n", "KeyError: 'b'"),
        (f"{TRACEBACK}ChildFailedError: \n====\nx.py FAILED\n", "ChildFailedError: x.py FAILED"),
        (GROUP, "ExceptionGroup: two (2 sub-exceptions)"),
        ("  File 'x.py', line 1\n    f(\n     ^\nSyntaxError: x\n", "SyntaxError: x"),
        ("thread 'main' panicked at a.rs:1:\nboom\nnote: run with `RUST_BACKTRACE=1`\n", "boom"),
        (
            "\r 10%|#   | 1/10\r 20%|##  | 2/10\x1b[A\rsh: 1: foo: not found",
            "sh: 1: foo: not found",
        ),
        ("\x1b[1;31merror\x1b[0m: a\x07b\n", "error: a\\x07b"),
        ("e" * 500, "e" * 159 + "…"),
    ],
)
def test_the_line_that_says_what_was_wrong_is_found(log: str, error: str | None) -> None:
    """The exception of a traceback, whatever follows it; else the last line with words."""
    assert reasons.error_text(log.encode()) == error


def test_what_lies_in_the_place_of_a_log_is_no_error_of_the_process(sh: Shell) -> None:
    """It is named where the log would be."""
    many(sh, ["error: a\n", "error: b\n"])
    path = error_path(StateManager(sh.states).folder("many"), AttemptName("many", 0, 1))
    path.unlink()
    path.symlink_to("/etc/passwd")
    out, _ = sh("show", "many")
    assert "  exit code 1\n    process 0\n    | " in out
    assert "root:" not in out
    assert json.loads(sh("show", "many", "--json")[0])["processes"][0]["error"] is None


def test_what_said_nothing_on_stderr_is_shown_by_its_stdout(sh: Shell) -> None:
    """In every view: many programs log there. Failures are not told apart by it."""
    summary = sh.path / "summary.md"
    words = ("run", "--", "sh", "-c", "echo loading; echo no data; exit 4")
    _, err = sh(*words, code=3, env={"GITHUB_STEP_SUMMARY": str(summary)})
    shown, _ = sh("show", "@last")
    for told in (err, shown):
        assert "  exit code 4\n    process 0\n    | loading\n    | no data\n" in told
    assert "loading\nno data\n" in summary.read_text()
    sh("report", "@last", "-O", "page.html")
    assert "loading\nno data" in (sh.path / "page.html").read_text()


#: Says, as a rank does, what went wrong; the launcher fails for all.
GANG = """
import json, os, sys
path = os.path.join(os.environ["HOLDFAST_REPORTS"], "2.0-9-9-here.said")
with open(path, "w") as file:
    json.dump({"error": {"type": "ValueError", "message": "shapes", "rank": 2}}, file)
sys.exit(1)
"""


def test_a_gang_fails_in_one_line_with_its_reason(sh: Shell) -> None:
    """Also where its failure, its requeue and its next start stand in one line of the journal."""
    (sh.path / "work.py").write_text(GANG)
    (sh.path / "f.toml").write_text(
        'command = ["python", "work.py"]\nranks = 4\nmatrix = {lr = [1]}\n'
        "retry = {max_attempts = 2, backoff = 0}\n"
    )
    _, err = sh("run", "f.toml", code=3)
    lines = [line for line in err.splitlines() if line.startswith("failed process")]
    words = "failed processes 0-3 (lr=1): rank 2: ValueError: shapes"
    assert lines == [f"{words}; will be tried again", words]
    page, _ = sh("show", "@last")
    assert "  rank 2: ValueError: shapes\n    4 processes: 0-3 (2: lr=1)\n" in page


def test_a_failure_that_is_tried_again_at_once_has_not_lost_its_reason(sh: Shell) -> None:
    """Its next start is in the same line of the journal."""
    (sh.path / "work.py").write_text("import sys; sys.exit('no luck')")
    (sh.path / "f.toml").write_text(
        'command = ["python", "work.py"]\nretry = {max_attempts = 2, backoff = 0}\n'
    )
    _, err = sh("run", "f.toml", code=3)
    lines = [line for line in err.splitlines() if line.startswith("failed process")]
    words = "failed process 0: exit code 1: no luck"
    assert lines == [f"{words}; will be tried again", words]
