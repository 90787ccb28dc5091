"""What was done is not done again: grown and reordered matrices, changed code, lost ancestors."""

import json
import os
import shlex
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from holdfast.config.experiment_file import load_config
from holdfast.engines.local.engine import LocalEngine
from holdfast.errors import CodeChangedError
from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration.orchestrator import Orchestrator
from holdfast.status import Reason
from holdfast.store.manager import StateManager
from shell import Shell, has_open
from waiting import PATIENCE_S, until

WORK = """
echo "$HOLDFAST_EXPERIMENT_ID $*" >> ran
echo "{\\"y\\": $(($1 * 100 + $2))}" > "$HOLDFAST_RESULT"
"""


def write(sh: Shell, lr: Sequence[int], seed: Sequence[int], more: str = "") -> None:
    (sh.path / "e.toml").write_text(
        f'command = ["sh", "work.sh", "{{lr}}", "{{seed}}"]\n'
        f"[matrix]\nlr = {list(lr)}\nseed = {list(seed)}\n[limits]\njobs = 4\n{more}"
    )


def starts(sh: Shell) -> Counter[str]:
    """How often each combination ran, whoever had it run."""
    path = sh.path / "ran"
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter(line.partition(" ")[2] for line in lines)


def newest(sh: Shell) -> ExperimentState:
    manager = StateManager(sh.states)
    states = map(manager.load, manager.list_experiments())
    return max(states, key=lambda state: state.created_at or 0)  # type: ignore[type-var, return-value]


def results(sh: Shell, state: ExperimentState) -> list[Any]:
    """The result of each process, by its index."""
    folder = StateManager(sh.states).folder(state.experiment_id)
    return [
        json.loads((folder / process.result.path).read_text())["y"]
        for process in state.process_progress.values()
        if process.result is not None
    ]


def reused(state: ExperimentState) -> list[int]:
    return [i for i, each in state.process_progress.items() if each.reason is Reason.REUSED]


@pytest.fixture
def swept(sh: Shell) -> Shell:
    """A finished sweep of 24."""
    (sh.path / "work.sh").write_text(WORK)
    write(sh, [1, 2, 3, 4], [1, 2, 3, 4, 5, 6])
    sh("run", "e.toml")
    assert sum(starts(sh).values()) == 24
    return sh


def test_a_sweep_that_grows_runs_only_what_is_new(swept: Shell) -> None:
    """One more value of a list: 6 of 30 are started, and it says so before that."""
    ancestor = newest(swept).experiment_id
    write(swept, [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6])
    plan = swept.json("run", "e.toml", "--dry-run")
    actions = Counter(each["action"] for each in plan["processes"])
    assert actions == {"reuse": 24, "run": 6}
    _, err = swept("run", "e.toml")
    assert f"24 of 30 are finished in {ancestor}, 6 to run" in err
    assert starts(swept) == Counter(f"{lr} {seed}" for lr in range(1, 6) for seed in range(1, 7))
    state = newest(swept)
    assert len(reused(state)) == 24
    assert results(swept, state) == [lr * 100 + s for lr in range(1, 6) for s in range(1, 7)]
    origin = state.processes[0].origin
    assert origin is not None
    assert (origin.experiment_id, origin.process, origin.attempt, origin.via) == (
        *(ancestor, 0, 1), None,
    )  # fmt: skip
    [told] = [e for e in StateManager(swept.states).history(state.experiment_id)
              if e.event == "reuse" and e.index == 3]  # fmt: skip
    assert told.evidence == f"the same work as {ancestor}/3, attempt 1"


def test_a_sweep_that_shrinks_or_is_reordered_runs_nothing(swept: Shell) -> None:
    """Giving combinations up means taking them out: the rest is aggregated without a start."""
    write(swept, [3, 1], [6, 2, 4])
    swept("run", "e.toml")
    assert results(swept, newest(swept)) == [306, 302, 304, 106, 102, 104]
    (swept.path / "e.toml").write_text(
        'command = ["sh", "work.sh", "{lr}", "{seed}"]\n'
        "[matrix]\nseed = [6, 5, 4, 3, 2, 1]\nlr = [4, 3, 2, 1]\n"
    )
    swept("run", "e.toml")
    assert sum(starts(swept).values()) == 24


