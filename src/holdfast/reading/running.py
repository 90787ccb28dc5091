"""The table of what runs now: who, how far, when it will be done, whether it lives, what it uses.

It has as many rows and columns as fit; a row never wraps, and its process is never cut.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from holdfast.attempts.surviving import halted_shim
from holdfast.lifecycle.records import ExperimentState
from holdfast.reading import machine, text
from holdfast.reading.engines import place
from holdfast.reading.evidence import Params, last_words, params_words
from holdfast.reading.machine import Machine
from holdfast.reading.progress import HEADER, LOOK_EVERY_S, Looks, Standing, alike, cells, said

__all__ = ["Line", "Running"]

#: A line and its style.
Line = tuple[str, text.Style | None]

_HEADER: Final = ("PROC", "ATT", "RAN", *HEADER, *machine.HEADER, "")
_PROC, _ATT, _RAN, _PROG, _ETA, _BEAT, _CPU, _MEM, _WORDS = range(9)
#: What is left out where a terminal is too narrow, the first to go first.
_GIVE_WAY: Final = (_RAN, _MEM, _CPU, _ATT, _ETA, _PROG, _BEAT)
_LEAST_WORDS: Final = 12
_WIDEST: Final = 24
_INDENT, _GAP = "  ", "  "
_MOST_ROWS: Final = 50


class Running:
    """Draws up the table of one experiment again and again."""

    def __init__(self, *, look_every_s: float = LOOK_EVERY_S) -> None:
        """Look at nothing yet, and later no more often than every *look_every_s*."""
        self._looks = Looks(every_s=look_every_s)
        self._machine = Machine()
        self._found: Mapping[int, Standing] | None = None
        self._used: Mapping[int, machine.Used] = {}
        #: What those say, or have printed last, that run.
        self._says: dict[int, str] = {}
        self._shown: tuple[int, ...] = ()

    def stand(self, state: ExperimentState, folder: Path, now: datetime) -> Mapping[int, Standing]:
        """Where the running processes stand by now, or did at the last look."""
        return self._looks.at(state, folder, now, self._shown)

    def lines(
        self,
        state: ExperimentState,
        folder: Path,
        params: Params,
        indices: Sequence[int],
        now: datetime,
        *,
        columns: int,
        room: int,
    ) -> list[Line]:
        """No more lines than *room* of the processes *indices*, none wider than *columns*."""
        if not indices or room < 2:
            return []  # the counts say how many run
        room = min(room, _MOST_ROWS)
        shown = self._chosen(state, indices, room)
        found = self.stand(state, folder, now)
        if found is not self._found or shown != self._shown:
            self._look(state, folder, found, shown)
        rows = alike(state, ((i, self._row(state, params, i, now)) for i in shown))
        heads = 1 if room > 2 else 0
        fits = len(rows) <= room - heads and len(shown) == len(indices)
        rows = rows[: room - heads - (not fits)]
        lines: list[Line] = []
        table = [_HEADER, *((text.ranges(group), *_own(state, group, row)) for group, row in rows)]
        for number, words in enumerate(_fitted(table, columns)):
            if number:
                group, row = rows[number - 1]
                lines.append((words, "yellow" if "stalled" in row[_BEAT - 1] else "cyan"))
                halt = halted_shim(state.processes[group[0]].identity)
                if halt is not None:
                    lines.append((f"{_INDENT}      {halt}", "yellow"))
            elif heads:
                lines.append((words, "dim"))
        left = len(indices) - sum(len(group) for group, _ in rows)
        if left:
            lines = lines[: room - 1]
            lines.append((f"{_INDENT}… and {left:,} more running", "cyan"))
        return lines[:room]

    def _chosen(self, state: ExperimentState, indices: Sequence[int], room: int) -> tuple[int, ...]:
        """The processes to be shown: those that have stalled before all others."""
        most = room * (1 if state.ranks is None else state.ranks.count)
        found = self._found or {}
        stalled = [i for i in indices if i in found and found[i].stalled][:most]
        others = [i for i in indices[: most + len(stalled)] if i not in stalled]
        return tuple(stalled + others)[: min(most, 10 * _MOST_ROWS)]

    def _look(
        self,
        state: ExperimentState,
        folder: Path,
        found: Mapping[int, Standing],
        shown: tuple[int, ...],
    ) -> None:
        self._found, self._shown = found, shown
        self._used = self._machine.look({i: state.processes[i].identity for i in shown})
        self._says = {
            index: said(found[index].progress)
            if index in found
            else last_words(state, folder, index)
            for index in shown[:_MOST_ROWS]
        }

    def _row(
        self, state: ExperimentState, params: Params, index: int, now: datetime
    ) -> tuple[str, ...]:
        process = state.processes[index]
        since = process.started_at
        ran = "" if since is None else text.duration((now - since).total_seconds())
        assert self._found is not None
        standing = self._found.get(index)
        # A frame between two looks has no newer report, but the last one has grown older.
        steps, left, beat = cells(None if standing is None else standing.aged(now))
        used = machine.cells(self._used.get(index))
        words = (params_words(params, index), place(process), self._says.get(index, ""))
        attempt = str(process.attempt) if process.attempt > 1 else ""
        return attempt, ran, steps, left, beat, *used, "  ".join(filter(None, words))


def _own(state: ExperimentState, group: Sequence[int], row: Sequence[str]) -> Sequence[str]:
    """*row* without what is of other ranks, too: a launcher's family is that of all of them."""
    gang = state.gang(group[0])
    if len(group) == len(gang):
        return row
    return *row[: _CPU - 1], machine.UNKNOWN, machine.UNKNOWN, row[-1]


def _fitted(table: Sequence[Sequence[str]], columns: int) -> list[str]:
    """The rows of *table*, its header first, in lines that fit; columns without a word are none."""
    cut = [[text.cut(cell, _WIDEST) for cell in row[:_WORDS]] for row in table]
    widths = [max(map(text.width, column)) for column in zip(*cut, strict=True)]
    kept = [at for at in range(_WORDS) if at == _PROC or any(row[at] for row in cut[1:])]
    least = _LEAST_WORDS if any(row[_WORDS] for row in table[1:]) else 0

    def left() -> int:
        return columns - len(_INDENT) - sum(widths[at] + len(_GAP) for at in kept)

    for at in _GIVE_WAY:
        # Words are worth less than the numbers that a narrow terminal has room for.
        if left() >= (least if columns >= 80 else -len(_GAP)):
            break
        if at in kept:
            kept.remove(at)
    room = left()
    lines = []
    for row, cells_ in zip(table, cut, strict=True):
        line = _GAP.join(" " * (widths[at] - text.width(cells_[at])) + cells_[at] for at in kept)
        words = text.cut(row[_WORDS], room) if room > 3 else ""
        lines.append(text.cut(f"{_INDENT}{line}{_GAP}{words}".rstrip(), columns))
    return lines
