"""Claims in anybody's hands: re-entry, Ctrl-C at any instant, dropped ones, observers."""

import copy
import gc
import os
import pickle
import random
import signal
import threading
import warnings
from collections.abc import Callable, Iterator

import pytest

from holdfast.errors import (
    AlreadyOwnedError,
    ClaimBusyError,
    ClaimClosedError,
    InvalidRequestError,
    InvalidTransitionError,
    ObserverWarning,
)
from holdfast.lifecycle.events import PhaseReported, Requested
from holdfast.status import ProcessStatus
from holdfast.store import observing, uninterrupted
from holdfast.store.claim import Claim
from holdfast.store.files import Files
from holdfast.store.manager import StateManager, utc_now
from processes import run
from waiting import PATIENCE_S, until

ID = "exp_7"


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No observer is given up because the machine is busy."""
    monkeypatch.setattr(observing, "_PATIENCE_S", PATIENCE_S)


@pytest.fixture
def claim(manager: StateManager) -> Iterator[Claim]:
    manager.create(ID, num_processes=100)
    with manager.claim(ID) as claim:
        yield claim


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/dev/fd"))


class Interrupting(Files):
    """The operating system, in which something of ours happens during every fdatasync."""

    def __init__(self) -> None:
        self.during = lambda: None

    def fdatasync(self, fd: int) -> None:
        self.during()
        super().fdatasync(fd)


# -- re-entry -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda claim: claim.record("start", 7),
        lambda claim: claim.record_many([("start", 7)]),
        lambda claim: claim.note(("start", 7)),
        lambda claim: claim.tick(),
        lambda claim: claim.check_fence(),
        lambda claim: claim.release(),
    ],
)
def test_a_call_in_the_middle_of_another_is_refused_and_changes_nothing(state_dir, call):
    """As from a signal handler or a finalizer: the line that is being written stays whole."""
    files = Interrupting()
    manager = StateManager(state_dir, files=files)
    manager.create(ID, num_processes=9)
    caught: list[BaseException] = []

    def reenter() -> None:
        files.during = lambda: None
        try:
            call(claim)
        except ClaimBusyError as err:
            caught.append(err)

    with manager.claim(ID) as claim:
        claim.record("start")
        files.during = reenter
        claim.record("start", 0)
        assert caught
        assert "in the middle of another call" in str(pickle.loads(pickle.dumps(caught[0])))
        claim.record("start", 1)
        assert claim.state.processes.indices(ProcessStatus.RUNNING) == [0, 1]
    assert manager.load(ID).processes.indices(ProcessStatus.RUNNING) == [0, 1]


def test_a_signal_handler_that_records_loses_nothing(manager):
    """At random instants: what it was told is done is done, what it was refused is not."""
    chance = random.Random(5)
    for trial in range(30):
        name = f"x{trial}"
        manager.create(name, num_processes=2000)
        acknowledged, refused = set(), []
        with manager.claim(name) as claim:
            claim.record("start")

            def handler(*_):
                try:
                    claim.record("start", 1999)
                    acknowledged.add(1999)  # noqa: B023
                except ClaimBusyError as err:
                    refused.append(err)  # noqa: B023

            before = signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.0005 + chance.random() * 0.004)
            try:
                for index in range(1000):
                    claim.record("start", index)
                    acknowledged.add(index)
                    if refused or 1999 in acknowledged:
                        break
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)
            claim.record("start", 1500)
            acknowledged.add(1500)
        assert set(manager.load(name).processes.indices(ProcessStatus.RUNNING)) == acknowledged


def test_a_finalizer_that_records_is_refused_in_the_middle_and_done_otherwise(state_dir):
    """A cycle is collected wherever something is allocated, be it inside `record`."""
    files = Interrupting()
    manager = StateManager(state_dir, files=files)
    manager.create(ID, num_processes=9)
    told: list[str] = []

    class Cycle:
        def __init__(self, claim: Claim, index: int) -> None:
            self.me, self.claim, self.index = self, claim, index

        def __del__(self) -> None:
            try:
                self.claim.record("start", self.index)
                told.append("done")
            except ClaimBusyError:
                told.append("refused")

    gc.disable()  # only when it is asked to, below
    try:
        with manager.claim(ID) as claim:
            claim.record("start")
            Cycle(claim, 5)
            files.during = gc.collect
            claim.record("start", 0)
            files.during = lambda: None
            Cycle(claim, 6)
            gc.collect()
    finally:
        gc.enable()
    assert told == ["refused", "done"]
    assert manager.load(ID).processes.indices(ProcessStatus.RUNNING) == [0, 6]


# -- Ctrl-C ---------------------------------------------------------------------------------------


_INTERRUPTED = """
import gc, os, random, signal, sys, threading, time
from holdfast import AlreadyOwnedError, StateManager

