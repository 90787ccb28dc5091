"""What an attempt is run with: command, environment, directories.

Owns the `HOLDFAST_*` variables, which are the contract with the user's program.
"""

import errno
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

from holdfast.attempts import environment
from holdfast.attempts.names import (
    CHECKPOINTS,
    PARAMS,
    REPORTS,
    AttemptName,
    progress_path,
    reports_dir,
)
from holdfast.attempts.records import Attempt, Slot, by_kind
from holdfast.attempts.reports import TORCHELASTIC
from holdfast.config.experiment_file import Experiment, Limits
from holdfast.errors import StateWriteError
from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration.deadline import deadline_of
from holdfast.orchestration.rules import limits_of_attempt, resources_of
from holdfast.results import acceptance
from holdfast.status import ProcessStatus

__all__ = ["PARAMS_LIMIT", "Launcher"]

#: Bytes of parameters beyond which only the file has them: Linux takes 128 KiB for one variable,
#: and what one has takes away from the arguments of everything that the command starts.
PARAMS_LIMIT: Final = 64 << 10

_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def _absolute(path: Path | str) -> Path:
    return Path(path).absolute()


def _new_file(path: Path) -> int:
    """Open *path* anew, whatever is there: not through a link, and no FIFO is waited for."""
    # In this order, because mostly there is a directory, and no file in it.
    try:
        return os.open(path, _WRITE, 0o666)
    except FileNotFoundError:
        path.parent.mkdir(exist_ok=True)
    except FileExistsError:
        path.unlink()
    return os.open(path, _WRITE, 0o666)


@attrs.frozen(kw_only=True)
class Launcher:
    """Makes the attempts of one experiment.

    Attributes:
        folder: The experiment's folder.
        state_dir: The directory that it is in.
        cwd: Where the commands run.
    """

    experiment_id: str
    experiment: Experiment
    folder: Path = attrs.field(converter=_absolute)
    state_dir: Path = attrs.field(converter=_absolute)
    cwd: str

    def name(self, index: int, attempt: int) -> AttemptName:
        """What the attempt that runs process *index* is called everywhere."""
        ranks = self.experiment.ranks
        count = None if ranks is None else ranks.count
        return AttemptName.of_process(self.experiment_id, index, attempt, ranks=count)

    def process(
        self, name: AttemptName, state: ExperimentState, slots: Sequence[Slot] = ()
    ) -> Attempt:
        """The attempt *name* of a process, or of a launcher; makes what it may write to.

        Args:
            slots: What it holds.

        Raises:
            StateWriteError: It cannot be made.
        """
        index = name.index
        assert index is not None
        acceptance.prepare(self.folder)
        for directory in self._directories(name, state.gang(index)):
            try:
                directory.mkdir(parents=True, exist_ok=True)
                # Through a link, what ranks say would be written to where it leads.
                if directory.suffix == f".{REPORTS}" and directory.is_symlink():
                    raise NotADirectoryError(errno.ENOTDIR, "something else has its name")
            except OSError as err:
                raise StateWriteError.of(directory, "making the directory", err) from err
        params = json.dumps(dict(self.experiment.params[index]))
        whole = {} if len(params) > PARAMS_LIMIT else {environment.PARAMS: params}
        held = by_kind(slots)
        return self.attempt(
            name,
            self.experiment.argv(index, held),
            {
                **_of_slots(held, self.experiment.env),
                **whole,
                environment.PARAMS_FILE: str(self._write_params(index, params)),
                environment.RESULT: str(acceptance.path_of(self.folder, name)),
                environment.PROGRESS: str(progress_path(self.folder, name)),
                environment.REPORTS: str(reports_dir(self.folder, name)),
                **self._stop_at(state),
                **(self._of_launcher(name, state) if name.is_launcher else self._of_one(index)),
            },
            limits_of_attempt(self.experiment.limits, state, name),
            slots,
        )

    def _stop_at(self, state: ExperimentState) -> dict[str, str]:
        """When it should stop by itself, whatever its timeout is; that is known as it starts."""
        deadline = deadline_of(state, self.experiment.limits)
        if deadline is None:
            return {}
        return {environment.STOP_AT: f"{deadline.closes.timestamp():.3f}"}

    def _directories(self, name: AttemptName, ranks: range) -> list[Path]:
        found = [self.folder / CHECKPOINTS / str(index) for index in ranks]
        # Torch's launcher makes none for its error file, and our ranks share theirs.
        return [*found, reports_dir(self.folder, name)] if name.is_launcher else found

    def _of_one(self, index: int) -> dict[str, str]:
        return {
            environment.INDEX: str(index),
            environment.CHECKPOINT_DIR: str(self.folder / CHECKPOINTS / str(index)),
        }

    def _of_launcher(self, name: AttemptName, state: ExperimentState) -> dict[str, str]:
        assert name.index is not None
        ranks = state.gang(name.index)
        found = {
            environment.LAUNCHER: str(ranks.start),
            environment.RANKS: str(len(ranks)),
            environment.CHECKPOINTS: str(self.folder / CHECKPOINTS),
            environment.TORCHELASTIC_ERROR_FILE: str(reports_dir(self.folder, name) / TORCHELASTIC),
        }
        if not state.has_gangs:
            # There even if it is empty: by that a rank knows that it completes by itself.
            done = [i for i in ranks if state.processes[i].status is ProcessStatus.COMPLETED]
            over = [i for i in ranks if state.processes[i].status is not ProcessStatus.RUNNING]
            found[environment.COMPLETED] = ",".join(map(str, done))
            found[environment.OVER] = ",".join(map(str, over))
        return found

    def _write_params(self, index: int, params: str) -> Path:
        """The file with the parameters of a process, made anew for each attempt."""
        path = self.folder / f"{PARAMS}/{index}.json"
        try:
            with os.fdopen(_new_file(path), "wb") as file:
                file.write(params.encode("ascii"))
        except OSError as err:
            raise StateWriteError.of(path, "writing the parameters", err) from err
        return path

    def attempt(
        self,
        name: AttemptName,
        argv: tuple[str, ...],
        env: Mapping[str, str],
        limits: Limits | None = None,
        slots: Sequence[Slot] = (),
    ) -> Attempt:
        """An attempt with the variables that all of them get, and *env*.

        Args:
            limits: Its own; default those of the experiment.
            slots: What it holds.
        """
        experiment = self.experiment
        limits = limits or experiment.limits
        return Attempt(
            name=name,
            argv=argv,
            env={
                **experiment.environment(name.index, by_kind(slots)),
                environment.EXPERIMENT_ID: self.experiment_id,
                environment.STATE_DIR: str(self.state_dir),
                environment.COUNT: str(len(experiment.params)),
                environment.ATTEMPT: str(name.attempt),
                **env,
            },
            cwd=self.cwd,
            timeout_s=limits.timeout_s,
            grace_s=limits.grace_s,
            folder=self.folder,
            slots=tuple(slots),
            resources=resources_of(limits, experiment.limits),
        )


def _of_slots(held: Mapping[str, str], env: Mapping[str, str]) -> dict[str, str]:
    """What says which slots it holds; *env* is the user's own."""
    found = {f"{environment.SLOT}{kind.upper()}": names for kind, names in held.items()}
    if environment.GPU in held:
        found[environment.CUDA_VISIBLE_DEVICES] = held[environment.GPU]
        # CUDA would number the fastest first; slots are numbered as the driver does.
        if environment.CUDA_DEVICE_ORDER not in {*env, *os.environ}:
            found[environment.CUDA_DEVICE_ORDER] = "PCI_BUS_ID"
    return found
