"""All slots of this host, and how it is with each; the way out where that cannot be judged."""

import contextlib
import functools
import os
from collections.abc import Collection, Mapping

import attrs

from holdfast.attempts.family import Census
from holdfast.attempts.looking import listed
from holdfast.errors import DiskError
from holdfast.slots import holders, places
from holdfast.slots.holders import Standing
from holdfast.slots.places import Place

__all__ = ["find", "free", "listing", "waited_for"]


def listing() -> tuple[list[Standing], list[DiskError]]:
    """Every slot that was ever held by this user on this host, and what cannot be read.

    Raises:
        DiskError: Their directory cannot be read.
    """
    census = functools.cache(Census)
    found, unreadable = [], []
    for slot in places.all_known():
        try:
            with places.peek(slot) as (is_free, holder):
                each = holders.standing(slot, holder, census, locked=not is_free)
        except DiskError as err:
            unreadable.append(err)
            continue
        if each.kind == "held" and holder is None:
            with contextlib.suppress(OSError):
                info = slot.path.lstat()
                who = [process for process, _ in census().holders((info.st_dev, info.st_ino))]
                each = attrs.evolve(each, why=f"locked by {listed(who)}" if who else each.why)
        found.append(each)
    return found, unreadable


def waited_for(declared: Mapping[str, Collection[str] | None]) -> list[Standing]:
    """Those of *declared* that somebody has, by what is written: no lock is touched for a look.

    None where that cannot be read: whoever asks shows something else besides.

    Args:
        declared: Names by kind; None for whatever there is of it.
    """
    census = functools.cache(Census)
    found = []
    known: list[Place] = []
    with contextlib.suppress(DiskError):
        known = places.all_known()
    for slot in known:
        names = declared.get(slot.kind, ())
        if names is None or slot.name in names:
            each = holders.standing(slot, places.holder(slot), census, locked=None)
            if each.kind != "free":
                found.append(each)
    return found


def find(text: str) -> Place | None:
    """The slot that *text* names, as in `gpu.0`; None if no such slot was ever held."""
    return next((each for each in places.all_known() if str(each) == text), None)


def free(slot: Place) -> Standing:
    """Take for free what cannot be judged; how it was with *slot*.

    Only `unknown` is changed: what is proven to live is not run beside.

    Raises:
        DiskError: Its file cannot be locked.
        OSError: It cannot be written.
    """
    fd = places.lock(slot)
    if fd is None:
        return holders.standing(slot, places.holder(slot), Census, locked=True)
    try:
        found = holders.standing(slot, places.signed(fd), Census, locked=False)
        if found.kind == "unknown":
            os.ftruncate(fd, 0)
        return found
    finally:
        os.close(fd)
