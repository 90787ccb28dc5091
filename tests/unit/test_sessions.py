"""What a dead shim left is found and stopped, and nobody else is."""

import os
import signal
import subprocess
import sys

import attrs
import pytest

from holdfast import liveness
from holdfast.identity import ProcessIdentity
from holdfast.sessions import doubtful_members, session_members, stop_session
from waiting import until

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def identity(pid: int) -> ProcessIdentity:
    found = liveness.identity_of(pid)
    assert found is not None
    return found


def session(script: str) -> tuple[subprocess.Popen[bytes], ProcessIdentity]:
    """A session leader that runs *script* in the way of a shim, its descendants marked."""
    code = (
        "import os,subprocess,sys\n"
        "from holdfast import liveness, sessions\n"
        "me=liveness.me()\n"
        "env={**os.environ, sessions.SESSION_VARIABLE: "
        "sessions.session_mark(me.pid, me.start_ticks)}\n"
        "c=subprocess.Popen(['sh','-c',sys.argv[1]],env=env,process_group=0,"
        "stdout=subprocess.PIPE)\n"
        "c.stdout.readline()\n"
        "print('up', flush=True)\n"
        "c.wait()\n"
    )
    leader = subprocess.Popen(
        [sys.executable, "-c", code, script], start_new_session=True, stdout=subprocess.PIPE
    )
    assert leader.stdout is not None
    assert leader.stdout.readline() == b"up\n"
    leader.stdout.close()
    return leader, identity(leader.pid)


def test_leftovers_of_a_dead_session_are_stopped() -> None:
    """TERM for those that listen, KILL for those that do not."""
    leader, recorded = session("trap '' TERM; echo up; sleep 600 & wait")
    members = until(lambda: len(m := session_members(recorded)) == 2 and m)
    assert leader.pid not in members
    leader.kill()
    leader.wait()
    found, left = stop_session(recorded, grace_s=0.1)
    assert set(members) == set(found)
    assert left == []
    assert session_members(recorded) == []


def test_a_stopped_leftover_is_ended_within_the_grace_period() -> None:
    """SIGSTOP does not keep a process from being told to end."""
    leader, recorded = session("echo up; exec sleep 600")
    (member,) = until(lambda: session_members(recorded))
    leader.kill()
    leader.wait()
    os.kill(member, signal.SIGSTOP)
    found, left = stop_session(recorded, grace_s=60)
    assert (found, left) == ([member], [])


@linux
def test_the_session_of_a_stranger_with_the_same_number_is_left_alone() -> None:
    """A session without its leader counts only if it carries the mark of that very shim."""
    leader, recorded = session("echo up; exec sleep 600")
    stranger = attrs.evolve(recorded, start_ticks=(recorded.start_ticks or 0) - 500)
    assert session_members(stranger) == []
    leader.kill()
    leader.wait()
    assert session_members(stranger) == []
    # For ever, where the stranger is a daemon.
    assert doubtful_members(stranger) == []
    assert stop_session(stranger, grace_s=0) == ([], [])
    assert len(session_members(recorded)) == 1
    stop_session(recorded, grace_s=0)


@linux
def test_a_member_that_hides_its_environment_is_in_doubt() -> None:
    """It may be the shim's or a stranger's: it is neither stopped nor taken for gone."""
    code = 'import time; print("up", flush=True); time.sleep(600)'
    leader, recorded = session(f"exec env -i {sys.executable} -S -c '{code}'")
    (member,) = until(lambda: session_members(recorded))
    assert doubtful_members(recorded) == []
    leader.kill()
    leader.wait()
    assert session_members(recorded) == []
    assert doubtful_members(recorded) == [member]
    assert stop_session(recorded, grace_s=0) == ([], [])
    os.kill(member, signal.SIGKILL)
    until(lambda: doubtful_members(recorded) == [])


def test_sessions_of_another_boot_have_no_members_here() -> None:
    """Their numbers mean other processes."""
    leader, recorded = session("echo up; exec sleep 600")
    assert session_members(attrs.evolve(recorded, boot_id="before")) == []
    stop_session(recorded, grace_s=0)
    leader.kill()
    leader.wait()
