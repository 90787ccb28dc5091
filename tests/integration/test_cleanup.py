"""Stale experiments: only those whose owner is proven dead are marked, with the evidence."""

import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import UnreadableStateWarning
from holdfast.status import ExperimentStatus, Reason
from holdfast.store.files import Files
from holdfast.store.manager import StateManager
from processes import owner


def by_hand(state_dir: Path, experiment_id: str, **fields: Any) -> None:
    state_dir.mkdir(exist_ok=True)
    plain = {"experiment_id": experiment_id, "status": "running", "num_processes": 2, **fields}
    (state_dir / f"{experiment_id}.json").write_text(json.dumps(plain))


def status(manager: StateManager, experiment_id: str) -> str:
    return str(manager.load(experiment_id).status)


def test_only_the_dead_owner_s_running_experiment_is_interrupted(
    manager: StateManager, state_dir: Path
) -> None:
    """Alive, unknown, released-and-not-running and finished ones stay as they are."""
    for each in ("alive", "dead", "idle", "failed"):
        manager.create(each, num_processes=2)
    with manager.claim("failed") as claim:
        claim.record("fail")
    by_hand(state_dir, "elsewhere", owner={"host": "elsewhere", "pid": 7, "locked": True})
    by_hand(state_dir, "nobody")
    by_hand(state_dir, "gone_pid", subprocess_pid=2**22 + 1)
    by_hand(state_dir, "some_pid", subprocess_pid=1)
    with owner(state_dir, "alive"), owner(state_dir, "dead") as dead:
        pid = dead.pid
        dead.kill()
        dead.wait()
        assert manager.cleanup_stale(dry_run=True) == ["dead", "gone_pid"]
        assert status(manager, "dead") == "running"
        assert manager.cleanup_stale() == ["dead", "gone_pid"]
        assert manager.cleanup_stale() == []
        assert status(manager, "alive") == "running"
    state = manager.load("dead")
    assert (state.status, state.reason) == (ExperimentStatus.INTERRUPTED, Reason.STALE)
    step = next(step for step in manager.history("dead") if step.event == "interrupt")
    assert step.evidence is not None
    assert step.evidence.startswith("dead (lock: the lock it held is free")
    assert "seen by pid" in step.evidence
    assert f"pid {pid} on" in manager.history("dead")[0].actor
    for each, expected in [
        ("idle", "initialised"),
        ("failed", "failed"),
        ("elsewhere", "running"),
        ("nobody", "running"),
        ("some_pid", "running"),
        ("gone_pid", "interrupted"),
    ]:
        assert status(manager, each) == expected


def test_dry_run_changes_not_one_byte(manager: StateManager, state_dir: Path) -> None:
    """It says which ones, and leaves every file as it is."""
    by_hand(state_dir, "gone_pid", subprocess_pid=2**22 + 1)
    before = sorted((path, path.stat().st_mtime_ns) for path in state_dir.rglob("*.json*"))
    assert manager.cleanup_stale(dry_run=True) == ["gone_pid"]
    after = sorted((path, path.stat().st_mtime_ns) for path in state_dir.rglob("*.json*"))
    assert after == before


def test_force_takes_unknown_for_dead_but_never_alive(
    manager: StateManager, state_dir: Path
) -> None:
    """Who knows that the other host is gone says so; a held lock is proof against it."""
    by_hand(state_dir, "elsewhere", owner={"host": "elsewhere", "pid": 7, "locked": True})
    manager.create("alive")
    with owner(state_dir, "alive"):
        assert manager.cleanup_stale(force=True) == ["elsewhere"]
        assert status(manager, "alive") == "running"
    step = next(step for step in manager.history("elsewhere") if step.event == "interrupt")
    assert step.evidence is not None
    assert step.evidence.startswith("unknown (host: host elsewhere")


def test_processes_are_left_for_resume_to_judge(manager: StateManager, state_dir: Path) -> None:
    """Attempts may outlive their orchestrator: cleanup records nothing but `interrupt`."""
    progress = {"0": {"status": "running", "attempt": 1}}
    by_hand(state_dir, "exp_7", subprocess_pid=2**22 + 1, process_progress=progress)
    assert manager.cleanup_stale() == ["exp_7"]
    assert manager.load("exp_7").process_progress[0].status == "running"
    events = [step.event for step in manager.history("exp_7")]
    assert events == ["claimed", "interrupt", "released"]


def test_one_that_cannot_be_written_does_not_keep_the_rest_stale(
    manager: StateManager, state_dir: Path
) -> None:
    """Another user's experiment is named in a warning; the others are cleaned up."""
    for each in ("a", "b", "c"):
        by_hand(state_dir, each, subprocess_pid=2**22 + 1)

    class Foreign(Files):
        def mkdir(self, name: str, dir_fd: int | None = None) -> None:
            if name == "b":
                raise PermissionError(13, "Permission denied")
            super().mkdir(name, dir_fd)

    with pytest.warns(UnreadableStateWarning, match="b was left as it is"):
        assert StateManager(state_dir, files=Foreign()).cleanup_stale() == ["a", "c"]
    assert status(manager, "b") == "running"


def test_an_experiment_that_was_resumed_meanwhile_is_left_to_its_new_owner(
    manager: StateManager, state_dir: Path
) -> None:
    """Between the look and the claim somebody else may have taken it: then it is theirs."""
    by_hand(state_dir, "exp_7", subprocess_pid=2**22 + 1)
    other = StateManager(state_dir)

    class Overtaken(Files):
        """Another owner comes, resumes and goes at the moment when the claim makes its folder."""

        overtaken = False

        def mkdir(self, name: str, dir_fd: int | None = None) -> None:
            if not self.overtaken:
                self.overtaken = True
                with other.claim("exp_7") as claim:
                    claim.record("interrupt")
                    claim.record("resume")
            super().mkdir(name, dir_fd)

    assert StateManager(state_dir, files=Overtaken()).cleanup_stale() == []
    assert status(manager, "exp_7") == "running"
