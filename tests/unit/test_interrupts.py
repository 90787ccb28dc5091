"""What asks a run to stop: signals and requests, counted alike."""

import os
import signal
import subprocess
import sys

from holdfast.orchestration.interrupts import Interrupts
from holdfast.status import Reason


def test_a_request_stops_as_a_signal_does_and_names_none() -> None:
    """The first asks to stop; one with force kills; both keep the reason of the first."""
    interrupts = Interrupts(lambda: None)
    interrupts.ask(Reason.USER)
    assert (interrupts.count, interrupts.reason, interrupts.first) == (1, Reason.USER, None)
    assert interrupts.requested
    interrupts.ask(Reason.USER)
    assert interrupts.count == 1
    interrupts.ask(Reason.PREEMPTED, force=True)
    assert (interrupts.count, interrupts.reason) == (2, Reason.USER)


def test_a_signal_after_a_request_kills() -> None:
    """It is the second that asks; the request stays what interrupted."""
    with Interrupts(lambda: None) as interrupts:
        interrupts.ask(Reason.USER)
        signal.raise_signal(signal.SIGTERM)
        assert (interrupts.count, interrupts.reason) == (2, Reason.USER)
        assert interrupts.requested


def test_a_request_after_a_signal_leaves_the_signal_what_ended_it() -> None:
    """The exit code is the signal's."""
    with Interrupts(lambda: None) as interrupts:
        signal.raise_signal(signal.SIGTERM)
        interrupts.ask(Reason.USER)
        assert (interrupts.count, interrupts.reason) == (1, Reason.PREEMPTED)
        assert interrupts.first is signal.SIGTERM
        assert not interrupts.requested


FORKS = """
import os, time
from holdfast.orchestration.interrupts import Interrupts
with Interrupts(lambda: os.write(1, b"outlived\\n")):
    if not os.fork():
        os.write(1, b"%d\\n" % os.getpid())
    while True:  # a signal that comes just before a pause would not end it
        time.sleep(0.01)
"""


def test_a_worker_that_was_forked_dies_of_a_signal_once_its_parent_is_dead() -> None:
    """Before that, it is the parent who decides."""
    with subprocess.Popen([sys.executable, "-c", FORKS], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        os.kill(worker, signal.SIGTERM)
        assert parent.stdout.readline() == b"outlived\n"
        parent.kill()
        parent.wait()
        os.kill(worker, signal.SIGTERM)
        assert parent.stdout.read() == b""
