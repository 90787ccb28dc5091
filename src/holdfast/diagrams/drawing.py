"""A state diagram as SVG: boxes where `PLACES` puts them, arrows and labels where they fit.

Owns geometry and colours and knows nothing of the machines. Placing six boxes by hand reads better
than any automatic layout, and gives the same bytes everywhere.
"""

from collections.abc import Collection, Mapping, Sequence
from html import escape
from math import hypot
from typing import Final, NamedTuple

__all__ = ["PLACES", "Line", "Place", "draw"]

Point = tuple[float, float]


class Place(NamedTuple):
    """Column and row of a box; *bends* says how many rows an arrow from here bows upwards."""

    column: float
    row: float
    bends: Mapping[str, float] = {}


class Line(NamedTuple):
    """An arrow; the first of *words* is the event, the others are its guards."""

    source: str
    target: str
    words: tuple[str, ...]


PLACES: Final[Mapping[str, Mapping[str, Place]]] = {
    "experiment": {
        "initialised": Place(0, 1),
        "running": Place(1, 1),
        "completed": Place(2, 1),
        "aggregated": Place(3, 1),
        "interrupted": Place(1, 0),
        "failed": Place(1, 2),
    },
    "process": {
        # Between completed and pending the ways lead over the top of running, either way.
        "pending": Place(0, 0, {"completed": 3.0}),
        "running": Place(1, 0),
        "completed": Place(2, 0, {"pending": 1.9}),
        "failed": Place(1, 1),
    },
}

_WIDTH, _HEIGHT = 128.0, 42.0
_COLUMN, _ROW = 312.0, 136.0
_NARROW = (232.0, 98.0)  # Column and row where arrows have no guards.
_MARGIN = 30.0
_LANE = 11.0  # Half the distance between an arrow and the one that comes back.
_LABEL = 9.0
_CORNER = 28.0  # How far an arrow that leads back to its box goes round the corner.
_LINE = 15.0
_NOTE = 20.0
_MARKER = 46.0

# Its own background: a page's own colour cannot be known, and a picture without one is unreadable
# on the half of all pages that it was not made for.
_STYLE: Final = """\
svg { color-scheme: light dark }
.page { fill: #ffffff } .box { fill: #f3f4f6; stroke: #6b7280; stroke-width: 1.5 }
.name { fill: #111827; font: 600 14px ui-sans-serif, system-ui, sans-serif; text-anchor: middle }
.event { fill: #111827; font: 500 13px ui-sans-serif, system-ui, sans-serif }
.guard { fill: #4b5563; font: 11.5px ui-monospace, Menlo, Consolas, monospace }
.note { fill: #4b5563; font: 12.5px ui-sans-serif, system-ui, sans-serif }
.line { fill: none; stroke: #4b5563; stroke-width: 1.4 } .tip, .dot { fill: #4b5563 }
.ring { fill: none; stroke: #4b5563; stroke-width: 1.4 }
.running { fill: #dbeafe; stroke: #2563eb }
.completed, .aggregated { fill: #dcfce7; stroke: #16a34a }
.failed { fill: #fee2e2; stroke: #dc2626 } .interrupted { fill: #fef3c7; stroke: #d97706 }
@media (prefers-color-scheme: dark) {
.page { fill: #0d1117 } .box { fill: #21262d; stroke: #8b949e } .name, .event { fill: #f0f6fc }
.guard, .note { fill: #b1bac4 } .line, .ring { stroke: #b1bac4 } .tip, .dot { fill: #b1bac4 }
.running { fill: #0c2d6b; stroke: #58a6ff }
.completed, .aggregated { fill: #033a16; stroke: #3fb950 }
.failed { fill: #67060c; stroke: #ff7b72 } .interrupted { fill: #4b2900; stroke: #e3b341 }
}"""


#: Only where something is marked: the pictures in the documentation stay what they are.
_MARKED: Final = """
.now { stroke-width: 3.5 } .here { fill: none; stroke: #111827; stroke-width: 2 }
@media (prefers-color-scheme: dark) { .here { stroke: #f0f6fc } }"""


