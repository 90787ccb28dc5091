"""One directory of experiments: made, read, saved, found and resolved, with real files."""

import errno
import json
import os
import shutil
import stat
import warnings
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import attrs
import pytest

from holdfast import compute_config_hash
from holdfast.errors import (
    AlreadyOwnedError,
    AmbiguousExperimentError,
    DiskError,
    ExperimentExistsError,
    ExperimentNotFoundError,
    HoldfastError,
    InvalidIdError,
    InvalidTransitionError,
    SchemaTooNewError,
    StaleStateError,
    StateCorruptError,
    StateWriteError,
    UnreadableStateWarning,
)
from holdfast.lifecycle.records import ExperimentState
from holdfast.status import ExperimentStatus, ProcessStatus
from holdfast.store.files import Files
from holdfast.store.manager import StateManager
from processes import hear, owner, python, run
from waiting import PATIENCE_S


def content(directory: Path) -> dict[str, bytes | None]:
    """Everything below *directory*, by path."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
    }


def aggregated(manager: StateManager, experiment_id: str) -> None:
    with manager.claim(experiment_id) as claim:
        claim.record("start")
        for index in range(claim.state.num_processes):
            claim.record("start", index)
            claim.record("complete", index, exit_code=0)
        claim.record("complete")
        claim.record("aggregate")


# -- create ---------------------------------------------------------------------------------------


def test_total_runs_makes_that_many_pending_processes(
    manager: StateManager, state_dir: Path
) -> None:
    """`create("exp_123", total_runs=4)` gives four pending processes, in a file that `jq` reads."""
    made = manager.create("exp_123", total_runs=4, config={"lr": 0.1}, name="a try", cwd="/work")
    assert made.processes_pending == made.num_processes == 4
    assert made.status is ExperimentStatus.INITIALISED
    assert manager.load("exp_123") == made
    plain = json.loads((state_dir / "exp_123.json").read_text("ascii"))
    assert plain["process_progress"] == {str(index): {"status": "pending"} for index in range(4)}
    assert plain["config"] == {"lr": 0.1}
    assert sorted(content(state_dir)) == ["exp_123.json"]


def test_the_config_is_hashed_unless_the_hash_is_given(manager: StateManager) -> None:
    """Who hashes only a part of the configuration says so."""
    config = {"lr": 0.1, "n": 3}
    assert manager.create(config=config).config_hash == compute_config_hash(config)
    assert manager.create(config=config, config_hash="abc").config_hash == "abc"
    assert manager.create().config_hash is None


def test_many_experiments_of_one_second_have_different_ids(
    state_dir: Path, fixed_clock: Callable[[], datetime]
) -> None:
    """The clock stands still, the ids do not."""
    manager = StateManager(state_dir, clock=fixed_clock)
    ids = [manager.create().experiment_id for _ in range(30)]
    assert ids[:2] == ["exp_20240115_123456", "exp_20240115_123456_2"]
    assert len(set(ids)) == 30
    assert manager.list_experiments() == sorted(ids)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_processes": 0}, "at least one"),
        ({"total_runs": -1}, "at least one"),
        ({"num_processes": True}, "at least one"),
        ({"num_processes": 2, "total_runs": 3}, "mean the same"),
        ({"config": {"lr": float("nan")}}, "JSON"),
    ],
)
def test_a_refused_create_leaves_no_trace(
    manager: StateManager, state_dir: Path, arguments: dict[str, object], message: str
) -> None:
    """What cannot be an experiment does not even make the directory."""
    with pytest.raises(ValueError, match=message):
        manager.create("exp_7", **arguments)  # type: ignore[arg-type]
    assert not state_dir.exists()


def test_an_id_is_given_once(manager: StateManager, state_dir: Path) -> None:
    """An existing experiment is never overwritten by another one of its name."""
    manager.create("exp_7", num_processes=2)
    before = content(state_dir)
    with pytest.raises(ExperimentExistsError, match="'exp_7' exists already"):
        manager.create("exp_7")
    assert content(state_dir) == before


def test_a_journal_without_its_view_is_still_an_experiment(
    manager: StateManager, state_dir: Path
) -> None:
    """Somebody removed the readable file: the truth is in the journals, and the id stays taken."""
    manager.create("exp_7")
    aggregated(manager, "exp_7")
    (state_dir / "exp_7.json").unlink()
    with pytest.raises(ExperimentExistsError, match="journal"):
        manager.create("exp_7")
    with pytest.warns(UnreadableStateWarning, match="missing"):
        assert manager.load("exp_7").status is ExperimentStatus.AGGREGATED
    assert manager.list_experiments() == ["exp_7"]
    manager.claim("exp_7").release()
    assert (state_dir / "exp_7.json").exists()


_CREATE = """
import sys
from holdfast import StateManager
from holdfast.errors import ExperimentExistsError
manager = StateManager(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for number in range(40):
    try:
        manager.create(f"exp_{number}", num_processes=2)
        print(number, flush=True)
    except ExperimentExistsError:
        pass
    manager.create()
"""


def test_two_creates_at_the_same_instant_make_one_experiment(
    manager: StateManager, state_dir: Path
) -> None:
    """Three processes create the same forty ids: each is made once, nobody gets another error."""
    racers = [python(_CREATE, state_dir) for _ in range(3)]
    for racer in racers:
        assert racer.stdout is not None
        hear(racer.stdout, "ready")
    made: list[str] = []
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        out, err = racer.communicate(timeout=PATIENCE_S)
        assert racer.returncode == 0, err
        made += out.split()
    assert sorted(made, key=int) == [str(number) for number in range(40)]
    # Those without an id were made in the same seconds, and none was lost either.
    assert len(manager.list_experiments()) == 40 + 3 * 40
    assert not [name for name in os.listdir(state_dir) if name.startswith(".")]


@pytest.mark.parametrize("bad", ["", "a\0b", "\ud800"])
def test_what_cannot_name_a_file_is_an_error_of_ours(manager: StateManager, bad: str) -> None:
    """Every method refuses it the same way."""
    for method in (manager.load, manager.claim, manager.delete, manager.history, manager.create):
        with pytest.raises(InvalidIdError):
            method(bad)


def test_an_empty_id_is_not_no_id(manager: StateManager) -> None:
    """A script with an unset variable must not get an experiment that it cannot name."""
    with pytest.raises(InvalidIdError):
        manager.create("")


def test_ids_that_look_alike_do_not_meet(manager: StateManager) -> None:
    """`a/b`, `a_b` and `A/b` are three experiments, under their true names."""
    for name in ("a/b", "a_b", "A/b", "../up", "größe", "nul"):
        manager.create(name, config={"of": name})
    for name in ("a/b", "a_b", "A/b", "../up", "größe", "nul"):
        assert manager.load(name).config == {"of": name}
        with manager.claim(name) as claim:
            assert claim.state.experiment_id == name
    assert set(manager.list_experiments()) == {"a/b", "a_b", "A/b", "../up", "größe", "nul"}


def test_the_file_name_of_an_id_is_not_a_second_id(manager: StateManager) -> None:
    """Who names an experiment exactly like the file of another one does not get the other one."""
    manager.create("a/b")
    alias = manager.folder("a/b").name
    for method in (manager.load, manager.claim, manager.delete, manager.history):
        with pytest.raises(ExperimentNotFoundError):
            method(alias)
    with pytest.raises(ExperimentExistsError, match="that of 'a/b'"):
        manager.create(alias)
    assert manager.load("a/b").experiment_id == "a/b"


def test_files_honour_the_umask(manager: StateManager, state_dir: Path) -> None:
    """A group that shares a directory can work in it; who does not want that sets the umask."""
    before = os.umask(0o002)
    try:
        manager.create("exp_7")
        aggregated(manager, "exp_7")
        os.umask(0o077)
        manager.create("private")
    finally:
        os.umask(before)
    modes = {
        str(path.relative_to(state_dir)): stat.S_IMODE(path.stat().st_mode)
        for path in state_dir.rglob("*")
    }
    assert modes.pop("private.json") == 0o600
    assert {mode for path, mode in modes.items() if path.endswith(("json", "jsonl"))} == {0o664}
    assert modes["exp_7"] == modes["exp_7/journal"] == 0o775
    assert modes["exp_7/lock"] == 0o664


def test_what_may_not_be_looked_into_is_not_hidden(manager: StateManager, state_dir: Path) -> None:
    """Another user's folder without a readable view is unreadable, not absent."""
    manager.create("theirs")
    aggregated(manager, "theirs")
    (state_dir / "theirs.json").unlink()

    class Foreign(Files):
        def stat(self, name: str, dir_fd: int | None = None) -> os.stat_result:
            if name.startswith("theirs/"):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return super().stat(name, dir_fd)

        def open_dir(self, name: str | os.PathLike[str], dir_fd: int | None = None) -> int:
            if name == "theirs":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return super().open_dir(name, dir_fd)

    foreign = StateManager(state_dir, files=Foreign())
    ((path, error),) = foreign.unreadable()
    assert path.name == "theirs.json"
    assert "EACCES" in str(error)
    for method in (foreign.load, foreign.claim, foreign.delete):
        with pytest.raises((StateCorruptError, DiskError), match="EACCES"):
            method("theirs")


# -- load -----------------------------------------------------------------------------------------


def test_an_unknown_id_names_what_it_may_have_been_meant_for(manager: StateManager) -> None:
    """A typo is answered with the ids that are there."""
    for each in ("codec-shootout", "codec-shootout-2", "other"):
        manager.create(each)
    for method in (manager.load, manager.claim, manager.delete, manager.history, manager.liveness):
        with pytest.raises(ExperimentNotFoundError) as caught:
            method("codec-shotout")
        assert caught.value.close_matches == ("codec-shootout", "codec-shootout-2")
        assert "did you mean: codec-shootout" in str(caught.value)


def test_reading_makes_nothing(manager: StateManager, state_dir: Path) -> None:
    """Asking for what is not there leaves no directory behind."""
    for method in (manager.load, manager.claim, manager.delete, manager.history):
        with pytest.raises(ExperimentNotFoundError):
            method("exp_7")
    assert manager.list_experiments() == []
    assert manager.find_incomplete() == []
    assert manager.unreadable() == []
    assert manager.cleanup_stale() == []
    assert not state_dir.exists()
    manager.create("exp_8")
    before = content(state_dir)
    for method in (manager.load, manager.claim, manager.delete, manager.history):
        with pytest.raises(ExperimentNotFoundError):
            method("exp_7")
    assert content(state_dir) == before


def test_damaged_and_newer_files_are_named_and_left_alone(
    manager: StateManager, state_dir: Path
) -> None:
    """Every method says which file and why; none writes."""
    manager.create("fine")
    (state_dir / "cut.json").write_text('{"experiment_id": "cu')
    (state_dir / "newer.json").write_text('{"experiment_id": "newer", "schema_version": 99}')
    before = content(state_dir)
    for method in (manager.load, manager.claim, manager.delete, manager.history):
        with pytest.raises(StateCorruptError, match=r"cut\.json"):
            method("cut")
        with pytest.raises(SchemaTooNewError, match="schema 99"):
            method("newer")
    for taken in ("cut", "newer"):
        with pytest.raises(ExperimentExistsError):
            manager.create(taken)
    assert content(state_dir) == before


def test_unreadable_files_never_hide_and_never_stop_a_listing(
    manager: StateManager, state_dir: Path
) -> None:
    """Listings go on past them with a warning, `unreadable()` names each with its error."""
    for each in ("a", "m", "z"):
        manager.create(each)
    (state_dir / "bad.json").write_text("nonsense")
    (state_dir / "newer.json").write_text('{"experiment_id": "newer", "schema_version": 99}')
    shutil.copy(state_dir / "a.json", state_dir / "copy.json")
    with pytest.warns(UnreadableStateWarning, match="3 unreadable"):
        assert manager.list_experiments() == ["a", "m", "z"]
    with pytest.warns(UnreadableStateWarning):
        assert len(manager.find_incomplete()) == 3
    found = dict(manager.unreadable())
    assert {path.name for path in found} == {"bad.json", "newer.json", "copy.json"}
    assert isinstance(found[state_dir / "newer.json"], SchemaTooNewError)
    assert "whose file is a.json" in str(found[state_dir / "copy.json"])


def test_a_state_directory_that_is_none_is_an_error_of_ours(tmp_path: Path) -> None:
    """A file in the place of the directory is named, by readers and writers."""
    path = tmp_path / "state"
    path.write_text("I am a file")
    manager = StateManager(path)
    for call in (manager.list_experiments, manager.unreadable, manager.cleanup_stale):
        with pytest.raises(StateCorruptError, match="state"):
            call()
    for method in (manager.load, manager.claim, manager.create):
        with pytest.raises((StateCorruptError, DiskError)):
            method("exp_7")
    assert path.read_text() == "I am a file"


def test_a_view_that_disagrees_is_reported_and_healed_by_the_next_claim(
    manager: StateManager, state_dir: Path
) -> None:
    """The journal counts; the reader is told; nobody but a new owner writes."""
    manager.create("exp_7")
    old = (state_dir / "exp_7.json").read_bytes()
    with manager.claim("exp_7") as claim:
        claim.record("start")
    good = (state_dir / "exp_7.json").read_bytes()
    for stray in (old, b"nonsense", b'{"epoch": "x", "revision": []}', b"[]"):
        (state_dir / "exp_7.json").write_bytes(stray)
        with pytest.warns(UnreadableStateWarning, match="the journal counts"):
            assert manager.load("exp_7").status is ExperimentStatus.RUNNING
        assert (state_dir / "exp_7.json").read_bytes() == stray
    (state_dir / "exp_7.json").write_bytes(good)
    assert manager.load("exp_7").status is ExperimentStatus.RUNNING
    (state_dir / "exp_7.json").write_bytes(old)
    manager.claim("exp_7").release()
    assert json.loads((state_dir / "exp_7.json").read_bytes())["status"] == "running"
    assert manager.load("exp_7").revision == 1


# -- save -----------------------------------------------------------------------------------------


def test_a_saved_state_comes_back_with_the_next_revision(manager: StateManager) -> None:
    """Save returns what is stored, ready to be changed again."""
    state = manager.create("exp_7", num_processes=2)
    state = manager.save(attrs.evolve(state, name="better", status="running"))
    assert (state.revision, state.name) == (1, "better")
    state = manager.save(attrs.evolve(state, extra={"note": 1}))
    assert (state.revision, state.extra) == (2, {"note": 1})
    loaded = manager.load("exp_7")
    # Letting go is recorded after the save.
    released = {"owner": loaded.owner, "last_updated": loaded.last_updated}
    assert loaded == attrs.evolve(state, **released)
    moves = [(step.event, step.evidence) for step in manager.history("exp_7")]
    assert ("start", "saved") in moves


def test_an_older_revision_never_overwrites(manager: StateManager, state_dir: Path) -> None:
    """Of two who loaded the same revision, the second to save is told so."""
    first = manager.create("exp_7")
    second = manager.load("exp_7")
    manager.save(attrs.evolve(first, name="first"))
    with pytest.raises(StaleStateError) as caught:
        manager.save(attrs.evolve(second, name="second"))
    assert (caught.value.given_revision, caught.value.stored_revision) == (0, 1)
    assert manager.load("exp_7").name == "first"
    # A revision that was made up is no better.
    with pytest.raises(StaleStateError):
        manager.save(attrs.evolve(first, revision=99))


def test_saving_is_refused_while_another_owner_lives(
    manager: StateManager, state_dir: Path
) -> None:
    """An orchestrator's experiment is not changed under its feet."""
    manager.create("exp_7")
    with owner(state_dir, "exp_7"):
        state = manager.load("exp_7")
        with pytest.raises(AlreadyOwnedError):
            manager.save(attrs.evolve(state, name="mine"))
        assert manager.load("exp_7").name is None


def moved(state: ExperimentState, index: int, **changed: object) -> ExperimentState:
    progress = dict(state.process_progress)
    progress[index] = attrs.evolve(progress[index], **changed)  # type: ignore[arg-type]
    return attrs.evolve(state, process_progress=progress)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        pytest.param(lambda s: attrs.evolve(s, status="aggregated"), "aggregated", id="two steps"),
        pytest.param(lambda s: attrs.evolve(s, status="initialised"), "initialised", id="back"),
        pytest.param(lambda s: attrs.evolve(s, status="completed"), "not completed", id="guard"),
        pytest.param(
            lambda s: moved(s, 0, status="completed", exit_code=0), "nothing proves", id="unstarted"
        ),
        pytest.param(lambda s: moved(s, 1, status="completed", exit_code=3), "exit", id="exit 3"),
        pytest.param(lambda s: moved(s, 1, status="completed"), "exit code", id="no exit code"),
        pytest.param(lambda s: moved(s, 1, status="pending"), "not proven dead", id="orphaned?"),
        pytest.param(lambda s: moved(s, 2, status="pending"), "result", id="result lost?"),
        pytest.param(lambda s: moved(s, 2, status="running"), "running", id="completed again"),
    ],
)
def test_save_takes_no_step_that_the_machines_do_not_allow(
    manager: StateManager,
    changed: Callable[[ExperimentState], ExperimentState],
    why: str,
) -> None:
    """Each status may differ by one legal event only, guards included."""
    manager.create("exp_7", num_processes=3)
    with manager.claim("exp_7") as claim:
        claim.record("start")
        claim.record("start", 1)
        claim.record("start", 2)
        claim.record("complete", 2, exit_code=0)
    state = manager.load("exp_7")
    with pytest.raises(InvalidTransitionError, match=why):
        manager.save(changed(state))
    after = manager.load("exp_7")
    assert after.revision == state.revision
    assert after.process_progress == state.process_progress


