"""Machines in anybody's hands: wrong names, wrong kinds, misspelt facts."""

import pickle
from datetime import UTC, datetime

import pytest

from holdfast.errors import (
    HoldfastError,
    InvalidRequestError,
    InvalidTransitionError,
    StateWriteError,
)
from holdfast.lifecycle.machines import ExperimentMachine, ProcessMachine
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.status import ExperimentStatus, ProcessStatus, Reason

NOW = datetime(2024, 1, 15, tzinfo=UTC)
RUNNING = ExperimentState(experiment_id="exp_7", status="running")
STRANGE = ["send", "name", "states", "__init__", "current_state", "model", "record", "fly", ""]


@pytest.mark.parametrize("event", STRANGE)
@pytest.mark.parametrize("machine", [ExperimentMachine(RUNNING), ProcessMachine(ProcessProgress())])
def test_an_event_called_like_an_attribute_is_no_event(machine, event):
    """The machine says so itself, instead of an error from inside the library."""
    with pytest.raises(InvalidTransitionError) as caught:
        machine.send(event)
    assert not caught.value.exists
    assert f"no such {machine.entity} event" in str(caught.value)
    assert not str(caught.value).startswith(":")


def test_a_message_is_kept_and_so_is_the_time():
    """`send` gives what a claim would store: nothing that was told is dropped."""
    state = ExperimentMachine(RUNNING).send("fail", error_message="CUDA OOM", reason="exit", at=NOW)
    assert state.error_message == "CUDA OOM"
    assert state.reason is Reason.EXIT
    assert state.finished_at == NOW == state.last_updated


def test_events_are_methods_that_give_records_and_raise_our_errors():
    """`machine.fail()` is `machine.send("fail")`, not the library's way round it."""
    assert ExperimentMachine(RUNNING).fail(error_message="no").error_message == "no"
    machine = ExperimentMachine(RUNNING)
    assert machine.interrupt(at=NOW).status is ExperimentStatus.INTERRUPTED
    assert machine.resume().status is ExperimentStatus.RUNNING
    with pytest.raises(InvalidTransitionError) as caught:
        machine.resume()
    assert "only possible from interrupted" in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).event == "resume"
    assert ProcessMachine(ProcessProgress()).start().status is ProcessStatus.RUNNING


@pytest.mark.parametrize(
    "ask",
    [
        lambda machine: machine.send(5),
        lambda machine: machine.send(None),
        lambda machine: machine.send("fail", reason="bored"),
        lambda machine: machine.send("fail", reason=7),
        lambda machine: machine.send("fail", error_message=ValueError("no text")),
        lambda machine: machine.send("fail", at="now"),
        lambda machine: machine.send("fail", at=datetime(2024, 1, 15)),  # noqa: DTZ001
        lambda machine: machine.send("fail", exit_kode=1),
        lambda machine: machine.send("fail", exit_code="1"),
        lambda machine: machine.send("fail", exit_code=True),
        lambda machine: machine.fail(error_massage="x"),
    ],
)
def test_what_is_no_request_is_refused_and_moves_nothing(ask):
    """Our error, which is a TypeError and a ValueError, too; the record stays as it is."""
    machine = ExperimentMachine(RUNNING)
    with pytest.raises(InvalidRequestError) as caught:
        ask(machine)
    assert isinstance(caught.value, HoldfastError | TypeError)
    assert pickle.loads(pickle.dumps(caught.value)).problem == caught.value.problem
    assert machine.record is RUNNING


def test_a_misspelt_fact_is_told_with_the_one_that_was_meant():
    """Unknown facts would be no facts: the event would be refused for want of what was given."""
    with pytest.raises(InvalidRequestError, match="'exitcode'; did you mean exit_code"):
        ProcessMachine(ProcessProgress(status="running")).send("complete", exitcode=0)


@pytest.mark.parametrize("process", [None, 3])
@pytest.mark.parametrize("status", ProcessStatus)
@pytest.mark.parametrize("event", ["start", "complete", "fail", "requeue", "fly"])
def test_no_refusal_allows_what_it_refuses(status, event, process):
    """A message that ends in `allowed now: complete` must not be about `complete`."""
    machine = ProcessMachine(ProcessProgress(status=status, failures=1), process=process)
    try:
        machine.send(event)
    except InvalidTransitionError as refused:
        err = refused
    else:
        return
    first, last = str(err).splitlines()
    assert first.startswith("a process: " if process is None else "process 3: ")
    assert event not in err.allowed
    assert event not in last.split(": ")[1].split(", ")


@pytest.mark.parametrize(
    ("values", "facts"),
    [(("a",), {}), (("a", "b", "c", 1, "d", "old", "more"), {}), (("a", "b", "c"), {"stord": "x"})],
)
def test_an_error_takes_its_facts_and_no_others(values, facts):
    """One that is missing, too many or misspelt is a mistake at once, not in the message."""
    with pytest.raises(TypeError, match="StateWriteError"):
        StateWriteError(*values, **facts)
