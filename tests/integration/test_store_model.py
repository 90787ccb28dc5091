"""Long random lives of a state directory, against a model that is a dictionary."""

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from faults import Counting, Stopped, stop
from holdfast.doctor import legality
from holdfast.errors import (
    AlreadyOwnedError,
    ExperimentExistsError,
    ExperimentNotFoundError,
    InvalidTransitionError,
    StaleStateError,
)
from holdfast.lifecycle.records import ExperimentState, Origin, ResultRef
from holdfast.lifecycle.reuse import Proof
from holdfast.status import ProcessStatus
from holdfast.store import writer as writer_module
from holdfast.store.claim import Claim
from holdfast.store.files import Files
from holdfast.store.manager import StateManager
from holdfast.store.place import Opened

IDS = ("one", "two/2")
SIZE = 3
EVENTS = ("start", "complete", "aggregate", "fail", "interrupt", "retry", "resume")
PROCESS_EVENTS = ("start", "start", "complete", "complete", "fail", "requeue", "reuse")
FACTS: dict[str, dict[str, Any]] = {
    "complete": {"exit_code": 0},
    "requeue": {"max_attempts": 2, "proven_dead": True},
    "reuse": {
        "work": "0" * 32,
        "outputs": (ResultRef(path="model.pt", size=1, sha256="1" * 64),),
        "proof": Proof(
            origin=Origin(experiment_id="exp_6", process=4, attempt=2),
            work="0" * 32,
            status=ProcessStatus.COMPLETED,
        ),
    },
}

ids = st.sampled_from(IDS)


