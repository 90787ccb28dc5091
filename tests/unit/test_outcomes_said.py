"""What an outcome says agrees with what is recorded."""

import signal

import pytest

from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration.outcomes import Inherited, unfinished
from holdfast.status import ExperimentStatus


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (ExperimentStatus.INITIALISED, "exp_7: ended before it started; 0 of 4"),
        (ExperimentStatus.INTERRUPTED, "exp_7: interrupted; 0 of 4"),
    ],
)
def test_only_what_is_recorded_as_interrupted_is_said_to_be(
    status: ExperimentStatus, said: str
) -> None:
    """A signal while an engine is waited for leaves an experiment that has not started."""
    state = ExperimentState(experiment_id="exp_7", num_processes=4, status=status)
    outcome = unfinished(state, signal.SIGTERM, Inherited(), blocked={})
    assert outcome.message.startswith(said)
