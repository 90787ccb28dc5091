"""What an engine with a queue has of an experiment: how much waits, how much runs, and where."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from holdfast.attempts.files import began_at, live_state
from holdfast.attempts.names import AttemptName, listed
from holdfast.attempts.tokens import own
from holdfast.config import engine
from holdfast.errors import DiskError
from holdfast.identity import Verdict
from holdfast.lifecycle import handed
from holdfast.lifecycle.processes import PHASES, RUNS
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.reading import text
from holdfast.status import ENGINE_TITLES as TITLES
from holdfast.status import ExperimentStatus, ProcessStatus
from holdfast.store.attempted import attempt_of

if TYPE_CHECKING:
    from holdfast.store.catalog.summary import Summary

__all__ = [
    "TITLES",
    "HandedOver",
    "began",
    "being_submitted",
    "engine_of",
    "handed_over",
    "is_left",
    "place",
    "queue_lines",
    "usage_words",
    "waited",
]

#: Files of attempts that one look reads at most.
_MOST_READ: Final = 500


def engine_of(process: ProcessProgress) -> str | None:
    """The engine that has its attempt; None of the local one, or of nothing that runs."""
    name = None if process.handle is None else process.handle.get("engine")
    return name if isinstance(name, str) else None


@attrs.frozen(kw_only=True, slots=False)
class HandedOver:
    """What an engine has.

    Attributes:
        engine: Its name.
        indices: The processes.
        phases: Of those that have not ended, how far each is: as recorded, or seen since.
        over: Those that have an exit record, which nobody has taken in yet.
    """

    engine: str
    indices: frozenset[int]
    phases: Mapping[int, str]
    over: frozenset[int] = frozenset()

    @property
    def ended(self) -> int:
        """How many have ended since."""
        return len(self.over)

    @property
    def waits(self) -> frozenset[int]:
        """The processes whose commands have not begun."""
        return frozenset(index for index, phase in self.phases.items() if phase != RUNS)

    @property
    def number(self) -> int:
        """How many processes it has, or had until they ended."""
        return len(self.indices)

    @property
    def title(self) -> str:
        """What people call it."""
        return TITLES.get(self.engine, text.short(self.engine))

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """How many are in each phase."""
        found = Counter(self.phases.values())
        return {phase: found[phase] for phase in PHASES}

    @property
    def waiting(self) -> str:
        """`12 queued, 1 held`; empty if nothing waits."""
        return _told({phase: self.counts[phase] for phase in PHASES if phase != RUNS})

    def form(self) -> dict[str, Any]:
        """What `--json` has of it."""
        return {"engine": self.engine, **self.counts, "ended": self.ended}

    def __str__(self) -> str:
        """`12 queued, 1 held, 3 running, 2 ended`."""
        return _told({**self.counts, "ended": self.ended})


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {what}" for what, number in counts.items() if number)


def handed_over(state: ExperimentState, folder: Path | None = None) -> HandedOver | None:
    """What an engine has of *state*; None if none has anything.

    Args:
        folder: Where it is looked what has begun and ended since; None for no look.
    """
    indices = handed.handed_over(state)
    if folder is not None:
        indices = _own(state, folder, indices)
    if not indices:
        return None
    over, begun = set[int](), set[int]()
    if folder is not None:
        traces = _traces(folder)
        for index in indices:
            attempt = attempt_of(state, index)
            if f"{attempt}.exit" in traces:
                over.add(index)
            elif f"{attempt}.live" in traces:
                begun.add(index)
        unrecorded = (i for i in begun if state.processes[i].phase != RUNS)
        for index in islice(unrecorded, _MOST_READ):
            if live_state(folder, attempt_of(state, index)).kind == "revoked":
                over.add(index)  # taken out of its queue, and never to begin
    name = engine_of(state.processes[indices[0]]) or "an engine"
    phases = {
        index: RUNS if index in begun else state.processes[index].phase or RUNS
        for index in indices
        if index not in over
    }
    return HandedOver(engine=name, indices=frozenset(indices), phases=phases, over=frozenset(over))


def _own(state: ExperimentState, folder: Path, indices: list[int]) -> list[int]:
    """Of *indices* those whose jobs are of this folder: a copy records those of the original."""
    tokens = own(folder)
    if not indices or tokens is None:
        return indices
    return [index for index in indices if _token(state.processes[index]) in (None, *tokens)]


def _token(process: ProcessProgress) -> str | None:
    data = process.handle.get("data") if process.handle is not None else None
    found = data.get("token") if isinstance(data, Mapping) else None
    return found if isinstance(found, str) else None


def _traces(folder: Path) -> frozenset[str]:
    """The files of all attempts; none while they cannot be listed."""
    try:
        return frozenset(listed(folder))
    except DiskError:
        return frozenset()


def began(folder: Path, name: AttemptName) -> datetime | None:
    """When an attempt began that nobody has recorded yet, by its files; None if that is unknown."""
    try:
        return began_at(folder, name)
    except DiskError:
        return None


def place(process: ProcessProgress) -> str:
    """`Slurm job 12_3 on n1`; empty of what this machine runs."""
    name = engine_of(process)
    if name is None:
        return ""
    data = process.handle.get("data") if process.handle is not None else None
    job = data.get("job") if isinstance(data, Mapping) else None
    found = TITLES.get(name, text.short(name))
    if isinstance(job, str | int):
        found += f" job {text.short(str(job), 40)}"
    return f"{found} on {text.short(process.host)}" if process.host else found


def waited(process: ProcessProgress, now: datetime) -> str:
    """`queued for 5m`, `held for 2h`; empty of what does not wait."""
    if not process.waits:
        return ""
    since = process.submitted_at
    lasted = "" if since is None else f" for {text.duration((now - since).total_seconds())}"
    return f"{process.phase}{lasted}"


def being_submitted(state: ExperimentState) -> list[int]:
    """The processes that an engine with a queue is being given, or was before a crash."""
    if engine.is_local(state.config):
        return []
    running = state.processes.indices(ProcessStatus.RUNNING)
    return [
        index
        for index in running
        if (each := state.processes[index]).identity is None
        and (each.handle is None or not each.handle.get("data"))
    ]


def queue_lines(state: ExperimentState, having: HandedOver, now: datetime) -> list[str]:
    """`  queued for up to 12m 00s: 120-9999`; a line for what is held, and one for the rest."""
    lines = []
    for phase in reversed([each for each in PHASES if each != RUNS]):
        found = [index for index, each in having.phases.items() if each == phase]
        if not found:
            continue
        since = min(state.processes[index].submitted_at or now for index in found)
        jobs = f" ({place(state.processes[found[0]])})" if phase == "held" else ""
        words = f"{phase} for up to {text.duration((now - since).total_seconds())}"
        lines.append(f"  {words}: {text.short(text.ranges(found))}{jobs}")
    return lines


def usage_words(process: ProcessProgress) -> str:
    """What the last attempt that ended used; the kernel keeps no peak of programs together."""
    usage = process.usage or {}
    words = []
    if "queued_s" in usage:
        words.append(f"waited {text.duration(usage['queued_s'])} in the queue")
    if "max_rss_bytes" in usage:
        of = usage.get("requested_memory_bytes")
        asked = f" of {text.size(of)} asked for" if of else ""
        words.append(f"{text.size(usage['max_rss_bytes'])} by its largest program{asked}")
    if "cpu_s" in usage:
        words.append(f"{text.duration(usage['cpu_s'])} of CPU time")
    if "requested_cpus" in usage:
        words.append(f"{text.count(int(usage['requested_cpus']), 'CPU')} asked for")
    return ", ".join(words)


def is_left(state: "ExperimentState | Summary", living: Verdict | None) -> bool:
    """Whether a running experiment is without an owner for certain, by the verdict on the last."""
    if state.status is not ExperimentStatus.RUNNING or living is None or living.kind == "alive":
        return False
    # Of one that let it go, on whatever host, nothing is to be proven.
    return living.kind == "dead" or (state.owner is not None and state.owner.released)
