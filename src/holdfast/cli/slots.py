"""`holdfast slots`: what of this machine only one process can use, and who does."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from holdfast.cli.app import json_option
from holdfast.cli.failures import ERROR
from holdfast.cli.listing import say_unreadable
from holdfast.cli.where import Where
from holdfast.errors import DiskError
from holdfast.reading import forms, text
from holdfast.slots import listing, places
from holdfast.slots.holders import Standing
from holdfast.store import encoding

__all__ = ["slots"]

SCHEMA: Final = "holdfast.slots/1"

_STYLES: Final[dict[str, text.Style]] = {
    "free": "green",
    "held": "cyan",
    "left": "yellow",
    "unknown": "red",
}


@click.command()
@click.option(
    "--free",
    "freed",
    metavar="KIND.NAME",
    help="Free a slot that is unknown. Make sure yourself that nothing uses it.",
)
@json_option
@click.make_pass_decorator(Where)
def slots(where: Where, freed: str | None, as_json: bool) -> int:
    """List the slots of this machine (GPUs, say) that your experiments hold or have held.

    A slot is held as long as anything of its attempt runs. One is left if its shim was killed and
    processes of it run on: `holdfast stop` (or a resume) of their experiment ends them. It is
    unknown if nobody can tell from here, say after a container was killed: --free makes it free.
    """
    if freed is not None:
        return _free(freed)
    found, refused = listing.listing()
    unreadable = [(err.path, err) for err in refused]
    if as_json:
        content = {
            "directory": str(places.directory()),
            "slots": list(map(_form, found)),
            "unreadable": forms.unreadable(unreadable),
        }
        forms.print_json(SCHEMA, content)
    elif found:
        _show(where, found)
    elif not unreadable:
        text.say(f"no slot was ever held here (in {text.one_line(places.directory())})")
    return say_unreadable(where, unreadable)


def _show(where: Where, found: list[Standing]) -> None:
    rows = [
        (
            text.one_line(each.slot),
            each.kind,
            text.one_line(_whose(each)),
            "" if each.kind == "free" or each.since is None else text.age(each.since),
            "" if each.kind == "free" else text.short(_where(each)),
            text.short(each.why) if each.kind in ("left", "unknown") or not each.holder else "",
        )
        for each in found
    ]
    header = ("SLOT", "STATE", "ATTEMPT", "BEGAN", "IN", "WHY")
    text.emit(text.table(header, rows, styles=_STYLES, stream=sys.stdout))
    text.flush()
    for words in dict.fromkeys(_ways_out(where, found)):
        text.say(words)


def _ways_out(where: Where, found: list[Standing]) -> Iterator[str]:
    for each in found:
        if each.released:
            yield f"{_name(each)}: {each.why}; it is free once that ends"
        elif each.kind == "left" and each.holder is not None:
            there = Where(option=_where(each) or None)
            command = there.command("stop", each.holder.experiment_id)
            yield f"stop what is left of {each.holder.experiment_id}: {command}"
        elif each.kind == "unknown":
            sure = where.command("slots", "--free", _name(each))
            yield f"{_name(each)}: once you are sure that nothing uses it: {sure}"


def _free(name: str) -> int:
    slot = listing.find(name)
    if slot is None:
        known = ", ".join(map(str, places.all_known())) or "none"
        raise click.UsageError(f"no slot {name} was ever held here; known: {known}")
    try:
        found = listing.free(slot)
    except OSError as err:
        raise DiskError.of(slot.path, "freeing the slot", err) from err
    if found.kind == "free":
        text.say(f"{name} is free")
    elif found.kind == "unknown":
        text.say(f"{name} is free from now on; it was not known whether {_whose(found)} lives")
    else:
        text.say(f"{found}: it is not freed", "error")
        return ERROR
    return 0


def _name(each: Standing) -> str:
    return text.one_line(each.slot)


def _whose(each: Standing) -> str:
    if each.kind == "free":
        return ""
    if each.holder is None:
        return "(a run that starts it)"
    return f"{each.holder.experiment_id} {each.holder.attempt}"


def _where(each: Standing) -> str:
    """The state directory of its holder."""
    folder = None if each.holder is None else each.holder.folder
    return "" if folder is None else str(Path(folder).parent.parent)


def _form(each: Standing) -> dict[str, object]:
    holder = None if each.kind == "free" else each.holder
    return {
        **forms.plain(each.slot, "kind", "name"),
        "state": each.kind,
        "experiment_id": holder and holder.experiment_id,
        "attempt": holder and holder.attempt,
        "state_dir": _where(each) or None,
        "shim": holder and encoding.identity_to_json(holder.identity),
        "since": each.since.isoformat() if holder and each.since else None,
        "why": each.why,
        "path": str(each.slot.path),
    }
