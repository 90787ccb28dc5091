"""Engines carry attempts out: the contract that every one of them keeps.

The exit record of an attempt (`holdfast.attempts`) beats an engine's word. Engines know neither
the manager nor the lifecycle.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import attrs

from holdfast.attempts.names import AttemptName
from holdfast.attempts.records import Attempt
from holdfast.identity import ProcessIdentity

__all__ = ["Engine", "EngineWord", "Handle"]


@attrs.frozen(kw_only=True)
class Handle:
    """How an engine finds an attempt again; `to_json` and `from_json` keep it across restarts.

    Attributes:
        folder: The experiment's folder.
        identity: Who runs it (the local engine: its shim), where known yet.
    """

    name: AttemptName
    folder: Path = attrs.field(converter=Path)
    identity: ProcessIdentity | None = None

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
        )


@attrs.frozen
class EngineWord:
    """What an engine can say of one attempt, with its own text.

    Attributes:
        kind: `completing` says that its command has ended, and nothing of it is left: its outcome
            will be published within half a second, and another attempt may have its place. `gone`
            says that it does not run any more and nothing about how it ended: that is in its exit
            record, and without one it is lost. `unknown` never fails or reruns anything.
        clean: Of one that is completing: whether its command ended with exit code 0, as far as the
            engine knows. Its outcome alone decides, but whoever stops at the first failure need not
            start another one before it is there.
    """

    name: AttemptName
    kind: Literal["queued", "running", "completing", "gone", "unknown"]
    text: str = ""
    clean: bool = True


class Engine(Protocol):
    """What runs attempts. Used from one thread; only `wake` may be called from anywhere."""

    def submit(self, experiment_id: str, attempts: Sequence[Attempt]) -> list[Handle]:
        """Start *attempts* (batched), in their order. An attempt that was started before, by
        whomever, does not run again.

        Raises:
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
