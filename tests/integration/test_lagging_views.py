"""A view that only lies behind its journal, as a death leaves it, is no cause for alarm."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import UnreadableStateWarning
from holdfast.lifecycle.records import ExperimentState
from holdfast.store.manager import StateManager
from processes import killed

ID = "exp_7"


@pytest.fixture
def manager(state_dir: Path) -> StateManager:
    found = StateManager(state_dir)
    found.create(ID, num_processes=3, name="näme", config={"b": 1, "a": [2.5]})
    return found


def told(manager: StateManager) -> tuple[ExperimentState, list[str]]:
    """What `load` returns, and what it warns of."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", UnreadableStateWarning)
        state = manager.load(ID)
    return state, [str(each.message) for each in found]


def view_of(manager: StateManager) -> Path:
    return manager.state_dir / f"{ID}.json"


@pytest.mark.parametrize(
    ("steps", "compact"),
    [
        ([], 1 << 20),
        ([("start",), ("start", 0), ("start", 1)], 1 << 20),
        ([("start",), ("start", 0), ("fail", 0), ("start", 1)], 1),
    ],
    ids=["claimed only", "a step behind", "compacted"],
)
def test_the_view_of_a_killed_owner_may_lie_behind(
    manager: StateManager, steps: list[tuple[Any, ...]], compact: int
) -> None:
    """It is refreshed every second, and what it tells was true: not a word, on no command."""
    killed(manager.state_dir, ID, *steps, compact=compact)
    state, warned = told(manager)
    seen = json.loads(view_of(manager).read_bytes())
    assert (seen["epoch"], seen["revision"]) < (state.epoch, state.revision)
    assert warned == []
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", "-C", str(manager.state_dir), "show", ID],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""


@pytest.mark.parametrize(
    "spoil",
    [
        lambda plain: plain | {"extra": {"note": "precious"}},
        lambda plain: plain | {"note": "precious"},
        lambda plain: plain | {"revision": 2},
        lambda plain: plain | {"epoch": 9, "revision": 0},
        lambda plain: plain | {"epoch": 0, "revision": -1},
        lambda plain: plain | {"revision": True},
    ],
    ids=["edited", "a new key", "another step", "ahead", "never", "no number"],
)
def test_what_was_never_true_is_told_although_its_owner_was_killed(
    manager: StateManager, spoil: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """No death explains words that no journal held."""
    killed(manager.state_dir, ID, ("start",), ("start", 0), ("start", 1))
    path = view_of(manager)
    path.write_text(json.dumps(spoil(json.loads(path.read_bytes()))))
    state, warned = told(manager)
    assert state.processes_running == 2
    [words] = warned
    assert "the journal counts" in words


def test_the_view_of_an_owner_that_died_while_it_let_go_is_no_cause_for_alarm(
    manager: StateManager,
) -> None:
    """Its last line says that it is free; the view, of some step before, does not yet."""
    former = []
    with manager.claim(ID) as claim:
        claim.record("start")
        former.append(view_of(manager).read_bytes())
        claim.record("start", 0)
        claim.record("interrupt")
        former.append(view_of(manager).read_bytes())
    for each in former:
        view_of(manager).write_bytes(each)
        assert told(manager)[1] == []
    view_of(manager).write_bytes(former[0].replace(b'"initialised"', b'"x"').replace(b"n", b"N", 1))
    assert len(told(manager)[1]) == 1


def test_a_view_that_was_brought_back_is_told(manager: StateManager) -> None:
    """Its last owner let go in order and had written another: who reads it with `jq` is misled."""
    with manager.claim(ID) as claim:
        claim.record("start")
    old = view_of(manager).read_bytes()
    with manager.claim(ID) as claim:
        claim.record("interrupt")
    view_of(manager).write_bytes(old)
    [words] = told(manager)[1]
    assert "tells of epoch 1, revision 1, 'running'; the journal of epoch 2, revision 2" in words


def test_a_view_of_an_older_version_is_no_cause_for_alarm(manager: StateManager) -> None:
    """It lacks what that version did not know, which says nothing."""
    with manager.claim(ID) as claim:
        claim.record("start")
    view = view_of(manager)
    known = json.loads(view.read_bytes())
    older = {key: value for key, value in known.items() if value is not None}
    assert older != known
    view.write_text(json.dumps(older))
    assert told(manager)[1] == []
    del older["created_at"]
    view.write_text(json.dumps(older))
    assert "differs from its journal in created_at;" in told(manager)[1][0]


def test_a_view_beside_a_damaged_older_journal_is_told(manager: StateManager) -> None:
    """What cannot be proven is not taken for harmless, and is no error either."""
    killed(
        manager.state_dir,
        ID,
        ("start",),
        ("start", 0),
        ("fail", 0),
        ("start", 1),
        ("start", 2),
        compact=1,
    )
    seen = json.loads(view_of(manager).read_bytes())
    first = manager.folder(ID) / "journal" / f"{seen['epoch']:08}.jsonl"
    first.write_bytes(b"nonsense\n" + first.read_bytes())
    state, warned = told(manager)
    assert seen["epoch"] < state.epoch
    assert len(warned) == 1
