"""Real file systems: power cut off, full, read-only, forbidden."""

import errno
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.attempts.files import disk_problem
from holdfast.errors import StateWriteError, UnreadableStateWarning
from holdfast.store.claim import Claim
from holdfast.store.manager import StateManager
from waiting import PATIENCE_S

from .powercut import FILE_SYSTEMS, WITHOUT_LINKS, cut_power, mounted, unavailable
from .subject import is_step

_ROOT = sys.platform == "linux" and os.geteuid() == 0


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_a_file_system_that_loses_power_under_load_has_every_acknowledged_step(
    kind: str, tmp_path: Path
) -> None:
    """Shut down without a log flush, mounted again, judged."""
    why_not = unavailable(kind)
    if why_not is not None:
        pytest.skip(f"power cuts on {kind} not run: {why_not}")
    done = cut_power(kind, tmp_path, 3)
    print(
        f"{kind}: {done.cuts} cuts, {done.acknowledged:,} acknowledged, losses {len(done.problems)}"
    )
    assert not done.problems, "\n".join(done.problems[:5])
    assert done.acknowledged


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_long_power_cuts_of_real_file_systems(kind: str, tmp_path: Path) -> None:
    """A hundred cuts of each."""
    why_not = unavailable(kind)
    if why_not is not None:
        pytest.skip(f"power cuts on {kind} not run: {why_not}")
    done = cut_power(kind, tmp_path, 100, seed=1)
    print(
        f"{kind}: {done.cuts} cuts, {done.acknowledged:,} acknowledged, losses {len(done.problems)}"
    )
    assert not done.problems, "\n".join(done.problems[:5])


def _holdfast(cwd: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "holdfast", *words],
        cwd=cwd,
        env={**os.environ, "HOME": str(cwd)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.mark.parametrize("kind", WITHOUT_LINKS)
def test_a_real_file_system_without_hard_links_is_named(kind: str, tmp_path: Path) -> None:
    """Before anything is made; experiments that lie elsewhere run in a folder on it."""
    why_not = unavailable(kind)
    if why_not is not None:
        pytest.skip(f"{kind} not run: {why_not}")
    run = ("run", "--procs", "2", "--", "sh", "-c", 'echo 1 > "$HOLDFAST_RESULT"')
    with mounted(kind, tmp_path) as point:
        done = _holdfast(point, *run)
        assert done.returncode == 1
        assert "the file system has no hard links" in done.stderr
        assert "nothing was made; name a directory on another one, with -C DIR" in done.stderr
        left = [each for each in point.rglob("*") if each.name != ".run.lock"]
        assert left == [point / ".experiment_state"]
        done = _holdfast(point, "doctor")
        assert "the file system has no hard links" in done.stdout
        done = _holdfast(point, "-C", str(tmp_path / "states"), *run)
        assert done.returncode == 0, done.stderr
        # Whatever was copied there can be read.
        shutil.copytree(tmp_path / "states", point / "states", dirs_exist_ok=True)
        done = _holdfast(point, "-C", "states", "show", "@last")
        assert done.returncode == 0, done.stderr
        assert "aggregated" in done.stdout


def _mount(point: Path, options: str) -> None:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", str(point)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"not run: no mounts here: {done.stderr.decode().strip()}")


@pytest.fixture
def small(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A tmpfs with the options of the test's parameter."""
    if not _ROOT:
        pytest.skip("not run: mounting takes root")
    point = tmp_path / "small"
    point.mkdir()
    _mount(point, request.param)
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)


def _fill(point: Path, *, inodes: bool) -> None:
    """Use up everything but nothing more."""
    number = 0
    try:
        while True:
            with (point / f"filler-{number}").open("wb") as file:
                if not inodes:
                    while True:
                        file.write(b"x" * 4096)
                        file.flush()
            number += 1
    except OSError as err:
        if err.errno != errno.ENOSPC:
            raise


def _record_for_ever(claim: Claim, acknowledged: list[str]) -> None:
    """Start and requeue the process until the file system refuses."""
    while True:
        for event, facts in (("start", {}), ("requeue", {"proven_dead": True})):
            claim.record(event, 0, **facts)
            acknowledged.append(event)


def _free(point: Path) -> None:
    for each in point.glob("filler-*"):
        each.unlink()


def _steps(manager: StateManager) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreadableStateWarning)
        return sum(map(is_step, manager.history("exp")))


