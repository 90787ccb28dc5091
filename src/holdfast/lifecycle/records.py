"""The records: what is known of an experiment and its processes. Frozen, without behaviour that
moves them; `holdfast.lifecycle` makes the next record, `holdfast.store` makes them JSON.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import PurePath
from typing import Any, Final

import attrs

from holdfast.identity import ProcessIdentity, Verdict
from holdfast.lifecycle import display
from holdfast.lifecycle.processes import (
    Origin,
    ProcessProgress,
    ProcessTable,
    Ranks,
    ResultRef,
)
from holdfast.status import ExperimentStatus, ProcessStatus, Reason
from holdfast.validators import (
    aware,
    mapping,
    not_negative,
    number,
    optional,
    optional_number,
    optional_text,
    some_text,
)

__all__ = [
    "REUSE_POLICIES",
    "SCHEMA_VERSION",
    "ExperimentState",
    "Origin",
    "ProcessProgress",
    "ProcessTable",
    "Ranks",
    "ResultRef",
    "summarise",
]

#: The schema that this version writes. Schema 0 is a file without a `schema_version`.
SCHEMA_VERSION: Final = 1

#: Far beyond what one machine runs; a number in a file must not take all memory.
MAX_PROCESSES: Final = 1_000_000


#: What `ExperimentState.reuse` may be.
REUSE_POLICIES: Final = ("unchanged", "all")


def _path(path: str | PurePath | None) -> str | None:
    return str(path) if isinstance(path, PurePath) else path


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
        ranks: How many of the processes one launcher starts; None where each has its own command.
        reuse: Whether its pending processes may be completed by what other experiments did:
            `unchanged`, if no code that was recorded with it has changed since; `all`; None, never.
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
    ranks: Ranks | None = attrs.field(default=None, validator=optional(Ranks))
    reuse: str | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.in_(REUSE_POLICIES))
    )
    num_processes: int = attrs.field(default=0, validator=not_negative)
    process_progress: Mapping[int, ProcessProgress] = attrs.field(factory=ProcessTable)
    owner: ProcessIdentity | None = attrs.field(default=None, validator=optional(ProcessIdentity))
    subprocess_pid: int | None = attrs.field(default=None, validator=optional_number)
    epoch: int = attrs.field(default=0, validator=not_negative)
    revision: int = attrs.field(default=0, validator=not_negative)
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
            self._check_ranks(size)
            return
        if size == 0 and given:
            size = max(given) + 1
        if size > MAX_PROCESSES:
            raise ValueError(f"num_processes is {size:,}, more than the limit of {MAX_PROCESSES:,}")
        if size != self.num_processes:
            object.__setattr__(self, "num_processes", size)
        table = ProcessTable.from_mapping(given, size) if given else ProcessTable.pending(size)
        object.__setattr__(self, "process_progress", table)
        self._check_ranks(size)

    def _check_ranks(self, size: int) -> None:
        if self.ranks is not None and size % self.ranks.count:
            count = self.ranks.count
            raise ValueError(f"{size} processes are no whole number of gangs of {count} ranks")

    def gang(self, index: int) -> range:
        """The processes that are started together with process *index*, itself among them."""
        count = 1 if self.ranks is None else self.ranks.count
        first = index - index % count
        return range(first, first + count)

    @property
    def rank_count(self) -> int | None:
        """Ranks of one launcher; None where each process has its own command."""
        return None if self.ranks is None else self.ranks.count

    @property
    def has_gangs(self) -> bool:
        """Whether its processes move gang by gang, and never one of them alone."""
        return self.ranks is not None and not self.ranks.independent

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

    @property
    def processes_reused(self) -> int:
        """Number of processes that another experiment has completed."""
        return sum(process.origin is not None for process in self.processes.values())

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

    def _repr_html_(self) -> str:
        return self._repr_mimebundle_()["text/html"]

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