manager, trials, seed = StateManager(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run under nohup
chance, main, lost, owned, c = random.Random(seed), threading.main_thread().ident, 0, 0, None
manager.create("warm"); manager.claim("warm").release(); manager.listing(); manager.history("warm")
gc.collect()
before = len(os.listdir("/dev/fd"))

def stop(*_):
    raise KeyboardInterrupt

for number in (signal.SIGTERM, signal.SIGPROF):
    signal.signal(number, stop)
for trial in range(trials):
    name, done = f"x{trial}", set()
    manager.create(name, num_processes=400)
    wait_s = chance.random() * 0.01

    number = [signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGPROF][trial % 4]

    def strike():
        time.sleep(wait_s)
        signal.pthread_kill(main, number)

    thread = threading.Thread(target=strike)
    try:
        thread.start()
        while True:
            with manager.claim(name) as c:
                if c.state.status == "initialised":
                    c.record("start")
                for _ in range(chance.randrange(4)):
                    if len(done) < 400 and c.state.process_progress[len(done)].status == "pending":
                        c.record("start", len(done))
                    done.add(len(done))
            with manager.run_lock():
                [manager.load, manager.history, lambda _: manager.listing()][trial % 3](name)
    except KeyboardInterrupt:
        pass
    thread.join()
    running = manager.load(name).process_progress
    lost += any(running[i].status != "running" for i in done if i < 400)
    try:
        manager.claim(name).release()
    except AlreadyOwnedError:
        owned += 1
        c.release()
    c = None
    manager.delete(name)
gc.collect()
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert signal.getsignal(signal.SIGTERM) is signal.getsignal(signal.SIGPROF) is stop
print(len(os.listdir("/dev/fd")) - before, lost, owned)
"""


@pytest.mark.parametrize(
    ("trials", "seed"),
    [
        (60, 1),
        pytest.param(1500, 2, marks=[pytest.mark.long, pytest.mark.timeout(3700)]),
    ],
)
def test_no_signal_leaks_loses_or_keeps_anything(state_dir, trials, seed):
    """What raises at random instants costs no descriptor and no step, and no claim stays."""
    counts = run(_INTERRUPTED, state_dir, trials, seed, timeout_s=trials * 2)
    assert counts.split() == ["0", "0", "0"]


class StoppedError(Exception):
    """Raised by a signal's handler."""


@pytest.fixture
def stopping() -> Iterator[Callable[[int], None]]:
    """Have a signal raise `StoppedError` with its number."""
    before: list[tuple[int, object]] = []

    def stop(number: int, _: object) -> None:
        raise StoppedError(number)

    yield lambda number: before.append((number, signal.signal(number, stop)))
    for number, handler in reversed(before):
        signal.signal(number, handler)


_OFTEN = ["SIGINT", "SIGTERM", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2"]


@pytest.mark.parametrize(
    ("name", "late"),
    [*((name, late) for name in _OFTEN for late in (False, True)), ("SIGPROF", False)],
)
def test_a_signal_in_the_middle_of_a_step_comes_after_it(state_dir, stopping, name, late):
    """The step is recorded, the claim goes on, and what the handler raises is not swallowed."""
    number = getattr(signal, name)
    files = Interrupting()
    manager = StateManager(state_dir, files=files)
    manager.create(ID, num_processes=3)
    if not late:
        stopping(number)
    with manager.claim(ID) as claim:
        if late:
            stopping(number)
        mine = signal.getsignal(number)
        claim.record("start")
        files.during = lambda: signal.raise_signal(number)
        with pytest.raises(StoppedError):
            claim.record("start", 0)
        files.during = lambda: None
        claim.record("start", 1)
    assert manager.load(ID).processes_running == 2
    assert not late or signal.getsignal(number) is mine


def test_two_signals_in_the_middle_of_a_step_both_come_after_it(state_dir, stopping):
    """Neither gets lost because the other one raised."""
    files = Interrupting()
    manager = StateManager(state_dir, files=files)
    manager.create(ID, num_processes=3)
    for number in (signal.SIGTERM, signal.SIGHUP):
        stopping(number)

    def both() -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)

    with manager.claim(ID) as claim:
        claim.record("start")
        files.during = both
        with pytest.raises(StoppedError) as caught:
            claim.record("start", 0)
        files.during = lambda: None
        came = {caught.value.args, caught.value.__context__.args}
        assert came == {(signal.SIGTERM,), (signal.SIGHUP,)}
    assert manager.load(ID).processes_running == 1


def test_a_wakeup_descriptor_is_told_once_of_a_signal_that_was_kept(stopping):
    """An event loop would answer it twice."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    stopping(signal.SIGTERM)
    before = signal.set_wakeup_fd(write)
    try:
        with uninterrupted.held(), pytest.raises(StoppedError):
            uninterrupted.whole(signal_term)()
    finally:
        signal.set_wakeup_fd(before)
    assert os.read(read, 9) == bytes([signal.SIGTERM])
    os.close(read)
    os.close(write)


def signal_term() -> None:
    signal.raise_signal(signal.SIGTERM)


class Asking(Files):
    """The operating system; `asked` is set when a lock is asked for."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def flock(self, fd: int, operation: int) -> None:
        self.asked.set()
        super().flock(fd, operation)


def test_a_wait_for_an_owner_can_be_interrupted(state_dir, claim):
    """What holds Ctrl-C back is short; a wait for somebody else is not."""
    files = Asking()
    manager = StateManager(state_dir, files=files)

    def interrupt() -> None:
        files.asked.wait()
        os.kill(os.getpid(), signal.SIGINT)

    open_before = descriptors()
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt) as caught:
        manager.claim(ID, wait_s=60)
    thread.join()
    # In its midst, not once it had been in vain.
    assert not isinstance(caught.value.__context__, AlreadyOwnedError)
    assert descriptors() == open_before