def test_fresh_runs_all_and_its_resume_reuses_nothing(swept: Shell) -> None:
    """Who asked for all of it anew gets that, over a crash, too."""
    write(swept, [1, 2, 3, 4, 5], [1])
    swept("run", "e.toml", "--fresh")
    assert sum(starts(swept).values()) == 29
    assert newest(swept).reuse is None


def test_what_failed_is_given_up_by_taking_it_out(sh: Shell) -> None:
    """Of an experiment that failed, what completed is reused."""
    (sh.path / "work.sh").write_text('[ "$1" = 2 ] && exit 3\n' + WORK)
    write(sh, [1, 2, 3], [1, 2])
    sh("run", "e.toml", code=3)
    write(sh, [1, 3], [1, 2])
    sh("run", "e.toml")
    assert sum(starts(sh).values()) == 4
    assert len(reused(newest(sh))) == 4


@pytest.mark.parametrize("damage", ["altered", "truncated", "deleted"])
def test_a_result_that_is_not_as_it_was_is_not_reused(swept: Shell, damage: str) -> None:
    """Exactly its process runs, and that is said; the others are reused."""
    old = newest(swept)
    ref = old.processes[7].result
    assert ref is not None
    path = swept.states / old.experiment_id / ref.path
    if damage == "deleted":
        path.unlink()
    elif damage == "truncated":
        os.truncate(path, 3)
    else:
        path.write_text(path.read_text().replace("202", "203"))
    write(swept, [2, 1], [1, 2, 3, 4, 5, 6])
    plan = swept.json("run", "e.toml", "--dry-run")
    assert [each["index"] for each in plan["processes"] if each["action"] == "run"] == [1]
    _, err = swept("run", "e.toml")
    assert "1 of 12 is not reused" in err
    assert starts(swept)["2 2"] == 2
    assert sum(starts(swept).values()) == 25
    assert results(swept, newest(swept))[1] == 202


def test_nothing_that_becomes_of_the_ancestor_matters_afterwards(swept: Shell) -> None:
    """It is edited, then deleted; a third reuses by way of the second, which says from where."""
    first = newest(swept)
    write(swept, [4, 3], [1, 2])
    swept("run", "e.toml")
    second = newest(swept)
    for process in first.process_progress.values():
        assert process.result is not None
        (swept.states / first.experiment_id / process.result.path).write_text("{}")
    assert results(swept, second) == [401, 402, 301, 302]
    swept("rm", first.experiment_id, "--yes")
    write(swept, [3], [2, 1])
    swept("run", "e.toml")
    third = newest(swept)
    assert results(swept, third) == [302, 301]
    origin = third.processes[0].origin
    assert origin is not None
    assert (origin.experiment_id, origin.process) == (first.experiment_id, 13)
    assert origin.via == second.experiment_id
    assert sum(starts(swept).values()) == 24


def test_the_newest_of_several_candidates_is_taken_and_said(swept: Shell) -> None:
    """Both did it, and both are proven."""
    write(swept, [1], [1, 2])
    swept("run", "e.toml", "--fresh")
    second = newest(swept).experiment_id
    write(swept, [1], [2])
    _, err = swept("run", "e.toml")
    assert f"1 of 1 are finished in {second} (the newest of 2), 0 to run" in err


def test_the_copy_is_read_only_and_its_own(swept: Shell) -> None:
    """A file of its own unless hard links were asked for."""
    old = newest(swept)
    write(swept, [1], [1])
    swept("run", "e.toml")
    path = swept.states / newest(swept).experiment_id / "results" / "0.0.json"
    assert path.stat().st_mode & 0o222 == 0
    assert path.stat().st_nlink == 1
    write(swept, [1], [2], "[store]\nlink = true\n")
    swept("run", "e.toml")
    path = swept.states / newest(swept).experiment_id / "results" / "0.0.json"
    ref = old.processes[1].result
    assert ref is not None
    assert path.samefile(swept.states / old.experiment_id / ref.path)


