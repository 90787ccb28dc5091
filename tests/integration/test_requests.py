"""Requests to an owner: who is meant, what is one, and what becomes of who does not hear."""

import fcntl
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.engines.local.engine import LocalEngine
from holdfast.errors import InvalidRequestError
from holdfast.identity import ProcessIdentity
from holdfast.liveness import identity_of
from holdfast.orchestration.stopping import Stopped, Stopping
from holdfast.status import ExperimentStatus, Reason
from holdfast.store import writer
from holdfast.store.encoding import identity_to_json
from holdfast.store.manager import StateManager
from holdfast.store.requests import StopRequest
from processes import hear, owner, python
from waiting import until

ID = "exp_7"


class Clock:
    """Seconds that pass when somebody says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def stopping(manager: StateManager, clock: Clock, **options: object) -> tuple[Stopping, list[str]]:
    said: list[str] = []
    made = Stopping(
        manager=manager,
        engine=LocalEngine(),
        experiment_id=ID,
        request=options.pop("request", StopRequest(grace_s=1.0)),  # type: ignore[arg-type]
        say=said.append,
        monotonic=clock,
        **options,  # type: ignore[arg-type]
    )
    return made, said


def ended(made: Stopping, clock: Clock) -> Stopped:
    """How it ends, each step half a second later."""
    found = made.ask()
    while found is None:
        clock.now += 0.5
        found = made.step()
    return found


# -- who is meant -----------------------------------------------------------------------------


def test_a_request_is_heard_once_and_in_order(manager: StateManager) -> None:
    """Whoever comes next takes the next number; who asked, and how, is all there."""
    manager.create(ID)
    with manager.claim(ID) as claim:
        asked = [
            StopRequest(),
            StopRequest(level="kill"),
            StopRequest(grace_s=2.5, only=(3, 0)),
        ]
        for each in asked:
            assert manager.lookout(ID).ask(each) == claim.epoch
        found = claim.inbox.look()
        assert [(each.level, each.grace_s, each.only) for each in found] == [
            ("stop", None, None),
            ("kill", None, None),
            ("stop", 2.5, (3, 0)),
        ]
        assert {each.by.pid for each in found} == {os.getpid()}
        assert all(each.at is not None for each in found)
        assert claim.inbox.look() == []
    names = sorted(path.name for path in manager.folder(ID).glob("stop*"))
    assert names == ["stop.1", "stop.1.2", "stop.1.3"]


def test_a_request_to_an_earlier_owner_is_void(manager: StateManager) -> None:
    """Whoever takes over afterwards was not meant by it."""
    manager.create(ID)
    with manager.claim(ID):
        manager.lookout(ID).ask(StopRequest())
    with manager.claim(ID) as claim:
        assert claim.inbox.look() == []
        manager.lookout(ID).ask(StopRequest())
        assert len(claim.inbox.look()) == 1


def test_an_owner_that_began_a_new_journal_is_still_meant(
    manager: StateManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It claims the next epoch from itself when its journal has grown; the request was before."""
    monkeypatch.setattr(writer, "COMPACT_BYTES", 1)
    monkeypatch.setattr(writer, "COMPACT_BASES", 0)
    manager.create(ID)
    with manager.claim(ID) as claim:
        epoch = manager.lookout(ID).ask(StopRequest())
        claim.record("start")
        assert claim.epoch > epoch
        assert len(claim.inbox.look()) == 1
        manager.lookout(ID).ask(StopRequest())
        assert len(claim.inbox.look()) == 1


