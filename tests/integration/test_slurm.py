"""The Slurm engine on a real cluster, while its controller, its nodes and its users do their worst.

    python -m pytest -m slurm

Needs Debian's slurmctld, slurmd, slurm-client and munge; each test process starts its own cluster.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from holdfast.attempts.files import live_state, read_exit
from holdfast.attempts.names import AttemptName, output_path
from holdfast.attempts.records import Attempt, ExitRecord
from holdfast.engine_options import EngineOptions
from holdfast.engines import waves
from holdfast.engines.contract import TERMINAL, EngineWord, Handle
from holdfast.engines.slurm import batch
from holdfast.engines.slurm.engine import SlurmEngine
from holdfast.errors import EngineError, EngineRefusedError
from slurm_mini import Cluster, a_cluster
from waiting import until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

EXPERIMENT = "exp_1"
#: A job that nothing starts before the test lets it.
WAITS = ("--hold",)
MakeEngine = Callable[..., SlurmEngine]


@pytest.fixture
def make(slurm: Cluster) -> Iterator[MakeEngine]:
    """Makes engines of that cluster, and closes them."""
    made: list[SlurmEngine] = []

    def make(*, clock: Any = None, **options: Any) -> SlurmEngine:
        clocks = {} if clock is None else {"clock": clock, "monotonic": clock.monotonic}
        made.append(SlurmEngine(EngineOptions(name="slurm", **options), **clocks))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def attempt(folder: Path, script: str = "echo $HOLDFAST_ATTEMPT >> ran.$I", index: int = 0,
            number: int = 1, **options: Any) -> Attempt:  # fmt: skip
    return Attempt(
        name=AttemptName.of_process(EXPERIMENT, index, number),
        argv=("sh", "-c", script),
        folder=folder,
        cwd=str(folder),
        env={"I": str(index)},
        **{"grace_s": 5.0, **options},
    )


def words(engine: SlurmEngine, handles: Sequence[Handle]) -> list[EngineWord]:
    """The next words; waits a moment for them, as an orchestrator does."""
    engine.wait(0.2)
    return engine.poll(handles)


def hear(
    engine: SlurmEngine, handles: Sequence[Handle], *kinds: str, says: str = "", s: float = 180
) -> EngineWord:
    """The word for the first one once it *says* so, and all have one of *kinds*.

    A busy controller may say for a moment why it says nothing.
    """
    deadline = time.monotonic() + s
    while True:
        found = words(engine, handles)
        if says in found[0].text and all(word.kind in kinds for word in found):
            return found[0]
        assert time.monotonic() < deadline, found


def over(engine: SlurmEngine, handles: Sequence[Handle]) -> EngineWord:
    return hear(engine, handles, *TERMINAL)


def record(handle: Handle) -> ExitRecord:
    found = read_exit(handle.folder, handle.name)
    assert found is not None
    return found


def ran(folder: Path) -> list[str]:
    """Which have run, as often as they have."""
    return sorted(
        path.name[4:] for path in folder.glob("ran.*") for _ in path.read_text().splitlines()
    )


def number_of(engine: SlurmEngine, handles: Sequence[Handle]) -> str:
    """The number of their array."""
    (word, *_) = engine.poll(handles)
    return str((word.handle or handles[0]).data["job"]).partition("_")[0]


def held(folder: Path, handles: Sequence[Handle]) -> None:
    """Wait until all of them have a shim that lives."""
    until(lambda: all(live_state(folder, one.name).kind == "held" for one in handles), 120)


@contextlib.contextmanager
def its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **knobs: int) -> Iterator[Cluster]:
    """A cluster that is different, found by everything that the test starts."""
    with a_cluster(**knobs) as cluster:
        monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
        # All clusters have one name: what another one was asked last is not of this one.
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        yield cluster


def queue(slurm: Cluster) -> str:
    """What has not ended."""
    return slurm.run("squeue", "-h", "-o", "%i %T %j")


def test_killed_between_submission_and_record(
    slurm: Cluster, make: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its jobs are found again by their marks, and each runs once."""
    real = slurm.run("which", "sbatch").strip()
    wrapper = tmp_path / "bin" / "sbatch"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\n{real} "$@"\nkill -9 $PPID\n')
    wrapper.chmod(0o755)
    code = (
        "import sys; from pathlib import Path; from holdfast.attempts.names import AttemptName;"
        "from holdfast.attempts.records import Attempt;"
        "from holdfast.engines.slurm.engine import SlurmEngine; folder = Path(sys.argv[1]);"
        "SlurmEngine().submit('exp_1', [Attempt(name=AttemptName('exp_1', str(i), 1),"
        "argv=['sh', '-c', f'echo 1 >> ran.{i}'], cwd=str(folder), folder=folder)"
        "for i in range(4)])"
    )
    path = f"{wrapper.parent}:{os.environ['PATH']}"
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PATH": path}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    (wave,) = waves.waves(tmp_path)
    assert wave.submitted is None
    engine = make()
    found = engine.find(EXPERIMENT, tmp_path)
    handles = [
        found.get(name) or Handle(name=name, folder=tmp_path)
        for task in wave.tasks
        for name in task
    ]
    over(engine, handles)
    assert ran(tmp_path) == ["0", "1", "2", "3"]
    assert make().find(EXPERIMENT, tmp_path) == {}


