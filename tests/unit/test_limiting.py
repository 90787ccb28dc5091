"""Limits that change of an experiment that goes on: what may, what is said, what is stored."""

from pathlib import Path
from typing import Any

import pytest

from holdfast.config.experiment_file import Experiment
from holdfast.config.limiting import changed
from holdfast.errors import ConfigError

CONFIG: dict[str, Any] = {
    "command": ["python", "t.py"],
    "limits": {"timeout": "1h", "jobs": 2},
    "retry": {"max_attempts": 3},
}


def experiment(**more: Any) -> Experiment:
    return Experiment.from_stored({**CONFIG, **more}, "/tmp")


def test_what_changes_is_merged_and_told() -> None:
    """In the words of the file, with its units; the rest stays, as does the hash of the work."""
    before = experiment()
    after, new = changed(before, {"timeout": "4h", "grace": 5, "fail_fast": True}, "exp_7")
    assert new is not None
    assert new.words == (
        "limits.timeout 1h → 4h; limits.grace 30s → 5s; limits.fail_fast false → true"
    )
    assert new.values == {"timeout": "4h", "grace": 5, "fail_fast": True}
    assert (after.limits.timeout_s, after.limits.grace_s, after.limits.jobs) == (14400.0, 5.0, 2)
    config = after.to_config()
    assert config == {
        **CONFIG,
        "limits": {"timeout": "4h", "jobs": 2, "grace": 5, "fail_fast": True},
    }
    assert Experiment.from_stored(config, "/tmp").limits == after.limits
    assert after.config_hash(Path("/tmp/s")) == before.config_hash(Path("/tmp/s"))
    assert after.identities(Path("/tmp/s"), str) == before.identities(Path("/tmp/s"), str)


def test_none_lifts_a_limit() -> None:
    """And is stored, so that the file's own does not come back."""
    after, new = changed(experiment(), {"timeout": None}, "exp_7")
    assert new is not None
    assert new.words == "limits.timeout 1h → none"
    assert after.limits.timeout_s is None
    assert Experiment.from_stored(after.to_config(), "/tmp").limits.timeout_s is None
    again, new = changed(after, {"timeout": 90}, "exp_7")
    assert new is not None
    assert new.words == "limits.timeout none → 90s"
    assert again.limits.timeout_s == 90


@pytest.mark.parametrize("given", [{}, {"timeout": "60m"}, {"jobs": 2}, {"stall": None}])
def test_what_is_as_it_was_changes_nothing(given: dict[str, Any]) -> None:
    """An hour is sixty minutes: nothing is recorded."""
    before = experiment()
    assert changed(before, given, "exp_7") == (before, None)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"tiemout": "4h"}, r"limits\.tiemout: unknown key \(did you mean timeout\?\)"),
        ({"max_attempts": 2}, r"limits\.max_attempts: unknown key \(did you mean retry\."),
        ({"timeout": "4x"}, r"limits\.timeout: expected a duration .* found '4x'"),
        ({"timeout": 0}, r"limits\.timeout: must be more than 0"),
        ({"grace": None}, r"limits\.grace: expected a duration"),
        ({"jobs": 0, "on_stall": "sleep"}, r"(?s)limits\.jobs: .*limits\.on_stall: must be"),
        ({"fail_fast": "yes"}, r"limits\.fail_fast: expected"),
        ([("timeout", 4)], r"limits: expected a mapping"),
    ],
)
def test_what_is_no_limit_is_refused_as_in_a_file(given: Any, says: str) -> None:
    """All of it at once, and whose limits they were to be."""
    with pytest.raises(ConfigError, match=says) as caught:
        changed(experiment(), given, "exp_7")
    assert caught.value.path == "exp_7"


def test_what_runs_keeps_what_it_was_started_with() -> None:
    """Its shim knows no others; a number of jobs concerns only what is started."""
    _, timeout = changed(experiment(), {"timeout": "4h"}, "exp_7")
    _, jobs = changed(experiment(), {"jobs": 4}, "exp_7")
    assert timeout is not None
    assert jobs is not None
    assert timeout.told(recorded=True, running=0) == "limits.timeout 1h → 4h"
    assert "what runs already keeps" in timeout.told(recorded=True, running=1)
    assert jobs.told(recorded=True, running=1) == "limits.jobs 2 → 4"
    assert "(only now" in timeout.told(recorded=False, running=0)