class StateDirectory(RuleBasedStateMachine):
    """What was acknowledged is there, after every call, crash and injury of the directory."""

    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")
        self.base = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        self.manager = StateManager(self.base / "state")
        self.model: dict[str, ExperimentState] = {}
        self.story: dict[str, list[tuple[int | None, str]]] = {}
        self.claims: dict[str, Claim] = {}
        self.limits = writer_module.COMPACT_BYTES, writer_module.COMPACT_BASES

    @initialize(size=st.sampled_from([600, 2000, 1 << 20]))
    def how_soon_journals_are_compacted(self, size: int) -> None:
        vars(writer_module).update(COMPACT_BYTES=size, COMPACT_BASES=1)

    def teardown(self) -> None:
        for claim in self.claims.values():
            claim._close()
        bytes_, bases = self.limits
        vars(writer_module).update(COMPACT_BYTES=bytes_, COMPACT_BASES=bases)
        shutil.rmtree(self.base)

    @rule(name=ids)
    def create(self, name: str) -> None:
        try:
            state = self.manager.create(name, num_processes=SIZE)
        except ExperimentExistsError:
            assert name in self.model
        else:
            assert name not in self.model
            self.model[name], self.story[name] = state, []

    @rule(name=ids)
    def claim(self, name: str) -> None:
        try:
            claim = self.manager.claim(name)
        except ExperimentNotFoundError:
            assert name not in self.model
        except AlreadyOwnedError:
            assert name in self.claims
        else:
            assert name not in self.claims
            self.claims[name] = claim

    @rule(
        name=ids,
        steps=st.lists(
            st.tuples(st.sampled_from(EVENTS), st.none())
            | st.tuples(st.sampled_from(PROCESS_EVENTS), st.integers(0, SIZE - 1)),
            min_size=4,
            max_size=12,
        ),
    )
    def record(self, name: str, steps: list[tuple[str, int | None]]) -> None:
        if name not in self.model:
            self.create(name)
        if name not in self.claims:
            self.claim(name)
        for event, process in steps:
            facts = {} if process is None else FACTS.get(event, {})
            with contextlib.suppress(InvalidTransitionError):
                self.model[name] = self.claims[name].record(event, process, **facts)
                self.story[name].append((process, event))

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), killed=st.booleans())
    def let_go(self, data: st.DataObject, killed: bool) -> None:
        claim = self.claims.pop(data.draw(st.sampled_from(sorted(self.claims))))
        # The end of a process closes its descriptors, and nothing else.
        claim._close() if killed else claim.release()

    @rule(name=ids, stale=st.booleans())
    def save(self, name: str, stale: bool) -> None:
        if name not in self.model:
            return
        given = attrs.evolve(self.manager.load(name), name=f"{len(self.story[name])}")
        try:
            self.model[name] = self.manager.save(
                attrs.evolve(given, revision=given.revision + 1) if stale else given
            )
        except AlreadyOwnedError:
            assert name in self.claims
        except StaleStateError:
            assert stale

    @rule(name=ids)
    def delete(self, name: str) -> None:
        try:
            self.manager.delete(name)
        except ExperimentNotFoundError:
            assert name not in self.model
        except AlreadyOwnedError:
            assert name in self.claims
        else:
            # Of what was not there any more, a delete that had been interrupted was finished.
            self.model.pop(name, None)
            self.story.pop(name, None)

    @rule(name=ids, at=st.integers(0, 60), what=st.sampled_from(["claim", "create", "delete"]))
    def be_killed_in(self, name: str, at: int, what: str) -> None:
        """Any operation of a call is the last of its process."""
        if name in self.claims:
            return
        other = StateManager(self.base / "state", files=Counting(at, stop))
        with contextlib.suppress(Stopped, ExperimentExistsError, ExperimentNotFoundError):
            if what == "claim":
                other.claim(name)._close()
            elif what == "create":
                other.create(name, num_processes=SIZE)
            else:
                other.delete(name)
        try:
            state = self.manager.load(name)
        except ExperimentNotFoundError:
            # A create that was not acknowledged, or a delete that was decided.
            assert what == "delete" or name not in self.model
            self.model.pop(name, None)
            self.story.pop(name, None)
        else:
            if name not in self.model:
                assert what == "create"
                self.model[name], self.story[name] = state, []

    @rule(name=ids, tail=st.binary(min_size=1, max_size=40))
    def tear(self, name: str, tail: bytes) -> None:
        """A dying owner leaves the beginning of a line."""
        if name not in self.model or name in self.claims or not self.manager.load(name).epoch:
            return
        journals = sorted((self.manager.folder(name) / "journal").glob("0*.jsonl"))
        newest = self.manager.load(name).epoch
        with journals[newest - 1].open("ab") as file:
            file.write(tail.replace(b"\n", b"."))

    @rule(name=ids)
    def lose_the_view(self, name: str) -> None:
        if name in self.model and self.manager.load(name).epoch:
            folder = self.manager.folder(name)
            (folder.parent / f"{folder.name}.json").unlink(missing_ok=True)

    @invariant()
    def everything_is_there(self) -> None:
        for name in IDS:
            if name not in self.model:
                try:
                    self.manager.load(name)
                except ExperimentNotFoundError:
                    continue
                raise AssertionError(f"{name} is back")
            state, expected = self.manager.load(name), self.model[name]
            assert state.process_progress == expected.process_progress
            assert (state.status, state.revision) == (expected.status, expected.revision)
            assert state.name == expected.name
            moves = [
                (step.index, step.event)
                for step in self.manager.history(name)
                if step.event not in ("claimed", "released", "saved")
            ]
            assert moves == self.story[name]
        assert self.manager.list_experiments() == sorted(self.model)

    @invariant()
    def every_step_is_one_of_the_machines(self) -> None:
        for name in self.model:
            path = self.manager.folder(name)
            if path.exists():
                with Opened.at(Files(), path) as folder:
                    assert list(legality.violations(folder)) == []


# A view that was lost or lies behind is reported at every look, as it should be.
pytestmark = pytest.mark.filterwarnings("ignore::holdfast.errors.UnreadableStateWarning")


class TestStateDirectory(StateDirectory.TestCase):
    """Short lives, in every run."""

    settings = settings(max_examples=60, stateful_step_count=30)


@pytest.mark.long
class TestStateDirectoryForLong(StateDirectory.TestCase):
    """Many long ones."""

    settings = settings(max_examples=2000, stateful_step_count=60)
