"""What only a shell would understand, in a command that no shell reads: told, never refused.

A guess by its nature: `awk` has a `$` of its own, and a program may well be given a `>`.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Final

from holdfast.config.placeholders import fill, is_plain
from holdfast.errors import ConfigProblem

__all__ = ["suspicions"]

_VARIABLE: Final = re.compile(r"\$(?:[A-Za-z_][A-Za-z0-9_]*|\{[A-Za-z_][A-Za-z0-9_]*\})")
#: `${lr}`, which is filled in: an unknown one is refused, and a shell's is written `${{HOME}}`.
_FILLED: Final = re.compile(r"\$(\{[A-Za-z_][A-Za-z0-9_]*\})")
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
    elif _OWN_SIGNS.isdisjoint(re.findall(r"[\w\[-]+", " ".join(command))):
        # `$2` for `${column}` is what awk is meant to get, but no shell.
        for number, word in enumerate(command, 1):
            if (found := _FILLED.search(word)) is not None:
                yield _filled("command", f"word {number}: ", found)
                break
    for name, text in env.items():
        if (found := _FILLED.search(text)) is not None:
            yield _filled(f"env.{name}", "", found)
        elif (found := _VARIABLE.search(_plain(text))) is not None:
            what = f"{found[0]} stays as it is: there is no shell that would fill it in"
            hint = f'set it in command = ["sh", "-c", "{name}=… exec …"]'
            yield ConfigProblem(f"env.{name}", what, hint)


def _reads_signs(command: Sequence[str]) -> bool:
    names = {PurePosixPath(word).name for word in command}
    return not names.isdisjoint(_SHELLS) or PurePosixPath(command[0]).name in _OWN_SIGNS


def _filled(where: str, word: str, found: re.Match[str]) -> ConfigProblem:
    what = f"{word}{found[0]} becomes $ and the value"
    return ConfigProblem(where, what, f"the value alone is {found[1]}")


def _in_command(command: Sequence[str]) -> Iterator[ConfigProblem]:
    script = " ".join(map(_in_script, command)).replace("\\", "\\\\").replace('"', '\\"')
    script = script if len(script) <= 60 else script[:60] + "…"
    hint = f'if one is meant: ["sh", "-c", "{script}"]'
    for number, word in enumerate(command, 1):
        plain = _plain(word)
        if (found := _FILLED.search(word)) is not None:
            yield _filled("command", f"word {number}: ", found)
            return
        if number > 1 and _OPERATOR.fullmatch(plain):
            what = f"word {number}, {plain}, is given to the program as it is: there is no shell"
            yield ConfigProblem("command", what, hint)
            return
        if (found := _VARIABLE.search(plain)) is not None:
            what = f"word {number}: {found[0]} stays as it is: there is no shell to fill it in"
            yield ConfigProblem("command", what, hint)
            return


def _in_script(word: str) -> str:
    """*word* as a shell reads it as one, with what it was suspected of."""
    if not re.search(r"[\s'\"]", word) or _OPERATOR.fullmatch(word):
        return word
    return f'"{word}"' if _VARIABLE.search(word) and '"' not in word else shlex.quote(word)


def _plain(word: str) -> str:
    """*word* without braces that are only doubled: `${{HOME}}` is a variable."""
    return (fill(word, {}) or "") if is_plain(word) else word
