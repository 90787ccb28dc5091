"""Which directories a power cut may leave behind: two models of what a file system promises.

Both take a trace and a *cut*: the number of effects that the program had been told of when the
power went. What was synced before the cut is on the disk. Of the rest:

**POSIX** promises nothing. Any subset of it is on the disk, in any combination: a name without the
data of its file, data without the name, the second of two renames without the first. A write that
was under way may be torn: a prefix, the new size with zeros instead of data, either half of it, any
of its sectors with what was there before in the others, with the new size or without.
`fsync` of a file makes its data durable and not its name; `fsync` of a directory makes its names
durable and not the data behind them. (After ALICE: Pillai et al., "All File Systems Are Not
Created Equal", OSDI 2014; their abstract persistence model, at its weakest, but for the rename,
which is one step.)

**ext4-ordered** promises an order. Metadata reaches the disk in the order in which it was made, so
that a cut leaves a prefix of it; any sync that had something to commit commits everything before
it, other files' names too; data that replaces older data has nothing to commit. Data is delayed: a
file may be visible with less than was written to it, down to nothing (the famous empty file after a
rename), independently of all other files; what a file grows by reaches the disk in order, torn at
page boundaries only, what replaces older data torn at sectors.

A state that is possible at some cut stays possible until the next sync, and what was promised only
grows until then. So it is enough to cut the power just before every sync and at the end: every
other cut allows a subset of those states under weaker demands. Where the combinations at one cut
are few, all are taken, else the telling ones (nothing, everything, each alone, each missing, every
prefix) and a seeded random sample.
"""

import itertools
import random
from collections.abc import Iterator, Sequence

import attrs

from .effects import Data, Disk, Effect, Entries, Mark, Size, Sync, Trace, Tree

__all__ = ["CrashState", "crash_states", "cuts", "ext4_states", "posix_states"]

_PAGE = 4096
_SECTOR = 512
#: Of so many sectors every subset is tried.
_FEW = 3


@attrs.frozen
class CrashState:
    """One directory that a power cut may leave.

    Attributes:
        cut: How many effects of the trace the program had seen return.
        lost: What did not reach the disk, in words, for the report of a failure.
    """

    tree: Tree
    cut: int
    model: str
    lost: tuple[str, ...]


def cuts(trace: Trace) -> list[int]:
    """The cuts that matter: before every sync, and at the end."""
    syncs = [i for i, effect in enumerate(trace.effects) if isinstance(effect, Sync)]
    return [*syncs, len(trace.effects)]


def _target(effect: Effect) -> int:
    """What it changes; of what is neither a mark nor a sync."""
    assert isinstance(effect, Entries | Data | Size)
    return effect.directory if isinstance(effect, Entries) else effect.inode


def _split(trace: Trace, cut: int) -> tuple[list[int], list[int]]:
    """Which effects before *cut* are durable and which are not, by index."""
    synced_later: set[int] = set()
    durable, pending = [], []
    for index in range(cut - 1, -1, -1):
        effect = trace.effects[index]
        if isinstance(effect, Sync):
            synced_later.add(effect.inode)
        elif isinstance(effect, Mark):
            continue
        elif _target(effect) in synced_later:
            durable.append(index)
        else:
            pending.append(index)
    return durable[::-1], pending[::-1]


def _torn(effect: Effect) -> list[tuple[Effect, ...]]:
    """What may be left of an effect that was not synced: itself, nothing, or pieces."""
    if not isinstance(effect, Data) or not effect.data:
        return [(effect,), ()]
    # Zeros at its end are room for what comes: where it is torn matters in what comes before them.
    data = effect.data.rstrip(b"\0") or effect.data
    size = len(data)
    half = size // 2
    pieces = [data[:-1], data[:half], data[:half].ljust(size, b"\0"), bytes(size)]
    pieces.append(bytes(half) + data[half:])
    left: list[tuple[Data, ...]] = [(attrs.evolve(effect, data=piece),) for piece in pieces]
    left += [
        tuple(Data(effect.inode, at, piece) for at, piece in sectors)
        for sectors in _subsets(_sectors(effect.offset, data))
    ]
    if len(data) < len(effect.data):
        # Data without the room, or the room's size without data.
        room = Data(effect.inode, effect.offset + len(effect.data), b"")
        left += [(attrs.evolve(effect, data=data),), *((*each, room) for each in ((), *left))]
    return [(effect,), (), *dict.fromkeys(each for each in left if each != (effect,))]


