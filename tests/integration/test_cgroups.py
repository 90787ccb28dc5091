"""A cgroup for each attempt: what hides from every other search is found, ended, or let go."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.attempts import cgroups
from holdfast.attempts.looking import Gone, Undecided, look
from holdfast.attempts.names import attempts_dir
from holdfast.attempts.records import CgroupAddress
from holdfast.attempts.settling import Lost
from holdfast.doctor import strays
from holdfast.engines.contract import Handle
from holdfast.engines.local.cgroup import Cgroup
from holdfast.engines.local.engine import LocalEngine
from settled import settled
from shims import (
    NAME,
    alive,
    an_engine,
    command_of,
    exit_file,
    halted,
    live_file,
    mark_of,
    shim_of,
    start,
    up,
)
from waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cgroups are Linux's")

MARK = "0123456789abcdef" * 2 + ".7.0.1"
OTHER = "fedcba9876543210" * 2 + ".7.0.1"
#: A session of its own, no parent that lives, no mark, no output: nothing but its cgroup tells.
DAEMON = """
import os, signal, sys
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
if "deaf" in sys.argv: signal.signal(15, signal.SIG_IGN)
for fd in range(3): os.close(fd)
with open("pid.tmp", "w") as file: file.write(str(os.getpid()))
os.rename("pid.tmp", "pid")
while True: signal.sigtimedwait([], 60)
"""


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    """A cgroup in a hierarchy that this test has mounted for itself."""
    point = tmp_path / "hierarchy"
    point.mkdir()
    mounted = subprocess.run(["mount", "-t", "cgroup2", "none", point], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cgroup2 cannot be mounted: {mounted.stderr.decode().strip()}")
    made = point / f"holdfast-test-{secrets.token_hex(8)}"
    try:
        made.mkdir()
        if cgroups.subtree(made) is None:
            pytest.skip("no cgroups can be made here")
        yield made
    finally:
        cgroups.Cgroup(made).kill()
        until(lambda: not cgroups.Cgroup(made).populated())
        cgroups.Cgroup(made).remove()
        subprocess.run(["umount", "--lazy", point], check=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "experiment"
    made.mkdir()
    (made / "daemon.py").write_text(DAEMON)
    return made


@pytest.fixture
def engine(base: Path, folder: Path) -> Iterator[LocalEngine]:
    with an_engine(folder, cgroup=base) as engine:
        yield engine


def daemon(*words: str, env: str = "env -i") -> str:
    return f"{env} {sys.executable} -S daemon.py {' '.join(words)}; until [ -e pid ]; do :; done"


def pid_of(folder: Path) -> int:
    until((folder / "pid").exists)
    return int((folder / "pid").read_text())


def cgroup_of(base: Path, folder: Path) -> Path:
    live = live_file(folder)
    assert live["cgroup"]["path"].endswith(f"{base.name}/holdfast.{live['mark']}")
    return base / f"holdfast.{live['mark']}"


def kill_shim(handle: Handle) -> None:
    os.kill(shim_of(handle), signal.SIGKILL)
    until(lambda: not alive(shim_of(handle)))


def members(cgroup: Path) -> list[int]:
    return cgroups.Cgroup(cgroup).pids()


@pytest.mark.parametrize("kind", ["", "deaf"])
@pytest.mark.parametrize("way", ["exit 0", "timeout"])
def test_a_hidden_daemon_is_gone_before_the_outcome(
    engine: LocalEngine, base: Path, folder: Path, way: str, kind: str
) -> None:
    """Stopped with its grace period, killed after that, and named."""
    script = f"{daemon(kind)}; {'sleep 600' if way == 'timeout' else way}"
    options = {"timeout_s": 1.5} if way == "timeout" else {}
    handle = start(engine, folder, script, grace_s=0.2, **options)
    with halted(handle) if way == "timeout" else contextlib.nullcontext():
        pid = pid_of(folder)
    found = exit_file(folder)
    assert not alive(pid)
    assert found["timed_out"] == (way == "timeout")
    assert pid in {each for each, _ in found["stopped"]} or way == "timeout"
    until(lambda: not any(base.glob("holdfast.*")))


@pytest.mark.parametrize("kind", ["", "deaf"])
def test_a_hidden_daemon_of_a_killed_shim_is_stopped_before_the_next_attempt(
    engine: LocalEngine, base: Path, folder: Path, kind: str
) -> None:
    """Neither parents, session, environment nor output lead to it."""
    handle = start(engine, folder, f"{daemon(kind)}; exec sleep 600")
    pid = pid_of(folder)
    cgroup = cgroup_of(base, folder)
    kill_shim(handle)
    seen = until(lambda: isinstance(found := look(folder, NAME), Gone) and found)
    assert pid in {each.pid for each in seen.leftovers}
    assert alive(pid)
    found = settled(folder, NAME, grace_s=0.5)
    assert isinstance(found, Lost)
    assert f"{pid} (python" in found.evidence
    assert not alive(pid)
    assert not cgroup.exists()


def test_what_forks_faster_than_it_is_listed_is_ended(
    engine: LocalEngine, base: Path, folder: Path
) -> None:
    """In one blow, that nothing can fork away from."""
    code = (
        "import os, signal\nsignal.signal(15, signal.SIG_IGN)\n"
        "while True:\n    os.setsid() if os.getsid(0) != os.getpid() else None\n"
        "    if os.fork(): os._exit(0)\n"
    )
    (folder / "hop.py").write_text(code)
    script = f"echo up; env -i {sys.executable} -S hop.py >&- 2>&-; exec sleep 600"
    handle = start(engine, folder, script)
    up(folder)
    cgroup = cgroup_of(base, folder)
    kill_shim(handle)
    assert isinstance(settled(folder, NAME), Lost)
    assert not cgroup.exists()


def test_what_only_the_cgroup_tells_of_is_stopped_by_the_shim(
    engine: LocalEngine, base: Path, folder: Path
) -> None:
    """Not a descendant: somebody has put it there."""
    with subprocess.Popen(["sleep", "600"]) as other:
        start(engine, folder, "echo up; until [ -e go ]; do sleep 0.01; done", grace_s=60.0)
        up(folder)
        (cgroup_of(base, folder) / "cgroup.procs").write_text(str(other.pid))
        (folder / "go").touch()
        assert exit_file(folder)["stopped"] == [[other.pid, "sleep"]]
        assert other.wait() == -signal.SIGTERM


@pytest.mark.parametrize("way", ["exit 0", "timeout", "shim killed"])
def test_a_released_daemon_lives_on_outside(
    engine: LocalEngine, base: Path, folder: Path, way: str
) -> None:
    """Moved out before everything else is ended, so that its attempt is over without it."""
    script = f"{daemon(env='HOLDFAST_SESSION=')}; trap '' TERM; "
    script += "exit 0" if way == "exit 0" else "until [ -e go ]; do sleep 0.01; done"
    options = {"timeout_s": 1.5} if way == "timeout" else {}
    handle = start(engine, folder, script, grace_s=0.2, **options)
    with halted(handle) if way == "timeout" else contextlib.nullcontext():
        pid = pid_of(folder)
    try:
        if way == "shim killed":
            kill_shim(handle)
            found = settled(folder, NAME)
            assert isinstance(found, Lost)
            assert str(pid) not in found.evidence
        else:
            assert pid not in dict(exit_file(folder)["stopped"])
        assert alive(pid)
        assert pid in members(base)
        until(lambda: not any(base.glob("holdfast.*")))
    finally:
        os.kill(pid, signal.SIGKILL)


def test_children_of_a_released_daemon_are_spared(
    engine: LocalEngine, base: Path, folder: Path
) -> None:
    """Also if they hide their environment."""
    script = (
        "HOLDFAST_SESSION= setsid sh -c 'env -i /bin/sleep 600 & echo $$ $!; wait' & "
        "until [ -e go ]; do sleep 0.01; done"
    )
    handle = start(engine, folder, script)
    until(lambda: len(up(folder, "")) == 2)
    pids = [int(word) for word in up(folder, "")]
    try:
        kill_shim(handle)
        found = settled(folder, NAME)
        assert isinstance(found, Lost)
        assert all(map(alive, pids))
        assert set(pids) <= set(members(base))
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)


def test_cgroups_of_attempts_that_are_over_are_removed(
    engine: LocalEngine, base: Path, folder: Path
) -> None:
    """By the starter; without it by the shim, and without both by whoever settles."""
    start(engine, folder, "exit 0")
    exit_file(folder)
    until(lambda: not any(base.glob("holdfast.*")))
    for way in ("shim", "settled"):
        inner = folder / way
        inner.mkdir()
        with LocalEngine(cgroup=base) as other:
            handle = start(other, inner, "echo up; until [ -e go ]; do sleep 0.01; done")
            up(inner)
        cgroup = cgroup_of(base, inner)
        assert cgroup.exists()
        if way == "shim":
            (inner / "go").touch()
            exit_file(inner)
            until(lambda: not any(base.glob("holdfast.*")))
        else:
            os.kill(command_of(handle), signal.SIGSTOP)
            kill_shim(handle)
            assert isinstance(settled(inner, NAME), Lost)
            assert not cgroup.exists()


def test_what_nobody_came_to_remove_is_swept_later(base: Path, folder: Path) -> None:
    """Empty ones, and none that may be about to get its shim, or is somebody else's."""
    old, fresh = base / f"holdfast.{MARK}", base / f"holdfast.{OTHER}"
    used, other = base / f"holdfast.{'0' * 32}", base / "other"
    for each in (old, fresh, used, other):
        each.mkdir()
        if each is not fresh:
            os.utime(each, (0, 0))
    with subprocess.Popen(["sleep", "600"]) as member:
        (used / "cgroup.procs").write_text(str(member.pid))
        with LocalEngine(cgroup=base) as engine:
            engine.start()
        assert not old.exists()
        assert all(each.exists() for each in (fresh, used, other))
        member.kill()