def test_a_refused_save_says_from_where_and_what_is_allowed(manager: StateManager) -> None:
    """A status that no single event reaches is told with those that lead there."""
    state = manager.create("exp_7", num_processes=1)
    with pytest.raises(InvalidTransitionError) as caught:
        manager.save(moved(state, 0, status="completed", exit_code=0))
    assert str(caught.value) == (
        "exp_7/0: cannot reuse while pending: "
        "nothing proves that another experiment's process did the same work\n"
        "  allowed now: start"
    )
    with pytest.raises(InvalidTransitionError) as caught:
        manager.save(attrs.evolve(state, status="aggregated"))
    assert str(caught.value) == (
        "exp_7: cannot become aggregated while initialised: only possible from completed\n"
        "  allowed now: start, fail, interrupt"
    )


def test_save_moves_processes_and_experiment_by_one_event_each(manager: StateManager) -> None:
    """The last process and its experiment can be completed in one save; it is in the history."""
    manager.create("exp_7", num_processes=1)
    state = manager.save(attrs.evolve(manager.load("exp_7"), status="running"))
    state = manager.save(moved(state, 0, status="running", attempt=1))
    state = manager.save(
        attrs.evolve(moved(state, 0, status="completed", exit_code=0), status="completed")
    )
    assert state.can_aggregate()
    steps = [(step.index, step.event) for step in manager.history("exp_7") if step.evidence]
    assert steps == [(None, "start"), (0, "start"), (0, "complete"), (None, "complete")]


