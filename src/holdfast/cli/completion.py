"""`holdfast completion`: the script that a shell loads, and the answers that it asks for then.

click knows what may stand where; how words are quoted, and which part of one a shell replaces, is
decided here, in one place for all shells, since names of experiments may have spaces and quotes.
A shell asks `holdfast completion SHELL --complete -- WORDS...` and gets lines: `+` before each word
that would do, `file` or `dir` where its own completion of paths is to go on.
"""

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

import click

from holdfast.encoding import spoken
from holdfast.errors import HoldfastError
from holdfast.reading import text

if TYPE_CHECKING:
    from holdfast.cli.where import Where
    from holdfast.store.manager import StateManager

__all__ = ["completion", "experiments", "tags"]

#: Words that are offered at once; of more, the first and the last ones.
_MOST: Final = 500
_MOST_PROCESSES: Final = 100

_BASH: Final = r"""
_holdfast() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
            file) compopt -o default 2>/dev/null ;;
            dir) compopt -o dirnames 2>/dev/null ;;
            +*) COMPREPLY+=("${line:1}") ;;
        esac
    done < <("$1" completion bash --complete -- "${COMP_LINE:0:COMP_POINT}" "$2" 2>/dev/null)
}
complete -o nosort -F _holdfast holdfast 2>/dev/null || complete -F _holdfast holdfast
"""

_ZSH: Final = r"""#compdef holdfast
_holdfast() {
    local line program=${(Q)words[1]}
    local -a before=("${(@Q)words[2,CURRENT-1]}") answer found
    answer=("${(@f)$($program completion zsh --complete -- "${before[@]}" "$QIPREFIX$PREFIX" \
        2>/dev/null)}")
    for line in "${answer[@]}"; do
        case $line in
            file) _files ;;
            dir) _files -/ ;;
            +*) found+=("${line:1}") ;;
        esac
    done
    compadd -V holdfast -a found
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _holdfast "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
    compdef _holdfast holdfast
fi
"""

_FISH: Final = r"""
function __holdfast_complete
    set -l words (commandline -opc)
    set -l word (commandline -ct)
    for line in ($words[1] completion fish --complete -- $words[2..-1] "$word" 2>/dev/null)
        switch $line
            case file
                __fish_complete_path "$word"
            case dir
                __fish_complete_directories "$word"
            case '+*'
                string sub --start 2 -- $line
        end
    end
end
complete --command holdfast --no-files --keep-order --arguments '(__holdfast_complete)'
"""

_SCRIPTS: Final = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


_INSTALLED: Final = """\
\b
A line for the configuration of the shell loads it whenever one starts:
bash   ~/.bashrc                   eval "$(holdfast completion bash)"
zsh    ~/.zshrc                    eval "$(holdfast completion zsh)"
fish   ~/.config/fish/config.fish  holdfast completion fish | source"""


