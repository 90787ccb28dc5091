"""Pictures and tables of the two machines, all from what `holdfast.lifecycle.machines` declares.

Owns the notations: Mermaid, Graphviz' dot, a transition table in Markdown. `drawing` lays the same
arrows out as SVG, because Graphviz is not there on a bare machine and differs between its versions.
"""

import re
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, Final

import attrs

from holdfast.diagrams import drawing
from holdfast.errors import InvalidRequestError
from holdfast.lifecycle.edges import edges
from holdfast.lifecycle.guards import GUARDS
from holdfast.lifecycle.machine import RecordMachine
from holdfast.lifecycle.machines import ENDINGS, MACHINES, ExperimentMachine, ProcessMachine
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.status import Entity

__all__ = [
    "FORMATS",
    "Arrow",
    "arrows",
    "diagram",
    "everywhere",
    "files",
    "final",
    "html",
    "initial",
    "inline",
    "notes",
    "render",
    "statuses",
]

#: Where an arrow may be taken: any one of the alternatives, each of which is a set of guards.
Alternatives = tuple[tuple[str, ...], ...]

_ABOUT: Final[Mapping[Entity, str]] = {
    "experiment": "What may happen to an experiment.",
    "process": "What may happen to one process of an experiment.",
}

#: Events and guards inside a note.
_CODE: Final = re.compile("|".join([r"\w+_\w+", *(rf"\b{event}\b" for event in ENDINGS)]))


@attrs.frozen
class Arrow:
    """One event from one status to another; *alternatives* is empty if nothing guards it.

    What guards every arrow of a machine is in `everywhere`, and repeated on none.
    """

    event: str
    source: str
    target: str
    alternatives: Alternatives

    @property
    def guard(self) -> str:
        """The condition as text, `attempts_left or requested_by_user`; empty if there is none."""
        return " or ".join(" and ".join(guards) for guards in self.alternatives)

    @property
    def label(self) -> str:
        """`event [guard]`, as UML writes it."""
        return f"{self.event} [{self.guard}]" if self.alternatives else self.event


def everywhere(entity: Entity) -> tuple[str, ...]:
    """The guards that every transition of a machine asks."""
    first, *others = (edge.guards for edge in edges(MACHINES[entity]))
    return tuple(guard for guard in first if all(guard in guards for guards in others))


def notes(entity: Entity) -> tuple[str, ...]:
    """What holds for several arrows at once, each note a sentence of plain words."""
    found = []
    if always := everywhere(entity):
        found.append(f"Every transition needs {' and '.join(always)}, too.")
    if entity == "process":
        found.append(f"An attempt that ended: the first of {', '.join(ENDINGS)} whose guards pass.")
    return tuple(found)


def arrows(entity: Entity) -> tuple[Arrow, ...]:
    """The arrows of a machine, by event in the order of declaration.

    Declared transitions that differ in their guard only are one arrow: whoever reads a picture
    wants to know from where to where.
    """
    found: dict[tuple[str, str, str], list[tuple[str, ...]]] = {}
    always = everywhere(entity)
    for edge in edges(MACHINES[entity]):
        own = tuple(guard for guard in edge.guards if guard not in always)
        found.setdefault((edge.event, edge.source, edge.target), []).append(own)
    return tuple(
        # One way without a guard makes all others of the same arrow pointless.
        Arrow(*key, () if () in alternatives else tuple(alternatives))
        for key, alternatives in found.items()
    )


def statuses(entity: Entity) -> tuple[str, ...]:
    """Every status of a machine, in the order of declaration."""
    return tuple(str(state.value) for state in MACHINES[entity].states)


def initial(entity: Entity) -> str:
    """Where a record starts."""
    return next(str(state.value) for state in MACHINES[entity].states if state.initial)


def final(entity: Entity) -> tuple[str, ...]:
    """The statuses that no event leaves."""
    left = {arrow.source for arrow in arrows(entity)}
    return tuple(status for status in statuses(entity) if status not in left)


