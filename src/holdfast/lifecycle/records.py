"""The records: what is known of an experiment and its processes. Frozen, without behaviour that
moves them; `holdfast.lifecycle` makes the next record, `holdfast.store.codec` makes them JSON.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import PurePath
from typing import Any, Final, Self

import attrs

from holdfast.identity import ProcessIdentity, Verdict
from holdfast.lifecycle import display
from holdfast.status import ExperimentStatus, ProcessStatus, Reason
from holdfast.validators import (
    aware,
    mapping,
    number,
    optional,
    optional_number,
    optional_text,
    some_text,
    text,
)

__all__ = [
    "SCHEMA_VERSION",
    "ExperimentState",
    "ProcessProgress",
    "ProcessTable",
    "ResultRef",
    "summarise",
]

#: The schema that this version writes. Schema 0 is a file without a `schema_version`.
SCHEMA_VERSION: Final = 1

_CHUNK: Final = 64

#: Far beyond what one machine runs; a number in a file must not take all memory.
MAX_PROCESSES: Final = 1_000_000


def _not_negative(_: object, attribute: "attrs.Attribute[Any]", value: int) -> None:
    number(_, attribute, value)
    if value < 0:
        raise ValueError(f"{attribute.name} must be 0 or more, got {value}")


# Calling an enum costs 0.5 µs even for one of its members, twice for each of 10,000 processes.
def _process_status(value: str) -> ProcessStatus:
    return value if type(value) is ProcessStatus else ProcessStatus(value)


def _reason(value: str | None) -> Reason | None:
    return value if value is None or type(value) is Reason else Reason(value)


def _path(path: str | PurePath | None) -> str | None:
    return str(path) if isinstance(path, PurePath) else path


@attrs.frozen(kw_only=True)
class ResultRef:
    """A result file as it was when its process completed: proof against loss and alteration.

    Attributes:
        path: Relative to the experiment's folder, `results/<index>.<attempt>.json`.
        size: Bytes.
        sha256: Hex digest of the file's bytes.
    """

    path: str = attrs.field(validator=text)
    size: int = attrs.field(validator=_not_negative)
    sha256: str = attrs.field(validator=text)


@attrs.frozen(kw_only=True)
class ProcessProgress:
    """One process of an experiment: where it stands and how its last attempt went.

    Attributes:
        attempt: Number of the last attempt that was started; 0 before the first.
        failures: Failed attempts that count against the retry budget.
        interruptions: Attempts that ended through no fault of theirs; never charged.
        started_at: When the last attempt was started; None while pending.
        completed_at: When the last attempt ended; None until then.
        identity: The attempt's shim, while running and known.
        result: The proven result file; None when the process wrote none.
    """

    status: ProcessStatus = attrs.field(default=ProcessStatus.PENDING, converter=_process_status)
    attempt: int = attrs.field(default=0, validator=_not_negative)
    failures: int = attrs.field(default=0, validator=_not_negative)
    interruptions: int = attrs.field(default=0, validator=_not_negative)
    exit_code: int | None = attrs.field(default=None, validator=optional_number)
    signal: int | None = attrs.field(default=None, validator=optional_number)
    reason: Reason | None = attrs.field(default=None, converter=_reason)
    error_message: str | None = attrs.field(default=None, validator=optional_text)
    started_at: datetime | None = attrs.field(default=None, validator=aware)
    completed_at: datetime | None = attrs.field(default=None, validator=aware)
    host: str | None = attrs.field(default=None, validator=optional_text)
    identity: ProcessIdentity | None = attrs.field(
        default=None, validator=optional(ProcessIdentity)
    )
    result: ResultRef | None = attrs.field(default=None, validator=optional(ResultRef))

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """What a notebook shows: the diagram of its machine, with its status marked."""
        words = f"{self.status}, attempt {self.attempt}" if self.attempt else str(self.status)
        return display.shown(self, f"process: {words}")


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


@attrs.frozen(kw_only=True)
class ExperimentState:
    """Everything that is known of one experiment at one revision.

    Only the id is required, so that a record can be made by hand. `num_processes` defaults to the
    number of entries in `process_progress`; processes without an entry are pending.

    Attributes:
        process_progress: `{index: ProcessProgress}`, held as a `ProcessTable`.
        reason: Why the status was reached, e.g. `user` for Ctrl-C, `stale` for a dead owner.
        config: What was asked for, JSON-like; `config_hash` is over the part that defines the work.
        cwd: Directory in which the processes run.
        owner: The last process that claimed the experiment; see `holdfast.identity`.
        subprocess_pid: Only in files of other tools, which recorded no more than a pid.
        epoch: Number of the journal that this state was read from; 0 before the first claim.
        revision: Grows by one with every recorded line.
        extra: Unknown keys of a file made by hand or by another tool, kept.
    """

    experiment_id: str = attrs.field(validator=some_text)
    name: str | None = attrs.field(default=None, validator=optional_text)
    status: ExperimentStatus = attrs.field(
        default=ExperimentStatus.INITIALISED, converter=ExperimentStatus
    )
    reason: Reason | None = attrs.field(default=None, converter=attrs.converters.optional(Reason))
    error_message: str | None = attrs.field(default=None, validator=optional_text)
    config: Mapping[str, Any] = attrs.field(factory=dict, validator=mapping)
    config_hash: str | None = attrs.field(default=None, validator=optional_text)
    config_path: str | None = attrs.field(default=None, converter=_path, validator=optional_text)
    cwd: str | None = attrs.field(default=None, converter=_path, validator=optional_text)
    num_processes: int = attrs.field(default=0, validator=_not_negative)
    process_progress: Mapping[int, ProcessProgress] = attrs.field(factory=ProcessTable)
    owner: ProcessIdentity | None = attrs.field(default=None, validator=optional(ProcessIdentity))
    subprocess_pid: int | None = attrs.field(default=None, validator=optional_number)
    epoch: int = attrs.field(default=0, validator=_not_negative)
    revision: int = attrs.field(default=0, validator=_not_negative)
    schema_version: int = attrs.field(default=SCHEMA_VERSION, validator=number)
    created_at: datetime | None = attrs.field(default=None, validator=aware)
    started_at: datetime | None = attrs.field(default=None, validator=aware)
    finished_at: datetime | None = attrs.field(default=None, validator=aware)
    last_updated: datetime | None = attrs.field(default=None, validator=aware)
    extra: Mapping[str, Any] = attrs.field(factory=dict, validator=mapping)

    def __attrs_post_init__(self) -> None:
        given = self.process_progress
        size = self.num_processes
        if type(given) is ProcessTable and len(given) == size:
            return
        if size == 0 and given:
            size = max(given) + 1
        if size > MAX_PROCESSES:
            raise ValueError(f"num_processes is {size:,}, more than the limit of {MAX_PROCESSES:,}")
        if size != self.num_processes:
            object.__setattr__(self, "num_processes", size)
        table = ProcessTable.from_mapping(given, size) if given else ProcessTable.pending(size)
        object.__setattr__(self, "process_progress", table)

    @property
    def processes(self) -> ProcessTable:
        """`process_progress` by its real type, for counts and indices in constant time."""
        table = self.process_progress
        assert isinstance(table, ProcessTable)
        return table

    @property
    def processes_completed(self) -> int:
        """Number of processes that are completed."""
        return self.processes.count(ProcessStatus.COMPLETED)

    @property
    def processes_failed(self) -> int:
        """Number of processes that are failed."""
        return self.processes.count(ProcessStatus.FAILED)

    @property
    def processes_running(self) -> int:
        """Number of processes that are running, as far as is recorded."""
        return self.processes.count(ProcessStatus.RUNNING)

    @property
    def processes_pending(self) -> int:
        """Number of processes that are pending."""
        return self.processes.count(ProcessStatus.PENDING)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """What a notebook shows: how it stands, and the diagram of its machine with its status."""
        counts = [
            f"{self.processes.count(status):,} {status}"
            for status in ProcessStatus
            if self.processes.count(status)
        ]
        why = f" ({self.reason})" if self.reason else ""
        told = f": {self.error_message:.200}" if self.error_message else ""
        how = f"{self.status}{why}{told}"
        return display.shown(
            self, f"{self.experiment_id}: {how}; processes: {', '.join(counts) or 'none'}"
        )

    def can_aggregate(self) -> bool:
        """Whether every index 0 … num_processes - 1 is completed, whatever the status."""
        return self.processes_completed == self.num_processes

    def allowed_events(self) -> tuple[str, ...]:
        """The experiment events that its machine would accept now, in order of declaration."""
        from holdfast.lifecycle import decisions

        return decisions.allowed("experiment", self)

    def liveness(self) -> Verdict:
        """What this machine can prove about the recorded owner, without looking at any lock.

        `StateManager.liveness` also looks at the lock and knows more.
        """
        from holdfast import liveness  # psutil is loaded only when somebody asks

        if self.owner is None and self.subprocess_pid is not None:
            return liveness.judge_legacy_pid(self.subprocess_pid)
        return liveness.judge(self.owner)

    def is_subprocess_running(self) -> bool:
        """False for no recorded process or proven death only: doubt counts as running."""
        if self.owner is None and self.subprocess_pid is None:
            return False
        return self.liveness().kind != "dead"


def summarise(indices: list[int], limit: int = 10) -> str:
    """`2, 5, 7` or, beyond *limit*, `0, 1, 2 … (10,000 in all)`: a message stays readable."""
    if len(indices) <= limit:
        return ", ".join(map(str, indices))
    return ", ".join(map(str, indices[:limit])) + f" … ({len(indices):,} in all)"