def test_an_owner_that_lets_go_in_a_new_journal_was_still_asked(
    manager: StateManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It records that it did, and holds its lock until its last view is written."""
    monkeypatch.setattr(writer, "COMPACT_BASES", 0)
    manager.create(ID)
    clock = Clock()
    claim = manager.claim(ID)
    claim.record("start")
    made, _ = stopping(manager, clock)
    assert made.ask() is None
    looked: list[Stopped | None] = []
    refresh = claim._view.refresh

    def look(*args: Any, final: bool = False) -> Any:
        if final:
            looked.append(made.step())
        return refresh(*args, final=final)

    monkeypatch.setattr(claim._view, "refresh", look)
    monkeypatch.setattr(writer, "COMPACT_BYTES", 1)
    claim.record("interrupt", reason="user")
    claim.release()
    assert looked == [None]
    last = made.step()
    assert last is not None
    assert last.kind == "stopped"


def test_requests_at_one_instant_are_all_there(manager: StateManager) -> None:
    """Of two that take the same number, one takes the next."""
    manager.create(ID)
    with manager.claim(ID) as claim:
        begin = threading.Barrier(8)

        def ask(index: int) -> None:
            begin.wait()
            manager.lookout(ID).ask(StopRequest(only=(index,)))

        threads = [threading.Thread(target=ask, args=(index,)) for index in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert sorted(each.only or () for each in claim.inbox.look()) == [(i,) for i in range(8)]
    assert not list(manager.folder(ID).glob(".tmp-*"))


@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9)),
            lambda inner: (
                st.dictionaries(
                    st.sampled_from(["level", "grace_s", "only", "by", "at", "pid", "x"]), inner
                )
                | st.lists(inner, max_size=3)
            ),
        ).map(lambda plain: json.dumps(plain).encode()),
    )
)
def test_whatever_lies_there_is_a_request_or_none(content: bytes) -> None:
    """No content of a file ends a run, or stops one that it does not clearly ask to stop."""
    import tempfile

    with tempfile.TemporaryDirectory() as path:
        manager = StateManager(Path(path) / ".experiment_state")
        manager.create(ID)
        with manager.claim(ID) as claim:
            (claim.folder / "stop.1").write_bytes(content)
            for each in claim.inbox.look():
                assert each.level in ("stop", "kill")
                assert each.grace_s is None or 0 <= each.grace_s < 1e10
                assert all(index >= 0 for index in each.only or ())
            assert claim.inbox.look() == []


def test_who_asks_has_a_name_that_can_be_shown(manager: StateManager) -> None:
    """It is said to a user, and stays in the history."""
    manager.create(ID)
    with manager.claim(ID) as claim:
        far = {"level": "stop", "by": {"host": "h" * 10_000, "pid": 1}}
        (claim.folder / "stop.1").write_text(json.dumps(far))
        (claim.folder / "stop.1.2").write_text(json.dumps({**far, "by": {"pid": 10**400}}))
        (claim.folder / "stop.1.3").write_text(json.dumps({**far, "by": None}))
        assert [str(each.by) for each in claim.inbox.look()] == ["pid None on an unnamed host"]


# -- who does not hear ------------------------------------------------------------------------


def test_an_owner_that_never_hears_is_named(manager: StateManager) -> None:
    """A program that holds a claim and looks for nothing: after its time, that is said."""
    manager.create(ID)
    clock = Clock()
    with owner(manager.state_dir, ID) as process:
        made, said = stopping(manager, clock)
        found = ended(made, clock)
    assert (found.kind, found.ok) == ("running", False)
    assert f"pid {process.pid}" in found.words[0]
    assert "did not stop it: alive (lock: its lock is held" in found.words[0]
    assert "to stop it within 1 s" in said[0]
    assert clock.now < 15


def test_an_owner_that_dies_meanwhile_is_no_excuse(manager: StateManager) -> None:
    """Nothing of it runs, and there is no configuration: the mark alone is missing."""
    manager.create(ID)
    clock = Clock()
    with owner(manager.state_dir, ID) as process:
        made, _ = stopping(manager, clock)
        assert made.ask() is None
        assert made.step() is None
        process.kill()
        process.communicate()
        found = made.step()
    assert found is not None
    assert found.kind == "stopped"
    state = manager.load(ID)
    assert (state.status, state.reason) == (ExperimentStatus.INTERRUPTED, Reason.USER)
    [step] = [each for each in manager.history(ID) if each.event == "interrupt"]
    assert "dead (lock: the lock it held is free" in (step.evidence or "")


def test_who_takes_it_up_afterwards_is_not_stopped(manager: StateManager) -> None:
    """It was stopped, as was asked for; that somebody wants it again is told."""
    manager.create(ID)
    clock = Clock()
    made, _ = stopping(manager, clock)
    with owner(manager.state_dir, ID) as first:
        assert made.ask() is None
        first.kill()
        first.communicate()
    with owner(manager.state_dir, ID):
        found = made.step()
    assert found is not None
    assert (found.kind, found.ok) == ("again", True)


def test_an_owner_whose_life_is_unknown_is_given_its_time(manager: StateManager) -> None:
    """On a host that is not there any more: nothing can be proven, and that is said; `force`."""
    manager.state_dir.mkdir()
    far = {"host": "elsewhere", "boot_id": "b", "machine_id": "m", "pid": 7, "locked": True}
    plain = {"experiment_id": ID, "status": "running", "num_processes": 1, "owner": far}
    (manager.state_dir / f"{ID}.json").write_text(json.dumps(plain))
    clock = Clock()
    made, said = stopping(manager, clock)
    found = ended(made, clock)
    assert (found.kind, found.ok) == ("unproven", False)
    assert "(it may be dead: host elsewhere" in said[0]
    assert manager.load(ID).status is ExperimentStatus.RUNNING
    made, _ = stopping(manager, clock, force=True)
    assert ended(made, clock).kind == "stopped"
    assert manager.load(ID).reason is Reason.USER


@pytest.mark.parametrize("only", [None, (0,)])
def test_a_stranger_that_sleeps_is_not_woken(
    manager: StateManager, only: tuple[int, ...] | None
) -> None:
    """A file may name anybody: who is continued is who holds the lock of this very folder.

    And who sleeps has held nothing back, although it does not run.
    """
    with python("import sys; print('up', flush=True); sys.stdin.read()") as stranger:
        hear(stranger.stdout, "up")
        stranger.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{stranger.pid}/stat")
        until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
        identity = identity_of(stranger.pid)
        assert identity is not None
        manager.state_dir.mkdir()
        named = {"owner": {**identity_to_json(identity), "locked": True}}
        plain = {"experiment_id": ID, "status": "running", "num_processes": 1, **named}
        (manager.state_dir / f"{ID}.json").write_text(json.dumps(plain))
        manager.folder(ID).mkdir()
        with (manager.folder(ID) / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the owner is somebody else
            clock = Clock()
            made, said = stopping(manager, clock, request=StopRequest(grace_s=1.0, only=only))
            found = ended(made, clock)
        assert stat.read_text().rpartition(")")[2].split()[0] == "T"
        stranger.kill()
    assert found.kind == "running"
    assert any("cannot be woken" in each and "does not hold the lock" in each for each in said)


def test_an_owner_that_was_woken_is_given_time_to_hear(manager: StateManager) -> None:
    """Until then it may start what is to be held back, although that does not run."""
    manager.create(ID)
    clock = Clock()
    with owner(manager.state_dir, ID) as process:
        stat = Path(f"/proc/{process.pid}/stat")
        process.send_signal(signal.SIGSTOP)
        until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
        made, said = stopping(manager, clock, request=StopRequest(only=(0,)))
        assert made.ask() is None
        clock.now = 1.0
        assert made.step() is None
        assert "it was woken to hear this" in said[-1]
        until(lambda: stat.read_text().rpartition(")")[2].split()[0] != "T")
        clock.now = 2.0
        assert made.step() is None
        clock.now = 2.5
        found = made.step()
    assert found is not None
    assert (found.kind, found.only) == ("partly", (0,))


def test_what_was_never_started_has_nothing_to_stop(manager: StateManager) -> None:
    """Nor do processes that there are not: that is a mistake."""
    manager.create(ID)
    clock = Clock()
    before = manager.load(ID)
    assert ended(stopping(manager, clock)[0], clock).kind == "nothing"
    with pytest.raises(InvalidRequestError, match="not there: 1; exp_7 has process 0"):
        stopping(manager, clock, request=StopRequest(only=(1,)))[0].ask()
    assert manager.load(ID) == before
    assert before.owner is None
    assert isinstance(StopRequest().by, ProcessIdentity)
