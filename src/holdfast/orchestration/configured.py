"""The configuration that an experiment was made with."""

from pathlib import Path

from holdfast.config.experiment_file import Experiment
from holdfast.encoding import local
from holdfast.errors import ConfigError, ConfigProblem
from holdfast.lifecycle.records import ExperimentState

__all__ = ["check_number", "configuration"]


def configuration(state: ExperimentState, state_dir: Path) -> Experiment:
    """What *state* was made with, in the folder where that lies now.

    Raises:
        ConfigError: It was made without a configuration that can be run.
    """
    if not state.config.get("command"):
        problem = ConfigProblem("command", "it was made without one, so nothing can be run")
        raise ConfigError(state.experiment_id, [problem])
    cwd = Path.cwd() if state.cwd is None else Path(local(state.cwd))
    experiment = Experiment.from_stored(state.config, cwd, state.config_path)
    check_number(state, experiment, "its configuration")
    return experiment.moved_with(state_dir, state.config_hash)


def check_number(state: ExperimentState, experiment: Experiment, whose: str) -> None:
    """Make sure that *experiment* has a command for every process of *state*, and no more.

    Equal hashes do not prove it: whoever makes a state through the library gives both.

    Raises:
        ConfigError: It has not.
    """
    if experiment.num_processes != state.num_processes:
        words = f"it has {state.num_processes:,}, but {whose} makes {experiment.num_processes:,}"
        raise ConfigError(state.experiment_id, [ConfigProblem("processes", words)])
