"""An attempt that cannot be judged from here, and the word of the engine that ran it."""

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from holdfast import liveness
from holdfast.attempts.family import Census
from holdfast.attempts.looking import Ended, Look, Running, Undecided
from holdfast.attempts.names import AttemptName, attempts_dir, prepare
from holdfast.attempts.settling import Lost, Settling
from holdfast.identity import ProcessIdentity
from holdfast.store.encoding import identity_to_json

NAME = AttemptName("exp_a", "0", 1)
HERE = liveness.me()
ELSEWHERE = attrs.evolve(
    HERE, host="n1", machine_id="m", boot_id="b", pid_namespace="p", pid=4711, locked=True
)


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, Any], Path]:
    """A file of the attempt."""
    prepare(tmp_path)

    def made(suffix: str, content: Any) -> Path:
        path = attempts_dir(tmp_path) / f"{NAME}.{suffix}"
        path.write_text(json.dumps(content))
        return path

    return made


def live(identity: ProcessIdentity) -> dict[str, Any]:
    return {**identity_to_json(identity), "mark": "m", "attempt": str(NAME), "experiment": "exp_a"}


def settled(folder: Path, *, proof: str | None, after_s: float = 60.0) -> Look | Lost | None:
    settling = Settling(
        folder=folder,
        name=NAME,
        shim=None,
        grace_s=1.0,
        force=False,
        fence=lambda: None,
        began=0.0,
        proof=proof,
    )
    return settling.step(after_s, Census())


@pytest.mark.parametrize("after_s", [0.0, 60.0])
def test_the_engines_word_decides_what_is_too_far_away(
    put: Callable[[str, Any], Path], tmp_path: Path, after_s: float
) -> None:
    """Its lock is free, which on another host proves nothing; the word is the evidence."""
    put("live", live(ELSEWHERE))
    assert isinstance(settled(tmp_path, proof=None), Undecided)
    found = settled(tmp_path, proof="slurm says that it is over (timeout)", after_s=after_s)
    assert isinstance(found, Lost)
    assert found.began
    assert found.evidence.startswith("slurm says that it is over (timeout); from here: unknown")


def test_a_held_lock_is_alive_whatever_the_engine_says(
    put: Callable[[str, Any], Path], tmp_path: Path
) -> None:
    """Somebody works there, and writes on."""
    with put("live", live(ELSEWHERE)).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert isinstance(settled(tmp_path, proof="slurm says so"), Running)


def test_a_process_that_can_be_seen_is_alive_whatever_the_engine_says(
    put: Callable[[str, Any], Path], tmp_path: Path
) -> None:
    """It is ours: of this host, and never let go of what it would hold."""
    put("live", live(attrs.evolve(HERE, start_ticks=None, locked=False)))
    found = settled(tmp_path, proof="slurm says so")
    assert isinstance(found, Undecided)
    assert not found.distant
    assert str(os.getpid()) in found.evidence


def test_another_pid_namespace_is_far_away(put: Callable[[str, Any], Path], tmp_path: Path) -> None:
    """A container of the same machine, whose processes have other numbers here."""
    put("live", live(attrs.evolve(HERE, pid_namespace="pid:[1]", locked=False)))
    assert isinstance(settled(tmp_path, proof=None), Undecided)
    assert isinstance(settled(tmp_path, proof="slurm says so"), Lost)


def test_what_a_shim_could_not_stop_elsewhere_is_over_with_its_job(
    put: Callable[[str, Any], Path], tmp_path: Path
) -> None:
    """Its outcome counts then, and is not lost for a process that hung in the kernel of a node."""
    record = {"exit_code": 0, "left": [[4712, 1, "python", "stuck"]]}
    put("exit", {**record, "identity": identity_to_json(ELSEWHERE)})
    put("live", live(ELSEWHERE))
    assert isinstance(settled(tmp_path, proof=None), Undecided)
    found = settled(tmp_path, proof="slurm says so")
    assert isinstance(found, Ended)
    assert found.record.exit_code == 0
    # One that can be seen here is not.
    here = [[os.getpid(), HERE.start_ticks, "python", "stuck"]]
    put("exit", {**record, "left": here, "identity": identity_to_json(HERE)})
    assert isinstance(settled(tmp_path, proof="slurm says so"), Undecided)


def test_what_never_began_is_revoked_and_says_so(tmp_path: Path) -> None:
    """No proof is needed for that, and none is quoted."""
    found = settled(tmp_path, proof="slurm says so")
    assert isinstance(found, Lost)
    assert (found.began, found.evidence) == (False, "it never began, and was revoked")