def _sectors(offset: int, data: bytes) -> list[tuple[int, bytes]]:
    """*data*, to be written at *offset*, in pieces that a disk writes whole."""
    starts = range(offset // _SECTOR * _SECTOR, offset + len(data), _SECTOR)
    pieces = [(max(at, offset), at + _SECTOR) for at in starts]
    return [(start, data[start - offset : end - offset]) for start, end in pieces]


def _subsets(sectors: list[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    """Some of the *sectors*, neither all nor none; of many the telling choices."""
    count = len(sectors)
    if count <= _FEW:
        for chosen in itertools.product((True, False), repeat=count):
            if any(chosen) and not all(chosen):
                yield list(itertools.compress(sectors, chosen))
        return
    for at in sorted({0, 1, count // 2, count - 2, count - 1}):
        yield sectors[:at] + sectors[at + 1 :]
        yield [sectors[at]]
    yield sectors[: count // 2]
    yield sectors[::2]
    yield sectors[1::2]


def _choices(options: Sequence[int], rng: random.Random, limit: int) -> Iterator[tuple[int, ...]]:
    """Picks of one option for each of several effects (0 is whole, 1 is nothing)."""
    combinations = 1
    for count in options:
        combinations *= count
    if combinations <= limit:
        yield from itertools.product(*map(range, options))
        return
    size = len(options)
    for base, other in ((0, 1), (1, 0)):
        yield (base,) * size
        for at in range(size):
            # Everything before an instant and nothing after, and the reverse.
            yield (base,) * at + (other,) * (size - at)
            for option in range(options[at]):
                yield (base,) * at + (option,) + (base,) * (size - at - 1)
    for _ in range(limit):
        # Biased towards losing little or much: that is where recovery is nearly right.
        keep = rng.choice((0.2, 0.5, 0.8))
        yield tuple(
            0 if count == 1 or rng.random() < keep else rng.randrange(1, count) for count in options
        )


def _name(trace: Trace, index: int) -> str:
    return trace.notes[index] if trace.notes else repr(trace.effects[index])


def posix_states(
    trace: Trace, cut: int, rng: random.Random, limit: int = 200
) -> Iterator[CrashState]:
    """Directories that POSIX allows when the power goes at *cut*; may repeat itself."""
    durable, pending = _split(trace, cut)
    variants = {index: _torn(trace.effects[index]) for index in pending}
    # An effect changes its target alone: what is in no doubt is the same in every state, and what
    # is, is worked out once for each choice about that very target.
    doubtful: dict[int, list[int]] = {_target(trace.effects[index]): [] for index in pending}
    base = trace.disk()
    for index in sorted([*durable, *pending]):
        target = _target(trace.effects[index])
        if target in doubtful:
            doubtful[target].append(index)
        else:
            base.apply(trace.effects[index])
    known: dict[tuple[int, ...], Disk] = {}
    for picks in _choices([len(variants[index]) for index in pending], rng, limit):
        chosen = dict(zip(pending, picks, strict=True))
        disk = base.copy()
        for target, indices in doubtful.items():
            key = (target, *(chosen.get(index, 0) for index in indices))
            if key not in known:
                known[key] = base.only(target)
                for index in indices:
                    whole = (trace.effects[index],)
                    for effect in variants[index][chosen[index]] if index in chosen else whole:
                        known[key].apply(effect)
            disk.take(target, known[key])
        lost = tuple(
            f"{'lost' if pick == 1 else 'torn'}: {_name(trace, index)}"
            for index, pick in chosen.items()
            if pick
        )
        yield CrashState(disk.tree(), cut, "posix", lost)


def _committed(trace: Trace, cut: int) -> int:
    """Up to which effect ext4's journal has certainly committed all metadata."""
    dirty: set[int] = set()
    floor = 0
    grows = _growing(trace)
    for index, effect in enumerate(trace.effects[:cut]):
        if isinstance(effect, Sync):
            if effect.inode in dirty:
                floor = index
                dirty.clear()
        elif isinstance(effect, Entries):
            dirty.add(effect.directory)
            dirty.update(inode for _, inode in effect.changes if inode is not None)
        elif isinstance(effect, Size) or (isinstance(effect, Data) and index in grows):
            dirty.add(effect.inode)
    return floor


def _growing(trace: Trace) -> frozenset[int]:
    """The writes that make their files longer, by index."""
    sizes: dict[int, int] = {inode: len(data) for inode, data in trace.disk().files.items()}
    found: set[int] = set()
    for index, effect in enumerate(trace.effects):
        if isinstance(effect, Data):
            end, size = effect.offset + len(effect.data), sizes.get(effect.inode, 0)
            if end > size:
                found.add(index)
                sizes[effect.inode] = end
        elif isinstance(effect, Size):
            sizes[effect.inode] = effect.size
    return frozenset(found)


def ext4_states(
    trace: Trace, cut: int, rng: random.Random, limit: int = 200
) -> Iterator[CrashState]:
    """Directories that ext4 (data=ordered, delayed allocation) allows; may repeat itself."""
    floor = _committed(trace, cut)
    _, pending = _split(trace, cut)
    metadata = [i for i in range(cut) if isinstance(trace.effects[i], Entries | Size)]
    loose = [i for i in metadata if i >= floor]
    writes: dict[int, list[int]] = {}
    for index in pending:
        effect = trace.effects[index]
        if isinstance(effect, Data):
            writes.setdefault(effect.inode, []).append(index)
    delayed = list(writes)
    grows = _growing(trace)
    # For every file: how many of its writes arrived, and how much of the one after them.
    arrivals: list[list[tuple[int, int]]] = []
    for inode in delayed:
        stages = [(len(writes[inode]), 0)]
        for count, index in enumerate(writes[inode]):
            effect = trace.effects[index]
            assert isinstance(effect, Data)
            stages.append((count, 0))
            unit = _PAGE if index in grows else _SECTOR
            ends = range(unit - effect.offset % unit, len(effect.data), unit)
            stages.extend((count, at) for at in ends)
        arrivals.append(stages)
    options = [len(loose) + 1, *map(len, arrivals)]
    late = {index for indices in writes.values() for index in indices}
    for picks in _choices(options, rng, limit):
        gone = set(loose[len(loose) - picks[0] :] if picks[0] else ())
        partial: dict[int, int] = {}
        for inode, stages, pick in zip(delayed, arrivals, picks[1:], strict=True):
            whole, piece = stages[pick]
            for count, index in enumerate(writes[inode]):
                partial[index] = -1 if count < whole else piece if count == whole else 0
        disk = trace.disk()
        lost = []
        for index in range(cut):
            effect = trace.effects[index]
            if index in gone:
                lost.append(f"not committed: {_name(trace, index)}")
            elif index in late and partial[index] >= 0:
                assert isinstance(effect, Data)
                if partial[index]:
                    disk.apply(attrs.evolve(effect, data=effect.data[: partial[index]]))
                lost.append(f"delayed: {_name(trace, index)}")
            else:
                disk.apply(effect)
        yield CrashState(disk.tree(), cut, "ext4", tuple(lost))


def crash_states(
    trace: Trace, *, seed: int, limit: int = 200, only: Sequence[int] | None = None
) -> Iterator[tuple[str, CrashState]]:
    """`(digest, state)`: every distinct directory per cut, under both models.

    Args:
        seed: Makes the samples reproducible.
        limit: Combinations per cut and model up to which all are taken; the sample's size beyond.
        only: The cuts to take, instead of all that matter.
    """
    for cut in cuts(trace) if only is None else only:
        seen: set[str] = set()
        rng = random.Random(f"{seed} {cut}")
        for model in (posix_states, ext4_states):
            for state in model(trace, cut, rng, limit):
                digest = state.tree.digest
                if digest not in seen:
                    seen.add(digest)
                    yield digest, state
