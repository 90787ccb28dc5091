"""The configuration that an experiment was made with."""

from pathlib import Path

from holdfast.config.experiment_file import Experiment
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
    experiment = Experiment.from_stored(
        *(state.config, state.cwd, state.config_path),
        state_dir=state_dir,
        config_hash=state.config_hash,
    )
    check_number(state, experiment, "its configuration")
    return experiment


def check_number(state: ExperimentState, experiment: Experiment, whose: str) -> None:
    """Make sure that *experiment* has a command for every process of *state*, and no more.

    Equal hashes do not prove it: whoever makes a state through the library gives both.

    Raises:
        ConfigError: It has not.
    """
    if experiment.num_processes != state.num_processes:
        words = f"it has {state.num_processes:,}, but {whose} makes {experiment.num_processes:,}"
        raise ConfigError(state.experiment_id, [ConfigProblem("processes", words)])