def test_equal_work_is_matched_one_to_one(sh: Shell) -> None:
    """Two processes of equal work are not given the one that there is twice."""
    (sh.path / "work.sh").write_text(WORK)
    write(sh, [1], [1])
    sh("run", "e.toml")
    (sh.path / "e.toml").write_text(
        'command = ["sh", "work.sh", "{lr}", "{seed}"]\n'
        "[matrix]\ninclude = [{lr = 1, seed = 1}, {lr = 1, seed = 1}]\n"
    )
    sh("run", "e.toml")
    assert starts(sh) == {"1 1": 2}
    assert len(reused(newest(sh))) == 1


# -- code that changed ----------------------------------------------------------------------------


def test_finished_work_whose_script_changed_starts_nothing(swept: Shell) -> None:
    """Exit 2, with both ways, and each of them does what it says."""
    with (swept.path / "work.sh").open("a") as file:
        file.write("# another\n")
    _, err = swept("run", "e.toml", code=2)
    assert "work.sh changed since 24 of 24 ran; nothing was started" in err
    for way in ("--keep-results", "--rerun-changed"):
        assert way in err
    swept("run", "e.toml", "--dry-run", code=2)
    swept("resume", "@last", code=2)
    swept("run", "e.toml", "--keep-results")
    assert len(StateManager(swept.states).list_experiments()) == 1
    swept("run", "e.toml", "--rerun-changed")
    assert set(starts(swept).values()) == {2}
    swept("run", "e.toml")
    assert sum(starts(swept).values()) == 48


def test_the_ways_out_are_for_the_file_as_it_was_set(swept: Shell) -> None:
    """Typed as they are printed, they are about the work that was asked for."""
    only = ("--set", "matrix.lr=[1, 2]", "--set", "matrix.seed=[1]")
    swept("run", "e.toml", *only)
    with (swept.path / "work.sh").open("a") as file:
        file.write("# another\n")
    for verb in (("run",), ("run", "-n"), ("explain",)):
        _, err = swept(*verb, "e.toml", *only, code=2)
        [line] = [line for line in err.splitlines() if "--rerun-changed" in line]
        words = shlex.split(line.partition("the rest: ")[2])
        assert words[-5:-2] == [*("run", "--set=matrix.lr=[1, 2]", "--set=matrix.seed=[1]")]
    swept(*words[-5:])
    assert sorted(starts(swept).values()) == [1] * 22 + [2] * 2


def test_a_reuse_of_what_ran_with_other_code_is_asked_about(swept: Shell) -> None:
    """Nothing is made; kept, they are reused, else run again beside what is new."""
    with (swept.path / "work.sh").open("a") as file:
        file.write("# another\n")
    write(swept, [1, 5], [1, 2])
    _, err = swept("run", "e.toml", code=2)
    assert "work.sh changed since 2 of 4 were finished in" in err
    assert len(StateManager(swept.states).list_experiments()) == 1
    swept("run", "e.toml", "--keep-results")
    assert len(reused(newest(swept))) == 2
    write(swept, [2, 5], [1, 3])
    swept("run", "e.toml", "--rerun-changed")
    state = newest(swept)
    assert reused(state) == [2]
    assert sum(starts(swept).values()) == 24 + 2 + 3


def test_a_mended_script_never_keeps_anybody_from_resuming(sh: Shell) -> None:
    """An unfinished experiment goes on, and says what changed since how many ran."""
    (sh.path / "work.sh").write_text('[ "$1" = 2 ] && exit 3\n' + WORK)
    write(sh, [1, 2], [1, 2])
    sh("run", "e.toml", code=3)
    (sh.path / "work.sh").write_text(WORK)
    _, err = sh("run", "e.toml")
    assert "work.sh changed since 2 of 4 ran" in err
    assert starts(sh) == {"1 1": 1, "1 2": 1, "2 1": 1, "2 2": 1}


