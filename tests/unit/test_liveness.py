"""Alive, dead or unknown, against real processes; other hosts are other facts about this one."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from holdfast import liveness
from holdfast.identity import ProcessIdentity
from holdfast.liveness import Observer
from processes import NOBODY, in_a_fork
from waiting import PATIENCE_S, until

HERE = Observer.here()
ELSEWHERE = attrs.evolve(HERE, host="elsewhere", machine_id="f" * 32, boot_id="other-boot")

linux = pytest.mark.skipif(HERE.proc is None, reason="needs /proc")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing until it is killed."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def identity(pid: int) -> ProcessIdentity:
    found = liveness.identity_of(pid)
    assert found is not None
    return found


def test_a_running_process_is_alive(sleeper: subprocess.Popen[bytes]) -> None:
    """Same boot, same namespace, same start time."""
    verdict = liveness.judge(identity(sleeper.pid))
    assert (verdict.kind, verdict.method) == ("alive", "pid")
    assert str(sleeper.pid) in verdict.compared
    assert str(os.getpid()) in verdict.observer


def test_a_process_that_ended_is_dead(sleeper: subprocess.Popen[bytes]) -> None:
    """Nobody has its pid any more."""
    recorded = identity(sleeper.pid)
    sleeper.kill()
    sleeper.wait()
    assert liveness.judge(recorded).kind == "dead"
    assert liveness.identity_of(sleeper.pid) is None


def test_a_zombie_is_dead(sleeper: subprocess.Popen[bytes]) -> None:
    """It ended; that nobody waited for it keeps only its entry."""
    recorded = identity(sleeper.pid)
    sleeper.kill()
    verdict = until(lambda: (v := liveness.judge(recorded)).kind == "dead" and v)
    assert "zombie" in verdict.compared
    assert liveness.judge_legacy_pid(sleeper.pid).kind == "dead"


# In a namespace of its own: rewound for everybody, pids of other tests would be given out again.
_REUSED = """
import subprocess, sys
from pathlib import Path
from holdfast import liveness
from holdfast.liveness import start_times
recorded = None
while True:
    process = subprocess.Popen(["sleep", "600"])
    found = liveness.identity_of(process.pid)
    recorded = recorded or found
    # Start times have a grain of 10 ms.
    if not start_times.same(found.start_ticks, recorded.start_ticks):
        break
    process.kill()
    process.wait()
    try:
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(recorded.pid - 1))
    except OSError as err:
        sys.exit(f"not permitted: {err}")
