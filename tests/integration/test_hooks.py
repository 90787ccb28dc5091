"""Hooks are told of an end once it is durable, and change nothing, however they fare."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import attrs
import pytest

from holdfast import doctor
from holdfast.cli.failures import code_of
from holdfast.config.experiment_file import Experiment
from holdfast.engines.local import once
from holdfast.engines.local.engine import LocalEngine
from holdfast.errors import ConfigError
from holdfast.orchestration.orchestrator import Orchestrator, Outcome
from holdfast.status import ExperimentStatus
from holdfast.store.manager import StateManager
from waiting import until


@attrs.frozen
class Bench:
    folder: Path
    manager: StateManager
    notes: list[str] = attrs.field(factory=list)

    def experiment(self, hooks: dict[str, Any], exit_code: int = 0, **more: Any) -> Experiment:
        config = {"command": ["sh", "-c", f"exit {exit_code}"], "hooks": hooks, **more}
        return Experiment.from_config(config, self.folder)

    def run(self, hooks: dict[str, Any], exit_code: int = 0, **more: Any) -> Outcome:
        with LocalEngine() as engine:
            orchestrator = Orchestrator(self.manager, engine, on_note=self.notes.append)
            return orchestrator.run(self.experiment(hooks, exit_code, **more))

    def told(self, outcome: Outcome) -> list[str]:
        """What the history says of hooks, how long they took left out."""
        steps = self.manager.history(outcome.state.experiment_id)
        words = [each.evidence or "" for each in steps if each.event == "hook"]
        return [f"{each.partition(' after')[0]}{each.partition(' s:')[2]}" for each in words]

    def said(self, name: str = "said") -> str:
        return (self.folder / name).read_text()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, StateManager(tmp_path / "states"))


def writes(name: str = "said", *words: str) -> list[str]:
    """A hook that leaves its words, and what it read, in files."""
    return ["sh", "-c", f"printf '%s\\n' \"$*\" >> {name}; cat > {name}.json", "hook", *words]


def test_a_good_end_is_told_to_on_finish_alone(bench):
    """With what is known of it as words, on stdin, and in the environment."""
    words = ["{name}", "{status}", "{completed}/{total}", "{failed}", "{{id}}"]
    hooks = {"on_finish": writes("said", *words), "on_failure": writes("never")}
    outcome = bench.run(hooks, name="sweep", processes=2)
    assert bench.said() == "sweep aggregated 2/2 0 {id}\n"
    assert not (bench.folder / "never").exists()
    given = json.loads(bench.said("said.json"))
    assert given["schema"] == "holdfast.hook/1"
    assert (given["hook"], given["id"]) == ("on_finish", outcome.state.experiment_id)
    assert given["message"] == outcome.message
    assert bench.told(outcome) == ["on_finish begins: sh", "on_finish ended exit code 0"]
    assert bench.notes == []


def test_a_failure_is_told_to_both(bench):
    """To `on_failure` first; stdin has why each process failed."""
    hooks = {
        "on_finish": writes("said", "finish"),
        "on_failure": writes("said", "failure", "{reason}"),
    }
    outcome = bench.run(hooks, exit_code=3)
    assert code_of(outcome) == 3
    assert bench.said() == "failure exit\nfinish\n"
    (failure,) = json.loads(bench.said("said.json"))["failures"]
    assert (failure["index"], failure["exit_code"], failure["log"]) == (0, 3, None)


@pytest.mark.parametrize(
    ("script", "words"),
    [("echo out; echo err >&2", "err\n"), ("echo out", "out\n"), ("true", None)],
)
def test_it_is_told_where_a_failed_process_left_its_last_words(bench, script, words):
    """On stderr, on stdout where that is empty; nowhere if it said nothing."""
    hooks = {"on_failure": writes("said")}
    bench.run(hooks, command=["sh", "-c", f"{script}; exit 3"])
    (failure,) = json.loads(bench.said("said.json"))["failures"]
    log = failure["log"]
    assert (None if log is None else Path(log).read_text()) == words


def test_what_is_told_is_stored_already(bench):
    """A hook that looks finds the end that it is told of."""
    look = f"from holdfast import StateManager as S; print(S({str(bench.manager.state_dir)!r})"
    command = [sys.executable, "-c", f"{look}.load('e').status)"]
    script = f"{shlex.join(command)} > said"
    with LocalEngine() as engine:
        experiment = bench.experiment({"on_finish": ["sh", "-c", script]})
        Orchestrator(bench.manager, engine).run(experiment, experiment_id="e")
    assert bench.said() == "aggregated\n"


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        (["sh", "-c", "echo no network >&2; exit 7"], "failed exit code 7: no network"),
        (["sh", "-c", "kill -9 $$"], "failed signal 9"),
        (["./no-such-program"], "could not be run: there is no program ./no-such-program"),
        (["."], "could not be run: Permission denied"),
    ],
)
def test_a_hook_that_fails_changes_nothing_and_is_reported(bench, hook, words):
    """The outcome is that of the run; the history and one note have the failure."""
    outcome = bench.run({"on_finish": hook})
    assert outcome.ok
    assert outcome.state.status is ExperimentStatus.AGGREGATED
    assert bench.told(outcome)[1] == f"on_finish {words}"
    (note,) = bench.notes
    assert note.startswith("the hook on_finish ")


def test_the_doctor_and_every_reader_take_its_lines(bench):
    """The state that is returned is the one that is stored, and can be saved."""
    outcome = bench.run({"on_finish": ["true"]}, exit_code=1)
    state = bench.manager.load(outcome.state.experiment_id)
    assert state.revision == outcome.state.revision
    assert doctor.examine(bench.manager.state_dir) == []
    with LocalEngine() as engine:
        again = Orchestrator(bench.manager, engine).resume(state.experiment_id)
    assert bench.told(again).count("on_finish ended exit code 0") == 2


def test_nobody_is_told_twice_or_of_nothing(bench):
    """A run that finds everything done is no end, and a hook belongs to no work."""
    outcome = bench.run({"on_finish": writes()})
    again = bench.run({"on_finish": writes(), "on_failure": ["false"]})
    assert again.already_done
    assert again.state.experiment_id == outcome.state.experiment_id
    assert bench.said() == "\n"


def test_an_end_that_was_asked_for_is_told_to_nobody(bench):
    """Ctrl-C: whoever pressed it knows."""
    hooks = {"on_finish": writes(), "on_failure": writes()}
    experiment = bench.experiment(hooks, command=["sh", "-c", "touch began; sleep 60"])

    def press() -> None:
        until(lambda: (bench.folder / "began").exists())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with LocalEngine() as engine:
        outcome = Orchestrator(bench.manager, engine).run(experiment)
    thread.join()
    assert outcome.signal is signal.SIGINT
    assert not (bench.folder / "said").exists()
    assert bench.told(outcome) == []


def test_what_is_held_back_is_no_end(bench):
    """The rest waits for a resume, whose end is told."""
    script = "test $HOLDFAST_INDEX = 0 || test -e mended"
    hooks = {"on_finish": writes("said", "{status}")}
    first = bench.run(hooks, command=["sh", "-c", script], processes=3)
    assert bench.said() == "failed\n"
    (bench.folder / "mended").touch()
    experiment_id = first.state.experiment_id
    with LocalEngine() as engine:
        orchestrator = Orchestrator(bench.manager, engine)
        assert orchestrator.resume(experiment_id, only=[1]).held == (2,)
        assert bench.said() == "failed\n"
        orchestrator.resume(experiment_id)
    assert bench.said() == "failed\naggregated\n"


def test_every_command_that_brings_about_an_end_tells_of_it(bench):
    """Completed, then aggregated; then its aggregate is only shown."""
    experiment = bench.experiment({"on_finish": writes("said", "{status}")})
    with LocalEngine() as engine:
        orchestrator = Orchestrator(bench.manager, engine)
        outcome = orchestrator.run(experiment, aggregate=False)
        assert bench.said() == "completed\n"
        for _ in range(2):
            orchestrator.aggregate(outcome.state.experiment_id)
            assert bench.said() == "completed\naggregated\n"


def test_a_deadline_is_a_failure(bench):
    """Interrupted, and nobody asked."""
    hooks = {"on_failure": writes("said", "{status} {reason}")}
    outcome = bench.run(hooks, command=["sleep", "60"], limits={"deadline": "0.2s", "grace": "0s"})
    assert outcome.failed
    assert bench.said() == "interrupted deadline\n"


def test_ctrl_c_ends_a_hook_that_hangs_and_nothing_else(bench):
    """The run is over: its outcome and exit code stay."""
    hooks = {"on_finish": ["sh", "-c", "echo $$ > pid; exec sleep 60"]}

    def press() -> None:
        until(lambda: (bench.folder / "pid").exists() and bench.said("pid"))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    outcome = bench.run(hooks)
    thread.join()
    assert outcome.ok
    assert bench.told(outcome)[1] == "on_finish failed was cut short"
    with pytest.raises(ProcessLookupError):
        os.kill(int(bench.said("pid")), 0)


def test_nothing_of_a_hook_outlives_its_time_limit(tmp_path):
    """Not even what made a session of its own."""
    script = "setsid sh -c 'echo $$ > other; exec sleep 60' & wait"

    def begun() -> bool:
        other = tmp_path / "other"
        return not (other.exists() and other.read_text())

    end = once.run(
        ["sh", "-c", script], cwd=str(tmp_path), env={}, given=b"", timeout_s=60, going_on=begun
    )
    assert end.cut == "was cut short"
    pid = int((tmp_path / "other").read_text())
    until(lambda: not Path(f"/proc/{pid}").exists())


def test_a_hook_has_a_time_limit(tmp_path):
    """After which it is killed, whatever it waits for."""
    end = once.run(
        ["sleep", "60"],
        cwd=str(tmp_path),
        env={},
        given=b"",
        timeout_s=0.2,
        going_on=lambda: True,
    )
    assert end.cut == "reached its time limit of 0.2 s"
    assert not end.ok


@pytest.mark.filterwarnings("ignore::holdfast.errors.UnreadableStateWarning")
# A run that looks at the disk while it is full says so.
@pytest.mark.filterwarnings("ignore::holdfast.errors.DiskWarning")
def test_a_full_disk_is_told_as_well(small_disk):
    """The history may have no room for it: that is what somebody wants to be mailed."""
    bench = Bench(small_disk, StateManager(small_disk / "states"))
    said = f"echo {{status}} >> {shlex.quote(str(small_disk.parent / 'said'))}"
    command = ["sh", "-c", "head -c 1000000 /dev/zero > ballast; exit 3"]
    hooks = {"on_failure": ["sh", "-c", said], "on_finish": ["sh", "-c", said]}
    for _ in range(2):
        bench.run(hooks, command=command)
        (small_disk / "ballast").unlink()
    assert (small_disk.parent / "said").read_text() == "failed\n" * 4
    assert any("is not in the history: No space left" in note for note in bench.notes)


def test_a_hook_that_prints_and_prints_fills_no_disk(tmp_path):
    """Its end is kept, where it says what was wrong."""
    script = "echo $$ > pid; head -c 40000000 /dev/zero; echo; echo at last; : > done; sleep 60"
    sizes: list[int] = []

    def goes_on() -> bool:
        if (tmp_path / "done").exists():
            pid = int((tmp_path / "pid").read_text())
            sizes.append(Path(f"/proc/{pid}/fd/1").stat().st_size)
        return len(sizes) < 2

    end = once.run(
        ["sh", "-c", script], cwd=str(tmp_path), env={}, given=b"", timeout_s=60, going_on=goes_on
    )
    assert end.words == "at last"
    assert sizes[-1] < 20_000_000


def test_a_hook_that_leaves_something_behind_is_not_waited_for(tmp_path):
    """What holds its output open is the user's own."""
    end = once.run(
        ["sh", "-c", "sleep 60 & echo $! > left; echo done"],
        cwd=str(tmp_path),
        env={},
        given=b"",
        timeout_s=30,
        going_on=lambda: True,
    )
    assert (end.ok, end.words) == (True, "done")
    os.kill(int((tmp_path / "left").read_text()), signal.SIGKILL)


