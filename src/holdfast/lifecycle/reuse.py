"""What a process that was not run here has its result from, and what proves that."""

import attrs

from holdfast.status import ProcessStatus
from holdfast.validators import not_negative, optional_text, some_text

__all__ = ["Origin", "Proof"]


@attrs.frozen(kw_only=True)
class Origin:
    """The attempt that did the work of a process which was completed by reuse.

    Attributes:
        experiment_id: The experiment that ran it.
        process: Its index there.
        attempt: Which of its attempts.
        via: The experiment that the result was taken from, if that had reused it in its turn; None
            if it is the one that ran it.
    """

    experiment_id: str = attrs.field(validator=some_text)
    process: int = attrs.field(validator=not_negative)
    attempt: int = attrs.field(validator=not_negative)
    via: str | None = attrs.field(default=None, validator=optional_text)

    @property
    def ancestor(self) -> str:
        """The experiment that the result was taken from."""
        return self.experiment_id if self.via is None else self.via

    def __str__(self) -> str:
        via = "" if self.via is None else f", by way of {self.via}"
        return f"{self.experiment_id}/{self.process}, attempt {self.attempt}{via}"


@attrs.frozen(kw_only=True)
class Proof:
    """What another experiment's process was found to be, at the moment of its reuse.

    Attributes:
        work: The identity of what it did.
        problem: What is wrong with its result or outputs; None if they are as they were recorded.
    """

    origin: Origin = attrs.field(validator=attrs.validators.instance_of(Origin))
    work: str | None = attrs.field(validator=optional_text)
    status: ProcessStatus = attrs.field(converter=ProcessStatus)
    problem: str | None = attrs.field(default=None, validator=optional_text)
