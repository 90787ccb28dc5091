"""Tab in the shells themselves: what is typed, completed and run there is what was meant."""

import os
import re
import shutil
import sys
from pathlib import Path

import click
import pytest

from holdfast import StateManager
from holdfast.cli.app import app
from holdfast.cli.where import Where
from many import populate
from shell import Shell, Terminal

SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(holdfast completion bash)"'),
    "zsh": (["zsh", "-f", "-i"], 'eval "$(holdfast completion zsh)"'),
    "fish": (["fish", "--no-config", "-i"], "holdfast completion fish | source"),
}

#: Everything but the completion itself only says what it was called with.
PROGRAM = """#!/bin/sh
[ "$1" = completion ] && exec {python} -m holdfast "$@"
echo "$#: $(printf '<%s>' "$@")"
"""

ODD = 'it\'s "odd" & $HOME; `x`'


@pytest.fixture
def sh(sh: Shell) -> Shell:
    manager = StateManager(sh.states)
    for number, name in enumerate(["my run", ODD, "a:b=c", "größe", "~root", "twice", "twice"]):
        manager.create(f"exp_{number}", name=name)
    manager.create("200 per cent/first")
    manager.annotate("exp_0", add=["baseline", "v1:a=b"])
    (sh.path / "state dir").mkdir()
    (sh.path / "bin").mkdir()
    program = sh.path / "bin" / "holdfast"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    sh.env["PATH"] = f"{program.parent}:{os.environ['PATH']}"
    return sh


@pytest.fixture(params=SHELLS)
def terminal(request: pytest.FixtureRequest, sh: Shell) -> Terminal:
    program, setup = SHELLS[request.param]
    if shutil.which(program[0]) is None:
        pytest.skip(f"there is no {program[0]} here")
    env = {"PS1": "> ", "LC_ALL": "C.UTF-8", "TERM": "dumb", "fish_history": ""}
    opened = Terminal(sh, program=program, columns=200, **env)
    assert typed(opened, f"{setup}; holdfast is there") == ["is", "there"]
    return opened


def typed(terminal: Terminal, keys: str) -> list[str]:
    """The words that a command is called with after *keys* and Enter."""
    terminal.seen = ""
    os.write(terminal.fd, f"{keys}\r".encode())
    called = r"\n\d+: <(.*)>\r*\n"
    terminal.read(called)
    found = re.search(called, terminal.seen)
    assert found is not None
    # Shells differ in whether the slash behind a directory stays.
    return found[1].removesuffix("/").split("><")


#: What is typed behind `holdfast`, and what it is called with then.
WORDS = {
    "sho\t@last": ["show", "@last"],
    "show @l\t": ["show", "@last"],
    "show exp_3\t": ["show", "exp_3"],
    "show exp_3/\t": ["show", "exp_3/0"],
    "show my\t": ["show", "my run"],
    "show my\\ r\t": ["show", "my run"],
    "show 'my r\t": ["show", "my run"],
    'show "my r\t': ["show", "my run"],
    "show it\t": ["show", ODD],
    "show \"it's\t": ["show", ODD],
    "show a\t": ["show", "a:b=c"],
    "show a:b\t": ["show", "a:b=c"],
    "show gr\t": ["show", "größe"],
    "show \\~r\t": ["show", "~root"],
    "show 200\t": ["show", "200 per cent/first"],
    "show twi\t": ["show", "twi"],
    "ls --tag b\t": ["ls", "--tag", "baseline"],
    "ls --tag=b\t": ["ls", "--tag=baseline"],
    "ls --tag v1:\t": ["ls", "--tag", "v1:a=b"],
    "ls --state=agg\t": ["ls", "--state=aggregated"],
    "ls --older\t 30d": ["ls", "--older-than", "30d"],
    "tag exp_0 exp_2\t --rem\t base\t": ["tag", "exp_0", "exp_2", "--remove", "baseline"],
    "run e.t\t": ["run", "e.toml"],
    "ls -C state\t": ["ls", "-C", "state dir"],
}


def test_words_are_completed_and_quoted_as_the_shell_needs_it(terminal: Terminal) -> None:
    """Commands, options, ids, names with spaces and quotes, tags, files: what arrives is meant."""
    arrived = {keys: typed(terminal, f"holdfast {keys}") for keys in WORDS}
    assert arrived == WORDS


def asked(sh: Shell, *words: str) -> list[str]:
    out, err = sh("completion", "fish", "--complete", "--", *words)
    assert err == ""
    return out.splitlines()


@pytest.mark.parametrize("words", [["show", ""], ["nothing", ""], ["ls", "--tag", ""], ["ls", "x"]])
def test_nothing_is_said_where_there_is_nothing_to_complete(
    tmp_path: Path, words: list[str]
) -> None:
    """No state directory, no such command, no tag: no message spoils the line that is typed."""
    assert asked(Shell(tmp_path), *words) in ([], ["+@last"])


def test_damage_is_no_matter_of_completion(sh: Shell) -> None:
    """What cannot be read is left out, as are names that drive terminals; the rest is offered."""
    (sh.states / "broken.json").write_text("{")
    (sh.states / ".annotations" / "exp_1.json").mkdir()
    StateManager(sh.states).create("exp_9", name="evil\x1b[31m\nname")
    offered = asked(sh, "show", "")
    assert {"+@last", "+exp_9", "+my run", f"+{ODD}"} <= set(offered)
    assert not any("evil" in each or "broken" in each for each in offered)
    assert asked(sh, "ls", "--tag", "") == ["+baseline", "+v1:a=b"]


def test_of_very_many_those_are_offered_that_show_what_all_have_in_common(sh: Shell) -> None:
    """A shell that gets the first of a thousand must not complete what only these share."""
    populate(sh.states, 1100, 0)
    offered = asked(sh, "show", "fin_")
    assert len(offered) <= 500
    assert {"+fin_000000", "+fin_001099"} <= set(offered)


def test_the_scripts_are_printed_and_need_no_state_directory(tmp_path: Path) -> None:
    """For a shell's configuration, wherever it is started."""
    sh = Shell(tmp_path)
    for shell in SHELLS:
        out, err = sh("completion", shell)
        assert f"holdfast completion {shell}" in out or "completion" in out
        assert err == ""
    assert "bash" in sh("completion", "tcsh", code=2)[1]


@pytest.mark.parametrize("name", app.list_commands(click.Context(app)))
def test_whatever_takes_an_id_offers_the_experiments(
    name: str, sh: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that is added later does not forget it."""
    monkeypatch.chdir(sh.path)
    command = app.get_command(click.Context(app), name)
    assert command is not None
    context = click.Context(command, obj=Where())
    for param in command.params:
        if "ID" in (param.metavar or "").translate(str.maketrans("[]/.", "    ")).split():
            assert "@last" in {each.value for each in param.shell_complete(context, "")}, param
