"""The processes of an experiment: what is known of each, and all of them in one table."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final, Self

import attrs

from holdfast.identity import ProcessIdentity
from holdfast.lifecycle import display
from holdfast.lifecycle.reuse import Origin
from holdfast.status import ProcessStatus, Reason
from holdfast.validators import (
    all_of,
    aware,
    not_negative,
    number,
    optional,
    optional_number,
    optional_text,
    quantities,
    replaced_limits,
    text,
)

__all__ = [
    "PHASES",
    "RUNS",
    "Origin",
    "ProcessProgress",
    "ProcessTable",
    "Ranks",
    "ResultRef",
]

#: The phase of an attempt whose command has begun.
RUNS: Final = "running"
#: How far an attempt is that an engine with a queue has.
PHASES: Final = ("queued", "held", RUNS)

_CHUNK: Final = 64


# Calling an enum costs 0.5 µs even for one of its members, twice for each of 10,000 processes.
def _process_status(value: str) -> ProcessStatus:
    return value if type(value) is ProcessStatus else ProcessStatus(value)


def _reason(value: str | None) -> Reason | None:
    return value if value is None or type(value) is Reason else Reason(value)


@attrs.frozen(kw_only=True)
class ResultRef:
    """A file as it was when its process completed: proof against loss and alteration.

    Attributes:
        path: Of a result, relative to the experiment's folder, `results/<index>.<attempt>.json`; of
            a declared output, relative to the directory in which the processes run.
        size: Bytes.
        sha256: Hex digest of the file's bytes.
    """

    path: str = attrs.field(validator=text)
    size: int = attrs.field(validator=not_negative)
    sha256: str = attrs.field(validator=text)


@attrs.frozen(kw_only=True)
class Ranks:
    """How the processes of an experiment are started: each gang of them by one launcher.

    Attributes:
        count: Ranks of one launcher; process g * count + r is rank r of gang g.
        independent: Whether each rank completes for itself. Else a gang stands and falls together.
    """

    count: int = attrs.field(validator=number)
    independent: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))

    @count.validator
    def _some(self, _: object, count: int) -> None:
        if count < 1:
            raise ValueError("count must be 1 or more")


@attrs.frozen(kw_only=True)
class ProcessProgress:
    """One process of an experiment: where it stands and how its last attempt went.

    Attributes:
        attempt: Number of the last attempt that was started; 0 before the first.
        failures: Failed attempts that count against the retry budget.
        interruptions: Attempts that ended through no fault of theirs; never charged.
        phase: While running, how far the attempt is: `queued` (its engine has it), `held` (and will
            not start it by itself), `running`. None of an engine without a queue.
        submitted_at: When an engine with a queue was given the last attempt; else None.
        started_at: When the last attempt began; None while it is pending, or waits in a queue.
        completed_at: When the last attempt ended; None until then.
        identity: The attempt's shim, while running and known.
        handle: While an engine with a queue has it, how that finds it again: `{"engine": "slurm",
            "data": …, "requested": …}`. None of the local engine.
        usage: What the last attempt that ended asked for and used, as far as it is known:
            `queued_s`, `requested_cpus`, `requested_memory_bytes`, `max_rss_bytes`, `cpu_s`.
        result: The proven result file; None when the process wrote none.
        outputs: The proven files that `[outputs]` declares.
        work: Identity of what the last attempt did, 32 hex digits; None where it is not known.
        code: Name of the record of the code that it ran with; None where there is none.
        origin: Who did the work, of a process that was completed by reuse.
        not_before: While pending, when its next attempt may start; None for at once.
        limits: What rules have set for its next attempts, by attribute of the experiment's limits:
            `{"timeout_s": {"from": 3600.0, "to": 7200.0}}`. *from* is what the configuration said
            then: once it says something else, that counts. None if no rule has.
    """

    status: ProcessStatus = attrs.field(default=ProcessStatus.PENDING, converter=_process_status)
    attempt: int = attrs.field(default=0, validator=not_negative)
    failures: int = attrs.field(default=0, validator=not_negative)
    interruptions: int = attrs.field(default=0, validator=not_negative)
    exit_code: int | None = attrs.field(default=None, validator=optional_number)
    signal: int | None = attrs.field(default=None, validator=optional_number)
    reason: Reason | None = attrs.field(default=None, converter=_reason)
    error_message: str | None = attrs.field(default=None, validator=optional_text)
    phase: str | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.in_(PHASES))
    )
    submitted_at: datetime | None = attrs.field(default=None, validator=aware)
    started_at: datetime | None = attrs.field(default=None, validator=aware)
    completed_at: datetime | None = attrs.field(default=None, validator=aware)
    host: str | None = attrs.field(default=None, validator=optional_text)
    identity: ProcessIdentity | None = attrs.field(
        default=None, validator=optional(ProcessIdentity)
    )
    handle: Mapping[str, Any] | None = attrs.field(default=None, validator=optional(Mapping))
    usage: Mapping[str, float] | None = attrs.field(
        default=None, validator=attrs.validators.optional(quantities)
    )
    result: ResultRef | None = attrs.field(default=None, validator=optional(ResultRef))
    outputs: tuple[ResultRef, ...] = attrs.field(default=(), validator=all_of(ResultRef))
    work: str | None = attrs.field(default=None, validator=optional_text)
    code: str | None = attrs.field(default=None, validator=optional_text)
    origin: Origin | None = attrs.field(default=None, validator=optional(Origin))
    not_before: datetime | None = attrs.field(default=None, validator=aware)
    limits: Mapping[str, Mapping[str, float | None]] | None = attrs.field(
        default=None, validator=attrs.validators.optional(replaced_limits)
    )

    @property
    def waits(self) -> bool:
        """Whether its attempt has not begun: an engine has it in a queue, or holds it there."""
        return self.phase not in (None, RUNS)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """What a notebook shows: the diagram of its machine, with its status marked."""
        words = f"{self.status}, attempt {self.attempt}" if self.attempt else str(self.status)
        return display.shown(self, f"process: {words}")

    def _repr_html_(self) -> str:
        return self._repr_mimebundle_()["text/html"]


_PENDING: Final = ProcessProgress()
_UNTRIED: Final = (_PENDING,) * _CHUNK


class ProcessTable(Mapping[int, ProcessProgress]):
    """The processes 0 … n - 1: an immutable mapping whose next version shares what did not change.

    A transition of one process in an experiment of 10,000 must not copy 10,000 entries, so the
    table is a tuple of chunks, of which `replace` copies one. It also keeps the count of every
    status, which guards and progress displays ask for constantly.
    """

    __slots__ = ("_chunks", "_counts", "_size")

    #: The one entry that stands for every process before its first attempt.
    UNTRIED: Final = _PENDING
    _chunks: tuple[tuple[ProcessProgress, ...], ...]
    _counts: dict[ProcessStatus, int]
    _size: int

    def __init__(self, entries: Iterable[ProcessProgress] = ()) -> None:
        """Hold *entries*, numbered from 0 in their order."""
        flat = tuple(entries)
        self._chunks = tuple(flat[i : i + _CHUNK] for i in range(0, len(flat), _CHUNK))
        self._size = len(flat)
        self._counts = dict.fromkeys(ProcessStatus, 0) | Counter([each.status for each in flat])

    @classmethod
    def pending(cls, size: int) -> Self:
        """*size* processes of which none has been tried; their chunks are one and the same."""
        table = cls((_PENDING,) * (size % _CHUNK))
        table._chunks = (_UNTRIED,) * (size // _CHUNK) + table._chunks
        table._counts[ProcessStatus.PENDING] = table._size = size
        return table

    @classmethod
    def from_mapping(cls, entries: Mapping[int, ProcessProgress], size: int) -> Self:
        """*size* processes: those in *entries*, the missing ones pending.

        Raises:
            ValueError: An index in *entries* is not one of 0 … size - 1.
        """
        stray = sorted(index for index in entries if not 0 <= index < size)
        if stray:
            raise ValueError(f"process_progress has index {stray[0]}, but num_processes is {size}")
        return cls(entries.get(index, _PENDING) for index in range(size))

    def replace(self, changed: Mapping[int, ProcessProgress]) -> "ProcessTable":
        """The table with *changed* entries; everything else is shared with this one.

        Raises:
            KeyError: An index that this table does not have.
        """
        chunks = list(self._chunks)
        counts = self._counts.copy()
        for index, entry in changed.items():
            if not 0 <= index < self._size:
                raise KeyError(index)
            at, offset = divmod(index, _CHUNK)
            chunk = chunks[at]
            counts[chunk[offset].status] -= 1
            counts[entry.status] += 1
            chunks[at] = (*chunk[:offset], entry, *chunk[offset + 1 :])
        new = object.__new__(ProcessTable)
        new._chunks, new._counts, new._size = tuple(chunks), counts, self._size
        return new

    def count(self, status: ProcessStatus) -> int:
        """How many processes have *status*, in constant time."""
        return self._counts[status]

    def is_untried(self) -> bool:
        """Whether every process is the one `UNTRIED` entry."""
        return all(
            chunk is _UNTRIED or all(entry is _PENDING for entry in chunk) for chunk in self._chunks
        )

    def indices(self, *statuses: ProcessStatus) -> list[int]:
        """The processes that have one of *statuses*, ascending."""
        return [index for index, entry in enumerate(self.values()) if entry.status in statuses]

    def changed_since(self, older: "ProcessTable") -> list[int]:
        """Processes whose entry is not the one of *older*, a former version of this table.

        Looks only into chunks that are not shared, so that a display of 10,000 processes does not
        cost more than running them.
        """
        return [
            at * _CHUNK + offset
            for at, (now, before) in enumerate(zip(self._chunks, older._chunks, strict=True))
            if now is not before
            for offset, (entry, old) in enumerate(zip(now, before, strict=True))
            if entry is not old
        ]

    def __getitem__(self, index: int) -> ProcessProgress:
        # bool is an int, and -1 must not mean the last process.
        if type(index) is not int or not 0 <= index < self._size:
            raise KeyError(index)
        return self._chunks[index // _CHUNK][index % _CHUNK]

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._size))

    def __len__(self) -> int:
        return self._size

    def values(self) -> "Iterator[ProcessProgress]":  # type: ignore[override]
        """The entries in the order of their index."""
        for chunk in self._chunks:
            yield from chunk

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ProcessTable):
            return self._chunks == other._chunks
        if isinstance(other, Mapping):
            return dict(enumerate(self.values())) == dict(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {status}" for status, n in self._counts.items() if n)
        return f"<ProcessTable of {self._size}: {counts or 'empty'}>"

    def __reduce__(self) -> tuple[type[Self], tuple[tuple[ProcessProgress, ...]]]:
        return type(self), (tuple(self.values()),)