def test_what_is_unfinished_is_not_rerun_beside_itself(sh: Shell) -> None:
    """Two unfinished experiments of one work could not be told apart by the next run."""
    (sh.path / "work.sh").write_text('[ "$1" = 2 ] && exit 3\n' + WORK)
    write(sh, [1, 2], [1])
    sh("run", "e.toml", code=3)
    (sh.path / "work.sh").write_text(WORK)
    for words in (["run", "e.toml"], ["resume", "@last"], ["explain", "e.toml"]):
        _, err = sh(*words, "--rerun-changed", code=2)
        assert "--rerun-changed: it is unfinished, and goes on with the code as it is now" in err
    _, err = sh("run", "e.toml", "--resume", "@last", "--rerun-changed", code=2)
    assert "--resume goes on with" in err
    assert len(StateManager(sh.states).list_experiments()) == 1
    sh("run", "e.toml")
    _, err = sh("run", "e.toml", "--resume", "@last", "-n", code=2)
    assert "work.sh changed since 1 of 2 ran" in err


def test_what_an_attempt_writes_is_no_code(sh: Shell) -> None:
    """`--out model.pt`, there before or not, rewritten as it was or not."""
    (sh.path / "work.sh").write_text(WORK + 'printf m > "$3"\n')
    (sh.path / "model.pt").write_text("m")
    (sh.path / "e.toml").write_text(
        'command = ["sh", "work.sh", "1", "1", "model.pt", "other.pt"]\n'
    )
    sh("run", "e.toml")
    (sh.path / "model.pt").unlink()
    (sh.path / "other.pt").write_text("x")
    sh("run", "e.toml")
    assert sum(starts(sh).values()) == 1


def test_a_changed_aggregate_is_a_new_experiment_that_runs_nothing(swept: Shell) -> None:
    """Aggregated is final."""
    write(swept, [1, 2, 3, 4], [1, 2, 3, 4, 5, 6], '[aggregate]\ncommand = ["true"]\n')
    _, err = swept("run", "e.toml")
    assert "24 of 24 are finished" in err
    assert sum(starts(swept).values()) == 24
    assert len(StateManager(swept.states).list_experiments()) == 2


def test_a_mended_aggregation_is_not_made_once_more(sh: Shell) -> None:
    """What it succeeded with counts, not what the experiment was made with."""
    (sh.path / "work.sh").write_text(WORK)
    write(sh, [1, 2], [1], '[aggregate]\ncommand = ["false"]\n')
    sh("run", "e.toml", code=3)
    write(sh, [1, 2], [1], '[aggregate]\ncommand = ["true"]\n')
    sh("run", "e.toml")
    _, err = sh("run", "e.toml")
    assert "aggregated already, nothing to do" in err
    assert len(StateManager(sh.states).list_experiments()) == 1


def test_a_changed_script_of_the_aggregation_is_asked_about(sh: Shell) -> None:
    """Rerun, it makes a new experiment, and no process runs again."""
    (sh.path / "work.sh").write_text(WORK)
    (sh.path / "sum.sh").write_text('echo 1 > "$HOLDFAST_RESULT"\n')
    write(sh, [1, 2], [1], '[aggregate]\ncommand = ["sh", "sum.sh"]\n')
    sh("run", "e.toml")
    sh("run", "e.toml")
    (sh.path / "sum.sh").write_text('echo 2 > "$HOLDFAST_RESULT"\n')
    _, err = sh("run", "e.toml", code=2)
    assert "is finished, and sum.sh changed since it was aggregated; nothing was started" in err
    shown, _ = sh("show", newest(sh).experiment_id)
    assert "outdated: sum.sh changed since it was aggregated" in shown
    sh("run", "e.toml", "--keep-results")
    out, _ = sh("run", "e.toml", "--rerun-changed", "--json")
    assert json.loads(out)["aggregate"]["value"] == 2
    assert set(starts(sh).values()) == {1}


# -- gangs ----------------------------------------------------------------------------------------

GANG = """
echo "gang $1" >> ran
"""