assert process.pid == recorded.pid
verdict = liveness.judge(recorded)
print(verdict.kind, verdict.method, verdict.compared)
"""


@linux
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_reused_pid_is_dead() -> None:
    """The kernel is made to give the pid to another process, which is not taken for the old one."""
    words = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c"]
    done = subprocess.run(
        [*words, _REUSED],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    if "not permitted" in done.stderr:
        pytest.skip("needs the right to choose the next pid")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("dead pid ")
    assert "reused" in done.stdout


def test_a_pid_whose_start_was_not_recorded_is_unknown_while_somebody_has_it(
    sleeper: subprocess.Popen[bytes],
) -> None:
    """It may be the one that was meant, and may be another."""
    recorded = attrs.evolve(identity(sleeper.pid), start_ticks=None)
    assert liveness.judge(recorded).kind == "unknown"


def test_only_who_is_proven_to_be_stopped_is_called_so(sleeper: subprocess.Popen[bytes]) -> None:
    """Not a stranger that has its pid, and not where the start time or the place is not known."""
    recorded = identity(sleeper.pid)
    assert not liveness.is_stopped(recorded)
    os.kill(sleeper.pid, signal.SIGSTOP)
    os.waitpid(sleeper.pid, os.WUNTRACED)
    assert liveness.is_stopped(recorded)
    others: list[dict[str, Any]] = [
        {"start_ticks": (recorded.start_ticks or 0) - 500},
        {"start_ticks": None},
        {"boot_id": "b" * 36},
        {"pid_namespace": "pid:[1]"},
        {"pid": None},
        {"pid": 2**22 + 1},
    ]
    for other in others:
        assert not liveness.is_stopped(attrs.evolve(recorded, **other)), other
    mac = attrs.evolve(HERE, proc=None)
    facts = mac.look(sleeper.pid)
    assert facts is not None
    assert liveness.is_stopped(attrs.evolve(recorded, start_ticks=facts.start_ticks), observer=mac)
    os.kill(sleeper.pid, signal.SIGCONT)
    os.waitpid(sleeper.pid, os.WCONTINUED)
    assert not liveness.is_stopped(recorded)


def test_another_hosts_process_is_unknown() -> None:
    """A pid of another machine says nothing here, whether this one has it or not."""
    for pid in (os.getpid(), 2**22 + 1):
        recorded = attrs.evolve(
            liveness.me(), host="node7", machine_id="a" * 32, boot_id="b" * 36, pid=pid
        )
        verdict = liveness.judge(recorded)
        assert (verdict.kind, verdict.method) == ("unknown", "host")
        assert "node7" in verdict.compared
        assert HERE.host in verdict.compared


def test_another_hosts_free_lock_is_no_proof_of_death() -> None:
    """Lock tables of two machines need not know each other."""
    recorded = attrs.evolve(liveness.me(), locked=True)
    assert liveness.judge(recorded, lock="free", observer=ELSEWHERE).kind == "unknown"


def test_a_held_lock_is_proof_of_life_wherever_its_holder_is() -> None:
    """Whoever holds it, lives."""
    assert liveness.judge(liveness.me(), lock="held", observer=ELSEWHERE).kind == "alive"
    assert liveness.judge(None, lock="held").kind == "alive"


def test_a_free_lock_of_the_same_boot_is_death_even_from_another_pid_namespace() -> None:
    """A container that cannot see the process can see that its lock is gone."""
    container = attrs.evolve(HERE, pid_namespace="pid:[1]", host="container")
    recorded = attrs.evolve(liveness.me(), locked=True)
    verdict = liveness.judge(recorded, lock="free", observer=container)
    assert (verdict.kind, verdict.method) == ("dead", "lock")


def test_a_free_lock_that_was_never_locked_decides_nothing() -> None:
    """Where the file system had no locks, the lock is always free: the pid decides."""
    assert liveness.judge(liveness.me(), lock="free").kind == "alive"


def test_another_pid_namespace_is_unknown_without_a_lock() -> None:
    """Its pids are other processes here."""
    container = attrs.evolve(HERE, pid_namespace="pid:[1]")
    assert liveness.judge(liveness.me(), observer=container).kind == "unknown"


def test_a_reboot_of_this_machine_is_death() -> None:
    """Nothing survives a boot."""
    recorded = attrs.evolve(liveness.me(), boot_id="before", machine_id="a" * 32)
    observer = attrs.evolve(HERE, machine_id="a" * 32)
    verdict = liveness.judge(recorded, observer=observer)
    assert (verdict.kind, verdict.method) == ("dead", "boot")


@pytest.mark.parametrize("changed", [{"host": "twin"}, {"machine_id": "c" * 32}])
def test_a_reboot_needs_machine_id_and_host_name_to_agree(changed: dict[str, str]) -> None:
    """Cloned nodes share the one, containers the other."""
    recorded = attrs.evolve(
        liveness.me(), **{"boot_id": "before", "machine_id": "a" * 32, **changed}
    )
    observer = attrs.evolve(HERE, machine_id="a" * 32)
    assert liveness.judge(recorded, observer=observer).kind == "unknown"


def test_missing_facts_are_never_taken_for_equal_ones() -> None:
    """Two machines that both cannot say their boot id are not one machine."""
    recorded = attrs.evolve(liveness.me(), boot_id=None, machine_id=None)
    observer = attrs.evolve(HERE, boot_id=None, machine_id=None)
    assert liveness.judge(recorded, observer=observer).kind == "unknown"
    assert liveness.judge(ProcessIdentity()).kind == "unknown"
    assert liveness.judge(None).kind == "unknown"


@pytest.mark.parametrize(("pid", "kind"), [(1, "unknown"), (0, "unknown"), (-5, "unknown")])
def test_a_bare_pid_is_never_proven_alive(pid: int, kind: str) -> None:
    """It may have been given to anybody since."""
    assert liveness.judge_legacy_pid(pid).kind == kind


def test_a_bare_pid_that_nobody_has_is_dead() -> None:
    """Gone is gone, whoever it was."""
    assert liveness.judge_legacy_pid(2**22 + 1).kind == "dead"


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else")
def test_another_users_process_is_alive(sleeper: subprocess.Popen[bytes]) -> None:
    """That it must not be signalled proves that it is there."""
    recorded = identity(sleeper.pid)
    assert in_a_fork(lambda: liveness.judge(recorded).kind, user=NOBODY) == "alive"


# -- environments -----------------------------------------------------------------------------


class Pauses:
    """Time that passes when somebody waits; behind *count* pauses, *then* happens."""

    def __init__(self, count: int = 0, then: Callable[[], object] = lambda: None) -> None:
        self.now, self.made, self.count, self.then = 0.0, 0, count, then

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.made += 1
        if self.made == self.count:
            self.then()


def drawn(folder: Path, pauses: Pauses, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Draws pid 7 below *folder* as the kernel shows it: memory, end of environment, and that."""
    monkeypatch.setattr(liveness.observer, "time", pauses)
    (folder / "7").mkdir()

    def draw(memory: int, end: int, environ: bytes) -> None:
        fields = [b"0"] * 50
        fields[0], fields[20], fields[48] = b"S", b"%d" % memory, b"%d" % end
        (folder / "7" / "stat").write_bytes(b"7 (a) b) " + b" ".join(fields))
        (folder / "7" / "environ").write_bytes(environ)

    return draw


