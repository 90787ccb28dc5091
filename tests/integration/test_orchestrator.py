"""The orchestrator with a real store, real processes and real signals, in this process."""

import errno
import itertools
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from holdfast import doctor, liveness
from holdfast.attempts.files import live_state, read_exit
from holdfast.attempts.names import AGGREGATE, AttemptName, attempts_dir, prepare
from holdfast.cli.failures import code_of
from holdfast.config.experiment_file import Experiment
from holdfast.engines.local.engine import LocalEngine
from holdfast.errors import (
    AlreadyOwnedError,
    AmbiguousExperimentError,
    AttemptWarning,
    ConfigError,
    DiskWarning,
    EngineError,
    EngineWarning,
    ExperimentExistsError,
    InvalidRequestError,
    InvalidTransitionError,
    ObserverWarning,
    ResultLostError,
    StateWriteError,
    UnknownLivenessError,
)
from holdfast.lifecycle.events import Change
from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration.orchestrator import Orchestrator, Outcome
from holdfast.status import ExperimentStatus, ProcessStatus, Reason
from holdfast.store import observing
from holdfast.store.claim import Claim
from holdfast.store.files import Files
from holdfast.store.manager import StateManager
from waiting import PATIENCE_S, until

WORKER = """
import json, os, signal, sys, time
index, behaviour = os.environ["HOLDFAST_INDEX"], dict(a.split("=", 1) for a in sys.argv[1:])
log = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
def say(what):
    os.write(log, f"{what} {index} {os.environ['HOLDFAST_ATTEMPT']} {time.monotonic()}\\n".encode())
if "ignore" in behaviour:
    signal.signal(signal.SIGTERM, lambda *_: say("term"))
say("start")
deadline = time.monotonic() + float(behaviour.get("for", 0))
while time.monotonic() < deadline and not os.path.exists("go"):
    time.sleep(0.005)
if index in behaviour.get("fail", "").split(",") and not os.path.exists("mended"):
    sys.exit("cannot do this")
with open(os.environ["HOLDFAST_RESULT"], "w") as file:
    file.write(behaviour.get("result") or json.dumps({"score": int(index) * 2}))
say("end")
"""


@attrs.frozen
class Bench:
    """A folder with the worker program, a store and an engine."""

    folder: Path
    manager: StateManager
    engine: LocalEngine

    def config(self, *arguments: str, processes: int = 3, **more: Any) -> dict[str, Any]:
        command = [sys.executable, "-I", "worker.py", *arguments]
        return {"name": "t", "command": command, "processes": processes, **more}

    def orchestrator(self, **more: Any) -> Orchestrator:
        return Orchestrator(self.manager, self.engine, **{"gone_grace_s": 0.05, **more})

    def log(self, what: str | None = None) -> list[tuple[str, int, int]]:
        try:
            lines = (self.folder / "log").read_text().splitlines()
        except FileNotFoundError:
            return []
        found = [(line.split()[0], int(line.split()[1]), int(line.split()[2])) for line in lines]
        return [entry for entry in found if what in (None, entry[0])]

    def most_at_a_time(self) -> int:
        level = most = 0
        for line in (self.folder / "log").read_text().splitlines():
            level += 1 if line.startswith("start") else -1
            most = max(most, level)
        return most

    def touch(self, name: str) -> None:
        (self.folder / name).touch()