def mermaid(entity: Entity, status: str | None = None) -> str:
    """A Mermaid `stateDiagram-v2`, which GitHub and GitLab draw; *status* is marked."""
    lines = ["stateDiagram-v2", "    direction LR", f"    [*] --> {initial(entity)}"]
    lines += [f"    {arrow.source} --> {arrow.target} : {arrow.label}" for arrow in arrows(entity)]
    lines += [f"    {end} --> [*]" for end in final(entity)]
    if told := notes(entity):
        lines += [f"    note left of {initial(entity)}"]
        lines += [f"        {note}" for note in told]
        lines += ["    end note"]
    if status is not None:
        lines += ["    classDef now stroke-width:4px,font-weight:bold", f"    class {status} now"]
    return "\n".join(lines) + "\n"


def dot(entity: Entity, status: str | None = None) -> str:
    """A digraph for Graphviz; *status* is marked."""
    ends = final(entity)
    lines = [
        f"digraph {entity} {{",
        "    rankdir=LR",
        '    node [shape=box, style=rounded, fontname="sans-serif"]',
        '    edge [fontname="sans-serif", fontsize=11]',
        *_dot_label(notes(entity)),
        '    "*" [shape=point, width=0.15]',
        f'    "*" -> "{initial(entity)}"',
    ]
    for each in statuses(entity):
        looks = ["peripheries=2"] if each in ends else []
        looks += ["penwidth=3"] if each == status else []
        lines.append(f'    "{each}"' + (f" [{', '.join(looks)}]" if looks else ""))
    lines += [
        f'    "{arrow.source}" -> "{arrow.target}" [label="{arrow.label}"]'
        for arrow in arrows(entity)
    ]
    return "\n".join([*lines, "}"]) + "\n"


def _dot_label(told: Sequence[str]) -> list[str]:
    if not told:
        return []
    text = "".join(rf"{note}\l" for note in told)
    return [f'    graph [label="{text}", labelloc=b, labeljust=l, fontname="sans-serif"]']


def svg(entity: Entity, status: str | None = None) -> str:
    """A drawing that is the same on every machine, for light and dark pages; *status* is marked."""
    return drawing.draw(
        marked=status,
        title=f"The {entity} machine",
        description=_described(entity) + "".join(f". {note.rstrip('.')}" for note in notes(entity)),
        statuses=statuses(entity),
        initial=initial(entity),
        final=final(entity),
        arrows=[
            drawing.Line(
                arrow.source,
                arrow.target,
                (arrow.event, *_guard_lines(arrow.alternatives)),
            )
            for arrow in arrows(entity)
        ],
        places=drawing.PLACES[entity],
        notes=notes(entity),
    )


def inline(
    entity: Entity,
    status: str | None = None,
    counts: Mapping[str, int] | None = None,
    prefix: str = "",
) -> str:
    """`svg` as a part of a page that has the styles: no guards, *counts* in the boxes.

    Args:
        entity: Which machine.
        status: The status to mark.
        counts: How many records are in each status.
        prefix: What the ids of its title and description begin with, which a page may have once.
    """
    there = [f"{number:,} {name}" for name, number in (counts or {}).items()]
    there += [f"now {status}"] if status else []
    return drawing.draw(
        marked=status,
        counts=counts,
        part=prefix or f"{entity}-",
        title=f"The {entity} machine" + (f": {', '.join(there)}" if there else ""),
        description=_described(entity),
        statuses=statuses(entity),
        initial=initial(entity),
        final=final(entity),
        arrows=[
            drawing.Line(source, target, (event,))
            for event, source, target in dict.fromkeys(
                (arrow.event, arrow.source, arrow.target) for arrow in arrows(entity)
            )
        ],
        places=drawing.PLACES[entity],
    )


def _described(entity: Entity) -> str:
    return "; ".join(
        f"{arrow.label} from {arrow.source} to {arrow.target}" for arrow in arrows(entity)
    )


def _guard_lines(alternatives: Alternatives) -> list[str]:
    texts = [f"[{' and '.join(guards)}]" for guards in alternatives]
    return [*(f"{text} or" for text in texts[:-1]), *texts[-1:]]


