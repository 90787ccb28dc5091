"""Files made to do harm in an experiment's own folder: named, not followed, not overwritten."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.store.lines import encode
from holdfast.store.manager import StateManager
from processes import run

SECRET = "root:x:0:0:nobody else's"
ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e"

_COMMANDS = """
import sys
from holdfast.cli.program import guarded
sys.stderr = sys.stdout
for words in sys.argv[2:]:
    print("\\n#", words, "->", guarded(["-C", sys.argv[1], *words.split()]), flush=True)
"""

_LOOK = (
    "ls", "ls --json", "show {id}", "show --json {id}", "show --history {id}", "logs {id}",
    "logs -n 2 {id}", "logs {id}/1", "doctor", "doctor --json", "cleanup", "doctor --fix",
)  # fmt: skip


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`whole`, aggregated; `half`, whose process 1 failed and would succeed now; `other`."""
    home = tmp_path_factory.mktemp("template")
    script = 'echo out; echo err >&2; echo 1 > "$HOLDFAST_RESULT"; test {index} = 0 -o -e ok'
    for name in ("half", "whole"):
        command = ["sh", "-c", f"{script} || exit 3; : {name}"]
        (home / f"{name}.toml").write_text(f"command = {json.dumps(command)}\nprocesses = 2\n")
        out = run(_COMMANDS, home / "states", f"run {home / name}.toml")
        assert f"-> {0 if name == 'whole' else 3}" in out, out
        (home / "ok").write_text("")
    StateManager(home / "states").create("other")
    return home


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "home"
    shutil.copytree(template, copy, symlinks=True)
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("mine")
    return copy


def experiment(home: Path, name: str) -> str:
    manager = StateManager(home / "states")
    (found,) = [each for each in manager.list_experiments() if manager.load(each).name == name]
    return found


def outside(tmp_path: Path) -> dict[str, str]:
    """What is beside the state directory, where links lead."""
    paths = [tmp_path / "secret", *(tmp_path / "elsewhere").rglob("*")]
    return {path.name: path.read_text() for path in paths}


