"""Programs that use the worker API, as real processes: signals, forks, threads, kills."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from attempting import Attempt
from waiting import PATIENCE_S, until

#: Says where it is, and asks whether it should stop until it should.
PATIENT = """
import os, sys, time
import holdfast
with holdfast.process() as process:
    for step in process.track(range(1_000_000)):
        if process.should_stop:
            process.checkpoint(lambda path: path.write_text("saved"))
            break
        if step == 3:
            print("ready", flush=True)
        time.sleep(0.001)
    print("left", flush=True)
"""

#: Never asks.
CARELESS = """
import time
import holdfast
with holdfast.process() as process:
    print("ready", flush=True)
    while True:
        time.sleep(0.01)
        print("alive", flush=True)
"""

WARNINGS = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU]


@pytest.fixture
def attempt(tmp_path: Path) -> Iterator[Attempt]:
    """Attempt 1 of process 3."""
    made = Attempt(tmp_path)
    yield made
    made.end()


def ready(process: "subprocess.Popen[str]") -> "subprocess.Popen[str]":
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()
    return process


# --- signals


def test_term_lets_a_program_that_asks_save_and_end(attempt):
    """It says that it stopped, and why; exit code 0 is then no completion."""
    process = ready(attempt.start(PATIENT))
    process.terminate()
    attempt.done(process, 0)
    said = attempt.told("said")
    assert (said["stopped"], said["why"], said["signal"]) == (True, "SIGTERM", 15)
    assert [path.read_text() for path in attempt.checkpoints.glob("3/step-*")] == ["saved"]
    assert attempt.lines()[-1]["step"] >= 3


@pytest.mark.parametrize("number", WARNINGS)
def test_a_warning_lets_a_program_that_asks_save_and_end(attempt, number):
    """As batch systems send them ahead of a stop."""
    process = ready(attempt.start(PATIENT))
    process.send_signal(number)
    attempt.done(process, 0)
    assert attempt.told("said")["why"] == signal.Signals(number).name


def test_a_request_of_holdfast_is_told_from_a_strangers_signal(attempt):
    """Its TERM comes with a file; the file alone does, too."""
    (attempt.attempts / "3.1.stop").touch()
    process = attempt.start(PATIENT)
    attempt.done(process, 0)
    assert attempt.told("said")["why"] == "request"
    process = ready(Attempt(attempt.folder, attempt=2).start(PATIENT))
    (attempt.attempts / "3.2.stop").touch()
    process.terminate()
    attempt.done(process, 0)
    [said] = (attempt.attempts / "3.2.reports").glob("*.said")
    assert json.loads(said.read_text())["why"] == "request"


def test_a_program_that_never_asks_dies_of_term(attempt):
    """As it does without holdfast, and nothing is said."""
    process = ready(attempt.start(CARELESS))
    process.terminate()
    attempt.done(process, -signal.SIGTERM)
    assert attempt.told("said") is None
    assert attempt.told("begun")["pid"] == process.pid


@pytest.mark.parametrize("number", WARNINGS)
def test_a_program_that_never_asks_does_not_die_of_a_warning(attempt, number):
    """The shim keeps it from programs without a handler: ours must not make it deadly."""
    process = ready(attempt.start(CARELESS))
    process.send_signal(number)
    for _ in range(3):
        assert process.stdout.readline() == "alive\n"


def test_handlers_of_the_program_are_called_as_well(attempt):
    """One from before is called after ours, one from later is left, and all is as it was after."""
    code = """
import os, signal
import holdfast
called = []
def before(*_): called.append("before")
def later(*_): called.append("later")
signal.signal(signal.SIGTERM, before)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
process = holdfast.process()
with process:
    assert not process.should_stop
    ours = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGUSR1, later)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert called == ["later"] and not process.should_stop
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN
    os.kill(os.getpid(), signal.SIGTERM)
    assert called == ["later", "before"] and process.should_stop
