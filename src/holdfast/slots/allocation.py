"""Takes slots for attempts that are about to start: whole sets, at once, or none.

Nobody holds one slot and waits for another, so that nobody waits for each other in circles.
"""

import contextlib
import functools
import os
import weakref
from collections.abc import Callable, Mapping, Sequence

import attrs

from holdfast.attempts.family import Census
from holdfast.attempts.files import Signature
from holdfast.attempts.records import Slot, by_kind
from holdfast.errors import DiskError
from holdfast.slots import holders, places
from holdfast.slots.holders import Standing
from holdfast.slots.places import Place

__all__ = ["Allocator", "Held"]


@attrs.define(eq=False)
class Held:
    """The slots of one attempt, locked by this process until they are closed.

    Once an engine has handed the descriptors on, closing them takes nothing away from it.
    """

    slots: tuple[Slot, ...]

    def __attrs_post_init__(self) -> None:
        _held.add(self)

    def close(self) -> None:
        """Hold them no longer; again does nothing."""
        slots, self.slots = self.slots, ()
        for slot in slots:
            os.close(slot.fd)

    def __str__(self) -> str:
        """`gpu 0,1; licence a`."""
        return "; ".join(f"{kind} {names}" for kind, names in by_kind(self.slots).items())


_held: "weakref.WeakSet[Held]" = weakref.WeakSet()


def _in_fork() -> None:
    # A child of the orchestrator would share the locks, and keep them after it.
    for each in list(_held):
        with contextlib.suppress(OSError):
            each.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_fork)


def _clear(slot: Place, fd: int) -> None:
    try:
        places.clear(fd)
    except OSError as err:
        raise DiskError.of(slot.path, "making room for who holds it", err) from err


class Allocator:
    """Takes what each attempt of an experiment needs.

    Attributes:
        look: What there is, as it was when first asked; raises what the pool does.
        taken: Who has what could not be had the last time, in the order of the slots.
    """

    def __init__(
        self, pool: Callable[[], Mapping[str, Sequence[Place]]], needs: Mapping[str, int]
    ) -> None:
        """*needs* of each kind for one attempt, of those that *pool* lists when first asked."""
        self.look = functools.cache(pool)
        self._needs = needs
        self.taken: list[Standing] = []

    def check(self) -> None:
        """As `look`, and make sure that all of it can be locked and signed.

        Raises:
            DiskError: As for `take`; later, that may pass.
        """
        for there in self.look().values():
            for slot in there:
                fd = places.lock(slot)
                if fd is None:
                    continue
                try:
                    if not os.fstat(fd).st_size:
                        _clear(slot, fd)
                        os.ftruncate(fd, 0)
                finally:
                    os.close(fd)

    def take(
        self, wanted: int, is_over: Callable[[Signature], bool] = lambda _: False
    ) -> list[Held]:
        """As many sets of slots as are to be had now, *wanted* at most.

        Args:
            is_over: Whether an attempt is known to be, of which nothing can be seen from here.

        Raises:
            DiskError: A lock cannot be made, opened, locked or signed.
        """
        self.taken = []
        if wanted < 1:
            return []
        pool = self.look()
        # One for all that are locked, whom it only names.
        census = functools.cache(Census)
        got: dict[str, list[Slot]] = {}
        try:
            most = wanted
            for kind, need in self._needs.items():
                got[kind] = []
                for slot in pool[kind]:
                    if len(got[kind]) == need * most:
                        break
                    found = self._try(slot, census, is_over)
                    if found is not None:
                        got[kind].append(found)
                # Of the next kind, no more than there are sets of this one.
                most = min(most, len(got[kind]) // need)
            return [Held(self._set_of(got)) for _ in range(most)]
        finally:
            for rest in got.values():
                for left in rest:
                    os.close(left.fd)

    def _set_of(self, got: Mapping[str, list[Slot]]) -> tuple[Slot, ...]:
        return tuple(got[kind].pop(0) for kind, need in self._needs.items() for _ in range(need))

    def _try(
        self, slot: Place, census: Callable[[], Census], is_over: Callable[[Signature], bool]
    ) -> Slot | None:
        fd = places.lock(slot)
        if fd is None:
            found = holders.standing(slot, places.holder(slot), census, locked=True)
            self.taken.append(found)
            return None
        try:
            # What has begun since an older census, and has let go of its lock, is not in that.
            fresh = functools.cache(Census)
            standing = holders.standing(slot, places.signed(fd), fresh, locked=False)
            holder = standing.holder
            free = standing.kind == "free" or (
                standing.kind == "unknown" and holder is not None and is_over(holder)
            )
            if free:
                _clear(slot, fd)  # until our shim signs it, it would name the one before
        except BaseException:
            os.close(fd)
            raise
        if not free:
            self.taken.append(standing)
            os.close(fd)
            return None
        return Slot(kind=slot.kind, name=slot.name, path=slot.path, fd=fd)