def test_an_exec_is_waited_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of it there is no environment to be shown yet."""
    pauses = Pauses(3, lambda: draw(4096, 99, b"A=1\0B=2\0"))
    draw = drawn(tmp_path, pauses, monkeypatch)
    draw(4096, 0, b"")
    assert attrs.evolve(HERE, proc=tmp_path).environment(7) == ["A=1", "B=2"]
    assert pauses.made == 3


@pytest.mark.parametrize(("memory", "end"), [(4096, 99), (0, 0)], ids=["env -i", "kernel thread"])
def test_who_has_no_environment_costs_no_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int, end: int
) -> None:
    """The kernel tells where an environment ends as soon as there is one."""
    pauses = Pauses()
    drawn(tmp_path, pauses, monkeypatch)(memory, end, b"")
    assert attrs.evolve(HERE, proc=tmp_path).environment(7) == []
    assert pauses.made == 0


def test_an_exec_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its program may lie on a file system that does not answer."""
    pauses = Pauses()
    drawn(tmp_path, pauses, monkeypatch)(4096, 0, b"")
    assert attrs.evolve(HERE, proc=tmp_path).environment(7) == []
    assert 1.0 <= pauses.now < 1.1


@linux
def test_what_was_started_without_an_environment_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told at once by the real kernel, and it is no exec."""
    pauses = Pauses()
    with subprocess.Popen(["/bin/sleep", "600"], env={}) as process:
        monkeypatch.setattr(liveness.observer, "time", pauses)
        assert HERE.environment(process.pid) == []
        process.kill()
    assert pauses.now < 1.0


@linux
def test_what_executes_again_and_again_shows_its_environment(tmp_path: Path) -> None:
    """One look in some falls into the middle of an exec."""
    loop = tmp_path / "loop.sh"
    loop.write_text(f"exec /bin/sh {loop}\n")
    with subprocess.Popen(["/bin/sh", loop], env={"MARKED": "1"}) as process:
        until(lambda: "MARKED=1" in (HERE.environment(process.pid) or ()))
        for _ in range(1000):
            assert "MARKED=1" in (HERE.environment(process.pid) or ())
        process.kill()


def test_without_proc_the_same_is_told(sleeper: subprocess.Popen[bytes]) -> None:
    """Where the kernel has no /proc, psutil asks in its way."""
    mac = attrs.evolve(HERE, proc=None)
    facts = mac.look(sleeper.pid)
    assert facts is not None
    recorded = attrs.evolve(identity(sleeper.pid), start_ticks=facts.start_ticks)
    assert sleeper.pid in mac.pids()
    assert facts.session == os.getsid(sleeper.pid)
    home = f"HOME={os.environ.get('HOME', '')}"
    until(lambda: home in (mac.environment(sleeper.pid) or ()))  # not amid its `exec`
    assert liveness.judge(recorded, observer=mac).kind == "alive"
    reused = attrs.evolve(recorded, start_ticks=(facts.start_ticks or 0) - 1_000_000)
    assert liveness.judge(reused, observer=mac).kind == "dead"
    sleeper.kill()
    until(lambda: liveness.judge(recorded, observer=mac).kind == "dead")
    sleeper.wait()
    assert liveness.judge(recorded, observer=mac).kind == "dead"
    assert mac.environment(sleeper.pid) is None


def test_a_fork_has_its_own_identity() -> None:
    """What is known of oneself is not inherited."""
    mine = liveness.me()
    own, known = in_a_fork(lambda: f"{os.getpid()} {liveness.me().pid}").split()
    assert own == known != str(mine.pid)