assert signal.getsignal(signal.SIGTERM) is before
assert signal.getsignal(signal.SIGUSR1) is later
assert signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN
assert signal.getsignal(signal.SIGXCPU) == signal.SIG_DFL
ours(signal.SIGTERM, None)  # a framework that chains to it for ever
assert called == ["later", "before", "before"]
"""
    attempt.run(code)


def test_a_handler_that_calls_ours_is_heard(attempt):
    """Frameworks keep the handler that they find, and call it."""
    code = """
import os, signal
import holdfast
with holdfast.process() as process:
    assert not process.should_stop
    found = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *given: found(*given))
    os.kill(os.getpid(), signal.SIGTERM)
    assert process.should_stop
os.kill(os.getpid(), signal.SIGTERM)
print("not reached")
"""
    assert attempt.run(code, exits=-signal.SIGTERM)[0] == ""


@pytest.mark.parametrize("when", ["before", "later"])
@pytest.mark.parametrize("end", ["sys.exit(0)", "ended.append(1)"])
@pytest.mark.parametrize("steps", [2, 1])
def test_a_program_that_handles_term_itself_did_not_complete(attempt, when, end, steps):
    """It ended in order and with 0, which passed for completed; unless its loop ran to its end."""
    code = f"""
import os, signal, sys
import holdfast
ended = []
def handle(number, frame):
    if callable(found):
        found(number, frame)
    {end}
found = None
if "{when}" == "before":
    signal.signal(signal.SIGTERM, handle)
with holdfast.process() as process:
    if "{when}" == "later":
        found = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, handle)
    for step in process.track(range(2)):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if ended and {steps} == 1:
            break
"""
    attempt.run(code)
    said = attempt.told("said")
    ran = steps == 2 and "exit" not in end
    assert said.get("completed", False) is ran
    assert said["signal"] == signal.SIGTERM
    assert ran or (said["stopped"], said["why"]) == (True, "SIGTERM")


@pytest.mark.skipif(sys.platform != "linux", reason="only /proc shows them")
def test_a_handler_that_is_not_python_is_left(attempt):
    """It would not be called any more: faulthandler's, MPI's."""
    code = """
import faulthandler, os, signal
import holdfast
faulthandler.register(signal.SIGUSR1)
with holdfast.process() as process:
    assert not process.should_stop
    os.kill(os.getpid(), signal.SIGUSR1)
    assert not process.should_stop
"""
    assert "most recent call first" in attempt.run(code)[1]


def test_a_block_outside_the_main_thread_hears_of_requests(attempt):
    """Python has handlers in the main thread only; the rest works there, too."""
    code = """
import threading
import holdfast
def work():
    with holdfast.process() as process:
        for step in process.track(range(3)):
            if process.should_stop:
                break
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    (attempt.attempts / "3.1.stop").touch()
    attempt.run(code)
    assert attempt.told("said")["why"] == "request"


# --- forks and threads


def test_a_fork_has_the_signals_as_they_were(attempt):
    """A handler in Python would not run in a child that has just begun to wait."""
    code = """
import os, signal
import holdfast
heard = []
signal.signal(signal.SIGUSR1, lambda *_: heard.append("USR1"))
with holdfast.process() as process:
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    pid = os.fork()
    if not pid:
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        signal.raise_signal(signal.SIGUSR1)
        assert heard == ["USR1"]
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    signal.raise_signal(signal.SIGUSR1)
    assert process.should_stop
assert heard == ["USR1"]
"""
    attempt.done(attempt.start(code), 0, "")


def test_a_forked_child_writes_nothing_and_dies_of_signals(attempt):
    """Data loaders are forked: their parent speaks, and may stop them with TERM."""
    code = """
import os, signal, sys, time
import holdfast
with holdfast.process() as process:
    assert not process.should_stop
    pid = os.fork()
    if not pid:
        process.report(step=7)
        process.result("child")
        process.checkpoint(lambda path: path.write_text("child"))
        print("child", file=process.log)
        with holdfast.process() as again:
            again.result("child")
        print("ready", flush=True)
        time.sleep(60)
    os.kill(os.getpid(), 0)
    sys.stdin.read()  # until the test has seen the child
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
    pid = os.fork()
    if not pid:
        sys.exit(5)  # leaves the block
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    assert not process.should_stop
    process.result("parent")
"""
    process = attempt.start(code, stdin=subprocess.PIPE)
    _, err = attempt.done(ready(process), 0, "")
    assert err == "child\n"
    assert attempt.result() == "parent"
    assert attempt.told("said")["completed"] is True
    assert "step" not in "".join(map(str, attempt.lines()))
    assert list(attempt.checkpoints.rglob("step*")) == []
    assert attempt.told("begun")["pid"] == process.pid


