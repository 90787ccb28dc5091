"""The contract that every engine keeps: what it is asked, and what it can say of an attempt.

The exit record of an attempt (`holdfast.attempts`) beats an engine's word; which word decides what
without one, `holdfast.orchestration` says. Engines know neither the manager nor the lifecycle.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, Protocol, Self

import attrs

from holdfast.attempts.names import AttemptName
from holdfast.attempts.records import Attempt
from holdfast.identity import ProcessIdentity

__all__ = [
    "ALIVE",
    "FREES_EARLY",
    "LOCAL",
    "TERMINAL",
    "Engine",
    "EngineWord",
    "Handle",
    "WordKind",
]

#: The name of the engine that runs attempts on this machine.
LOCAL: Final = "local"

#: Engines whose `completing` says that nothing of the attempt runs any more: its command has ended,
#: its outcome comes within half a second, and another attempt may have its place meanwhile.
FREES_EARLY: Final = frozenset({LOCAL, "dask"})

WordKind = Literal[
    "queued",
    "held",
    "running",
    "completing",
    "completed",
    "failed",
    "timeout",
    "preempted",
    "cancelled",
    "node_fail",
    "out_of_memory",
    "gone",
    "unknown",
]

#: The engine has it, and it has not ended.
ALIVE: Final[frozenset[WordKind]] = frozenset({"queued", "held", "running", "completing"})
#: The engine says that it is over.
TERMINAL: Final[frozenset[WordKind]] = frozenset(
    {
        *("completed", "failed", "timeout", "preempted", "cancelled"),
        *("node_fail", "out_of_memory", "gone"),
    }
)


def _plain(data: Mapping[str, Any]) -> Mapping[str, Any]:
    return dict(data)


@attrs.frozen(kw_only=True)
class Handle:
    """How an engine finds an attempt again; `to_json` and `from_json` keep it across restarts.

    Attributes:
        folder: The experiment's folder.
        identity: Who runs it (the local engine: its shim), where known yet.
        engine: The name of the engine that has it.
        data: What that engine needs to find it, as JSON: job id, cluster, wave, task, node.
        requested: What was asked for: `cpus`, `memory_bytes`, `gpus`, `time_s`.
    """

    name: AttemptName
    folder: Path = attrs.field(converter=Path)
    identity: ProcessIdentity | None = None
    engine: str = LOCAL
    data: Mapping[str, Any] = attrs.field(factory=dict, converter=_plain)
    requested: Mapping[str, float] = attrs.field(factory=dict, converter=_plain)

    @property
    def record(self) -> dict[str, Any] | None:
        """What the record of a process keeps of it; None where the folder alone remembers: of the
        local engine, and of pools, which end with the program that has them.
        """
        if not self.data:
            return None
        requested = {"requested": dict(self.requested)} if self.requested else {}
        return {"engine": self.engine, "data": dict(self.data), **requested}

    @classmethod
    def from_record(
        cls,
        name: AttemptName,
        folder: Path,
        record: Mapping[str, Any] | None,
        identity: ProcessIdentity | None = None,
    ) -> Self:
        """The handle of which `record` was kept, however little of it can be read."""
        kept = record or {}
        data, requested = kept.get("data"), kept.get("requested")
        return cls(
            name=name,
            folder=folder,
            identity=identity,
            engine=str(kept.get("engine") or LOCAL),
            data=data if isinstance(data, Mapping) else {},
            requested=requested if isinstance(requested, Mapping) else {},
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        plain = attrs.asdict(self)
        plain["folder"] = str(self.folder)
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        identity = plain["identity"]
        return cls(
            name=AttemptName(**plain["name"]),
            folder=plain["folder"],
            identity=None if identity is None else ProcessIdentity(**identity),
            engine=plain.get("engine", LOCAL),
            data=plain.get("data", {}),
            requested=plain.get("requested", {}),
        )


@attrs.frozen
class EngineWord:
    """What an engine can say of one attempt, with its own text.

    Attributes:
        kind: `completing` says that its end has begun; of some engines, that its place is free
            (`FREES_EARLY`). `gone` says that the engine has it
            no more and nothing about how it ended: that is in its exit record, and without one it
            is lost. `unknown` never fails or reruns anything.
        clean: Of one that is completing: whether its command ended with exit code 0, as far as the
            engine knows. Its outcome alone decides, but whoever stops at the first failure need not
            start another one before it is there.
        host: Where it runs, or ran.
        at: Of one that waits or runs: since when. Of one that is over: when it ended, or from when
            on the engine was ending it (`timeout`, `cancelled`, `preempted`).
        booted_at: Of a failed node: when it was booted last, where that is known.
        handle: A handle that says more than the one that was asked for; None if it says it all.
        passes: Of one that is unknown: whether that passes by itself, since its engine is only
            away, or not so far yet.
        taken: Of one that is queued, or may be: whether its scheduler has it, which goes on without
            us. None: that is about to be known; False: there is no room for it yet.
    """

    name: AttemptName
    kind: WordKind
    text: str = ""
    clean: bool = True
    host: str | None = None
    at: datetime | None = None
    booted_at: datetime | None = None
    handle: Handle | None = None
    taken: bool | None = True
    passes: bool = False


class Engine(Protocol):
    """What runs attempts. Used from one thread; only `wake` may be called from anywhere."""

    @property
    def name(self) -> str:
        """What it is called in handles and files: `local`, `slurm`."""
        ...

    @property
    def outlives(self) -> bool:
        """Whether attempts go on without this program as a matter of course: a signal that ends it
        leaves them alone.
        """
        ...

    @property
    def shares_files(self) -> bool:
        """Whether attempts write their files into the folder themselves. Else these come back when
        one has ended, and no lock keeps one from running twice.
        """
        ...

    def check(self, attempts: Sequence[Attempt]) -> Sequence[str]:
        """Ask, before anything is recorded, whether attempts like these could be submitted.

        Returns:
            What people should know, once.

        Raises:
            EngineRefusedError: They never can; in the engine's own words.
            EngineError: The engine cannot be reached.
        """
        ...

    def room(self) -> int | None:
        """How many attempts it takes at a time; None if it has no limit of its own."""
        ...

    def submit(self, experiment_id: str, attempts: Sequence[Attempt]) -> list[Handle]:
        """Start *attempts* (batched), in their order. An attempt that was started before, by
        whomever, does not run again.

        What an engine with a queue needs to find an attempt again is durable before it asks for it:
        killed in between, `find` knows what became of it.

        Raises:
            EngineRefusedError: Nothing will mend it; in the engine's own words.
            EngineError: The engine cannot be reached; what was started can be found by `find`.
        """
        ...

    def find(self, experiment_id: str, folder: Path | None = None) -> Mapping[AttemptName, Handle]:
        """Attempts of that experiment that are queued or running, also those that an earlier
        orchestrator submitted and did not live to record.

        Args:
            experiment_id: Which experiment.
            folder: Its folder; needed by engines whose only memory is there, unless this very
                engine has submitted attempts of it.

        Raises:
            EngineError: The engine cannot be reached, and nobody can tell what it has.
        """
        ...

    def poll(self, handles: Sequence[Handle]) -> list[EngineWord]:
        """The engine's word on each, in their order; cheap, never raises for one that is gone."""
        ...

    def cancel(
        self, handles: Sequence[Handle], *, force: bool = False
    ) -> Mapping[AttemptName, str]:
        """Ask them to stop and return at once: TERM, their grace period, KILL; *force*: KILL now.

        What has ended is left alone. The caller has made the files of the request before, where the
        disk let it: they are heard by whom no engine can reach now.

        Returns:
            Why they cannot be reached now, of those that cannot.
        """
        ...

    def wait(self, timeout_s: float) -> None:
        """Return once a word may have changed since the last `poll`, once `wake` was called, or
        after *timeout_s*.
        """
        ...

    def wake(self) -> None:
        """End the current or the next `wait`; async-signal-safe."""
        ...

    def close(self) -> None:
        """Release everything but the attempts, which run on."""
        ...