def test_killed_before_submission(make: MakeEngine, tmp_path: Path) -> None:
    """What never reached Slurm is unknown as long as it may be on its way, and then gone."""
    clock = Clock()
    engine = make(clock=clock)
    token = waves.token(tmp_path)
    wave = waves.write(
        tmp_path, engine="slurm", token=token, tasks=[[attempt(tmp_path)]], made_at=clock()
    )
    (name,) = wave.tasks[0]
    found = engine.find(EXPERIMENT, tmp_path)
    assert [word.kind for word in engine.poll([found[name]])] == ["unknown"]
    clock.advance(61)
    assert hear(engine, [found[name]], "gone").text == "it was never submitted"
    assert make(clock=clock).find(EXPERIMENT, tmp_path) == {}
    (word,) = engine.poll([Handle(name=AttemptName(EXPERIMENT, "7", 1), folder=tmp_path)])
    assert (word.kind, word.text) == ("gone", "it was never submitted")


class Clock:
    """Goes on by itself, and faster when it is told to."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.ahead_s)

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s

    def advance(self, seconds: float) -> None:
        self.ahead_s += seconds


def test_a_stranger_has_the_number_of_a_forgotten_job(
    make: MakeEngine, slurm: Cluster, tmp_path: Path
) -> None:
    """A controller that was killed has forgotten a job: unknown, and the stranger is left alone."""
    slurm.run("scontrol", "reconfigure")
    engine = make(extra=WAITS)
    (handle,) = engine.submit(EXPERIMENT, [attempt(tmp_path)])
    number = handle.data["job"].partition("_")[0]
    slurm.kill("slurmctld")
    slurm.start_controller()
    until(lambda: "UP" in slurm.run("scontrol", "ping", check=False), 120)
    if f"{number}_" in queue(slurm):
        pytest.skip("the controller had saved the job already")
    stranger = "0"
    while int(stranger) < int(number):  # it may have forgotten more than that
        stranger = slurm.run("sbatch", "--parsable", "--hold", "--wrap", "sleep 60").strip()
    assert stranger == number
    fresh = make()
    for each in (engine, fresh):
        hear(each, [handle], "unknown", says="somebody else's now")
        assert handle.name in each.cancel([handle])
        assert handle.name in each.cancel([handle], force=True)
    assert f"{number} PENDING wrap" in queue(slurm)
    slurm.run("scancel", number)


def recorded(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a line for each of Slurm's commands that is run from now on."""
    log, tools = tmp_path / "commands", tmp_path / "bin"
    tools.mkdir()
    for name in ("sbatch", "scancel", "scontrol", "squeue"):
        real = slurm.run("which", name).strip()
        script = f'#!/bin/sh\necho "{name} $1" >> {log}\nexec {real} "$@"\n'
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return log