@pytest.mark.parametrize(
    "changed",
    [{"num_processes": 3, "process_progress": {}}, {"created_at": None}],
)
def test_what_never_changes_cannot_be_saved_changed(
    manager: StateManager, changed: dict[str, object]
) -> None:
    """The number of processes and the time of creation belong to the experiment's identity."""
    state = manager.create("exp_7", num_processes=2)
    with pytest.raises(ValueError, match="never changes"):
        manager.save(attrs.evolve(state, **changed))  # type: ignore[arg-type]


def test_save_writes_today_s_schema_whatever_the_record_says(manager: StateManager) -> None:
    """A record with a made-up schema version cannot make the experiment unreadable."""
    state = manager.create("exp_7")
    manager.save(attrs.evolve(state, schema_version=99))
    assert manager.load("exp_7").schema_version == 1


# -- finding --------------------------------------------------------------------------------------


def test_incomplete_is_everything_that_is_not_aggregated(manager: StateManager) -> None:
    """Failed, interrupted and completed ones wait for somebody, too."""
    for each in ("new", "running", "failed", "done"):
        manager.create(each)
    with manager.claim("running") as claim:
        claim.record("start")
    with manager.claim("failed") as claim:
        claim.record("fail", error_message="no disk")
    aggregated(manager, "done")
    assert [state.experiment_id for state in manager.find_incomplete()] == [
        "failed",
        "new",
        "running",
    ]
    assert manager.list_experiments() == ["done", "failed", "new", "running"]