@pytest.mark.parametrize(
    ("hook", "problem"),
    [
        (["mail", "{nmae}"], "unknown placeholder {nmae}"),
        (["mail", "{reason?}"], "no word of a hook can be left out"),
        ("mail me", "expected a list"),
        ([], "is empty"),
    ],
)
def test_a_wrong_hook_is_refused_before_anything_runs(tmp_path, hook, problem):
    """With its key, as everything in the file."""
    with pytest.raises(ConfigError, match=r"hooks\.on_finish") as raised:
        Experiment.from_config({"command": ["true"], "hooks": {"on_finish": hook}}, tmp_path)
    assert problem in str(raised.value)


def test_a_misspelt_hook_is_told_what_it_was_meant_to_be(tmp_path):
    with pytest.raises(ConfigError, match="did you mean on_failure"):
        Experiment.from_config({"command": ["true"], "hooks": {"on_fail": ["true"]}}, tmp_path)


def test_what_is_stored_cannot_drive_a_hook(bench):
    """Markup, line feeds and escapes of a name arrive as one harmless word."""
    outcome = bench.run({"on_finish": writes("said", "{name}")}, name="a\x1b[31m\n$(touch pwned)")
    assert outcome.ok
    assert bench.said() == "a\\x1b[31m\\n$(touch pwned)\n"
    assert not (bench.folder / "pwned").exists()