@pytest.mark.filterwarnings("ignore::holdfast.errors.UnreadableStateWarning")
@pytest.mark.parametrize("small", ["size=256k"], indirect=True)
def test_a_full_disk_refuses_clearly_and_the_same_claim_goes_on_once_there_is_space(
    small: Path,
) -> None:
    """ENOSPC in mid-life: the error names it, nothing acknowledged is lost, the claim survives."""
    manager = StateManager(small / "states")
    manager.create("exp", num_processes=1)
    claim = manager.claim("exp")
    claim.record("start")
    acknowledged = ["start"]
    _fill(small, inodes=False)
    # The last page of the journal has room for some lines yet.
    with pytest.raises(StateWriteError, match="No space left on device") as refused:
        _record_for_ever(claim, acknowledged)
    assert refused.value.stored == "old"
    assert _steps(manager) == len(acknowledged)
    with pytest.raises(StateWriteError, match="No space left"):
        manager.create("other", num_processes=50)
    _free(small)
    event = "start" if claim.state.processes_pending else "requeue"
    claim.record(event, 0, **({} if event == "start" else {"proven_dead": True}))
    claim.release()
    assert _steps(manager) == len(acknowledged) + 1
    assert manager.list_experiments() == ["exp"]
    assert not manager.unreadable()


@pytest.mark.filterwarnings("ignore::holdfast.errors.UnreadableStateWarning")
@pytest.mark.parametrize("small", ["size=8m,nr_inodes=40"], indirect=True)
def test_a_disk_without_inodes_still_records_and_refuses_what_needs_a_new_file(small: Path) -> None:
    """No inode left: a running owner goes on (its view lags), a claim is refused clearly."""
    manager = StateManager(small / "states")
    manager.create("exp", num_processes=1)
    manager.create("idle", num_processes=1)
    with manager.claim("exp") as claim:
        _fill(small, inodes=True)
        claim.record("start")
        claim.record("start", 0)
        with pytest.raises(StateWriteError, match="No space left on device"):
            manager.claim("idle")
    assert _steps(manager) == 2
    _free(small)
    with manager.claim("idle") as claim:
        claim.record("start")
    with manager.claim("exp") as claim:
        claim.record("complete", 0, exit_code=0)
    assert manager.load("exp").processes_completed == 1


