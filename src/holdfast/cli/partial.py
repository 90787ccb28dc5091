"""The results of an experiment that is not finished: what is completed, what is missing and why."""

from collections.abc import Mapping
from typing import Any, Final

from holdfast.cli.aggregates import aggregate_lines, notes
from holdfast.cli.where import Where
from holdfast.reading import forms, seen, text
from holdfast.reading.evidence import parameters
from holdfast.results import aggregation

__all__ = ["missing_lines", "print_partial", "title"]

_MOST_KINDS: Final = 10


def print_partial(where: Where, experiment_id: str, *, as_json: bool) -> int:
    """Print the table of what is completed, marked as partial; nothing is changed."""
    manager = where.manager()
    state = manager.load(experiment_id)
    folder = manager.folder(experiment_id)
    found = aggregation.partial_of(state, folder, parameters(state) or ())
    if as_json:
        forms.print_json(
            "holdfast.partial/1", {"experiment": forms.experiment(state, None), "aggregate": found}
        )
    else:
        text.emit(aggregate_lines(found, where))
        text.flush()
        text.say("\n".join([f"{text.short(experiment_id)}: {title(found)}", *missing_lines(found)]))
        for note in notes(state, found):
            text.say(note)
    if found["rows"]:
        seen.mark(folder)
    return 0


def title(found: Mapping[str, Any]) -> str:
    """`partial: 5 of 8 processes`, or that it is whole."""
    number = text.count(found["num_processes"], "process")
    if not found["partial"]:
        return f"all {number}"
    return f"partial: {len(found['rows']):,} of {number}"


def missing_lines(found: Mapping[str, Any]) -> list[str]:
    """What is missing, those together that are missing for the same reason."""
    kinds: dict[tuple[str, str], list[int]] = {}
    for each in found["missing"]:
        kinds.setdefault((each["status"], each["why"]), []).append(each["index"])
    lines = [
        f"  missing: {text.short(text.ranges(indices), 100)} ({status}: {text.short(why, 200)})"
        for (status, why), indices in list(kinds.items())[:_MOST_KINDS]
    ]
    if len(kinds) > _MOST_KINDS:
        lines.append(f"  … and {len(kinds) - _MOST_KINDS:,} other reasons: --json")
    return lines