@click.command(epilog=_INSTALLED)
@click.option("--complete", is_flag=True, hidden=True)
@click.argument("shell", type=click.Choice(list(_SCRIPTS)))
@click.argument("words", metavar="", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def completion(context: click.Context, shell: str, complete: bool, words: tuple[str, ...]) -> int:
    """Print a script that makes a shell complete commands, options, experiments and tags."""
    if not complete:
        if words:
            raise click.UsageError("one shell")
        text.emit([_SCRIPTS[shell].strip("\n")])
        return 0
    text.emit(_answer(context.find_root().command, shell, [spoken(each) for each in words]))
    return 0


def _answer(app: click.Command, shell: str, words: Sequence[str]) -> Iterator[str]:
    """What the script of *shell* is told, which gave these *words*."""
    if shell != "bash":
        *before, last = words or [""]
        yield from _lines(app, before, _unquoted(last)[0][-1], lambda word: word)
        return
    line, part = words
    split, quote = _unquoted(line, splitting=True)
    # Only the last part of a word, which begins behind a `:` or `=`, is the one to be replaced.
    rest = _unquoted(part)[0][-1]
    kept = len(split[-1]) - len(rest) if split[-1].endswith(rest) else 0
    yield from _lines(app, split[1:-1], split[-1], lambda word: _quoted(word[kept:], quote))


def _lines(
    app: click.Command, before: Sequence[str], word: str, spelt: Callable[[str], str]
) -> Iterator[str]:
    from click.shell_completion import ShellComplete

    from holdfast.cli.where import Where

    option, equals, _ = word.partition("=")
    prefix = option + equals if equals and word.startswith("--") and "--" not in before else ""
    try:
        shell = ShellComplete(app, {"obj": Where()}, "holdfast", "_HOLDFAST_COMPLETE")
        found = shell.get_completions([*before], word)
    except (HoldfastError, click.ClickException, click.exceptions.Exit):
        return  # what was typed so far makes no sense
    for kind in ("file", "dir"):
        if any(each.type == kind for each in found):
            yield kind
    whole = [f"{prefix}{each.value}" for each in found if each.type == "plain"]
    offered = [
        each for each in dict.fromkeys(whole) if each.startswith(word) and each.isprintable()
    ]
    if len(offered) > _MOST:
        # The first and the last in order have in common what all have.
        offered = [min(offered), *offered[: _MOST - 2], max(offered)]
    for each in offered:
        yield f"+{spelt(each)}"


# -- quoting --------------------------------------------------------------------------------------


def _unquoted(line: str, *, splitting: bool = False) -> tuple[list[str], str]:
    """The words of a line that is not finished, as a shell reads them, and the quote that is open.

    The last word is the one that is being typed; it may be empty.
    """
    words, quote, escaped = [""], "", False
    for char in line:
        if escaped:
            words[-1] += char if not quote or char in '\\$`"' else f"\\{char}"
            escaped = False
        elif char == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote, words[-1] = ("", words[-1]) if char == quote else (quote, words[-1] + char)
        elif char in "'\"":
            quote = char
        elif splitting and char.isspace():
            words += [""] if words[-1] else []
        else:
            words[-1] += char
    return words, quote


def _quoted(word: str, quote: str) -> str:
    """*word* for bash to read where *quote* is open, if any is."""
    if quote == "'":
        return word.replace("'", "'\\''")
    # A tilde in front would be somebody's home.
    special = r'[\\$`"!]' if quote else r"^~|[^\w@%+=:,./~^-]"
    return re.sub(special, r"\\\g<0>", word)


# -- what may stand there -------------------------------------------------------------------------


def experiments(where: "Where", incomplete: str) -> list[str]:
    """The experiments that begin like this: `@last`, ids from the newest on, and unique names."""
    manager = _manager(where)
    if manager is None:
        return []
    found = manager.offered()
    ids = sorted(_beginning((each for each, _ in found), incomplete), reverse=True)
    names = Counter(name for _, name in found if name is not None)
    unique = [name for name, number in names.items() if number == 1]
    units = _units(manager, incomplete) if "/" in incomplete else []
    return _beginning([*units, "@last", *ids, *unique], incomplete)


def _units(manager: "StateManager", incomplete: str) -> list[str]:
    """The processes of the experiment before the last slash, if it is one."""
    from holdfast.cli.addressing import resolve

    head = incomplete.rpartition("/")[0]
    try:
        number = manager.load(resolve(manager, head)).num_processes
    except HoldfastError:
        return []
    return [f"{head}/{index}" for index in range(min(number, _MOST_PROCESSES))]


def tags(where: "Where", incomplete: str) -> list[str]:
    """The tags in use that begin like this."""
    manager = _manager(where)
    said = [] if manager is None else manager.annotated().found.values()
    return _beginning(sorted({tag for each in said for tag in each.tags}), incomplete)


def _beginning(words: Iterable[str], incomplete: str) -> list[str]:
    return [each for each in words if each.startswith(incomplete)]


def _manager(where: "Where") -> "StateManager | None":
    """The store there; None if there is none. A shell that completes wants no messages."""
    from holdfast.cli import homes

    warnings.simplefilter("ignore")
    try:
        where.found = where.found or homes.above()
        return where.manager()
    except (HoldfastError, click.UsageError):
        return None