@pytest.mark.parametrize("unnamed_files", [True, False])
@pytest.mark.parametrize(
    ("small", "inodes"),
    [("size=256k", False), ("size=8m,nr_inodes=40", True)],
    indirect=["small"],
)
def test_what_keeps_an_exit_record_from_the_disk_is_seen(
    small: Path, inodes: bool, unnamed_files: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes or inodes are missing: told by a file without a name, or by counting; leaving none."""
    if not unnamed_files:
        monkeypatch.delattr(os, "O_TMPFILE")
    assert disk_problem(small) is None
    _fill(small, inodes=inodes)
    problem = disk_problem(small)
    assert problem is not None
    assert problem.errno == errno.ENOSPC
    _free(small)
    assert disk_problem(small) is None
    assert not list(small.iterdir())
    with pytest.raises(FileNotFoundError):
        disk_problem(small / "gone")


@pytest.mark.filterwarnings("ignore::holdfast.errors.UnreadableStateWarning")
@pytest.mark.parametrize("small", ["size=8m"], indirect=True)
def test_a_read_only_file_system_can_be_read_and_refuses_changes_clearly(small: Path) -> None:
    """Remounted read-only: load, list and history work; claim, create and delete name EROFS."""
    manager = StateManager(small / "states")
    manager.create("exp", num_processes=1)
    with manager.claim("exp") as claim:
        claim.record("start")
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    assert str(manager.load("exp").status) == "running"
    assert manager.list_experiments() == ["exp"]
    assert _steps(manager) == 1
    for change in (
        lambda: manager.claim("exp"),
        lambda: manager.create("new"),
        lambda: manager.delete("exp"),
        lambda: manager.save(manager.load("exp")),
    ):
        with pytest.raises(StateWriteError, match="Read-only file system"):
            change()
    subprocess.run(["mount", "-o", "remount,rw", str(small)], check=True)
    with manager.claim("exp") as claim:
        claim.record("start", 0)
    assert _steps(manager) == 2


@pytest.mark.filterwarnings("ignore::holdfast.errors.UnreadableStateWarning")
def test_a_file_size_limit_refuses_clearly_and_costs_nothing(tmp_path: Path) -> None:
    """RLIMIT_FSIZE (as batch systems set it): EFBIG, nothing acknowledged lost, life goes on."""
    manager = StateManager(tmp_path / "states")
    manager.create("exp", num_processes=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    acknowledged: list[str] = []
    with manager.claim("exp") as claim:
        claim.record("start")
        acknowledged.append("start")
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, hard))
        try:
            with pytest.raises(StateWriteError, match="File too large") as refused:
                _record_for_ever(claim, acknowledged)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refused.value.stored == "old"
    assert _steps(manager) == len(acknowledged)
    with manager.claim("exp") as claim:
        claim.record("interrupt")
    assert _steps(manager) == len(acknowledged) + 1


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that everybody may enter; pytest's own are its user's alone."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)


def _as_nobody(code: str, *arguments: str) -> str:
    """Run *code* as another user and return what it printed."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "HOME": "/"}
    lead = "import os, sys; os.setgroups([]); os.setgid(65534)"
    # Everything is imported before the privileges go: the source may lie where nobody may look.
    lead += "; import importlib, pkgutil, holdfast"
    lead += "; [importlib.import_module(each.name)"
    lead += " for each in pkgutil.walk_packages(holdfast.__path__, 'holdfast.')"
    lead += " if not each.name.endswith('__main__')]"
    lead += "; from holdfast import liveness, errors; from holdfast.lifecycle import edges"
    lead += "; from holdfast.store import manager; edges.table('process'); liveness.me()"
    lead += "; os.setuid(65534); import warnings"
    lead += "; warnings.simplefilter('ignore')\n"
    command = [sys.executable, "-c", lead + code, *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not _ROOT, reason="not run: becoming another user takes root")
@pytest.mark.filterwarnings("ignore::holdfast.errors.UnreadableStateWarning")
def test_another_users_experiment_can_be_read_and_is_refused_clearly(open_path: Path) -> None:
    """EACCES: what may be read is read, a change is refused by name, nothing is touched."""
    tmp_path = open_path
    manager = StateManager(tmp_path / "states")
    manager.create("exp", num_processes=1)
    with manager.claim("exp") as claim:
        claim.record("start")
    code = (
        "m = manager.StateManager(sys.argv[1])\n"
        "print(m.load('exp').status, len(m.history('exp')), m.list_experiments())\n"
        "for change in lambda: m.claim('exp'), lambda: m.create('x'), lambda: m.delete('exp'):\n"
        "    try:\n"
        "        change()\n"
        "        print('no error')\n"
        "    except errors.HoldfastError as err:\n"
        "        print(type(err).__name__, 'Permission denied' in str(err))\n"
    )
    seen, *refusals = _as_nobody(code, str(tmp_path / "states")).splitlines()
    assert seen.startswith("running")
    assert refusals == ["StateWriteError True"] * 3
    (tmp_path / "states" / "exp" / "journal").chmod(0o700)
    code = (
        "m = manager.StateManager(sys.argv[1])\n"
        "try:\n"
        "    m.load('exp')\n"
        "    print('loaded')\n"
        "except errors.HoldfastError as err:\n"
        "    print(type(err).__name__, 'Permission denied' in str(err))\n"
        "print(m.list_experiments(), [type(e).__name__ for _, e in m.unreadable()])\n"
    )
    told = _as_nobody(code, str(tmp_path / "states")).splitlines()
    assert told == ["StateCorruptError True", "[] ['StateCorruptError']"]
    assert _steps(manager) == 1