@pytest.mark.parametrize("way", ["no cgroup", "nowhere", "full"])
def test_where_no_cgroup_can_be_made_attempts_run_all_the_same(
    base: Path, folder: Path, way: str
) -> None:
    """Known by descent and marks, as everywhere else."""
    where = {"no cgroup": folder, "nowhere": folder / "not there"}.get(way, base)
    with an_engine(folder, cgroup=where) as engine:
        engine.start()
        if way == "full":
            (base / "cgroup.max.descendants").write_text("0")
        start(engine, folder, "setsid env -i /bin/sleep 600 & echo up")
        assert exit_file(folder)["exit_code"] == 0
        assert "cgroup" not in live_file(folder)


def test_a_forged_address_aims_at_nobody(base: Path, folder: Path) -> None:
    """Only what is named by the mark of the attempt itself is touched, and no link is followed."""
    namespace = os.readlink("/proc/self/ns/cgroup")
    top = cgroups.subtree(base)
    assert top is not None
    victims, other = base / "victims", base / f"holdfast.{OTHER}"
    mark = mark_of(folder)
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as victim:
        for each in (victims, other):
            each.mkdir()
            (each / "cgroup.procs").write_text(str(victim.pid))
            for path in (
                f"{top.address.path}/{each.name}",
                f"{top.address.path}/{each.name}/../{each.name}",
                f"{top.address.path}/holdfast.{mark}/../{each.name}",
                f"{top.address.path}/{each.name}/.",
                "/", "", ".", "//", "holdfast.", f"{top.address.path}/holdfast.",
            ):  # fmt: skip
                address = {"path": path, "namespace": namespace}
                assert cgroups.of_mark(CgroupAddress(**address), mark) is None
                # Of a shim that is gone, with a lock that nobody holds.
                forged = {"mark": mark, "cgroup": address, "locked": True, "pid": 1 << 22}
                (attempts_dir(folder) / f"{NAME}.live").write_text(json.dumps(forged))
                settled(folder, NAME, force=True)
                assert victim.poll() is None
        assert members(other) == [victim.pid]
        victim.kill()