def test_a_controller_that_is_down_decides_nothing(
    make: MakeEngine, slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown, at once; ends are seen by their files; and all is well when it is back."""
    commands = recorded(slurm, tmp_path, monkeypatch)
    engine = make()
    gate = "until [ -e go.$I ]; do sleep 0.1; done; echo 1 >> ran.$I"
    handles = engine.submit(EXPERIMENT, [attempt(tmp_path, gate, index) for index in range(3)])
    hear(engine, handles, "running")
    slurm.run("sbatch", "--hold", "--job-name=is-saved-last", "--wrap", "true")
    until(lambda: slurm.has_saved("is-saved-last"), 120)
    slurm.kill("slurmctld")
    commands.unlink()
    hear(engine, handles, "unknown", says="does not answer")
    for _ in range(20):
        assert {word.kind for word in engine.poll(handles)} == {"unknown"}
        engine.wait(0.2)
    with pytest.raises(EngineError):
        engine.submit(EXPERIMENT, [attempt(tmp_path, "echo", 9)])
    with pytest.raises(EngineError):
        engine.check([attempt(tmp_path, "echo", 9)])
    assert engine.cancel([]) == {}
    (tmp_path / "go.0").touch()
    hear(engine, handles[:1], "gone")
    assert [word.kind for word in engine.poll(handles)] == ["gone", "unknown", "unknown"]
    # All others try for as long as a message may take.
    assert set(commands.read_text().splitlines()) == {"scontrol ping"}
    slurm.start()
    hear(engine, handles[1:], "running")
    for index in (1, 2):
        (tmp_path / f"go.{index}").touch()
    over(engine, handles)
    assert ran(tmp_path) == ["0", "1", "2"]


def test_a_held_job_says_why_it_waits(make: MakeEngine, slurm: Cluster, tmp_path: Path) -> None:
    """It is not just queued: nothing will start it."""
    engine = make(extra=WAITS)
    (handle,) = engine.submit(EXPERIMENT, [attempt(tmp_path)])
    word = hear(engine, [handle], "held")
    assert word.text == "PENDING (JobHeldUser)"
    assert word.at is not None
    slurm.run("scontrol", "release", number_of(engine, [handle]))
    over(engine, [handle])
    assert ran(tmp_path) == ["0"]


def test_a_job_that_ends_before_it_begins_says_why(make: MakeEngine, tmp_path: Path) -> None:
    """No Python, no shared folder on that node: what its log ends with is the reason."""
    engine = make(python="/nope/python")
    word = over(engine, engine.submit(EXPERIMENT, [attempt(tmp_path)]))
    assert word.kind == "failed"
    assert re.search("/nope/python: not found$", word.text)


def test_a_job_is_never_requeued_by_slurm(make: MakeEngine, slurm: Cluster, tmp_path: Path) -> None:
    """`scontrol requeue` is refused: whether it runs again is for its orchestrator to say."""
    engine = make()
    script = "echo 1 >> ran.0; until [ -e go ]; do sleep 0.1; done"
    (handle,) = engine.submit(EXPERIMENT, [attempt(tmp_path, script)])
    hear(engine, [handle], "running")
    until(lambda: ran(tmp_path))
    with pytest.raises(RuntimeError, match="disabled"):
        slurm.run("scontrol", "requeue", number_of(engine, [handle]))
    (tmp_path / "go").touch()
    over(engine, [handle])
    assert (ran(tmp_path), record(handle).exit_code) == (["0"], 0)


def test_a_time_limit_is_warned_of_and_never_passes_for_an_end(
    make: MakeEngine, slurm: Cluster, tmp_path: Path
) -> None:
    """Of 8 programs that save and exit 0 when they are stopped, none is taken for completed."""
    engine = make(time_s=3600)
    script = "trap 'exit 0' TERM; while :; do sleep 0.05; done"
    handles = engine.submit(EXPERIMENT, [attempt(tmp_path, script, index) for index in range(8)])
    hear(engine, handles, "running")
    held(tmp_path, handles)
    slurm.run("scontrol", "update", f"JobId={number_of(engine, handles)}", "EndTime=now+45")
    over(engine, handles)
    found = engine.poll(handles)
    for word, handle in zip(found, handles, strict=True):
        end = record(handle)
        assert end.ended_at is not None
        late = word.at is not None and end.ended_at >= word.at - timedelta(seconds=1)
        assert end.interrupted_by or (word.kind == "timeout" and late), (word, end)
    assert all((tmp_path / "attempts" / f"{handle.name}.warn").exists() for handle in handles)


def test_who_else_cancels_is_heard(make: MakeEngine, slurm: Cluster, tmp_path: Path) -> None:
    """One element that runs and one that waits, by `scancel`; the others go on."""
    engine = make(cpus=32)
    gate = "until [ -e go ]; do sleep 0.1; done; echo 1 >> ran.$I"
    wanted = [attempt(tmp_path, gate, index, grace_s=0.5) for index in range(6)]
    handles = engine.submit(EXPERIMENT, wanted)
    hear(engine, handles[:4], "running")
    hear(engine, handles[4:], "queued")
    number = number_of(engine, handles)
    slurm.run("scancel", f"{number}_1", f"{number}_5")
    hear(engine, [handles[1]], "cancelled", "gone")
    assert record(handles[1]).interrupted_by is not None
    word = hear(engine, [handles[5]], "gone", "cancelled")
    assert live_state(tmp_path, handles[5].name).kind == "absent", word
    (tmp_path / "go").touch()
    over(engine, [handles[0], *handles[2:5]])
    assert ran(tmp_path) == ["0", "2", "3", "4"]


def test_one_element_is_cancelled_and_its_neighbours_are_not(
    make: MakeEngine, tmp_path: Path
) -> None:
    """One that waits leaves the queue, one that runs is asked; `scancel` can end all of them."""
    engine = make(cpus=32)
    gate = "until [ -e go ]; do sleep 0.1; done; echo 1 >> ran.$I"
    handles = engine.submit(EXPERIMENT, [attempt(tmp_path, gate, index) for index in range(8)])
    hear(engine, handles[:4], "running")
    held(tmp_path, handles[:4])
    hear(engine, handles[4:], "queued")
    assert engine.cancel([handles[2], handles[6]]) == {}
    assert over(engine, [handles[6]]).kind == "cancelled"
    over(engine, [handles[2]])
    assert record(handles[2]).stop_requested == "user"
    (tmp_path / "go").touch()
    rest = [handle for index, handle in enumerate(handles) if index not in (2, 6)]
    over(engine, rest)
    assert ran(tmp_path) == ["0", "1", "3", "4", "5", "7"]


def test_a_shim_that_hears_nothing_is_ended_with_its_job(make: MakeEngine, tmp_path: Path) -> None:
    """Asked again and again to end at once, a stopped one leaves it to Slurm; no neighbour ends."""
    engine = make()
    gate = "until [ -e go ]; do sleep 0.1; done; echo 1 >> ran.$I"
    handles = engine.submit(EXPERIMENT, [attempt(tmp_path, gate, index) for index in range(3)])
    hear(engine, handles, "running")
    held(tmp_path, handles)
    shim = live_state(tmp_path, handles[1].name).identity
    assert shim is not None
    assert shim.pid is not None
    os.kill(shim.pid, signal.SIGSTOP)
    deadline = time.monotonic() + 180
    while engine.poll(handles[1:2])[0].kind not in TERMINAL:
        assert time.monotonic() < deadline
        assert engine.cancel(handles[1:2], force=True) == {}
        engine.wait(1)
    # Slurm wakes what is stopped before it ends a job, and who is heard first is chance.
    assert record(handles[1]).signal in (signal.SIGTERM, signal.SIGKILL)
    (tmp_path / "go").touch()
    over(engine, [handles[0], handles[2]])
    assert ran(tmp_path) == ["0", "2"]


def test_a_preempted_job_says_so(make: MakeEngine, slurm: Cluster, tmp_path: Path) -> None:
    """A partition that goes before takes its place."""
    engine = make(cpus=64)
    script = "trap 'exit 0' TERM; while :; do sleep 0.05; done"
    handles = engine.submit(EXPERIMENT, [attempt(tmp_path, script, index) for index in range(2)])
    hear(engine, handles, "running")
    held(tmp_path, handles)
    slurm.run(
        "sbatch", "-p", "urgent", "--exclusive", "-N2", "-o", "/dev/null", "--wrap", "sleep 1"
    )
    hear(engine, handles, "preempted", "gone")
    for handle in handles:
        found = record(handle)
        assert found.interrupted_by is not None, found
    assert {word.kind for word in engine.poll(handles)} <= {"preempted", "gone"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"partition": "nowhere"}, "[Ii]nvalid partition"),
        ({"gpus": 1}, "Invalid generic resource"),
        ({"extra": ("--no-such-option",)}, "unrecognized option"),
        ({"extra": ("--wait",)}, "for holdfast to say"),
    ],
)
def test_what_cannot_heal_is_refused_before_anything_is_there(
    make: MakeEngine, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    """In Slurm's own words; and again when it is submitted all the same."""
    engine = make(**options)
    with pytest.raises(EngineRefusedError, match=said):
        engine.check([attempt(tmp_path)])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(EngineRefusedError, match=said):
        engine.submit(EXPERIMENT, [attempt(tmp_path)])
    assert ran(tmp_path) == []


def test_what_slurm_lets_wait_waits(make: MakeEngine, tmp_path: Path) -> None:
    """More nodes than there are, which a test calls not available, as it calls drained ones.

    Of two reasons Slurm names the one or the other; both hold a job until somebody changes it.
    """
    engine = make(nodes=5)
    assert [each for each in engine.check([attempt(tmp_path)]) if "available" in each] == []
    (handle,) = engine.submit(EXPERIMENT, [attempt(tmp_path)])
    word = hear(engine, [handle], "held")
    assert "PartitionNodeLimit" in word.text or "PartitionConfig" in word.text
    assert engine.cancel([handle]) == {}
    over(engine, [handle])


def test_a_host_that_knows_no_cluster_is_told_so(
    make: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a configuration nor commands: nobody waits for that to heal."""
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "none"))
    with pytest.raises(EngineRefusedError, match="SLURM_CONF"):
        make().check([attempt(tmp_path)])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineRefusedError, match="no scontrol on PATH"):
        make().check([attempt(tmp_path)])
    (word,) = make().poll([Handle(name=AttemptName(EXPERIMENT, "7", 1), folder=tmp_path)])
    assert word.kind == "gone"


def test_a_submit_limit_makes_the_rest_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than the controller keeps: what fits is submitted, the rest is queued, all run once."""
    knobs = {"max_jobs": 6, "max_array": 5, "min_job_age": 2, "nodes": 1}
    with its_own(tmp_path, monkeypatch, **knobs):
        clock = Clock()
        options = EngineOptions(name="slurm")
        # What has ended makes room for others: nothing ends before it was looked at.
        gate = "until [ -e go ]; do sleep 0.1; done; echo 1 >> ran.$I"
        with SlurmEngine(options, clock=clock, monotonic=clock.monotonic) as engine:
            wanted = [attempt(tmp_path, gate, index) for index in range(12)]
            handles = engine.submit(EXPERIMENT, wanted)
            assert len(handles) == 12
            kinds = [word.kind for word in engine.poll(handles)]
            assert {"unknown", *TERMINAL}.isdisjoint(kinds[5:]), kinds
            assert "submit limit" in engine.poll(handles)[-1].text
            (tmp_path / "go").touch()
            deadline = time.monotonic() + 500
            while any(word.kind not in TERMINAL for word in words(engine, handles)):
                clock.advance(10)
                assert time.monotonic() < deadline
    assert ran(tmp_path) == sorted(str(index) for index in range(12))


def test_arrays_are_no_longer_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """23 attempts where an array has at most 5 elements, two attempts in each job."""
    options = EngineOptions(name="slurm", per_job=2)
    with its_own(tmp_path, monkeypatch, max_array=5, cpus=16), SlurmEngine(options) as engine:
        handles = engine.submit(EXPERIMENT, [attempt(tmp_path, index=i) for i in range(23)])
        assert len(waves.waves(tmp_path)) == 3
        over(engine, handles)
    assert ran(tmp_path) == sorted(str(index) for index in range(23))


def test_several_attempts_share_a_job(make: MakeEngine, slurm: Cluster, tmp_path: Path) -> None:
    """One of a job that waits can be cancelled alone, and so can one that runs."""
    engine = make(per_job=4, extra=WAITS)
    gate = "until [ -e go ]; do sleep 0.1; done; echo 1 >> ran.$I"
    handles = engine.submit(EXPERIMENT, [attempt(tmp_path, gate, index) for index in range(8)])
    hear(engine, handles, "held")
    assert len(queue(slurm).splitlines()) == 1
    engine.cancel(handles[1:2])
    assert hear(engine, handles[1:2], "gone").text == "it was revoked before it began"
    slurm.run("scontrol", "release", number_of(engine, handles))
    hear(engine, [handles[0], *handles[2:]], "running")
    held(tmp_path, handles[2:])
    engine.cancel(handles[3:4])
    over(engine, handles[3:4])
    assert record(handles[3]).stop_requested == "user"
    (tmp_path / "go").touch()
    over(engine, handles)
    assert ran(tmp_path) == ["0", "2", "4", "5", "6", "7"]


def test_a_job_that_fails_before_its_command_begins_says_why(
    make: MakeEngine, slurm: Cluster, tmp_path: Path
) -> None:
    """In the last words of its own log: what it was to run has none."""
    engine = make(python="/nowhere/python")
    handles = engine.submit(EXPERIMENT, [attempt(tmp_path, index=index) for index in range(2)])
    text = hear(engine, handles, "failed").text
    assert re.search(r"\): slurm_script: \d+: exec: /nowhere/python: not found$", text)


def test_a_grace_period_fits_under_the_kill_wait(
    memory: Path, make: MakeEngine, slurm: Cluster
) -> None:
    """A command that is deaf to TERM is killed by its shim, which lives to say so.

    In memory: it has two seconds for that, and a sync on a busy disk can take them all.
    """
    engine = make()
    script = "trap '' TERM; echo up; while :; do sleep 0.05; done"
    wanted = attempt(memory, script, grace_s=600.0)
    (note,) = engine.check([wanted])
    assert "KillWait" in note
    assert "8 s here, not 600 s" in note
    (handle,) = engine.submit(EXPERIMENT, [wanted])
    path = output_path(memory, handle.name)
    until(lambda: path.exists() and path.read_text(), 120)
    hear(engine, [handle], "running")
    slurm.run("scancel", number_of(engine, [handle]))
    over(engine, [handle])
    end = record(handle)
    assert (end.signal, end.interrupted_by) == (signal.SIGKILL, signal.SIGTERM)


def test_a_failed_node_is_named_with_its_last_boot(
    make: MakeEngine, slurm: Cluster, tmp_path: Path
) -> None:
    """Nothing is gone because a node does not answer: what it runs may live."""
    before = slurm.knobs["node_timeout"]
    engine = make(extra=("--nodelist=n2",))
    gate = "until [ -e go ]; do sleep 0.1; done; echo 1 >> ran.$I"
    (handle,) = engine.submit(EXPERIMENT, [attempt(tmp_path, gate)])
    hear(engine, [handle], "running")
    held(tmp_path, [handle])
    # Not before it runs: on a slow machine, a node that is well would be lost.
    slurm.configure(node_timeout=5)
    try:
        slurm.signal("slurmd.n2", signal.SIGSTOP)
        slurm.run("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test")
        word = hear(engine, [handle], "node_fail", says="node n2 is DOWN")
        assert word.booted_at is not None
        assert word.booted_at < datetime.now(UTC) - timedelta(seconds=30)
        (tmp_path / "go").touch()
        until(lambda: read_exit(tmp_path, handle.name))
    finally:
        slurm.signal("slurmd.n2", signal.SIGCONT)
        slurm.run("scontrol", "update", "NodeName=n2", "State=RESUME", check=False)
        slurm.configure(node_timeout=before)
        slurm.wait_for_nodes()
    assert ran(tmp_path) == ["0"]


#: Of a site with accounting: what it says, `{job}` being the number of the array.
SACCT = """#!/bin/sh
cat <<END
{job}_0|OUT_OF_MEMORY|{now}|{now}|{now}|60|n1|{name}|
{job}_1|CANCELLED by 0|{now}|{now}|{now}|60|n1|a stranger|
END
"""


def test_what_the_controller_forgot_the_accounting_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of jobs that left no outcome; and where there is no accounting, that they are gone."""
    with its_own(tmp_path, monkeypatch, nodes=1, min_job_age=2) as cluster:
        engine, folder = SlurmEngine(), tmp_path / "e"
        folder.mkdir()
        handles = engine.submit(EXPERIMENT, [attempt(folder, "sleep 600", i) for i in range(2)])
        hear(engine, handles, "running")
        held(folder, handles)
        number = number_of(engine, handles)
        now, (wave,) = int(time.time()), waves.waves(folder)
        for handle in handles:
            shim = live_state(folder, handle.name).identity
            assert shim is not None
            assert shim.pid is not None
            os.kill(shim.pid, signal.SIGKILL)
        until(lambda: cluster.run("squeue", "-h", "-tall").strip() == "", 240)
        assert hear(engine, handles, "gone").text == "Slurm does not know it any more"
        engine.close()
        real = cluster.run("which", "scontrol").strip()
        tools = {
            "scontrol": "#!/bin/bash\nset -o pipefail\n"
            f'{real} "$@" | sed s,storage/none,storage/slurmdbd,\n',
            "sacct": SACCT.format(job=number, now=now, name=f"hf-{wave.token}-{wave.name}"),
        }
        for name, text in tools.items():
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        with SlurmEngine() as engine:
            hear(engine, handles, *TERMINAL)
            assert [word.kind for word in engine.poll(handles)] == ["out_of_memory", "gone"]


def test_ten_thousand_jobs_cost_few_calls(
    make: MakeEngine, slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an hour in which something changes all the time, 200, for all orchestrators together."""
    count, clock = 10_000, Clock()
    began = clock.monotonic()
    engines = [make(clock=clock, extra=WAITS) for _ in range(2)]
    wanted = [attempt(tmp_path, index=index) for index in range(count)]
    engines[0].check(wanted)
    handles = engines[0].submit(EXPERIMENT, wanted)
    assert len(queue(slurm).splitlines()) == 1
    number = handles[0].data["job"].partition("_")[0]
    for turn in range(345):
        clock.advance(3 if turn < 60 else 12)
        assert len(engines[0].poll(handles)) == count
        assert len(engines[1].poll(handles[:10])) == 10
        if turn % 10 == 0:
            slurm.run("scancel", f"{number}_{turn}")
    calls = sum(engine.calls for engine in engines)
    # An hour that was added to a clock which goes on by itself.
    hours = (clock.monotonic() - began) / 3600
    assert calls <= 200 * hours
    hear(engines[1], handles[1:2], "held")
    print(f"{calls} calls in {hours:.2f} hours")


def test_a_job_submits_jobs(make: MakeEngine, slurm: Cluster, tmp_path: Path) -> None:
    """The orchestrator may be a job itself; its own variables are not those of its jobs."""
    code = tmp_path / "submit.py"
    code.write_text(
        "import sys; from pathlib import Path; from holdfast.attempts.names import AttemptName\n"
        "from holdfast.attempts.records import Attempt\n"
        "from holdfast.engines.slurm.engine import SlurmEngine\n"
        "folder = Path(sys.argv[1])\n"
        "SlurmEngine().submit('exp_1', [Attempt(name=AttemptName('exp_1', str(i), 1),\n"
        "argv=['sh', '-c', f'echo $SLURM_ARRAY_TASK_ID >> ran.{i}'], cwd=str(folder),\n"
        "folder=folder) for i in range(2)])\n"
    )
    slurm.run(
        "sbatch", "--array=7", "-o", str(tmp_path / "log"),
        "--wrap", f"{sys.executable} {code} {tmp_path}",
    )  # fmt: skip
    engine = make()
    until(lambda: len(ran(tmp_path)) == 2, 180)
    assert [(tmp_path / f"ran.{i}").read_text() for i in range(2)] == ["0\n", "1\n"]
    until(lambda: engine.find(EXPERIMENT, tmp_path) == {}, 180)


def test_the_doctor_tries_a_job(
    make: MakeEngine, slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reachable, limits, KillWait, a job whose words are read here, clocks; nothing is left."""
    monkeypatch.chdir(tmp_path)
    said = list(make().examine())
    assert [level for level, _ in said if level == "problem"] == []
    text = "\n".join(words for _, words in said)
    for part in (
        f"runs holdfast from {batch.NODE}",
        "controller answers",
        "arrays of 10,001",
        "KillWait is 10 s",
        "read here",
        "clocks",
    ):
        assert part in text
    assert list(tmp_path.iterdir()) == []
    refused = list(make(partition="nowhere").examine())
    assert refused[-1][0] == "problem"
    assert "Invalid partition" in refused[-1][1]
    slurm.kill("slurmctld")
    down = list(make().examine())
    assert down[-1][0] == "problem"
    assert "DOWN" in down[-1][1]
