"""What an attempt is run with: command, environment, directories.

Owns the `HOLDFAST_*` variables, which are the contract with the user's program.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from holdfast.attempts import environment
from holdfast.attempts.names import CHECKPOINTS, PARAMS, AttemptName
from holdfast.attempts.records import Attempt
from holdfast.config.experiment_file import Experiment
from holdfast.errors import StateWriteError
from holdfast.results import acceptance

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

    def process(self, index: int, attempt: int) -> Attempt:
        """An attempt of process *index*; makes the directories that it may write to.

        Raises:
            StateWriteError: They cannot be made.
        """
        name = AttemptName.of_process(self.experiment_id, index, attempt)
        checkpoints = self.folder / f"{CHECKPOINTS}/{index}"
        acceptance.prepare(self.folder)
        try:
            checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise StateWriteError.of(checkpoints, "making the directory", err) from err
        params = json.dumps(dict(self.experiment.params[index]))
        whole = {} if len(params) > PARAMS_LIMIT else {environment.PARAMS: params}
        return self.attempt(
            name,
            self.experiment.argv(index),
            {
                environment.INDEX: str(index),
                **whole,
                environment.PARAMS_FILE: str(self._write_params(index, params)),
                environment.RESULT: str(acceptance.path_of(self.folder, name)),
                environment.CHECKPOINT_DIR: str(checkpoints),
            },
        )

    def _write_params(self, index: int, params: str) -> Path:
        """The file with the parameters of a process, made anew for each attempt."""
        path = self.folder / f"{PARAMS}/{index}.json"
        try:
            with os.fdopen(_new_file(path), "wb") as file:
                file.write(params.encode("ascii"))
        except OSError as err:
            raise StateWriteError.of(path, "writing the parameters", err) from err
        return path

    def attempt(self, name: AttemptName, argv: tuple[str, ...], env: Mapping[str, str]) -> Attempt:
        """An attempt with the variables that all of them get, and *env*."""
        experiment = self.experiment
        return Attempt(
            name=name,
            argv=argv,
            env={
                **experiment.environment(name.index),
                environment.EXPERIMENT_ID: self.experiment_id,
                environment.STATE_DIR: str(self.state_dir),
                environment.COUNT: str(len(experiment.params)),
                environment.ATTEMPT: str(name.attempt),
                **env,
            },
            cwd=self.cwd,
            timeout_s=experiment.limits.timeout_s,
            grace_s=experiment.limits.grace_s,
            folder=self.folder,
        )