def test_the_handler_of_ctrl_c_is_put_back_and_a_strangers_left_alone(manager):
    """Whoever sets one while a claim is open finds it there afterwards."""
    manager.create(ID)
    before = signal.getsignal(signal.SIGINT)
    manager.claim(ID).release()
    assert signal.getsignal(signal.SIGINT) is before
    came = []

    def mine(number, frame):
        came.append(number)

    with manager.claim(ID) as claim:
        signal.signal(signal.SIGINT, mine)
        claim.record("start")
        signal.raise_signal(signal.SIGINT)
        assert came == [signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is mine
    signal.signal(signal.SIGINT, before)


# -- dropped and copied ---------------------------------------------------------------------------


def test_a_dropped_claim_is_released_when_it_is_collected(manager):
    """Nobody could release it any more: with a warning, as for a file."""
    manager.create(ID)
    before = descriptors()
    with pytest.warns(ResourceWarning, match=r"exp_7.*dropped without a release"):
        manager.claim(ID)
    assert descriptors() == before
    assert manager.load(ID).owner.released
    manager.claim(ID).release()


@pytest.mark.parametrize("copying", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_claim_is_not_copied(claim, copying):
    """A second one would write into the same journal."""
    with pytest.raises(TypeError, match="an experiment has one owner"):
        copying(claim)
    claim.record("start")


# -- what a claim takes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        lambda claim: claim.record("start", "1"),
        lambda claim: claim.record("start", 1.0),
        lambda claim: claim.record("start", True),
        lambda claim: claim.record(5),
        lambda claim: claim.record(None, 0),
        lambda claim: claim.record("fail", error_massage="x"),
        lambda claim: claim.record("fail", reason="bored"),
        lambda claim: claim.record_many([("start", "1")]),
        lambda claim: claim.record_many([("start", 1, 2)]),
        lambda claim: claim.record_many([("start", 1, {}, 4)]),
        lambda claim: claim.record_many([5]),
        lambda claim: claim.record_many([()]),
        lambda claim: claim.record_many([("start", 1), ("fail", 1, {"exitcode": 1})]),
        lambda claim: claim.note("start 5"[:0] or 5),
    ],
)
def test_what_is_no_request_writes_nothing(claim, manager, ask):
    """Our own error, and the claim is as good as before."""
    claim.record("start")
    journal = claim.folder / "journal" / "00000001.jsonl"
    before = journal.read_bytes()
    with pytest.raises(InvalidRequestError) as caught:
        ask(claim)
    assert not str(caught.value).startswith(":")
    assert journal.read_bytes() == before
    claim.record("start", 0)


@pytest.mark.parametrize("event", ["send", "name", "states", "__init__", "current_state", "fly"])
@pytest.mark.parametrize("process", [None, 0])
def test_an_event_called_like_an_attribute_is_refused(claim, event, process):
    """A refused event says what there is instead, whatever it is called."""
    with pytest.raises(InvalidTransitionError, match=r"no such .* event"):
        claim.record(event, process)


def test_many_are_taken_as_one_is(claim, manager):
    """Event, process and facts, without a time in hand; together in one line."""
    claim.record_many(["start", ("start", 0), ("start", 1), ("start", 2)])
    facts = {"exit_code": 3, "reason": "exit", "error_message": "boom"}
    recorded = claim.record_many([("complete", 0, {"exit_code": 0}), ("fail", 1, facts)])
    assert recorded.state is claim.state
    stored = manager.load(ID)
    assert stored.process_progress[0].status is ProcessStatus.COMPLETED
    assert stored.process_progress[1].error_message == "boom"
    assert stored.revision == 2
    with pytest.raises(InvalidTransitionError):
        claim.record_many([("start", 5), ("complete", 6, {"exit_code": 0})])
    assert manager.load(ID) == stored