def draw(
    *,
    title: str,
    description: str,
    statuses: Sequence[str],
    initial: str,
    final: Collection[str],
    arrows: Sequence[Line],
    places: Mapping[str, Place],
    notes: Sequence[str] = (),
    marked: str | None = None,
    counts: Mapping[str, int] | None = None,
    part: str | None = None,
) -> str:
    """The diagram as one SVG document, ending in a newline; *notes* stand below it.

    The box of the status *marked* has a thick border, and a ring around it. Names stand above their
    *counts*. With *part* it is an element of a page that has the styles, whose ids begin with it:
    narrower, because arrows of a page are labelled with their event only.

    Raises:
        KeyError: A status without a place: it was declared, and nobody has placed it yet.
    """
    column, row = (_COLUMN, _ROW) if part is None else _NARROW
    centres = {status: _centre(places[status], places, column, row) for status in statuses}
    xs, ys = zip(*centres.values(), strict=True)
    middle = ((min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2)
    width = max(xs) + _WIDTH / 2 + _MARGIN + (_MARKER if _rightmost(final, centres) else 0)
    bottom = max(ys) + _HEIGHT / 2 + _MARGIN
    height = bottom + len(notes) * _NOTE
    body = [*_start(centres[initial])]
    for status in final:
        body += _end(centres[status])
    taken = {(line.source, line.target) for line in arrows}
    for line in arrows:
        if line.source == line.target:
            body += _loop(line, centres[line.source])
            continue
        both_ways = (line.target, line.source) in taken
        rise = places[line.source].bends.get(line.target, 0.0) * row
        # An arrow that bows round the others meets none that comes back.
        lane = _LANE if both_ways and not rise else 0.0
        body += _arrow(line, centres[line.source], centres[line.target], lane, rise, middle)
    for status, (x, y) in centres.items():
        if status == marked:
            body.append(_ring(x, y))
        now = " now" if status == marked else ""
        body.append(
            f'<rect class="box {status}{now}" x="{_n(x - _WIDTH / 2)}" y="{_n(y - _HEIGHT / 2)}" '
            f'width="{_n(_WIDTH)}" height="{_n(_HEIGHT)}" rx="9"/>'
        )
        body += _name(status, x, y, None if counts is None else counts.get(status, 0))
    for number, note in enumerate(notes):
        at = f'x="{_n(_MARGIN)}" y="{_n(bottom + number * _NOTE)}"'
        body.append(f'<text class="note" {at}>{escape(note)}</text>')
    prefix = part or ""
    alone = [
        f'<desc id="d">{escape(description)}</desc>',
        f"<style>\n{_STYLE}{_MARKED if marked else ''}\n</style>",
        f'<rect class="page" width="{_n(width)}" height="{_n(height)}" rx="8"/>',
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(width)} {_n(height)}" '
            f'width="{_n(width)}" height="{_n(height)}" role="img" '
            f'aria-labelledby="{prefix}t{"" if part else " d"}">',
            f'<title id="{prefix}t">{escape(title)}</title>',
            *(alone if part is None else ()),
            *body,
            "</svg>\n",
        ]
    )


def _name(status: str, x: float, y: float, count: int | None) -> list[str]:
    """What stands in the box at *x*, *y*."""
    up = 5.0 if count is None else -3.0
    texts = [f'<text class="name" x="{_n(x)}" y="{_n(y + up)}">{escape(status)}</text>']
    if count is not None:
        zero = "" if count else " none"
        texts.append(f'<text class="count{zero}" x="{_n(x)}" y="{_n(y + 14)}">{count:,}</text>')
    return texts


def _ring(x: float, y: float) -> str:
    """Around the box at *x*, *y*: this is where it stands, even without colours."""
    wide, tall = _WIDTH + 12, _HEIGHT + 12
    return (
        f'<rect class="here" x="{_n(x - wide / 2)}" y="{_n(y - tall / 2)}" '
        f'width="{_n(wide)}" height="{_n(tall)}" rx="14"/>'
    )


def _n(value: float) -> str:
    """Tenths of a pixel, so that rounding differs nowhere."""
    return f"{value:.1f}".removesuffix(".0")


def _centre(place: Place, places: Mapping[str, Place], column: float, row: float) -> Point:
    # A quadratic curve reaches half way to its control point.
    above = max((bend / 2 - p.row for p in places.values() for bend in p.bends.values()), default=0)
    left = _MARGIN + _MARKER + _WIDTH / 2 + place.column * column
    top = _MARGIN + _HEIGHT / 2 + (place.row + max(above, 0)) * row
    return left, top + (_LINE if above > 0 else 0)


def _rightmost(final: Collection[str], centres: Mapping[str, Point]) -> bool:
    return any(centres[status][0] == max(x for x, _ in centres.values()) for status in final)


def _start(at: Point) -> list[str]:
    edge = at[0] - _WIDTH / 2
    tail = (edge - _MARKER + 6, at[1])
    return [
        f'<circle class="dot" cx="{_n(tail[0])}" cy="{_n(tail[1])}" r="6"/>',
        *_curve(tail, tail, (edge, at[1])),
    ]