def test_a_gang_is_reused_all_or_none(sh: Shell) -> None:
    """With one rank's result gone, the launcher runs again; the other gang is reused."""
    (sh.path / "work.sh").write_text(GANG)
    text = 'command = ["sh", "work.sh", "{lr}"]\nranks = 2\n[matrix]\nlr = '
    (sh.path / "e.toml").write_text(text + "[1, 2]\n")
    sh("run", "e.toml")
    assert starts(sh) == {"1": 1, "2": 1}
    (sh.path / "e.toml").write_text(text + "[3, 2, 1]\n")
    sh("run", "e.toml")
    assert starts(sh) == {"1": 1, "2": 1, "3": 1}
    assert reused(newest(sh)) == [2, 3, 4, 5]


# -- at once, and killed --------------------------------------------------------------------------


def test_two_runs_that_reuse_at_once_make_one_experiment(swept: Shell) -> None:
    """Of one file: one of them does it, the other finds it."""
    write(swept, [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6])
    both = [swept.start("run", "e.toml") for _ in range(2)]
    ends = [(each.communicate(timeout=PATIENCE_S), each.returncode)[1] for each in both]
    assert sorted(ends) in ([0, 0], [0, 5])
    assert len(StateManager(swept.states).list_experiments()) == 2
    assert set(starts(swept).values()) == {1}


def test_two_files_reuse_the_same_ancestor_at_once(swept: Shell) -> None:
    """Each has its own copy."""
    text = (swept.path / "e.toml").read_text()
    (swept.path / "f.toml").write_text(text.replace("[1, 2, 3, 4]", "[4, 3, 2]"))
    (swept.path / "g.toml").write_text(text.replace("[1, 2, 3, 4]", "[3, 2, 1]"))
    both = [swept.start("run", name) for name in ("f.toml", "g.toml")]
    assert [(each.communicate(timeout=PATIENCE_S), each.returncode)[1] for each in both] == [0, 0]
    assert set(starts(swept).values()) == {1}


