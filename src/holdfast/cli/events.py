"""What happened to an experiment: every transition, when, by whom, why, and what proved it."""

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final

from holdfast.cli.formats import Format, write_lines, write_rows
from holdfast.reading import forms, glyphs, text
from holdfast.store.history import Transition

__all__ = ["STEP", "print_events", "recent"]

SCHEMA: Final = "holdfast.events/1"

#: What programs get of each step.
STEP: Final = (
    "at", "entity", "index", "event", "source", "target", "actor", "reason", "evidence",
)  # fmt: skip

_RECENT: Final = 8
#: What a reader of the history does not look for: who came and went.
_QUIET: Final = frozenset({"launched", "phase"})
#: Events that say their usual reason.
_PLAIN: Final = frozenset({("complete", "exit"), ("reuse", "reused")})
#: Columns of what stands alone in a line.
_LONG: Final = 500


def print_events(
    experiment_id: str, index: int | None, history: Sequence[Transition], output: Format
) -> None:
    """Print the steps of *history*, oldest first; only those of process *index* if not None."""
    found = [each for each in history if index is None or each.index == index]
    if output == "json":
        events = [forms.plain(each, *STEP) for each in found]
        forms.print_json(SCHEMA, {"experiment_id": experiment_id, "index": index, "events": events})
    elif output == "jsonl":
        write_lines(forms.plain(each, *STEP) for each in found)
    elif output != "table":
        write_rows(output, STEP, ([getattr(each, name) for name in STEP] for each in found))
    elif found:
        text.emit(line for each in found for line in _whole(each))
    else:
        who = text.one_line(experiment_id) + ("" if index is None else f"/{index}")
        text.say(f"nothing is recorded of {who} yet")


def recent(history: Sequence[Transition], *, whole: bool) -> list[str]:
    """The section `history` of the page: its end, or the *whole* of it."""
    wanted: list[Transition | str] = list(history)
    if not whole:
        wanted = list(_together([each for each in history if each.event not in _QUIET]))
    shown = wanted if whole else wanted[-_RECENT:]
    if not shown:
        return []
    title = "history"
    if len(shown) < len(history):
        title += f" (last {len(shown)} of {len(history):,}; all of it: --events)"
    lines = ["", text.bold(title)]
    for each in shown:
        if isinstance(each, str):
            lines.append(f"  {each}")
        elif whole:
            lines += [f"  {line}" for line in _whole(each, indent=2)]
        else:
            lines.append(f"  {text.clock(each.at)}  {_words(each)}")
            lines += [f"    {line}" for line in _evidence(each, indent=4)]
    return lines


def _whole(each: Transition, *, indent: int = 0) -> Iterator[str]:
    """`2024-01-15 12:34:56.789Z ✗ process 1 fail: running -> failed (exit), by pid 7 on n1`."""
    room = text.terminal_width(_stdout())
    moved = each.source != each.target
    sign = glyphs.glyph(each.target) if moved else " "
    style = glyphs.style(each.target) if moved else None
    line = f"{text.clock(each.at)} {sign} {_words(each)}"
    by = f"by {text.one_line(each.actor)}"
    if room is None or text.width(f"{line}, {by}") + indent <= room:
        yield _painted(f"{line}, {by}", sign, style)
    else:
        first, *rest = textwrap.wrap(line, max(room - indent, 20), subsequent_indent="    ")
        yield _painted(first, sign, style)
        yield from rest
        yield f"    {by}"
    for part in _evidence(each, indent=indent + 4):
        yield f"    {part}"


def _stdout() -> Any:
    import sys

    return sys.stdout


def _painted(line: str, sign: str, style: text.Style | None) -> str:
    return line.replace(sign, text.paint(sign, style, text.coloured(_stdout())), 1)


def _words(each: Transition) -> str:
    """`process 1 fail: running -> failed (exit)`."""
    who = "experiment" if each.index is None else f"process {each.index}"
    # Words of a file: whether the machine has them is the doctor's question.
    event, source, target = map(text.one_line, (each.event, each.source, each.target))
    move = "" if source == target else f": {source} -> {target}"
    said = each.reason is None or (each.event, each.reason) in _PLAIN
    return f"{who} {event}{move}" + ("" if said else f" ({each.reason})")


def _evidence(each: Transition, *, indent: int) -> list[str]:
    if not each.evidence:
        return []
    words, room = text.short(each.evidence, _LONG), text.terminal_width(_stdout())
    if room is None or text.width(words) + indent <= room:
        return [words]
    return textwrap.wrap(words, max(room - indent, 20))


def _together(history: list[Transition]) -> Iterator[Transition | str]:
    """*history*, what was reused at once in one line."""
    for reuse, group in groupby(history, lambda each: each.event == "reuse"):
        steps = list(group)
        if not reuse or len(steps) == 1:
            yield from steps
            continue
        which = text.ranges(sorted(each.index for each in steps if each.index is not None))
        number = text.count(len(steps), "process")
        yield f"{text.clock(steps[-1].at)}  {number} reused: {text.short(which, _LONG)}"
