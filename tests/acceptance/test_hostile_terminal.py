"""What a store says reaches a terminal as text, and rows fit it, whatever their texts are."""

import re
from pathlib import Path

import pytest
from rich.cells import cell_len

import experiments
from holdfast.store.manager import StateManager
from shell import Shell, Terminal

#: Colours, and what a live view moves the cursor with; nothing else may come from us either.
_OURS = re.compile(r"\x1b\[(?:[0-9;]*m|\?25[lh]|[0-9]*[ABGJK])")
#: What a terminal obeys, and what turns the order of letters around.
_OBEYED = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
_LINES = re.compile(r"\r*\n|\r")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a hostile experiment, two honest ones, and one with the longest id."""
    path = tmp_path_factory.mktemp("hostile")
    manager = StateManager(path / ".experiment_state")
    experiments.hostile(manager)
    experiments.sweep(manager, 60, experiment_id="sweep-" + "of-many-words-" * 3, failures=6)
    experiments.sweep(manager, 12, experiment_id="二十一世紀の実験", failures=1)
    return path


@pytest.fixture
def sh(hostile: Path, tmp_path: Path) -> Shell:
    """holdfast, called where the hostile experiment is."""
    found = Shell(tmp_path)
    found.path = hostile
    found.states = hostile / ".experiment_state"
    return found


def _seen(sh: Shell, *args: str, columns: int = 80, **env: str) -> str:
    terminal = Terminal(sh, *args, columns=columns, **env)
    terminal.exit_code()
    assert "holdfast/cli" not in terminal.seen  # a traceback of ours
    return terminal.seen


def _hostile_id(sh: Shell) -> str:
    [found] = [each for each in StateManager(sh.states).list_experiments() if "<" in each]
    return found


_VIEWS = {
    "ls": ["ls"],
    "ls of everything": ["ls", "--columns", "id,name,tags,attack,state"],
    "show": ["show", "{}"],
    "show, one process": ["show", "{}/4"],
    "events": ["show", "{}", "--events"],
    "logs": ["logs", "{}/1"],
    "logs of stderr": ["logs", "{}/12", "--stderr"],
    "watch": ["watch", "{}"],
    "diff": ["diff", "{}", "sweep-of-many-words-of-many-words-of-many-words-"],
    "explain": ["explain", "{}/2"],
    "status of an unknown one": ["show", experiments.ATTACKS[12] + "\u202e"],
}


@pytest.mark.parametrize("view", _VIEWS)
@pytest.mark.parametrize("encoding", ["C.UTF-8", "POSIX"])
def test_no_text_of_a_store_commands_a_terminal(sh: Shell, view: str, encoding: str) -> None:
    """No escape sequence, control character or change of direction comes through."""
    args = [
        each.format(_hostile_id(sh)) if each == "{}" or "{}/" in each else each
        for each in _VIEWS[view]
    ]
    seen = _seen(sh, *args, columns=100, LC_ALL=encoding)
    assert len(seen) > 20
    if not view.startswith("logs"):  # programs colour what they print
        assert "\x1b[31mred" not in seen
    assert not _OBEYED.findall(_OURS.sub("", seen))


@pytest.mark.parametrize("columns", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("args", [["ls"], ["watch", "{}"]])
def test_no_row_is_wider_than_the_terminal(sh: Shell, args: list[str], columns: int) -> None:
    """Also where names have letters of two columns, or of none."""
    seen = _seen(sh, *(each.format(_hostile_id(sh)) for each in args), columns=columns)
    lines = _LINES.split(_OURS.sub("", seen))
    # Commands are there to be copied.
    rows = [line.rstrip() for line in lines if not re.match(r"(next|see|try): ", line)]
    wide = [line for line in rows if cell_len(line) > columns]
    # An id is never cut: it stands alone where it does not fit.
    ids = StateManager(sh.states).list_experiments()
    wide = [line for line in wide if not any(cell_len(each) >= columns for each in ids)]
    assert not wide
    if args == ["ls"] and columns >= 60:
        for each in StateManager(sh.states).list_experiments():
            assert each.replace("\u202e", "\\u202e") in seen