def test_a_note_that_cannot_apply_is_refused_at_once_and_poisons_nothing(claim, manager):
    """Kept for the next line, it would have every later one refused."""
    claim.record("start")
    now = utc_now()
    with pytest.raises(InvalidTransitionError):
        claim.note(Requested(entity="process", event="complete", process=0, at=now))
    claim.record("start", 0)
    claim.note(("start", 1))
    claim.note(PhaseReported(process=1, attempt=1, at=now, identity=None))
    with pytest.raises(InvalidTransitionError):
        claim.note(("start", 1))
    with pytest.raises(InvalidTransitionError):
        claim.record("start", 1)
    claim.record("start", 2)
    assert manager.load(ID).processes.indices(ProcessStatus.RUNNING) == [0, 1, 2]
    claim.release()
    with pytest.raises(ClaimClosedError):
        claim.note(("start", 3))


# -- observers ------------------------------------------------------------------------------------


def test_an_observer_sees_every_step_with_its_changes(manager):
    """In their order, in a thread of its own, up to the last one before the release."""
    manager.create(ID, num_processes=3)
    seen, threads = [], set()

    def watch(state, changes):
        threads.add(threading.current_thread())
        seen.append((state.revision, [(change.process, change.event) for change in changes]))

    with manager.claim(ID, on_step=watch) as claim:
        claim.record("start")
        claim.record_many([("start", 0), ("start", 1)])
        claim.record("complete", 0, exit_code=0)
    assert seen == [
        (1, [(None, "start")]),
        (2, [(0, "start"), (1, "start")]),
        (3, [(0, "complete")]),
    ]
    assert threading.main_thread() not in threads
    until(lambda: not any(thread.is_alive() for thread in threads))


def test_an_observer_may_record(manager):
    """From its own thread that is no re-entry: it waits for its turn."""
    manager.create(ID, num_processes=3)

    def follow(state, changes):
        if state.processes_pending == 3:
            claim.record("start", 2)

    with manager.claim(ID) as claim:
        claim.on_step(follow)
        claim.record("start")
        until(lambda: claim.state.processes_running == 1)
    assert manager.load(ID).processes.indices(ProcessStatus.RUNNING) == [2]


def test_an_observer_that_raises_harms_nothing(manager):
    """It is told once, and called again."""
    manager.create(ID, num_processes=9)
    calls, others = [], []

    def broken(state, changes):
        calls.append(state)
        raise RuntimeError("the display is gone")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with manager.claim(ID, on_step=broken) as claim:
            claim.on_step(lambda state, changes: others.append(state))
            claim.record("start")
            for index in range(5):
                claim.record("start", index)
    assert len(calls) == len(others) == 6
    told = [str(each.message) for each in caught if each.category is ObserverWarning]
    assert len(told) == 1
    assert "RuntimeError: the display is gone" in told[0]
    assert manager.load(ID).processes_running == 5


def test_an_observer_that_hangs_harms_nothing_and_what_it_missed_is_told(manager, monkeypatch):
    """Recording never waits for it; its queue is bounded; the claim is free at once."""
    monkeypatch.setattr(observing, "_PATIENCE_S", 0.1)
    monkeypatch.setattr(observing, "_MOST", 16)
    manager.create(ID, num_processes=100)
    free, inside = threading.Event(), threading.Event()

    def hanging(state, changes):
        inside.set()
        free.wait()

    claim = manager.claim(ID, on_step=hanging)
    claim.record("start")
    assert inside.wait(PATIENCE_S)
    for index in range(100):
        claim.record("start", index)
    with pytest.warns(ObserverWarning, match=r"missed 100 steps"):
        claim.release()
    manager.claim(ID).release()
    free.set()
    assert manager.load(ID).processes_running == 100


def test_a_slow_observer_sees_the_newest_steps(manager, monkeypatch):
    """The oldest are dropped: whoever shows something shows how it stands."""
    monkeypatch.setattr(observing, "_MOST", 4)
    manager.create(ID, num_processes=50)
    go, seen = threading.Event(), []

    def slow(state, changes):
        go.wait()
        seen.append(state.revision)

    claim = manager.claim(ID, on_step=slow)
    claim.record("start")
    for index in range(50):
        claim.record("start", index)
    go.set()
    with pytest.warns(ObserverWarning, match="missed"):
        claim.release()
    assert seen[-1] == 51
    assert len(seen) <= 5


def test_what_is_no_observer_is_refused_and_no_claim_stays(manager):
    """Before anything is recorded."""
    manager.create(ID)
    with pytest.raises(TypeError, match="observer"):
        manager.claim(ID, on_step="print")
    manager.claim(ID).release()
