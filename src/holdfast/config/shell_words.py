"""What only a shell would understand, in a command that no shell reads: told, never refused.

A guess by its nature: `awk` has a `$` of its own, and a program may well be given a `>`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Final

from holdfast.config.placeholders import fill, is_plain
from holdfast.errors import ConfigProblem

__all__ = ["suspicions"]

_VARIABLE: Final = re.compile(r"\$(?:[A-Za-z_][A-Za-z0-9_]*|\{[A-Za-z_][A-Za-z0-9_]*\})")
_OPERATOR: Final = re.compile(r"\||\|\||\|&|&&|&|[0-9]?<|(?:[0-9]|&)?>>?(?:&[0-9]|[^=>\s].*)?")

_SHELLS: Final = frozenset(
    {"sh", "bash", "dash", "zsh", "ksh", "fish", "csh", "tcsh", "ssh", "eval"}
)
#: Programs in whose own words `$`, `<`, `>` and `|` mean something.
_OWN_SIGNS: Final = frozenset(
    {
        *("awk", "gawk", "mawk", "nawk", "perl", "ruby", "php", "sed", "jq", "grep", "egrep", "rg"),
        *("make", "envsubst", "test", "[", "expr", "find", "pwsh", "nix-shell", "psql", "sqlite3"),
    }
)


def suspicions(command: Sequence[str], env: Mapping[str, str]) -> Iterator[ConfigProblem]:
    """What in *command* and *env* looks as if a shell should read it; the first of each."""
    if not _reads_signs(command):
        yield from _in_command(command)
    for name, text in env.items():
        if (found := _VARIABLE.search(_plain(text))) is not None:
            what = f"{found[0]} stays as it is: there is no shell that would fill it in"
            hint = f'set it in command = ["sh", "-c", "{name}=… exec …"]'
            yield ConfigProblem(f"env.{name}", what, hint)


def _reads_signs(command: Sequence[str]) -> bool:
    names = {PurePosixPath(word).name for word in command}
    return not names.isdisjoint(_SHELLS) or PurePosixPath(command[0]).name in _OWN_SIGNS


def _in_command(command: Sequence[str]) -> Iterator[ConfigProblem]:
    script = " ".join(command).replace("\\", "\\\\").replace('"', '\\"')
    script = script if len(script) <= 60 else script[:60] + "…"
    hint = f'if one is meant: ["sh", "-c", "{script}"]'
    for number, word in enumerate(command, 1):
        plain = _plain(word)
        if number > 1 and _OPERATOR.fullmatch(plain):
            what = f"word {number}, {plain}, is given to the program as it is: there is no shell"
            yield ConfigProblem("command", what, hint)
            return
        if (found := _VARIABLE.search(plain)) is not None:
            what = f"word {number}: {found[0]} stays as it is: there is no shell to fill it in"
            yield ConfigProblem("command", what, hint)
            return


def _plain(word: str) -> str:
    """*word* without braces that are only doubled: `${{HOME}}` is a variable."""
    return (fill(word, {}) or "") if is_plain(word) else word