@pytest.fixture
def bench(tmp_path: Path, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    (tmp_path / "worker.py").write_text(WORKER)
    monkeypatch.chdir(tmp_path)
    engine = LocalEngine()
    bench = Bench(tmp_path, StateManager(state_dir), engine)
    yield bench
    bench.touch("go")  # what a failed test left waiting ends, too
    engine.close()


def when(condition: Callable[[ExperimentState], bool], act: Callable[[], None]) -> Any:
    """A listener that acts once, as soon as a recorded state fits."""
    done: list[bool] = []

    def listen(state: ExperimentState) -> None:
        if not done and condition(state):
            done.append(True)
            act()

    return listen


def interrupt(
    bench: Bench, number: signal.Signals, started: int, what: str = "start"
) -> Callable[[], None]:
    """Send this process a signal from another thread, once that many workers have said so."""

    def send() -> None:
        until(lambda: len(bench.log(what)) >= started)
        os.kill(os.getpid(), number)

    return lambda: threading.Thread(target=send).start()


def test_a_mapping_runs_to_its_aggregated_result(bench: Bench) -> None:
    """Ten lines of Python: three processes, their results, one table."""
    outcome = bench.orchestrator().run(bench.config())
    assert outcome.state.status is ExperimentStatus.AGGREGATED
    assert (code_of(outcome), outcome.skipped, outcome.adopted) == (0, 0, 0)
    assert outcome.ok
    assert outcome.aggregate is not None
    assert bench.manager.load(outcome.state.experiment_id).status is ExperimentStatus.AGGREGATED
    assert sorted(bench.log("end")) == [("end", index, 1) for index in range(3)]


def test_no_more_run_at_a_time_than_jobs(bench: Bench) -> None:
    """A process starts when another has ended."""
    recorded: list[int] = []
    orchestrator = bench.orchestrator(
        on_change=lambda state: recorded.append(state.processes_running)
    )
    orchestrator.run(bench.config("for=0.03", processes=6), jobs=2)
    assert max(recorded) == 2
    assert bench.most_at_a_time() <= 2


def test_a_process_is_told_everything_about_itself(bench: Bench) -> None:
    """The environment that the documentation promises, and a checkpoint directory that is there."""
    tell = "import json, os; json.dump(dict(os.environ), open(os.environ['HOLDFAST_RESULT'], 'w'))"
    config = {
        "command": [sys.executable, "-c", tell, "{level}"],
        "matrix": {"level": [1, 6]},
        "env": {"OMP_NUM_THREADS": "1"},
    }
    outcome = bench.orchestrator().run(config)
    assert code_of(outcome) == 0
    folder = bench.manager.folder(outcome.state.experiment_id).absolute()
    seen = json.loads((folder / "results" / "1.1.json").read_text())
    expected = {
        "HOLDFAST_EXPERIMENT_ID": outcome.state.experiment_id,
        "HOLDFAST_STATE_DIR": str(bench.manager.state_dir.absolute()),
        "HOLDFAST_INDEX": "1",
        "HOLDFAST_COUNT": "2",
        "HOLDFAST_ATTEMPT": "1",
        "HOLDFAST_PARAMS": '{"level": 6}',
        "HOLDFAST_PARAMS_FILE": str(folder / "params" / "1.json"),
        "HOLDFAST_RESULT": str(folder / "results" / "1.1.json"),
        "HOLDFAST_CHECKPOINT_DIR": str(folder / "checkpoints" / "1"),
        "OMP_NUM_THREADS": "1",
    }
    assert {name: seen.get(name) for name in expected} == expected
    assert (folder / "checkpoints" / "1").is_dir()


def test_a_failure_does_not_stop_the_others_and_a_resume_tries_it_again(bench: Bench) -> None:
    """Exit code 3 names what failed; a resume runs that one alone, with a fresh budget."""
    outcome = bench.orchestrator().run(bench.config("fail=1"), jobs=1)
    assert (code_of(outcome), outcome.state.status) == (3, ExperimentStatus.FAILED)
    assert "1 of 3 processes failed: 1" in outcome.message
    assert outcome.failed
    failed = outcome.state.processes[1]
    assert (failed.exit_code, failed.reason) == (1, Reason.EXIT)
    bench.touch("mended")
    outcome = bench.orchestrator().resume(outcome.state.experiment_id)
    assert (code_of(outcome), outcome.skipped) == (0, 2)
    assert sorted(bench.log("end")) == [("end", 0, 1), ("end", 1, 2), ("end", 2, 1)]


def test_a_part_of_an_experiment_is_gone_on_with(bench: Bench) -> None:
    """What failed, or what is named; the outcome says what was held back, and that is no fault."""
    outcome = bench.orchestrator().run(bench.config("fail=0,1,2", processes=4))
    bench.touch("mended")
    told: list[str] = []
    orchestrator = bench.orchestrator(on_note=told.append)
    which = outcome.state.experiment_id
    outcome = orchestrator.resume(which, only=range(1, 2))
    assert (code_of(outcome), outcome.held, outcome.idle) == (0, (0, 2), False)
    assert (outcome.ok, outcome.state.status) == (True, ExperimentStatus.FAILED)
    assert told == ["held back until the next resume: processes 0, 2"]
    before = bench.manager.load(which)
    outcome = orchestrator.resume(which, only={1, 3}, failed_only=True)
    assert (outcome.idle, outcome.ok, code_of(outcome)) == (True, True, 0)
    assert bench.manager.load(which) == before
    outcome = orchestrator.resume(which, failed_only=True)
    assert (code_of(outcome), outcome.held) == (0, ())
    assert sorted(bench.log("end")) == [("end", i, 1 if i == 3 else 2) for i in range(4)]


def test_limits_change_as_an_experiment_goes_on(bench: Bench) -> None:
    """From Python as from the command line; what is none is refused before it is claimed."""
    config = bench.config("for=30", processes=2, limits={"timeout": 0.05, "grace": 0.2})
    which = bench.orchestrator().run(config).state.experiment_id
    before = bench.manager.load(which)
    assert {process.reason for process in before.processes.values()} == {Reason.TIMEOUT}
    for wrong in ({"timeout": "soon"}, {"retries": 3}):
        with pytest.raises(ConfigError, match=rf"(?s){which}:.*limits\."):
            bench.orchestrator().resume(which, limits=wrong)
    with pytest.raises(InvalidRequestError, match="only names processes that are not there: 2"):
        bench.orchestrator().resume(which, only=[2])
    with pytest.raises(InvalidRequestError, match="code rerun makes a new experiment"):
        bench.orchestrator().resume(which, only=[1], code="rerun")
    assert bench.manager.load(which) == before
    bench.touch("go")
    outcome = bench.orchestrator().resume(which, failed_only=True, limits={"timeout": "1h"})
    assert code_of(outcome) == 0
    assert outcome.state.config["limits"] == {"timeout": "1h", "grace": 0.2}


class _ChangedMeanwhile(StateManager):
    """Somebody else has it for a moment, just before it is claimed, and gives it a timeout."""

    def claim(self, experiment_id: str, **more: Any) -> Claim:
        with super().claim(experiment_id) as other:
            other.record("retry", limits={"timeout": 0.05})
            other.record("fail", reason=Reason.EXIT)
        return super().claim(experiment_id, **more)


def test_limits_that_somebody_changed_before_the_claim_count(bench: Bench) -> None:
    """What was loaded without a claim may be outdated by then."""
    config = bench.config("fail=0", processes=1, limits={"grace": 0.2})
    which = bench.orchestrator().run(config).state.experiment_id
    worker = bench.folder / "worker.py"
    worker.write_text("import time\ntime.sleep(30)\n")
    meddled = Orchestrator(_ChangedMeanwhile(bench.manager.state_dir), bench.engine)
    outcome = meddled.resume(which, limits={"jobs": 1})
    assert outcome.state.processes[0].reason is Reason.TIMEOUT
    assert outcome.state.config["limits"] == {"grace": 0.2, "timeout": 0.05, "jobs": 1}


def test_new_limits_go_with_what_is_rerun(bench: Bench) -> None:
    """The new experiment is made with them."""
    outcome = bench.orchestrator().run(bench.config())
    worker = bench.folder / "worker.py"
    worker.write_text(worker.read_text() + "\n")
    first = outcome.state.experiment_id
    outcome = bench.orchestrator().resume(first, code="rerun", limits={"jobs": 1})
    assert outcome.state.experiment_id != first
    assert outcome.state.config["limits"] == {"jobs": 1}
    assert bench.manager.load(first).config.get("limits") is None


def test_a_failed_attempt_is_repeated_within_its_budget(bench: Bench) -> None:
    """`max_attempts` counts failures; the pause between them is kept."""
    config = bench.config("fail=0", processes=1, retry={"max_attempts": 3, "backoff": 0.02})
    outcome = bench.orchestrator().run(config)
    assert (code_of(outcome), outcome.state.processes[0].attempt) == (3, 3)
    starts = [line.split()[3] for line in (bench.folder / "log").read_text().splitlines()]
    gaps = [float(b) - float(a) for a, b in itertools.pairwise(starts)]
    assert gaps[0] >= 0.02
    assert gaps[1] >= 0.04


def test_fail_fast_stops_the_others(bench: Bench) -> None:
    """The first final failure ends the experiment; what was stopped is not called failed."""
    config = bench.config("fail=0", "for=30", limits={"fail_fast": True, "grace": 5})
    config["command"] = [
        *("sh", "-c", 'test "$1" = 0 && exit 1; exec "$2" -I worker.py for=30', "sh"),
        *("{index}", sys.executable),
    ]
    outcome = bench.orchestrator().run(config, jobs=2)
    assert (code_of(outcome), outcome.state.status) == (3, ExperimentStatus.FAILED)
    statuses = [process.status for process in outcome.state.processes.values()]
    assert statuses == [ProcessStatus.FAILED, ProcessStatus.PENDING, ProcessStatus.PENDING]
    assert outcome.state.processes[1].attempt == 1
    assert outcome.state.processes[1].reason is Reason.PREEMPTED  # no user stopped it
    assert outcome.state.processes[2].attempt == 0


def test_a_process_beyond_its_timeout_is_stopped_and_fails(bench: Bench) -> None:
    """The reason is `timeout`, whatever signal it took."""
    config = bench.config("for=30", processes=1, limits={"timeout": 0.1, "grace": 0.2})
    outcome = bench.orchestrator().run(config)
    assert code_of(outcome) == 3
    assert outcome.state.processes[0].reason is Reason.TIMEOUT
    assert bench.log("end") == []


def test_a_command_that_does_not_exist_is_a_launch_error(bench: Bench) -> None:
    """The message says what could not be run."""
    outcome = bench.orchestrator().run({"command": ["/no/such/program"], "processes": 1})
    process = outcome.state.processes[0]
    assert (code_of(outcome), process.reason) == (3, Reason.LAUNCH_ERROR)
    assert "/no/such/program" in (process.error_message or "")


def test_a_result_that_is_no_json_fails_the_attempt(bench: Bench) -> None:
    """Completed means proven: exit code 0 alone is not enough."""
    outcome = bench.orchestrator().run(bench.config("result=nan", processes=1))
    process = outcome.state.processes[0]
    assert (code_of(outcome), process.status) == (3, ProcessStatus.FAILED)
    assert process.exit_code == 0
    assert process.error_message


@pytest.mark.parametrize(
    ("number", "exit_code", "reason"),
    [(signal.SIGINT, 130, Reason.USER), (signal.SIGTERM, 143, Reason.PREEMPTED)],
)
def test_a_signal_stops_all_processes_and_a_resume_goes_on(
    bench: Bench, number: signal.Signals, exit_code: int, reason: Reason
) -> None:
    """`interrupted`, nothing runs on, the handlers are put back, and nothing was charged."""
    before = signal.getsignal(number)
    listen = when(lambda state: state.processes_running == 2, interrupt(bench, number, 2))
    outcome = bench.orchestrator(on_change=listen).run(bench.config("for=30"), jobs=2)
    assert signal.getsignal(number) == before
    assert (code_of(outcome), outcome.state.status) == (exit_code, ExperimentStatus.INTERRUPTED)
    assert outcome.state.reason is reason
    assert outcome.state.processes_pending == 3
    assert outcome.state.processes[0].reason is reason
    bench.touch("go")
    outcome = bench.orchestrator().resume(outcome.state.experiment_id)
    assert code_of(outcome) == 0
    assert [process.failures for process in outcome.state.processes.values()] == [0, 0, 0]
    assert sorted(bench.log("end")) == [("end", 0, 2), ("end", 1, 2), ("end", 2, 1)]


def test_a_second_signal_kills_at_once(bench: Bench) -> None:
    """A process that ignores TERM does not make the user wait for its grace period."""

    def twice() -> None:
        interrupt(bench, signal.SIGINT, 1)()
        # Two at the same moment would be one: the second comes when the first has had its effect.
        interrupt(bench, signal.SIGINT, 1, "term")()

    listen = when(lambda state: state.processes_running == 1, twice)
    config = bench.config("for=60", "ignore=1", processes=1, limits={"grace": 60})
    outcome = bench.orchestrator(on_change=listen).run(config)
    assert (code_of(outcome), outcome.state.status) == (130, ExperimentStatus.INTERRUPTED)
    assert outcome.state.processes[0].status is ProcessStatus.PENDING
    assert bench.log("end") == []


def test_it_runs_in_a_thread_that_cannot_handle_signals(bench: Bench) -> None:
    """A notebook's or server's thread: the signals stay whose they were."""
    found = []
    worker = threading.Thread(
        target=lambda: found.append(bench.orchestrator().run(bench.config(processes=1)))
    )
    worker.start()
    worker.join(PATIENCE_S)
    assert code_of(found[0]) == 0


def test_the_same_work_is_not_run_again(bench: Bench) -> None:
    """An aggregated experiment of this work is shown; `fresh` makes a new one."""
    first = bench.orchestrator().run(bench.config())
    second = bench.orchestrator().run(bench.config())
    assert second.already_done
    assert second.aggregate == first.aggregate
    assert second.state.experiment_id == first.state.experiment_id
    third = bench.orchestrator().run(bench.config(), fresh=True)
    assert third.state.experiment_id != first.state.experiment_id
    assert len(bench.log("end")) == 6


def test_unfinished_work_is_gone_on_with(bench: Bench) -> None:
    """`run` of the same configuration resumes what there is."""
    first = bench.orchestrator().run(bench.config("fail=1"))
    bench.touch("mended")
    second = bench.orchestrator().run(bench.config("fail=1"))
    assert second.state.experiment_id == first.state.experiment_id
    assert (code_of(second), second.skipped) == (0, 2)


@pytest.mark.parametrize("how", ["run", "resume"])
def test_a_copied_project_goes_on_where_the_copy_is(
    bench: Bench, state_dir: Path, tmp_path_factory: pytest.TempPathFactory, how: str
) -> None:
    """Its processes run in the folder of the copy, and the original stays as it is."""
    config = bench.config("fail=1")
    state = bench.orchestrator().run(config).state
    assert state.status is ExperimentStatus.FAILED
    copy = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(bench.folder, copy)
    (copy / "mended").touch()
    before = bench.log()
    manager = StateManager(copy / state_dir.relative_to(bench.folder))
    orchestrator = Orchestrator(manager, bench.engine, gone_grace_s=0.05)
    if how == "run":
        outcome = orchestrator.run(Experiment.from_config(config, copy))
    else:
        outcome = orchestrator.resume(state.experiment_id)
    assert outcome.state.experiment_id == state.experiment_id
    assert code_of(outcome) == 0
    assert bench.log() == before
    assert (copy / "log").read_text().count("end") == 3


def test_a_copy_of_a_running_experiment_leaves_the_original_alone(
    bench: Bench, state_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A resume of the copy neither stops what the original runs nor runs it beside, but asks."""
    copy = tmp_path_factory.mktemp("elsewhere") / "copy"

    def resume_a_copy() -> None:
        until(lambda: bench.log("start"))
        # But files that are on their way to their names: they may vanish.
        passing = shutil.ignore_patterns(".tmp-*", ".*.tmp")
        shutil.copytree(bench.folder, copy, ignore=passing)
        manager = StateManager(copy / state_dir.relative_to(bench.folder))
        (experiment_id,) = manager.list_experiments()
        try:
            with LocalEngine() as engine, pytest.warns(AttemptWarning) as told:
                outcome = Orchestrator(manager, engine).resume(experiment_id)
            refused.append(str(told[0].message))
            assert code_of(outcome) == 5
        finally:
            bench.touch("go")

    refused: list[str] = []
    thread = threading.Thread(target=resume_a_copy)
    config = bench.config("for=60", processes=1)
    listen = when(lambda state: state.processes_running == 1, thread.start)
    outcome = bench.orchestrator(on_change=listen).run(config)
    thread.join()
    assert "copy of a running experiment" in refused[0]
    assert code_of(outcome) == 0
    assert outcome.state.processes[0].attempt == 1


def test_several_unfinished_ones_are_not_guessed_between(bench: Bench) -> None:
    """The error names them."""
    orchestrator = bench.orchestrator()
    ids = {
        orchestrator.run(bench.config("fail=1"), fresh=True).state.experiment_id for _ in range(2)
    }
    with pytest.raises(AmbiguousExperimentError) as caught:
        orchestrator.run(bench.config("fail=1"))
    assert set(caught.value.matches) == ids


def test_an_id_of_other_work_is_refused(bench: Bench) -> None:
    """A name never comes to mean two different things."""
    bench.orchestrator().run(bench.config(), experiment_id="exp_a")
    assert bench.orchestrator().run(bench.config(), experiment_id="exp_a").already_done
    with pytest.raises(ExperimentExistsError):
        bench.orchestrator().run(bench.config("for=0.01"), experiment_id="exp_a")


def test_an_owned_experiment_is_left_alone(bench: Bench) -> None:
    """Whoever has the lock is named, and nothing is started."""
    state = bench.manager.create("exp_a", config={"command": ["true"], "processes": 1})
    with bench.manager.claim("exp_a"), pytest.raises(AlreadyOwnedError, match=str(os.getpid())):
        bench.orchestrator(wait_s=0).resume(state.experiment_id)


def test_an_owner_that_nobody_can_judge_stops_a_resume_unless_forced(bench: Bench) -> None:
    """A file of another tool names a pid that may be anybody: unknown is not dead."""
    bench.manager.state_dir.mkdir()
    config = bench.config(processes=1)
    plain = {
        "experiment_id": "exp_a",
        "status": "running",
        "num_processes": 1,
        "subprocess_pid": os.getpid(),
        "config": config,
        "cwd": str(bench.folder),
    }
    (bench.manager.state_dir / "exp_a.json").write_text(json.dumps(plain))
    with pytest.raises(UnknownLivenessError):
        bench.orchestrator().resume("exp_a")
    outcome = bench.orchestrator(force=True).resume("exp_a")
    assert code_of(outcome) == 0
    history = bench.manager.history("exp_a")
    own = [(step.event, step.reason) for step in history if step.entity == "experiment"]
    assert own[1:3] == [("interrupt", Reason.STALE), ("resume", None)]


def test_an_experiment_without_a_configuration_cannot_be_resumed(bench: Bench) -> None:
    """The error says so instead of running nothing."""
    bench.manager.create("exp_a", total_runs=2)
    with pytest.raises(ConfigError):
        bench.orchestrator().resume("exp_a")
    bench.manager.create("exp_b", total_runs=3, config=bench.config(processes=2))
    with pytest.raises(ConfigError, match="it has 3, but its configuration makes 2"):
        bench.orchestrator().resume("exp_b")
    assert bench.manager.load("exp_b").status is ExperimentStatus.INITIALISED


def test_without_aggregation_it_stays_completed_until_asked(bench: Bench) -> None:
    """`aggregate` finishes it without running anything."""
    outcome = bench.orchestrator().run(bench.config(), aggregate=False)
    assert outcome.state.status is ExperimentStatus.COMPLETED
    assert outcome.aggregate is None
    done = bench.orchestrator().aggregate(outcome.state.experiment_id)
    assert done.state.status is ExperimentStatus.AGGREGATED
    assert len(bench.log("start")) == 3


def test_half_a_result_is_not_aggregated(bench: Bench) -> None:
    """The refusal names what is missing."""
    outcome = bench.orchestrator().run(bench.config("fail=1"))
    with pytest.raises(InvalidTransitionError, match="1 of 3 processes not completed: 1"):
        bench.orchestrator().aggregate(outcome.state.experiment_id)


@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_a_lost_result_is_made_again_and_no_other(bench: Bench, damage: str) -> None:
    """A completed experiment with a lost result is not aggregated over the rest."""
    outcome = bench.orchestrator().run(bench.config(), aggregate=False)
    experiment_id = outcome.state.experiment_id
    path = bench.manager.folder(experiment_id) / "results" / "1.1.json"
    if damage == "missing":
        path.unlink()
    else:
        path.write_text(path.read_text().replace("2", "3"))
    with pytest.raises(ResultLostError):
        bench.orchestrator().aggregate(experiment_id)
    outcome = bench.orchestrator().resume(experiment_id)
    assert (outcome.state.status, outcome.skipped) == (ExperimentStatus.AGGREGATED, 2)
    assert [attempt for _, index, attempt in bench.log("end") if index == 1] == [1, 2]
    assert len(bench.log("end")) == 4
    events = [step.event for step in bench.manager.history(experiment_id) if step.index is None]
    assert events[-5:] == ["fail", "retry", "complete", "aggregate", "released"]


COMBINE = """
import glob, json, os, sys
if os.path.exists("broken"):
    sys.exit("no")
files = sorted(glob.glob(os.path.join(os.environ["HOLDFAST_RESULTS"], "*.json")))
total = sum(json.load(open(name))["score"] for name in files)
json.dump({"total": total, "files": len(files)}, open(os.environ["HOLDFAST_RESULT"], "w"))
"""


def test_the_users_own_aggregation_finds_all_results(bench: Bench) -> None:
    """Its failure is `failed` with the reason, and is tried again without running processes."""
    (bench.folder / "combine.py").write_text(COMBINE)
    bench.touch("broken")
    command = [sys.executable, "combine.py"]
    outcome = bench.orchestrator().run(bench.config(aggregate={"command": command}))
    assert (code_of(outcome), outcome.state.status) == (3, ExperimentStatus.FAILED)
    assert "aggregation" in (outcome.state.error_message or "")
    (bench.folder / "broken").unlink()
    outcome = bench.orchestrator().aggregate(outcome.state.experiment_id)
    assert (code_of(outcome), outcome.state.status) == (0, ExperimentStatus.AGGREGATED)
    assert outcome.aggregate is not None
    assert outcome.aggregate["value"] == {"total": 6, "files": 3}
    assert len(bench.log("start")) == 3


def test_a_resume_retries_a_failed_aggregation_without_running_processes(bench: Bench) -> None:
    """Every process is completed already."""
    (bench.folder / "combine.py").write_text(COMBINE)
    bench.touch("broken")
    command = [sys.executable, "combine.py"]
    outcome = bench.orchestrator().run(bench.config(aggregate={"command": command}))
    (bench.folder / "broken").unlink()
    outcome = bench.orchestrator().resume(outcome.state.experiment_id)
    assert (code_of(outcome), outcome.skipped) == (0, 3)
    assert len(bench.log("start")) == 3


def test_a_signal_during_the_users_aggregation_leaves_it_to_be_done_again(bench: Bench) -> None:
    """The processes stay completed, and what was started for the aggregation is stopped."""
    wait = "import time; open('combining', 'w'); time.sleep(30)"
    command = [sys.executable, "-c", wait]

    def stop() -> None:
        until((bench.folder / "combining").exists)
        os.kill(os.getpid(), signal.SIGINT)

    listen = when(
        lambda state: state.status is ExperimentStatus.COMPLETED,
        lambda: threading.Thread(target=stop).start(),
    )
    config = bench.config(aggregate={"command": command})
    outcome = bench.orchestrator(on_change=listen).run(config)
    assert (code_of(outcome), outcome.state.status) == (130, ExperimentStatus.COMPLETED)
    folder = bench.manager.folder(outcome.state.experiment_id)
    record = read_exit(folder, AttemptName("", AGGREGATE, 1))
    assert record is not None
    assert record.stop_requested == "user"


def test_an_experiment_that_was_only_created_is_started_by_a_resume(bench: Bench) -> None:
    """`initialised` leads to `start`."""
    bench.manager.create("exp_a", num_processes=3, config=bench.config(), cwd=bench.folder)
    outcome = bench.orchestrator().resume("exp_a")
    assert code_of(outcome) == 0
    assert len(bench.log("end")) == 3


def test_an_attempt_on_another_host_is_not_started_again_unless_forced(bench: Bench) -> None:
    """From here nobody can tell whether it runs: unknown is not dead."""
    bench.manager.create("exp_a", num_processes=1, config=bench.config(processes=1))
    with bench.manager.claim("exp_a") as claim:
        claim.record("start")
        claim.record("start", process=0)
        prepare(claim.folder)
        live = attempts_dir(claim.folder) / "0.1.live"
        live.write_text(json.dumps({"host": "elsewhere", "boot_id": "b", "pid": 1, "locked": True}))
    with pytest.warns(AttemptWarning, match="elsewhere"):
        assert code_of(bench.orchestrator().resume("exp_a")) == 5
    assert bench.log() == []
    outcome = bench.orchestrator(force=True).resume("exp_a")
    assert (code_of(outcome), outcome.state.processes[0].attempt) == (0, 2)
    evidence = [step.evidence for step in bench.manager.history("exp_a") if step.index == 0]
    assert any("--force" in (text or "") for text in evidence)


def test_an_intent_that_was_never_carried_out_is_carried_out_once(bench: Bench) -> None:
    """Killed between recording a start and launching it: the attempt is revoked, not awaited."""
    bench.manager.create("exp_a", num_processes=1, config=bench.config(processes=1))
    with bench.manager.claim("exp_a") as claim:
        claim.record("start")
        claim.record("start", process=0)
        folder = claim.folder
    outcome = bench.orchestrator().resume("exp_a")
    process = outcome.state.processes[0]
    assert (process.attempt, process.failures, process.interruptions) == (2, 0, 1)
    assert live_state(folder, AttemptName.of_process("exp_a", 0, 1)).kind == "revoked"
    assert bench.log("start") == [("start", 0, 2)]


def test_an_attempt_whose_shim_was_killed_is_run_again_uncharged(bench: Bench) -> None:
    """Gone without an exit record: lost. Nothing of it runs on beside its successor."""
    killed: list[int] = []

    def kill_the_shim() -> None:
        folder = bench.manager.folder(bench.manager.list_experiments()[0])
        name = AttemptName.of_process("", 0, 1)
        until(lambda: bench.log("start"))
        identity = live_state(folder, name).identity
        assert identity is not None
        assert identity.pid is not None
        killed.append(identity.pid)
        os.kill(identity.pid, signal.SIGKILL)
        until(lambda: live_state(folder, name).kind == "free")
        bench.touch("go")

    listen = when(
        lambda state: state.processes_running == 1,
        lambda: threading.Thread(target=kill_the_shim).start(),
    )
    config = bench.config("for=30", processes=1, limits={"grace": 1})
    outcome = bench.orchestrator(on_change=listen).run(config)
    process = outcome.state.processes[0]
    assert killed
    assert code_of(outcome) == 0
    assert (process.attempt, process.failures, process.interruptions) == (2, 0, 1)


class FullDisk(Files):
    """The operating system, until the disk is full."""

    full = False

    def fdatasync(self, fd: int) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().fdatasync(fd)


def test_a_full_disk_leaves_what_runs_alone_and_a_resume_adopts_it(bench: Bench) -> None:
    """The error goes up; the processes go on, and none is run a second time."""
    files = FullDisk()
    manager = StateManager(bench.manager.state_dir, files=files)

    def fill() -> None:
        until(lambda: len(bench.log("start")) == 2)
        files.full = True
        bench.touch("go")

    listen = when(lambda state: state.processes_running == 2, fill)
    orchestrator = Orchestrator(manager, bench.engine, on_change=listen)
    with pytest.raises(StateWriteError, match="holdfast resume"):
        orchestrator.run(bench.config("for=30", processes=2), experiment_id="exp_a")
    until(lambda: len(bench.log("end")) == 2)
    outcome = bench.orchestrator().resume("exp_a")
    assert code_of(outcome) == 0
    # The line whose fdatasync failed may be stored or not: one exit is recorded or adopted.
    assert outcome.adopted + outcome.skipped == 2
    assert len(bench.log("start")) == 2


def test_every_recorded_state_is_shown(bench: Bench) -> None:
    """A live view sees each step, the last one included."""
    seen: list[ExperimentState] = []
    bench.orchestrator(on_change=seen.append).run(bench.config())
    assert seen[-1].status is ExperimentStatus.AGGREGATED
    assert [state.revision for state in seen] == sorted({state.revision for state in seen})


def test_of_several_finished_experiments_the_newest_is_shown(bench: Bench) -> None:
    """Two runs with `fresh` are both done: asking again runs nothing and is no riddle."""
    config = bench.config(processes=1)
    bench.orchestrator().run(config)
    second = bench.orchestrator().run(config, fresh=True)
    third = bench.orchestrator().run(config)
    assert third.already_done
    assert third.state.experiment_id == second.state.experiment_id


@pytest.mark.parametrize("own", [False, True])
def test_a_lost_aggregate_is_made_again_from_the_results(bench: Bench, own: bool) -> None:
    """No process runs for it; the user's own command, if there is one, does."""
    config = bench.config()
    if own:
        words = 'echo >> runs; cat "$HOLDFAST_TABLE" > "$HOLDFAST_RESULT"'
        config["aggregate"] = {"command": ["sh", "-c", words]}
    first = bench.orchestrator().run(config)
    path = bench.manager.folder(first.state.experiment_id) / "aggregate.json"
    before = path.read_bytes()
    path.unlink()
    told = bench.orchestrator().resume(first.state.experiment_id)
    assert "aggregate.json is missing" in told.message
    assert [each.what for each in doctor.examine(bench.manager.state_dir) if each.path == path] == [
        "is missing"
    ]
    again = bench.orchestrator().aggregate(first.state.experiment_id)
    assert again.aggregate == first.aggregate
    assert path.read_bytes() == before
    assert len(bench.log("start")) == 3
    if own:
        assert (bench.folder / "runs").read_text() == 2 * "\n"
    history = bench.manager.history(first.state.experiment_id)
    assert [step.event for step in history].count("aggregate") == 1


def test_a_command_that_kills_its_shim_every_time_is_given_up_and_the_others_go_on(
    bench: Bench,
) -> None:
    """A lost attempt is run again for nothing; one that is always lost would be for ever."""
    command = ["sh", "-c", '[ "$HOLDFAST_INDEX" = 0 ] || exit 0; echo >> ran; kill -9 $PPID']
    config = {"name": "t", "command": command, "processes": 2, "retry": {"max_interruptions": 3}}
    outcome = bench.orchestrator().run(config)
    killer, other = outcome.state.processes.values()
    assert (killer.status, killer.reason) == (ProcessStatus.PENDING, Reason.LOST)
    assert (killer.interruptions, killer.failures) == (3, 0)
    assert len((bench.folder / "ran").read_text()) == killer.attempt == 3
    assert other.status is ProcessStatus.COMPLETED
    assert (code_of(outcome), outcome.state.status) == (3, ExperimentStatus.INTERRUPTED)
    assert "again and again: process 0" in outcome.message


def test_a_result_lost_before_it_is_combined_is_made_again_in_the_same_run(bench: Bench) -> None:
    """Nothing is combined without it, and nobody is asked to resume for it."""

    def lose() -> None:
        folder = bench.manager.folder(bench.manager.list_experiments()[0])
        (folder / "results" / "1.1.json").unlink()

    listen = when(lambda state: state.status is ExperimentStatus.COMPLETED, lose)
    outcome = bench.orchestrator(on_change=listen).run(bench.config())
    assert (code_of(outcome), outcome.state.status) == (0, ExperimentStatus.AGGREGATED)
    assert sorted(bench.log("end")) == [("end", 0, 1), ("end", 1, 1), ("end", 1, 2), ("end", 2, 1)]
    assert outcome.aggregate is not None
    assert [row["result"]["score"] for row in outcome.aggregate["rows"]] == [0, 2, 4]


def test_an_aggregation_whose_shim_was_killed_is_stopped_and_done_again(bench: Bench) -> None:
    """As every attempt: what its shim left is stopped first, and never combines beside the next."""
    code = (
        "import os, sys, time\n"
        "attempt = os.environ['HOLDFAST_ATTEMPT']\n"
        "open('combining.' + attempt, 'w').close()\n"
        "while attempt == '1': time.sleep(0.01)\n"
        "open(os.environ['HOLDFAST_RESULT'], 'w').write(attempt)"
    )

    def kill_the_shim() -> None:
        until((bench.folder / "combining.1").exists)
        folder = bench.manager.folder(bench.manager.list_experiments()[0])
        identity = live_state(folder, AttemptName("", AGGREGATE, 1)).identity
        assert identity is not None
        assert identity.pid is not None
        os.kill(identity.pid, signal.SIGKILL)

    listen = when(
        lambda state: state.status is ExperimentStatus.COMPLETED,
        lambda: threading.Thread(target=kill_the_shim).start(),
    )
    config = bench.config(aggregate={"command": [sys.executable, "-c", code]})
    outcome = bench.orchestrator(on_change=listen).run(config)
    assert code_of(outcome) == 0
    assert outcome.aggregate is not None
    assert outcome.aggregate["value"] == 2
    assert len(bench.log("start")) == 3


class NoMoreWrites(Files):
    """The operating system, until nothing more can be written."""

    full = False

    def write(self, fd: int, data: bytes | memoryview) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(fd, data)

    def write_at(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write_at(fd, data, offset)


@pytest.mark.parametrize("lost", [False, True])
def test_an_aggregation_counts_for_the_results_it_was_made_from(bench: Bench, lost: bool) -> None:
    """Whatever the clock says: an outcome over results that were replaced since is not taken up."""
    files = NoMoreWrites()
    words = 'echo >> runs; cat "$HOLDFAST_TABLE" > "$HOLDFAST_RESULT"'
    config = bench.config(aggregate={"command": ["sh", "-c", words]})

    def fill() -> None:
        files.full = True

    orchestrator = Orchestrator(
        StateManager(bench.manager.state_dir, files=files),
        bench.engine,
        on_change=when(lambda state: state.status is ExperimentStatus.COMPLETED, fill),
    )
    with pytest.raises(StateWriteError):
        orchestrator.run(config, experiment_id="exp_a")
    assert bench.manager.load("exp_a").status is ExperimentStatus.COMPLETED
    if lost:
        (bench.manager.folder("exp_a") / "results" / "1.1.json").unlink()
    outcome = bench.orchestrator(clock=lambda: datetime(2020, 1, 1, tzinfo=UTC)).resume("exp_a")
    assert outcome.aggregate is not None
    assert outcome.aggregate["value"]["rows"] == outcome.aggregate["rows"]
    assert (bench.folder / "runs").read_text() == (2 if lost else 1) * "\n"
    assert not list(bench.manager.folder("exp_a").glob(f"aggregation.{2 if lost else 1}"))


class DyingEngine(LocalEngine):
    """An engine whose orchestrator dies while it waits for the aggregation."""

    def wait(self, timeout_s: float) -> None:
        if os.path.exists("combining") and os.path.getsize("combining"):
            raise KeyboardInterrupt
        super().wait(timeout_s)


@pytest.mark.parametrize("lost", [False, True])
def test_an_aggregation_left_running_is_adopted_unless_a_result_was_replaced(
    bench: Bench, lost: bool
) -> None:
    """Then it is stopped, and another one combines what there is now."""
    code = (
        "import os, time; open('combining', 'a').write('x')\n"
        "table = open(os.environ['HOLDFAST_TABLE']).read()\n"
        "while os.environ['HOLDFAST_ATTEMPT'] == '1' and not os.path.exists('go'):\n"
        "    time.sleep(0.01)\n"
        "open(os.environ['HOLDFAST_RESULT'], 'w').write(table)"
    )
    config = bench.config(aggregate={"command": [sys.executable, "-c", code]})
    with DyingEngine() as engine, pytest.raises(KeyboardInterrupt):
        Orchestrator(bench.manager, engine).run(config, experiment_id="exp_a")
    folder = bench.manager.folder("exp_a")
    if lost:
        (folder / "results" / "1.1.json").unlink()
    else:
        bench.touch("go")
    outcome = bench.orchestrator().resume("exp_a")
    assert outcome.aggregate is not None
    assert outcome.aggregate["value"]["rows"] == outcome.aggregate["rows"]
    assert (bench.folder / "combining").read_text() == ("xx" if lost else "x")
    record = read_exit(folder, AttemptName("exp_a", AGGREGATE, 1))
    assert record is not None
    assert record.stop_requested == ("user" if lost else None)


def test_an_outcome_that_cannot_be_read_counts_as_a_failure(bench: Bench) -> None:
    """It was published, so it is no loss; what it said is gone, so it is no success either."""
    bench.manager.create("exp_a", num_processes=1, config=bench.config(processes=1))
    with bench.manager.claim("exp_a") as claim:
        claim.record("start")
        claim.record("start", process=0)
        prepare(claim.folder)
        (attempts_dir(claim.folder) / "0.1.exit").write_text("{torn")
    outcome = bench.orchestrator().resume("exp_a")
    process = outcome.state.processes[0]
    assert (process.status, process.failures) == (ProcessStatus.FAILED, 1)
    assert "0.1.exit" in str(process.error_message)
    assert bench.log() == []
    assert code_of(bench.orchestrator().resume("exp_a")) == 0


def test_a_resume_that_cannot_look_at_its_attempts_waits_and_decides_nothing_meanwhile(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No descriptors left to look at processes with, say: it is told, and passes."""
    bench.manager.create("exp_a", num_processes=1, config=bench.config(processes=1))
    with bench.manager.claim("exp_a") as claim:
        claim.record("start")
        claim.record("start", process=0)
        prepare(claim.folder)
        live = attrs.asdict(attrs.evolve(liveness.me(), pid=2**22 - 1, locked=True))
        (attempts_dir(claim.folder) / "0.1.live").write_text(json.dumps(live))
    read, refused = Path.read_bytes, 0

    def read_bytes(path: Path) -> bytes:
        nonlocal refused
        if "/proc" in str(path) and refused < 2:
            refused += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.warns(DiskWarning, match="looking at it failed"):
        outcome = bench.orchestrator().resume("exp_a")
    assert refused == 2
    assert (code_of(outcome), bench.log("start")) == (0, [("start", 0, 2)])


def test_a_file_in_the_way_of_a_checkpoint_is_named_and_a_resume_goes_on(bench: Bench) -> None:
    """Nothing of the process has begun by then."""
    bench.manager.create("exp_a", num_processes=1, config=bench.config(processes=1))
    in_the_way = bench.manager.folder("exp_a") / "checkpoints"
    in_the_way.parent.mkdir()
    in_the_way.write_text("")
    with pytest.raises(StateWriteError, match="checkpoints"):
        bench.orchestrator().resume("exp_a")
    assert bench.log() == []
    in_the_way.unlink()
    outcome = bench.orchestrator().resume("exp_a")
    assert code_of(outcome) == 0
    assert [what for what, _, _ in bench.log()] == ["start", "end"]


@pytest.mark.parametrize("jobs", [0, -1, 1.5, True, "2"])
def test_jobs_that_are_no_number_of_processes_are_refused(bench: Bench, jobs: Any) -> None:
    """0 would count as not given; nothing is made, and nothing begins."""
    with pytest.raises(InvalidRequestError, match="jobs must be a whole number of 1 or more"):
        bench.orchestrator().run(bench.config(), jobs=jobs)
    assert not bench.manager.list_experiments()
    bench.manager.create("x")
    with pytest.raises(InvalidRequestError, match="jobs"):
        bench.orchestrator().resume("x", jobs=jobs)


def test_an_orchestrator_tells_every_step(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is recorded comes out as it is recorded, with what it changed, until the last one."""
    monkeypatch.setattr(observing, "_PATIENCE_S", PATIENCE_S)  # on a busy machine, too
    bench.touch("go")
    events = []

    def watch(state: ExperimentState, changes: Sequence[Change]) -> None:
        events.extend((change.process, change.event) for change in changes)

    bench.orchestrator(on_step=watch).run(bench.config(processes=2))
    moves = [each for each in events if each[1] != "phase"]
    assert moves[0] == (None, "start")
    assert moves[-2:] == [(None, "complete"), (None, "aggregate")]
    assert sorted(moves[1:-2]) == [(0, "complete"), (0, "start"), (1, "complete"), (1, "start")]


def test_an_observer_that_raises_or_hangs_does_not_touch_a_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the observer's, and the run's outcome is what it would have been."""
    monkeypatch.setattr(observing, "_PATIENCE_S", 0.1)
    bench.touch("go")
    free = threading.Event()

    def broken(state: ExperimentState, changes: Sequence[Change]) -> None:
        free.wait()
        raise RuntimeError("no display")

    with pytest.warns(ObserverWarning, match="too slow"):
        outcome = bench.orchestrator(on_step=broken).run(bench.config(processes=2))
    free.set()
    assert code_of(outcome) == 0


def test_one_engine_in_two_threads_is_refused_in_words(bench: Bench) -> None:
    """The second is told to take an engine of its own; the first goes on untouched."""
    outcomes: list[Outcome] = []
    config = bench.config("for=60", processes=2)
    first = threading.Thread(target=lambda: outcomes.append(bench.orchestrator().run(config)))
    first.start()
    until(lambda: len(bench.log("start")) == 2)
    with pytest.raises(EngineError, match=r"give each its own LocalEngine"):
        bench.engine.find("x", bench.folder)
    with (
        pytest.warns(EngineWarning, match="uses it"),
        pytest.raises(EngineError, match="uses it"),
    ):
        bench.orchestrator().run(bench.config("other", processes=1), experiment_id="second")
    bench.touch("go")
    first.join(PATIENCE_S)
    assert [code_of(outcome) for outcome in outcomes] == [0]
    # Once the first is done, the engine is free for anybody.
    assert code_of(bench.orchestrator().run(bench.config(processes=3), fresh=True)) == 0
