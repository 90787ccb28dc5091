"""What an attempt leaves behind: its result, and the files that its process declares as outputs.

Which of the processes an output belongs to is decided here and in `endings`: to each process, and
to each independent rank, its own; to a gang, which shares them, the first of its ranks.
"""

from collections.abc import Iterable
from pathlib import Path

import attrs

from holdfast.attempts.names import AttemptName
from holdfast.config.experiment_file import Experiment
from holdfast.errors import StateReadError
from holdfast.lifecycle.records import ProcessProgress, ResultRef
from holdfast.provenance.digests import Digests
from holdfast.results import acceptance, outputs
from holdfast.results.going_on import GoingOn

__all__ = ["Lost", "Taking"]


@attrs.frozen
class Lost:
    """What of a completed process is missing or altered, and in what way.

    Attributes:
        kind: `result` or `output`.
    """

    kind: str
    path: str
    problem: str

    def __str__(self) -> str:
        return f"{self.kind} {self.path} {self.problem}"


@attrs.frozen(kw_only=True)
class Taking:
    """How it is looked at: made durable by who records it, only inspected by who looks.

    Attributes:
        experiment: Says what its processes declare; None where nothing says it.
    """

    experiment: Experiment | None = None
    digests: Digests = attrs.field(factory=Digests)
    durably: bool = True

    def result(self, folder: Path, written: acceptance.Written) -> ResultRef | None:
        """What an attempt, or a rank, of the experiment in *folder* wrote.

        Raises:
            ResultInvalidError: It is none: the attempt fails.
            DiskError: Nothing is known of it.
        """
        accept = acceptance.accept if self.durably else acceptance.inspect
        return accept(folder, written)

    def outputs(self, index: int) -> tuple[ResultRef, ...]:
        """What process *index* made of what it declares; none to who only looks. Raises as above.

        It is not told by whom a file was made: one that a former attempt left counts as well.
        """
        patterns = self._declared([index])
        if not patterns or self.experiment is None:
            return ()
        if self.durably:
            return outputs.take(self.experiment.cwd, patterns, self.digests)
        outputs.inspect(self.experiment.cwd, patterns)
        return ()

    def weight(self, indices: Iterable[int]) -> int:
        """How much work the outputs of these are, as bytes."""
        patterns = self._declared(indices)
        if not patterns or self.experiment is None:
            return 0
        return outputs.weight(self.experiment.cwd, patterns)

    def processes(self, name: AttemptName) -> range:
        """Those that the attempt *name* runs."""
        assert name.index is not None
        ranks = self.experiment.rank_count if name.is_launcher and self.experiment else 1
        return range(name.index, name.index + ranks)

    def lost(self, process: ProcessProgress, going_on: GoingOn) -> Lost | None:
        """The first recorded output of *process* that is not as it was.

        Raises:
            StateReadError: That could not be read, which proves nothing.
            GaveUpError: It is not *going_on* any more.
        """
        if not process.outputs or self.experiment is None:
            return None
        cwd = self.experiment.cwd
        try:
            found = outputs.lost(cwd, process.outputs, self.digests, going_on)
        except OSError as err:
            raise StateReadError.of(cwd, "reading the outputs", err) from err
        return None if found is None else Lost("output", found[0].path, found[1])

    def _declared(self, indices: Iterable[int]) -> tuple[str, ...]:
        if self.experiment is None:
            return ()
        # The ranks of a gang declare the same.
        return tuple(dict.fromkeys(p for i in indices for p in self.experiment.outputs(i)))