@pytest.mark.parametrize("ranks", [None, 2])
@pytest.mark.parametrize("end", ["", "raise ValueError('of the child')", "os._exit(0)"])
def test_a_program_within_the_block_does_not_say_how_it_ends(tmp_path, ranks, end):
    """It may report and deliver; the end of a helper was taken for that of its process or rank."""
    code = f"""
import os, subprocess, sys
import holdfast
with holdfast.process() as process:
    if len(sys.argv) > 1:
        process.report(step=7)
        process.result("child")
        {end or "pass"}
        sys.exit(0)
    subprocess.run([sys.executable, "-c", open("code.py").read(), "child"])
    assert process.index == {3 if ranks is None else 5}
    raise RuntimeError("of the parent")
"""
    (tmp_path / "code.py").write_text(code)
    made = Attempt(tmp_path, ranks)
    process = made.start(code, env={"RANK": "1"} if ranks else {})
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1, err
    assert "of the parent" in err
    [said] = made.reports.glob("*.said")
    assert json.loads(said.read_text())["error"]["message"] == "of the parent"
    [begun] = made.reports.glob("*.begun")
    assert json.loads(begun.read_text())["pid"] == process.pid
    [result] = made.results.glob("*.json")
    assert result.read_text() == '"child"'
    # What counts is what the newest incarnation delivered: there is one.
    assert ranks is None or begun.name.removesuffix(".begun").partition(".")[2] in result.name