def test_what_cannot_be_seen_from_here_proves_nothing(base: Path) -> None:
    """From another cgroup namespace the same path is another cgroup's, or nobody's."""
    top = cgroups.subtree(base)
    assert top is not None
    path = f"{top.address.path}/holdfast.{MARK}"
    assert cgroups.of_mark(CgroupAddress(path, "cgroup:[1]"), MARK) is None
    assert cgroups.of_mark(None, MARK) is None
    gone = cgroups.of_mark(CgroupAddress(path, top.address.namespace), MARK)
    assert gone is not None
    assert gone.populated() is False


def test_a_copy_of_the_folder_does_not_aim_at_the_original(
    engine: LocalEngine, base: Path, folder: Path, tmp_path: Path
) -> None:
    """Its leftovers are the original's affair, and so is its cgroup."""
    handle = start(engine, folder, f"{daemon()}; exec sleep 600")
    pid = pid_of(folder)
    kill_shim(handle)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    found = settled(copy, NAME)
    assert isinstance(found, Undecided)
    assert str(pid) in found.evidence
    assert alive(pid)
    assert isinstance(settled(folder, NAME), Lost)
    assert not alive(pid)


def test_without_a_cgroup_the_same_daemon_is_in_doubt(folder: Path) -> None:
    """The other proof: what hides its environment is neither stopped nor taken for gone."""
    with an_engine(folder, cgroup=False) as engine:
        script = "setsid env -i /bin/sh -c 'echo $$ up; exec /bin/sleep 600' & wait"
        handle = start(engine, folder, script)
        pid = int(up(folder)[0])
        kill_shim(handle)
        assert isinstance(settled(folder, NAME), Undecided)
        assert alive(pid)
        os.kill(pid, signal.SIGKILL)


def test_the_doctor_says_which_proof_this_machine_offers() -> None:
    """Where a cgroup can be made in our own, that is the one."""
    own = cgroups.own()
    found = strays.proof()
    assert found.directory == (own.directory if found.kind == "cgroup" else None)
    assert found.kind == ("descent" if own is None else "cgroup")
    assert str(found.directory or "systemd-run") in str(found)


def test_kills_for_memory_are_counted_where_the_controller_is(tmp_path: Path) -> None:
    """The file has a line for each kind of event; without the controller there is none."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "memory.events").write_text(
        "low 0\noom 5\noom_kill 2\noom_group_kill 0\n"
    )
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert Cgroup(fd, "there", {}).memory_kills() == 2
        assert Cgroup(fd, "absent", {}).memory_kills() == 0
    finally:
        os.close(fd)