def markdown(entity: Entity, status: str | None = None) -> str:
    """A page: the Mermaid diagram, the transition table, and what each guard demands."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for arrow in arrows(entity):
        rows.setdefault((arrow.event, arrow.target, arrow.guard), []).append(arrow.source)
    ends = final(entity)
    lines = [
        f"# The {entity} machine",
        "",
        f"{_ABOUT[entity]} Drawn from its declaration; not edited by hand.",
        "",
        "```mermaid",
        mermaid(entity, status).rstrip("\n"),
        "```",
        "",
        "| event | from | to | guard |",
        "|---|---|---|---|",
    ]
    for (event, target, guard), sources in rows.items():
        to = f"{target} (final)" if target in ends else target
        code = f"`{guard.replace(' or ', '` or `')}`" if guard else ""
        lines.append(f"| `{event}` | {', '.join(sources)} | {to} | {code} |")
    for note in notes(entity):
        lines += ["", _CODE.sub(r"`\g<0>`", note)]
    lines += ["", "| guard | lets the event pass if |", "|---|---|"]
    for name, function in GUARDS[entity].items():
        says = (function.__doc__ or "").strip().splitlines()[0].rstrip(".")
        lines.append(f"| `{name}` | {says[:1].lower()}{says[1:]} |")
    return "\n".join(lines) + "\n"


#: `--format` word to what writes it, and how such a file ends.
FORMATS: Final[Mapping[str, tuple[Callable[[Entity, str | None], str], str]]] = {
    "mermaid": (mermaid, "mmd"),
    "dot": (dot, "dot"),
    "svg": (svg, "svg"),
    "markdown": (markdown, "md"),
}


def render(entity: Entity, notation: str) -> str:
    """The machine of *entity* in one of `FORMATS`, ending in a newline.

    Raises:
        KeyError: There is no such notation.
    """
    write, _ = FORMATS[notation]
    return write(entity, None)


#: What can be drawn: a machine by its name, as a class or as it stands, or a record.
Drawable = (
    Entity | RecordMachine[Any] | type[RecordMachine[Any]] | ExperimentState | ProcessProgress
)


def diagram(entity: Drawable, *, format: str = "svg") -> str:
    """The machine of *entity* as a picture, in which the status that it is in is marked.

    Args:
        entity: `"experiment"` or `"process"`, one of the two machines, or a state or process, whose
            status is marked.
        format: `svg`, `mermaid`, `dot` or `markdown`.

    Example:
        >>> Path("now.svg").write_text(holdfast.diagram(manager.load("exp_7")))

    Raises:
        InvalidRequestError: There is no such format, or nothing to draw of *entity*.
    """
    kind, status = _drawn(entity)
    if format not in FORMATS:
        problem = f"must be one of {', '.join(FORMATS)}, got {format!r:.80}"
        raise InvalidRequestError("format", problem)
    write, _ = FORMATS[format]
    return write(kind, status)


def _drawn(entity: object) -> tuple[Entity, str | None]:
    if entity == "experiment" or entity is ExperimentMachine:
        return "experiment", None
    if entity == "process" or entity is ProcessMachine:
        return "process", None
    if isinstance(entity, ExperimentMachine | ExperimentState):
        return "experiment", str(entity.status)
    if isinstance(entity, ProcessMachine | ProcessProgress):
        return "process", str(entity.status)
    problem = f"is experiment, process, a machine or a record, got {entity!r:.80}"
    raise InvalidRequestError("what is drawn", problem)


def can_draw(entity: object) -> bool:
    """Whether `diagram` knows *entity*."""
    try:
        _drawn(entity)
    except InvalidRequestError:
        return False
    return True


def html(entity: Drawable, words: str = "", details: str = "") -> str:
    """`diagram` for a page of others, whose looks it neither takes nor changes.

    Args:
        entity: As for `diagram`.
        words: Stand above.
        details: HTML that stands between them and the picture.
    """
    # As an image of its own: a page has one space of names for all styles and ids in it.
    data = b64encode(diagram(entity).encode()).decode()
    kind, status = _drawn(entity)
    text = f"The {kind} machine" + (f", in {status}" if status else "")
    above = f"<p>{escape(words)}</p>" if words else ""
    source = f"data:image/svg+xml;base64,{data}"
    return f'{above}{details}<img alt="{text}" style="max-width: 100%" src="{source}">'


def files() -> dict[str, str]:
    """`{file name: content}` of the folder `diagrams/`."""
    return {
        f"{entity}.{ending}": write(entity, None)
        for entity in MACHINES
        for write, ending in FORMATS.values()
        if ending != "dot"
    }