def test_threads_may_report_and_deliver_at_once(attempt):
    """Every line is whole, and the result is one of those delivered."""
    code = """
import threading
import holdfast
from holdfast.worker import progress
progress.EVERY_S = 0.0
with holdfast.process() as process:
    def work(number):
        for step in range(200):
            process.report(step=step, total=200, **{f"v{number}": step})
            if step % 50 == 0:
                process.result({"number": number, "pad": "x" * 10_000})
                process.checkpoint(lambda path: path.write_text(str(number)), next_step=step)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""
    attempt.run(code)
    assert len(attempt.lines()) > 1000
    assert attempt.result()["pad"] == "x" * 10_000
    assert [path.name for path in attempt.results.iterdir()] == ["3.1.json"]
    assert not list(attempt.folder.rglob("*.tmp"))


# --- a full disk

FULL = """
import resource, sys
import holdfast
with holdfast.process() as process:
    process.checkpoint(lambda path: path.write_text("good"), next_step=1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    for step in process.track(range(3)):
        process.report(loss=0.5)
        process.report(message="x" * 100)
        if sys.argv[1] == "stop" and process.should_stop:
            break
    for deliver in (
        lambda: process.result(1),
        lambda: process.checkpoint(lambda path: path.write_text("bad"), next_step=2),
    ):
        try:
            deliver()
        except (holdfast.DiskError, OSError) as err:
            print(type(err).__name__)
    assert process.resume_step() == 1
"""


def test_a_full_disk_refuses_what_would_have_to_be_safe(attempt):
    """Reports are lost, results and checkpoints are errors; the exit code says the rest."""
    out, err = attempt.run(FULL, "end")
    assert out == "DiskError\nOSError\n"  # the latter of `save` itself
    assert "saying how it ended failed: File too large" in err
    assert os.listdir(attempt.results) == []
    assert not list(attempt.folder.rglob("*.tmp"))


def test_a_stop_that_cannot_be_said_is_no_success(attempt):
    """Exit code 0 would complete what is not done."""
    (attempt.attempts / "3.1.stop").touch()
    _, err = attempt.run(FULL, "stop", exits=1)
    assert "saying how it ended failed: File too large" in err


# --- kills

#: So many for each kill that a loop does not end before it has been killed as often as it shall be:
#: it does no more than so many of them before it waits for that.
STEPS, AT_ONCE = 60, 40

#: A loop whose result depends on every step being done once, in order.
LOOP = """
import os, sys, time
import holdfast
log = os.open("steps", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
with holdfast.process() as process:
    start = process.resume_step(0)
    value = int(process.last_checkpoint.read_text()) if start else 1
    for step in process.track(range(start, int(sys.argv[1]))):
        while step == start + int(sys.argv[2]):
            time.sleep(0.01)
        value = (value * 1103515245 + step) % 2**61
        process.report(value=value)
        os.write(log, b"%d\\n" % step)
        process.checkpoint(lambda path: path.write_text(str(value)))
    process.result(value)
"""


def run_killed(attempt: Attempt, kills: int, seed: int) -> int:
    """Run the loop to its end, killed *kills* times; how many steps were done twice or more."""
    rng = random.Random(seed)
    steps = STEPS * kills
    log = attempt.folder / "steps"
    log.touch()
    for _ in range(kills):
        process = attempt.start(LOOP, str(steps), str(AT_ONCE))
        # At any instant of some step, or of the beginning.
        wanted = len(log.read_bytes().split()) + rng.randrange(10)
        until(lambda wanted=wanted: len(log.read_bytes().split()) >= wanted)
        linger(rng)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it came to its end before"
        assert attempt.told_by(process.pid, "said") is None
    attempt.run(LOOP, str(steps), str(steps + 1))
    done = [int(step) for step in log.read_bytes().split()]
    assert sorted(set(done)) == list(range(steps))
    return len(done) - steps


def linger(rng: random.Random) -> None:
    """Do nothing for up to some milliseconds: what is killed then is at any instant of its work."""
    for _ in range(rng.randrange(200_000)):
        pass


def undisturbed(folder: Path, kills: int) -> int:
    made = Attempt(folder)
    made.run(LOOP, str(STEPS * kills), str(STEPS * kills + 1))
    found = made.result()
    assert isinstance(found, int)
    return found


def test_a_loop_that_is_killed_again_and_again_ends_with_the_same_result(tmp_path, attempt):
    """No step is lost, and at most the one that was under way is done again."""
    assert run_killed(attempt, 10, seed=1) <= 10
    assert attempt.result() == undisturbed(tmp_path / "undisturbed", 10)
    assert len(os.listdir(attempt.checkpoints / "3")) == 2


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(5))
def test_a_loop_that_is_killed_fifty_times_ends_with_the_same_result(tmp_path, attempt, seed):
    """The long form of the same."""
    assert run_killed(attempt, 50, seed) <= 50
    assert attempt.result() == undisturbed(tmp_path / "undisturbed", 50)


DELIVER = """
import itertools, os
import holdfast
with holdfast.process() as process:
    told = os.open(f"told.{process.rank}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in itertools.count():
        process.result({"number": number, "rank": process.rank})
        os.write(told, b"%d\\n" % number)
"""


def deliver_until_killed(folder: Path, rounds: int) -> None:
    rng = random.Random(rounds)
    for number in range(rounds):
        made = Attempt(folder / str(number), 8)
        ranks = [made.start(DELIVER, env={"RANK": str(rank)}) for rank in range(8)]
        logs = [made.folder / f"told.{rank}" for rank in range(8)]
        until(lambda logs=logs: all(log.exists() and log.read_bytes() for log in logs))
        for _ in range(10):
            linger(rng)
        for each in rng.sample(ranks, 8):
            each.kill()
        made.end()
        for rank, log in enumerate(logs):
            told = [int(line) for line in log.read_bytes().split()]
            found = made.result(4 + rank)
            assert found["rank"] == rank
            # The next one may be there before it is acknowledged.
            assert found["number"] in (told[-1], told[-1] + 1)


def test_no_acknowledged_result_is_lost_with_its_process(tmp_path):
    """Eight ranks deliver at once, as fast as they can, and are killed at any instant."""
    deliver_until_killed(tmp_path, 4)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_no_acknowledged_result_of_many_ranks_is_lost(tmp_path):
    """The long form of the same."""
    deliver_until_killed(tmp_path, 60)
