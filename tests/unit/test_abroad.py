"""What is waited for, of what an engine has and nobody drives."""

from datetime import UTC, datetime, timedelta

import pytest

from holdfast.attempts.names import AttemptName
from holdfast.cli.abroad import is_over
from holdfast.engines.contract import EngineWord, WordKind
from holdfast.lifecycle.records import ProcessProgress
from holdfast.status import ProcessStatus

NAME = AttemptName("exp_1", "3", 1)
BEGAN = datetime(2026, 11, 26, 12, tzinfo=UTC)
PROCESS = ProcessProgress(
    status=ProcessStatus.RUNNING, attempt=1, started_at=BEGAN, handle={"engine": "slurm"}
)


@pytest.mark.parametrize(
    ("kind", "over"),
    [
        *((kind, True) for kind in ("completed", "failed", "timeout", "cancelled", "gone")),
        *((kind, False) for kind in ("queued", "held", "running", "completing", "unknown")),
        ("node_fail", False),
    ],
)
def test_what_has_no_exit_record_is_over_if_its_engine_proves_it(
    kind: WordKind, over: bool
) -> None:
    """A failed node proves nothing, and nobody stops waiting for what it may still run."""
    assert is_over(EngineWord(NAME, kind), PROCESS) is over


@pytest.mark.parametrize(("after_s", "over"), [(-1, False), (1, True)])
def test_a_failed_node_that_was_booted_since_runs_nothing_any_more(
    after_s: float, over: bool
) -> None:
    """Booted before it, the attempt may live."""
    booted_at = BEGAN + timedelta(seconds=after_s)
    assert is_over(EngineWord(NAME, "node_fail", booted_at=booted_at), PROCESS) is over
