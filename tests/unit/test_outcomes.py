"""What an exit record means for its process is asked of the machine, and decided nowhere else."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from holdfast.attempts.files import read_exit
from holdfast.attempts.names import AttemptName, attempts_dir
from holdfast.lifecycle import apply
from holdfast.lifecycle.events import ProcessExited
from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration import exits
from holdfast.orchestration.taking import Taking
from holdfast.status import Reason

NOW = datetime(2024, 1, 15, 12, 0, tzinfo=UTC)
NAME = AttemptName("exp_7", "3", 1)
STATE = ExperimentState(experiment_id="exp_7", num_processes=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An experiment's folder with a valid result of the attempt."""
    attempts_dir(tmp_path).mkdir()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / f"{NAME}.json").write_text('{"loss": 1}')
    return tmp_path


def ended(folder: Path, **exit_record: Any) -> ProcessExited:
    """The fact that is told by an `.exit` of these fields."""
    (attempts_dir(folder) / f"{NAME}.exit").write_text(json.dumps(exit_record))
    record = read_exit(folder, NAME)
    assert record is not None
    (fact,) = exits.exited(STATE, folder, NAME, record, NOW, take=Taking())
    return fact


def test_a_clean_exit_comes_with_its_result(folder: Path) -> None:
    """Nothing speaks against it: the result is proven, and there is no error to tell."""
    fact = ended(folder, exit_code=0)
    assert apply.ending(fact) == "complete"
    assert fact.result is not None
    assert fact.error_message is None


@pytest.mark.parametrize(
    ("record", "ending", "reason", "says"),
    [
        ({"exit_code": 1}, "fail", Reason.EXIT, "exit code 1"),
        ({"signal": 9}, "fail", Reason.SIGNAL, "killed by signal 9"),
        ({"error": "no such file"}, "fail", Reason.LAUNCH_ERROR, "no such file"),
        (
            {"exit_code": 0, "timed_out": True, "interrupted_by": 15},
            *("fail", Reason.TIMEOUT, "stopped at its timeout (exit code 0)"),
        ),
        (
            {"exit_code": 0, "stop_requested": "user"},
            *("requeue", Reason.EXIT, "asked to stop (exit code 0)"),
        ),
        (
            {"exit_code": 0, "interrupted_by": 15},
            *("requeue", Reason.EXIT, "interrupted by signal 15 from outside (exit code 0)"),
        ),
    ],
)
def test_the_result_of_any_other_end_is_not_looked_at(
    folder: Path, record: dict[str, Any], ending: str, reason: Reason, says: str
) -> None:
    """Whatever lies there, the attempt is not completed, and its end is told in words."""
    fact = ended(folder, **record)
    assert apply.ending(fact) == ending
    assert (fact.reason, fact.error_message) == (reason, says)
    assert fact.result is fact.result_error is None


def test_an_invalid_result_turns_a_clean_exit_into_a_failure(folder: Path) -> None:
    """Exit code 0 alone is not enough."""
    (folder / "results" / f"{NAME}.json").write_text("{")
    fact = ended(folder, exit_code=0)
    assert fact.result_error is not None
    assert apply.ending(fact) == "fail"