def test_a_hook_that_was_cut_off_by_a_crash_is_not_run_again(bench):
    """The end was stored before; the history shows a hook that began, and nothing else happened."""
    hook = "echo $$ >> pids; exec sleep 60"
    (bench.folder / "e.toml").write_text(
        f'command = ["true"]\nhooks = {{ on_finish = ["sh", "-c", "{hook}"] }}\n'
    )
    program = [sys.executable, "-c", "import sys; from holdfast.cli import main; sys.exit(main())"]
    words = ["-C", str(bench.manager.state_dir), "run", "e.toml"]
    bench.manager.state_dir.mkdir()
    run = subprocess.Popen([*program, *words], cwd=bench.folder, stderr=subprocess.DEVNULL)
    pids = bench.folder / "pids"
    until(lambda: pids.exists() and pids.read_text().endswith("\n"))
    run.kill()
    run.wait()
    os.kill(int(pids.read_text()), signal.SIGKILL)
    (experiment,) = bench.manager.list_experiments()
    state = bench.manager.load(experiment)
    assert state.status is ExperimentStatus.AGGREGATED
    steps = bench.manager.history(experiment)
    assert [each.evidence for each in steps if each.event == "hook"] == ["on_finish begins: sh"]
    again = subprocess.run([*program, *words], cwd=bench.folder, stderr=subprocess.DEVNULL)
    assert again.returncode == 0
    assert len(pids.read_text().splitlines()) == 1
    assert doctor.examine(bench.manager.state_dir) == []