def test_a_config_hash_finds_the_incomplete_experiment_made_for_it(
    manager: StateManager,
) -> None:
    """Aggregated ones only when asked for; none is None; two are never guessed between."""
    config = {"lr": 0.1}
    digest = compute_config_hash(config)
    assert manager.find_by_config_hash(digest) is None
    manager.create("one", config=config)
    manager.create("other", config={"lr": 0.2})
    found = manager.find_by_config_hash(digest)
    assert found is not None
    assert found.experiment_id == "one"
    aggregated(manager, "one")
    assert manager.find_by_config_hash(digest) is None
    found = manager.find_by_config_hash(digest, include_finished=True)
    assert found is not None
    assert found.status is ExperimentStatus.AGGREGATED
    manager.create("two", config=config)
    found = manager.find_by_config_hash(digest)
    assert found is not None
    assert found.experiment_id == "two"
    with pytest.raises(AmbiguousExperimentError) as caught:
        manager.find_by_config_hash(digest, include_finished=True)
    assert set(caught.value.matches) == {"one", "two"}


def test_prefixes_and_last_name_an_experiment(
    state_dir: Path, fixed_clock: Callable[[], datetime]
) -> None:
    """A unique prefix, the whole id even if it is a prefix of another, and the newest one."""
    manager = StateManager(state_dir, clock=fixed_clock)
    for each in ("beta_2", "beta", "alpha", "a/b"):
        manager.create(each)
        fixed_clock.advance(1)  # type: ignore[attr-defined]
    assert manager.resolve("al") == "alpha"
    assert manager.resolve("beta") == "beta"
    assert manager.resolve("a/b") == "a/b"
    assert manager.resolve("@last") == "a/b"
    with pytest.raises(AmbiguousExperimentError) as caught:
        manager.resolve("b")
    assert caught.value.matches == ("beta", "beta_2")
    for unknown in ("gamma", "", "alphaa"):
        with pytest.raises(ExperimentNotFoundError):
            manager.resolve(unknown)
    with pytest.raises(ExperimentNotFoundError):
        StateManager(state_dir / "elsewhere").resolve("@last")