def _end(at: Point) -> list[str]:
    edge = at[0] + _WIDTH / 2
    head = edge + _MARKER - 8
    return [
        *_curve((edge, at[1]), (edge, at[1]), (head - 8, at[1])),
        f'<circle class="ring" cx="{_n(head)}" cy="{_n(at[1])}" r="8"/>',
        f'<circle class="dot" cx="{_n(head)}" cy="{_n(at[1])}" r="4.5"/>',
    ]


def _arrow(
    line: Line, source: Point, target: Point, lane: float, rise: float, middle: Point
) -> list[str]:
    length = hypot(target[0] - source[0], target[1] - source[1])
    along = ((target[0] - source[0]) / length, (target[1] - source[1]) / length)
    # To the right of the way: the side on which an arrow keeps that has one coming against it.
    side = (-along[1], along[0])
    start = (source[0] + side[0] * lane, source[1] + side[1] * lane)
    end = (target[0] + side[0] * lane, target[1] + side[1] * lane)
    bow = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 - rise)
    start = _border(start, bow, source)
    end = _border(end, bow, target)
    at = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    if rise:
        at = ((at[0] + bow[0]) / 2, (at[1] + bow[1]) / 2)  # Half way along the curve.
    else:
        bow = at
    outside = _outside(side, at, middle, lane, rise)
    return [*_curve(start, bow, end), *_label(line.words, at, outside)]


def _loop(line: Line, at: Point) -> list[str]:
    """An arrow round the lower right corner of the box that it leaves and leads back to."""
    right, bottom = at[0] + _WIDTH / 2, at[1] + _HEIGHT / 2
    start, end = (right - _CORNER, bottom), (right, bottom - _CORNER / 2.5)
    bow = (right + _CORNER * 1.3, bottom + _CORNER * 1.3)
    words = (right + _CORNER * 0.55, bottom + _CORNER * 0.3)
    return [*_curve(start, bow, end), *_label(line.words, words, (1.0, 0.4))]


def _outside(side: Point, at: Point, middle: Point, lane: float, rise: float) -> Point:
    """The side of an arrow on which its label disturbs nothing else."""
    if lane:
        return side
    if rise:
        return (0.0, -1.0 if rise > 0 else 1.0)
    away = side[0] * (at[0] - middle[0]) + side[1] * (at[1] - middle[1])
    if abs(away) < 1.0:
        away = -side[1]  # On the middle line: above.
    return side if away > 0 else (-side[0], -side[1])


def _border(inside: Point, towards: Point, centre: Point) -> Point:
    """Where the way from *inside* a box leaves it."""
    dx, dy = towards[0] - inside[0], towards[1] - inside[1]
    steps = []
    if dx:
        steps.append((centre[0] + (_WIDTH / 2 if dx > 0 else -_WIDTH / 2) - inside[0]) / dx)
    if dy:
        steps.append((centre[1] + (_HEIGHT / 2 if dy > 0 else -_HEIGHT / 2) - inside[1]) / dy)
    step = min(steps)
    return inside[0] + dx * step, inside[1] + dy * step


def _curve(start: Point, bow: Point, end: Point) -> list[str]:
    before = bow if bow != end else start
    length = hypot(end[0] - before[0], end[1] - before[1])
    ux, uy = (end[0] - before[0]) / length, (end[1] - before[1]) / length
    neck = (end[0] - 8 * ux, end[1] - 8 * uy)
    left = (neck[0] - 4 * uy, neck[1] + 4 * ux)
    right = (neck[0] + 4 * uy, neck[1] - 4 * ux)
    if bow == start:
        bow = ((start[0] + neck[0]) / 2, (start[1] + neck[1]) / 2)
    corners = " ".join(f"{_n(x)},{_n(y)}" for x, y in (end, left, right))
    return [
        f'<path class="line" d="M{_n(start[0])} {_n(start[1])} Q{_n(bow[0])} {_n(bow[1])} '
        f'{_n(neck[0])} {_n(neck[1])}"/>',
        f'<polygon class="tip" points="{corners}"/>',
    ]


def _label(words: Sequence[str], at: Point, side: Point) -> list[str]:
    """*words* beneath each other, clear of the arrow that passes through *at*."""
    x, y = at[0] + side[0] * _LABEL, at[1] + side[1] * _LABEL
    tall = _LINE * len(words)
    if abs(side[0]) < 0.3:
        anchor = "middle"
        first = y - tall + 11 if side[1] < 0 else y + 11
    else:
        anchor = "start" if side[0] > 0 else "end"
        # Beside a slanting arrow the block must move away from it by its own height, too.
        first = y - tall / 2 + 11 + side[1] * tall / 2
    return [
        f'<text class="{"guard" if number else "event"}" x="{_n(x)}" '
        f'y="{_n(first + number * _LINE)}" text-anchor="{anchor}">{escape(word)}</text>'
        for number, word in enumerate(words)
    ]
