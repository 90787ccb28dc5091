"""Tables that fit where they are read: columns give way by their importance, and no row wraps.

Off a terminal nothing is left out. What leads each row, such as an id, is never cut: one that
leaves no room for the rest of its row has a row of its own.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from holdfast.reading import text

__all__ = ["Column", "laid_out", "left_out_words"]

_GAP: Final = 2
#: Columns of a cell that may be cut, however much room there is.
_LONG: Final = 200
#: Columns of what leads a row that always stand in it, if those that never go have room.
_USUAL: Final = 40
#: Columns that were left out and are named.
_MOST_NAMED: Final = 6


class Column(NamedTuple):
    """One column, and what becomes of it where room lacks.

    Attributes:
        cells: Harmless, in one line each, as `text.one_line` makes them.
        right: Aligned right, as numbers are.
        least: How far its cells may be cut; None: not at all.
        rank: Which goes first where not all have room: the highest. 0 never goes.
        optional: Shown only where there is room for everything else; nothing is said if not.
        style: How a cell is painted.
    """

    heading: str
    cells: Sequence[str]
    right: bool = False
    least: int | None = None
    rank: int = 0
    optional: bool = False
    style: Callable[[str], text.Style | None] | None = None

    def width(self) -> int:
        """Columns of its widest cell, or of its heading."""
        widest = max(map(text.width, dict.fromkeys(self.cells)), default=0)
        widest = max(widest, text.width(self.heading))
        return widest if self.least is None else min(widest, max(_LONG, self.least))


def laid_out(
    columns: Sequence[Column], room: int | None, *, coloured: bool = False
) -> tuple[list[str], list[str]]:
    """The lines of a table, the heading first, and the headings of what has no room.

    Args:
        columns: The first leads: it is neither cut nor left out.
        room: Columns of the terminal; None for no limit.
    """
    widths = [each.width() for each in columns]
    left_out: list[int] = []
    if room is not None:
        widths[0] = _lead(columns, widths, room)
        left_out = _fit(columns, widths, room)
    kept = [at for at in range(len(columns)) if at not in left_out]
    parts = [_padded(columns[at], widths[at], coloured, last=at == kept[-1]) for at in kept]
    headings = [_pad(columns[at].heading, widths[at], right=columns[at].right) for at in kept]
    heading = text.paint((" " * _GAP).join(headings).rstrip(), "bold", coloured)
    lines = [heading, *_rows(parts, widths[0])]
    told = [columns[at] for at in left_out]
    return lines, [each.heading for each in told if not each.optional and any(each.cells)]


def left_out_words(headings: Sequence[str], room: int | None, more: str) -> list[str]:
    """`… 2 more columns (NAME, PROG): holdfast ls …`, as far as there is room; none of none."""
    if not headings:
        return []
    names = ", ".join(headings[:_MOST_NAMED]) + (", …" if len(headings) > _MOST_NAMED else "")
    which = f"… {text.count(len(headings), 'more column')}"
    forms = f"{which} ({names}): {more}", f"{which}: {more}", f"{which} ({names})", which
    return [next((each for each in forms if room is None or text.width(each) <= room), which)]


def _lead(columns: Sequence[Column], widths: Sequence[int], room: int) -> int:
    """The width of the first column: that of the widest cell beside which a row has room.

    Where not everything has room, a few that are much longer than most do not count.
    """
    others = list(zip(columns[1:], widths[1:], strict=True))
    most = room - sum(_least(column, width) + _GAP for column, width in others if not column.rank)
    cells = sorted(map(text.width, columns[0].cells))
    wished = sum(width + _GAP for column, width in others if not column.optional)
    if cells and cells[-1] + wished > room:
        most = min(most, max(cells[3 * (len(cells) - 1) // 4], _USUAL))
    return max(text.width(columns[0].heading), *(each for each in cells if each <= most), 0)


def _least(column: Column, width: int) -> int:
    if column.least is None:
        return width
    return min(width, max(column.least, text.width(column.heading)))


def _fit(columns: Sequence[Column], widths: list[int], room: int) -> list[int]:
    """Leave columns out, and make *widths* smaller, until a row has room; what was left out."""
    over = sum(widths) + _GAP * (len(widths) - 1) - room
    gone: list[int] = []
    # What has nothing to say goes first, and nobody misses it.
    order = sorted(range(1, len(columns)), key=lambda at: -columns[at].rank)
    empty = [at for at in order if columns[at].rank and not any(columns[at].cells)]
    for at in (*empty, *(at for at in order if columns[at].optional and at not in empty)):
        if over <= 0:
            return gone
        gone.append(at)
        over -= widths[at] + _GAP
    # Then cells are cut, and what still has no room goes, however much that leaves for the cut.
    spare = {at: widths[at] - _least(columns[at], widths[at]) for at in order if at not in gone}
    for at in order:
        if over <= sum(spare.values()) or not columns[at].rank:
            break
        if at not in gone:
            gone.append(at)
            over -= widths[at] + _GAP
            del spare[at]
    for at in spare:  # the least important first
        cut = min(spare[at], max(over, 0))
        widths[at] -= cut
        over -= cut
    return gone


def _pad(cell: str, width: int, *, right: bool) -> str:
    gap = " " * (width - text.width(cell))
    return gap + cell if right else cell + gap


def _padded(column: Column, width: int, coloured: bool, *, last: bool) -> list[str]:
    """The cells of one column, cut, aligned, painted: each different one once."""
    known: dict[str, str] = {}
    for cell in column.cells:
        if cell not in known:
            words = cell if column.least is None else text.cut(cell, width)
            gap = " " * (width - text.width(words))
            painted = text.paint(words, column.style(cell) if column.style else None, coloured)
            known[cell] = gap + painted if column.right else painted + ("" if last else gap)
    return [known[cell] for cell in column.cells]


def _rows(parts: Sequence[Sequence[str]], lead: int) -> Iterator[str]:
    gap = " " * _GAP
    wide = {each for each in parts[0] if len(each) > lead or not each.isascii()}
    wide = {each for each in wide if text.width(each) > lead}  # no cell that leads is painted
    for cells in zip(*parts, strict=True):
        if len(cells) > 1 and cells[0] in wide:
            yield cells[0]
            cells = (" " * lead, *cells[1:])
        yield gap.join(cells).rstrip()