def put(path: Path, make: Callable[[Path], object]) -> tuple[int, int, int]:
    """Have *make* make something in the place of *path*; what must stay as it is."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    make(path)
    return mark(path)


def mark(path: Path) -> tuple[int, int, int]:
    info = path.lstat()
    return info.st_mode, info.st_ino, 0 if path.is_dir() else info.st_size


def secret(path: Path) -> None:
    path.symlink_to("../" * len(path.parent.parts) + f"{_root(path)}/secret")


def elsewhere(path: Path) -> None:
    path.symlink_to("../" * len(path.parent.parts) + f"{_root(path)}/elsewhere")


def _root(path: Path) -> Path:
    return path.parents[path.parts[::-1].index("states") + 1].relative_to("/")


def text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


def sparse(size: int) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return make


_MADE: dict[str, Callable[[Path], object]] = {
    "FIFO": os.mkfifo,
    "directory": Path.mkdir,
    "link to a secret": secret,
    "link to a directory": elsewhere,
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
}
_SMALL: dict[str, Callable[[Path], object]] = {
    "garbage": text(ESCAPES),
    "deep": text("[" * 100_000),
    "endless integer": text('{"exit_code": ' + "7" * 5000 + "}"),
    "far times": text('{"exit_code": 0, "started_at": "0001-01-01T00:00:00+23:00"}'),
    "endless seconds": text('{"exit_code": 0, "cpu_s": ' + "9" * 400 + "}"),
    "escapes": text(json.dumps({"exit_code": 1, "error": ESCAPES, "host": ESCAPES})),
}
_WRITTEN = _SMALL | {"1 GB of nothing": sparse(1 << 30)}
_ROW = dict.fromkeys(("index", "attempts", "host", "duration_s"), ESCAPES)
_AGGREGATES: dict[str, Callable[[Path], object]] = {
    name: text(json.dumps({"schema": "holdfast.aggregate/1", **content}))
    for name, content in {
        "aggregate of escapes": {
            "rows": [{**_ROW, "params": {ESCAPES: ESCAPES}, "result": {ESCAPES: ESCAPES}}] * 2,
            "statistics": {ESCAPES: {ESCAPES: ESCAPES}},
            "value": {ESCAPES: ESCAPES},
        },
        "aggregate of other types": {"rows": [1, "x", None], "statistics": [1], "value": [[]]},
        "aggregate of other lists": {"rows": 5, "statistics": {"a": 1}, "value": 1e300},
        "aggregate of lists": {
            "rows": [{"index": [], "attempts": {}, "host": [1], "duration_s": [], "params": 1}] * 2
        },
    }.items()
}

_CASES = [
    *(
        (name, place, kind, make)
        for name, place, kinds in [
            ("whole", "attempts/1.1.out", _MADE),
            ("whole", "attempts/1.1.err", _MADE),
            ("half", "attempts/1.1.err", _MADE),
            ("half", "attempts/1.1.exit", _MADE | _WRITTEN),
            ("half", "attempts/1.1.live", _MADE),
            ("half", "attempts/1.2.out", _MADE),
            ("half", "attempts/1.2.err", _MADE),
            ("half", "attempts/1.2.exit", _MADE | _WRITTEN),
            ("half", "attempts", _MADE),
            ("half", "results/0.1.json", _MADE | _WRITTEN),
            ("half", "results/1.2.json", _MADE | _WRITTEN),
            ("half", "results", _MADE),
            ("half", "lock", _MADE),
            ("whole", "aggregate.json", _MADE | _WRITTEN | _AGGREGATES),
            ("half", "aggregate.json", _MADE),
        ]
        for kind, make in kinds.items()
    )
]


@pytest.mark.parametrize(
    ("name", "place", "make"),
    [(name, place, make) for name, place, _, make in _CASES],
    ids=[f"{name}-{place}-{kind}" for name, place, kind, _ in _CASES],
)
def test_whatever_lies_in_a_folder_no_command_follows_it_or_falls_over_it(
    home: Path, tmp_path: Path, name: str, place: str, make: Callable[[Path], object]
) -> None:
    """Looks change nothing, resume and rm write and delete nothing where a link leads."""
    states, found = home / "states", experiment(home, name)
    path = states / found / place
    before, beside = put(path, make), outside(tmp_path)
    out = run(_COMMANDS, states, *(words.format(id=found) for words in _LOOK))
    assert mark(path) == before
    out += run(_COMMANDS, states, *(f"{w} {found}" for w in ("resume", "aggregate", "rm")), "ls")
    assert "other" in out.rpartition("# rm")[2]
    assert "Traceback" not in out
    assert SECRET not in out
    stray = {c for c in out if not c.isprintable() and c != "\n"}
    assert not stray
    assert outside(tmp_path) == beside


@pytest.mark.parametrize("kind", _MADE)
def test_a_log_that_is_none_is_named_and_the_others_are_printed(home: Path, kind: str) -> None:
    """Exit code 6, as for everything that cannot be read."""
    found = experiment(home, "whole")
    put(home / "states" / found / "attempts" / "0.1.out", _MADE[kind])
    out = run(_COMMANDS, home / "states", f"logs {found}")
    assert "0.1.out: " in out
    assert "==> 1.1 stdout <==\nout" in out
    assert out.endswith("-> 6\n")


def test_attempts_are_not_written_where_a_link_leads(home: Path, tmp_path: Path) -> None:
    """A resume is refused with the name of the link, before it starts or revokes anything."""
    found = experiment(home, "half")
    path = home / "states" / found / "attempts"
    put(path, elsewhere)
    out = run(_COMMANDS, home / "states", f"resume {found}")
    assert f"{path}: making it" in out
    assert outside(tmp_path) == {"secret": SECRET, "precious": "mine"}


def test_words_of_a_journal_do_not_reach_the_terminal(home: Path) -> None:
    """Events and statuses with a right checksum, which no machine has."""
    found = experiment(home, "half")
    state = StateManager(home / "states").load(found)
    (journal,) = (home / "states" / found / "journal").iterdir()
    change = {"event": ESCAPES, "from": ESCAPES, "to": ESCAPES, "process": 0, "set": {}}
    line = {"kind": "changes", "revision": state.revision + 1, "at": "2026-01-01T00:00:00+00:00"}
    with journal.open("ab") as file:
        file.write(encode({**line, "changes": [{**change, "evidence": ESCAPES}]}))
    out = run(_COMMANDS, home / "states", f"show --history {found}", f"show {found}", "doctor")
    assert "\\x1b[2J" in out
    assert not {c for c in out if not c.isprintable() and c != "\n"}


@pytest.mark.parametrize("kind", ["a file", *_MADE])
def test_a_result_that_is_there_before_its_attempt_is_never_taken_for_one(
    home: Path, kind: str
) -> None:
    """The attempt does not begin, is told why, and the next one, under its own name, runs."""
    found = experiment(home, "half")
    path = home / "states" / found / "results" / "1.2.json"
    before = put(path, _MADE.get(kind, text("5")))
    out = run(_COMMANDS, home / "states", f"resume {found}")
    assert f"{path} is there already: move it away" in out
    assert out.endswith("-> 3\n")
    assert mark(path) == before
    out = run(_COMMANDS, home / "states", f"resume {found}")
    assert out.endswith("-> 0\n"), out