@pytest.mark.parametrize("operation", ["openat", "fsync", "linkat"])
def test_a_reuse_that_is_killed_is_done_by_the_next(swept: Shell, operation: str) -> None:
    """Killed in the midst of it, again and again: nothing finished is started a second time."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is missing")
    write(swept, [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6])
    for at in (4, 17):
        inject = f"inject={operation}:signal=KILL:when={at}"
        # Of `holdfast` alone: what it started lives on, as after any kill -9.
        command = f"{strace} -qq -o /dev/null -e trace={operation} -e {inject}"
        swept.shell(f"holdfast() {{ {command} {sys.executable} -m holdfast \"$@\"; }};"
                    f" holdfast run e.toml -j 1")  # fmt: skip
    swept("run", "e.toml")
    state = newest(swept)
    assert results(swept, state) == [lr * 100 + s for lr in range(1, 6) for s in range(1, 7)]
    old = {k: v for k, v in starts(swept).items() if not k.startswith("5 ")}
    assert set(old.values()) == {1}


def test_an_ancestor_may_be_removed_in_the_midst_of_it(swept: Shell) -> None:
    """Whatever was taken by then is reused, the rest runs, and every result is right."""
    old = newest(swept).experiment_id
    write(swept, [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6])
    run = swept.start("run", "e.toml")
    swept("rm", old, "--yes")
    _, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0, err
    state = newest(swept)
    assert results(swept, state) == [lr * 100 + s for lr in range(1, 6) for s in range(1, 7)]
    assert sum(starts(swept).values()) == 24 + 30 - len(reused(state))


def test_ctrl_c_during_a_reuse_leaves_what_can_go_on(swept: Shell) -> None:
    """Interrupted, resumed, and nothing that was finished is started."""
    write(swept, [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6])
    run = swept.start("run", "e.toml")
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=PATIENCE_S)
    swept("run", "e.toml")
    old = {k: v for k, v in starts(swept).items() if not k.startswith("5 ")}
    assert set(old.values()) == {1}


def test_the_library_says_what_the_command_line_says(swept: Shell) -> None:
    """`Orchestrator.run` reuses, counts, notes and refuses."""
    write(swept, [1], [1, 2, 7])
    manager = StateManager(swept.states)
    notes: list[str] = []
    here = Path.cwd()
    os.chdir(swept.path)
    try:
        with LocalEngine() as engine:
            orchestrator = Orchestrator(manager, engine, on_note=notes.append)
            outcome = orchestrator.run(load_config(swept.path / "e.toml"))
            assert outcome.reused == 2
            assert len(notes) == 1
            (swept.path / "work.sh").write_text(WORK + "#")
            with pytest.raises(CodeChangedError) as caught:
                orchestrator.run(load_config(swept.path / "e.toml"))
            assert caught.value.ran == 3
            assert orchestrator.run(load_config(swept.path / "e.toml"), code="keep").already_done
    finally:
        os.chdir(here)


@pytest.mark.parametrize("fate", ["changed", "is gone"])
def test_what_read_another_content_than_was_declared_is_not_reused(sh: Shell, fate: str) -> None:
    """A declared file that does not stay as it was while a process runs proves nothing."""
    then = "echo 2 > data" if fate == "changed" else "rm data"
    (sh.path / "work.sh").write_text(
        f"echo ran >> ran\n[ -e seen ] || {{ {then}; touch seen; }}\n"
        'echo "{\\"y\\": $(cat data || echo 0)}" > "$HOLDFAST_RESULT"\n'
    )
    (sh.path / "data").write_text("1\n")
    (sh.path / "e.toml").write_text(
        'command = ["sh", "work.sh", "{a}"]\n[matrix]\na = [1]\n[identity]\nfiles = ["data"]\n'
    )
    sh("run", "e.toml")
    (sh.path / "data").write_text("1\n")
    sh("run", "e.toml")
    state = newest(sh)
    assert reused(state) == []
    assert results(sh, state) == [1]
    sh("run", "e.toml")
    assert (sh.path / "ran").read_text() == "ran\nran\n"


def test_what_replaced_a_completed_experiment_is_shown_and_gone_on_with(sh: Shell) -> None:
    """One that was never aggregated does not have its work replaced again by every run."""
    (sh.path / "work.sh").write_text("[ -e bad ] && exit 3\n" + WORK)
    write(sh, [1, 2], [1], '[identity]\nfiles = ["data"]\n')
    (sh.path / "data").write_text("1")
    sh("run", "e.toml", "--no-aggregate")
    (sh.path / "data").write_text("2")
    (sh.path / "bad").touch()
    sh("run", "e.toml", code=3)
    failed = newest(sh).experiment_id
    (sh.path / "bad").unlink()
    for _ in range(2):
        sh("run", "e.toml")
        assert newest(sh).experiment_id == failed
    assert starts(sh) == {"1 1": 2, "2 1": 2}


def test_a_declared_file_that_changed_is_told_of_when_an_experiment_goes_on(sh: Shell) -> None:
    """Before anything is started: the rows will be of different files."""
    (sh.path / "work.sh").write_text('[ "$1" = 2 ] && exit 3\n' + WORK)
    write(sh, [1, 2], [1], '[identity]\nfiles = ["data"]\n')
    (sh.path / "data").write_text("1")
    sh("run", "e.toml", code=3)
    (sh.path / "data").write_text("2")
    _, err = sh("run", "e.toml", code=3)
    assert "data changed since 1 of 2 ran" in err


def test_what_show_calls_outdated_is_run_anew_as_it_says(sh: Shell) -> None:
    """A declared file changed: the command that `show` gives makes a new experiment."""
    (sh.path / "work.sh").write_text(WORK)
    write(sh, [1, 2], [1], '[identity]\nfiles = ["data"]\n')
    (sh.path / "data").write_text("1")
    sh("run", "e.toml")
    old = newest(sh).experiment_id
    (sh.path / "data").write_text("22")
    shown, _ = sh("show", old)
    assert "outdated: data changed since 2 of 2 ran" in shown
    assert f"resume --rerun-changed {old}" in shown
    sh("resume", old)
    assert newest(sh).experiment_id == old
    sh("resume", "--rerun-changed", old)
    assert newest(sh).experiment_id != old
    assert set(starts(sh).values()) == {2}


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="needs Linux's /proc")
def test_large_files_are_hashed_before_other_runs_have_to_wait(sh: Shell) -> None:
    """Who reads a declared file for minutes does not hold the lock of the directory meanwhile."""
    (sh.path / "e.toml").write_text('command = ["true"]\n[identity]\nfiles = ["large"]\n')
    large = sh.path / "large"
    with large.open("wb") as file:
        file.truncate(1 << 30)

    def has_read(pid: int) -> int:
        """How many bytes it has read so far, of whatever."""
        return int(Path(f"/proc/{pid}/io").read_text().split()[1])

    with StateManager(sh.states).run_lock():
        run = sh.start("run", "e.toml")
        # Only while it reads has it the file open, which may be missed.
        until(lambda: has_open(run.pid, large) or has_read(run.pid) > 1 << 30)
    out, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0, f"{out}\n{err}"


def test_outputs_that_nobody_asks_for_any_more_keep_nothing_from_being_reused(sh: Shell) -> None:
    """Who deletes the models and takes them out of the file has what was done all the same."""
    (sh.path / "work.sh").write_text(WORK + ': > "$1.pt"\n')
    write(sh, [1, 2], [1], '[outputs]\nfiles = ["{lr}.pt"]\n')
    sh("run", "e.toml")
    (sh.path / "1.pt").unlink()
    write(sh, [1, 2], [1])
    plan = sh.json("run", "e.toml", "--dry-run")
    assert [each["action"] for each in plan["processes"]] == ["reuse", "reuse"]
    sh("run", "e.toml")
    state = newest(sh)
    assert reused(state) == [0, 1]
    assert [each.outputs for each in state.processes.values()] == [(), ()]
    assert sum(starts(sh).values()) == 2


def test_the_newest_of_what_ran_with_other_code_is_asked_about(sh: Shell) -> None:
    """What ran before it has lost its outputs to it, and says nothing of whether to ask."""
    (sh.path / "work.sh").write_text(WORK + 'printf 1 > "$1.bin"\n')
    more = '[outputs]\nfiles = ["{lr}.bin"]\n'
    write(sh, [1, 2], [1], more)
    sh("run", "e.toml")
    (sh.path / "work.sh").write_text(WORK + 'printf 22 > "$1.bin"\n')
    sh("run", "e.toml", "--rerun-changed")
    second = newest(sh).experiment_id
    (sh.path / "work.sh").write_text(WORK + 'printf 333 > "$1.bin"\n')
    write(sh, [1, 2, 3], [1], more)
    _, err = sh("run", "e.toml", code=2)
    assert f"work.sh changed since 2 of 3 were finished in {second}; nothing was started" in err
    plan = sh.json("run", "-n", "--rerun-changed", "e.toml")
    assert f"work.sh changed since {second}/0, attempt 1 did it" in plan["processes"][0]["why"]
    assert sum(starts(sh).values()) == 4


def test_of_what_is_not_reused_one_reason_is_told(sh: Shell) -> None:
    """The newest has lost an output, the one before it ran with other code."""
    (sh.path / "work.sh").write_text(WORK + 'printf 1 > "$1.bin"\n')
    more = '[outputs]\nfiles = ["{lr}.bin"]\n'
    write(sh, [1, 2], [1], more)
    sh("run", "e.toml")
    (sh.path / "work.sh").write_text(WORK + 'printf 22 > "$1.bin"\n')
    sh("run", "e.toml", "--rerun-changed")
    second = newest(sh).experiment_id
    (sh.path / "2.bin").unlink()
    write(sh, [2, 1], [1], more)
    lost = f"that of {second}: output 2.bin is missing"
    assert lost in sh.json("run", "-n", "e.toml")["processes"][0]["why"]
    _, err = sh("run", "e.toml")
    assert [
        line for line in err.splitlines() if "not reused:" in line or "not reused;" in line
    ] == [f"1 of 2 is not reused; process 0: {lost}"]