def test_every_status_is_read_as_it_was_recorded_by_a_fresh_manager(
    manager: StateManager, state_dir: Path
) -> None:
    """A manager keeps nothing in memory: another process sees the same."""
    manager.create("exp_7", num_processes=2)
    aggregated(manager, "exp_7")
    code = "import sys; from holdfast import StateManager as M; print(M(sys.argv[1]).load('exp_7'))"
    assert run(code, state_dir).strip() == str(manager.load("exp_7"))
    assert StateManager(state_dir).load("exp_7").process_progress[1].status is (
        ProcessStatus.COMPLETED
    )


def test_only_one_holds_the_run_lock(manager: StateManager, state_dir: Path) -> None:
    """From a look-up to the claim that follows nobody else looks; a killed holder lets go."""
    code = """
import sys
from holdfast import StateManager
with StateManager(sys.argv[1]).run_lock():
    print("held", flush=True)
    sys.stdin.read()
"""
    with python(code, state_dir) as other:
        assert other.stdout is not None
        hear(other.stdout, "held")
        with pytest.raises(StateWriteError, match="another run"), manager.run_lock(wait_s=0.01):
            pytest.fail("two held it")
        other.kill()
        with manager.run_lock(wait_s=20):
            pass
    assert manager.list_experiments() == []


def test_errors_of_the_manager_are_all_of_one_base(manager: StateManager) -> None:
    """One `except HoldfastError` is enough."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for call in (manager.load, manager.claim, manager.delete, manager.history):
            with pytest.raises(HoldfastError):
                call("nobody")


def test_a_configuration_that_could_not_be_read_again_is_refused(manager: StateManager) -> None:
    """What JSON can write but not give back never gets into the store, hash given or not."""
    deep: dict[str, object] = {}
    for _ in range(200):
        deep = {"inner": deep}
    for config in (deep, {"1": "a", 1: "b"}, {"x": float("nan")}):
        with pytest.raises((TypeError, ValueError)):
            manager.create("e", num_processes=1, config=config, config_hash="given")  # type: ignore[arg-type]
    state = manager.create("e", num_processes=1)
    with pytest.raises((TypeError, ValueError)):
        manager.save(attrs.evolve(state, config=deep))
    assert manager.load("e").config == {}
