"""What a drill has found, for people and as JSON."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from holdfast.cli.failures import DONE, FAILED, USAGE
from holdfast.reading import forms, text

if TYPE_CHECKING:
    from holdfast.drill import Drill, Verdict

__all__ = ["CODES", "lines", "print_json"]

#: What each verdict exits with.
CODES: Final[dict["Verdict", int]] = {
    "equal": DONE,
    "not equal": FAILED,
    "does not run": FAILED,
    "cannot be compared": USAGE,
    "never hit": FAILED,
    "wrote elsewhere": USAGE,
}
#: Of a line of what a run said.
_COLUMNS: Final = 80
#: Things in a list, and differences, that are printed.
_NAMED: Final = 5
_MOST: Final = 12
_WHOM: Final = {
    "orchestrator": "orchestrator",
    "shim": "shim",
    "process": "process",
    "attempt": "whole attempt",
    "everything": "all at once",
    "TERM": "TERM to all",
    "INT": "INT to all",
}


def lines(made: "Drill", verdict: "Verdict") -> list[str]:
    """What came of it."""
    if verdict == "equal":
        return _equal(made)
    if verdict == "not equal":
        return _unequal(made)
    if verdict == "cannot be compared":
        return _incomparable(made)
    if verdict == "wrote elsewhere":
        names = [f"  {text.one_line(path)}" for path in made.elsewhere[:_NAMED]]
        return [
            "not killed: while it ran in a copy, this changed outside of it:",
            *names,
            "  the experiment did that, or somebody else; in the first case use --in-place",
        ]
    if verdict == "never hit":
        return ["nothing was killed: it is over too soon to be hit"]
    said = [f"it does not run undisturbed: exit code {made.code}", *_said(made, "  ")]
    if made.folders.survey is not None:
        folder = text.one_line(made.experiment.cwd)
        said.append(f"the copy has nothing but {folder}; --in-place runs it there")
    return said


def _equal(made: "Drill") -> list[str]:
    kills = [kill for each in made.rounds for kill in each.kills]
    counts = Counter(_WHOM[kill.target] for kill in kills)
    rounds = text.count(len(made.rounds), "round")
    repeated = sum(each.repeated for each in made.rounds)
    said = [
        f"equal after {text.count(len(kills), 'kill')} in {rounds}",
        f"  killed: {', '.join(f'{name} {count}' for name, count in sorted(counts.items()))}",
        f"  run again: {text.count(repeated, 'attempt')}, which is no difference by itself",
    ]
    besides = sorted({path for each in made.rounds for path in each.besides})
    if besides:
        more = f" and {len(besides) - _NAMED} more" if len(besides) > _NAMED else ""
        names = ", ".join(map(text.short, besides[:_NAMED]))
        said.append(f"  left by what was killed, not counted: {names}{more}")
    if made.dropped:
        said.append(f"  different without kills, too: {', '.join(made.dropped[:_NAMED])}")
    return said


def _unequal(made: "Drill") -> list[str]:
    found = [*made.left, *(each for done in made.rounds for each in done.found)]
    after = f"after {text.count(made.struck, 'kill')}" if made.struck else "without any kill"
    said = [f"not equal {after}:"]
    for each in found[:_MOST]:
        said.append(f"  {each.kind}: {text.one_line(each.about)} {text.one_line(each.says)}")
        if each.kills:
            said.append(f"    by kill {_either(each.kills)}")
    if len(found) > _MOST:
        said.append(f"  and {len(found) - _MOST} more; --json has all")
    if any(each.says.endswith(", released") for each in found):
        said.append("  released: with an empty HOLDFAST_SESSION; --daemons, if that is meant")
    named = {number for each in found for number in each.kills}
    kills = [kill for done in made.rounds for kill in done.kills if kill.number in named]
    said += [f"  {kill}" for kill in kills]
    if made.said:
        said += ["  the last run said:", *_said(made, "    ")]
    return said


def _said(made: "Drill", indent: str) -> list[str]:
    return [text.cut(f"{indent}{text.one_line(line)}", _COLUMNS) for line in made.said]


def _either(numbers: tuple[int, ...]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last


def _incomparable(made: "Drill") -> list[str]:
    assert made.agreed is not None
    assert made.compare is not None
    said = []
    for key in sorted({*made.compare} - made.agreed.keys):
        if key in made.agreed.unequal_keys:
            said.append(f"not killed: {key} differs without any kill; it cannot be compared")
        else:
            known = ", ".join(sorted({*made.agreed.keys, *made.agreed.unequal_keys})) or "none"
            said.append(f"not killed: no result has {key}; there are {known}")
    return said


def print_json(made: "Drill", verdict: "Verdict", again: str, room: Path | None) -> None:
    """All that is known of it; *again* is the command that repeats it, *room* what was kept."""
    agreed = made.agreed
    forms.print_json(
        "holdfast.drill/1",
        {
            "verdict": verdict,
            "exit_code": CODES[verdict],
            "seed": made.seed,
            "kills": [
                {
                    "number": kill.number,
                    "seed": each.seed,
                    "at_s": round(kill.at_s, 3),
                    "target": kill.target,
                    "attempts": list(map(str, kill.hit)),
                    "running": list(map(str, kill.running)),
                    "processes": kill.processes,
                    "at_write": kill.at_write,
                    "emptied": kill.emptied,
                }
                for each in made.rounds
                for kill in each.kills
            ],
            "differences": [
                {
                    "kind": each.kind,
                    "about": each.about,
                    "says": each.says,
                    "processes": sorted(each.processes),
                    "kills": list(each.kills),
                }
                for each in [*made.left, *(each for done in made.rounds for each in done.found)]
            ],
            "repeated_attempts": sum(each.repeated for each in made.rounds),
            "left_besides": sorted({path for each in made.rounds for path in each.besides}),
            "compared": None
            if agreed is None
            else {
                "keys": sorted(made.keys),
                "files": {path: str(level) for path, level in sorted(agreed.levels.items())},
            },
            "not_compared": None if agreed is None else list(agreed.unequal_keys),
            "elsewhere": made.elsewhere,
            "said": made.said,
            "kept": None if room is None else str(room),
            "again": again,
        },
    )
