"""What may happen to a run on Slurm alone, by the command line: queues, limits, lost nodes."""

import contextlib
import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from holdfast.attempts.files import live_state
from holdfast.attempts.names import names
from holdfast.status import ExperimentStatus, ProcessStatus
from scenarios import PROCESSES, Kind, Site
from waiting import until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1200)]

SLURM = Kind(
    "slurm",
    "holdfast.engines.slurm.engine:SlurmEngine",
    table='name = "slurm"\ncpus = 1\ngrace = "2s"',
    servers="slurm",
)


@pytest.fixture
def site(slurm: Any, tmp_path: Path) -> Iterator[Site]:
    made = Site(SLURM, tmp_path)
    yield made
    made.end()


def jobs(slurm: Any) -> list[str]:
    """What is in the queue, each element of an array for itself."""
    return list(slurm.run("squeue", "-h", "-r", "-o", "%i").split())


# -- the queue ------------------------------------------------------------------------------------


def test_what_is_refused_is_told_in_slurms_words_and_changes_nothing(site: Site) -> None:
    """A partition that there is not: no job, no attempt, and the same again once it is mended."""
    site.write('partition = "nowhere"')
    _, err = site.run(code=None)
    assert "nvalid partition" in err
    assert site.started[-1].returncode not in (0, 3)
    assert site.each() == [ProcessStatus.PENDING] * PROCESSES
    assert site.each("attempt") == [0] * PROCESSES
    site.write()
    site.run()
    site.is_done_once()


def test_jobs_that_are_held_wait_and_say_so(site: Site, slurm: Any) -> None:
    """Nothing of them counts as time that they ran; released, they run."""
    site.write('extra = ["--hold"]')
    program = site.start_run()
    until(lambda: set(site.each("phase")) == {"held"}, 240)
    assert site.each("started_at") == [None] * PROCESSES
    shown = json.loads(site("show", site.id, "--json")[0])
    assert "held" in json.dumps(shown)
    slurm.run("scontrol", "release", *{job.partition("_")[0] for job in jobs(slurm)})
    program.communicate(timeout=400)
    assert program.returncode == 0
    site.is_done_once()


def test_submitted_and_left_jobs_run_without_an_orchestrator(site: Site, slurm: Any) -> None:
    """`run --detach` returns at once, and `resume` collects what ended since."""
    site.run("--detach")
    assert site.state().status is ExperimentStatus.RUNNING
    until(lambda: len(site.said("end")) == PROCESSES and jobs(slurm) == [], 240)
    site("cleanup")
    assert site.state().status is ExperimentStatus.RUNNING
    site.resume()
    site.is_done_once()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_at_the_login_node_leaves_jobs_alone(site: Site, number: int, code: int) -> None:
    """They wait and run on; resume goes on with them."""
    site.hold()
    program = site.start_run()
    site.began()
    program.send_signal(number)
    _, err = program.communicate(timeout=180)
    # Ended by the signal, as a shell wants to know, or by its exit code.
    assert program.returncode in (code, -number), err
    assert "stop" in err
    assert (site.state().status, site.state().processes_running) == ("running", PROCESSES)
    assert len(site.shims()) == PROCESSES
    site.let_go()
    site.resume()
    site.is_done_once()


# -- limits ---------------------------------------------------------------------------------------

#: Ends as a shell does whose child is killed first; as a program does that saves and exits 0; as
#: one that hears nothing; in turn. Whatever comes after the first attempt is done at once.
SWEPT = """
import os, signal, subprocess, sys, time
index, attempt = int(os.environ["HOLDFAST_INDEX"]), os.environ["HOLDFAST_ATTEMPT"]
log = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
os.write(log, f"start {index} {attempt} {os.getpid()}\\n".encode())
if attempt == "1":
    how = index % 4
    if how == 0:
        os.execvp("sh", ["sh", "-c", "trap : TERM; sleep 600; exit 0"])
    if how == 1:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if how == 2:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.run(["sleep", "600"])
        sys.exit(0)
    while True:
        time.sleep(600)
os.write(log, f"end {index} {attempt} {os.getpid()}\\n".encode())
"""


def swept(site: Site, slurm: Any, count: int) -> None:
    """Each of *count* jobs meets its time limit in its first attempt, and none of them counts."""
    (site.path / "work.py").write_text(SWEPT)
    site.write('time = "2h"')
    text = (site.path / "e.toml").read_text()
    text = text.replace(f"processes = {PROCESSES}", f"processes = {count}")
    (site.path / "e.toml").write_text(text.replace(f"jobs = {PROCESSES}", f"jobs = {count}"))
    program = site.start_run()
    site.began(count, 200)
    arrays = {job.partition("_")[0] for job in jobs(slurm)}
    for number in arrays:
        slurm.run("scontrol", "update", f"JobId={number}", "EndTime=now+2")
    program.communicate(timeout=400)
    assert program.returncode == 0
    state = site.state()
    assert state.status is ExperimentStatus.AGGREGATED
    assert site.each("attempt") == [2] * count
    assert site.each("failures") == [0] * count
    assert sorted(site.said("end")) == [(index, 2) for index in range(count)]
    steps = [step for step in site.history() if step.event == "requeue"]
    assert {str(step.reason) for step in steps} <= {"time_limit", "preempted"}
    assert len(steps) == count
    site.is_consistent()


def test_a_time_limit_is_never_taken_for_an_end(site: Site, slurm: Any) -> None:
    """Twelve jobs in four ways to end under TERM: 0 completed by it, 0 charged."""
    swept(site, slurm, 12)


@pytest.mark.long
def test_a_hundred_time_limits_are_never_taken_for_an_end(site: Site, slurm: Any) -> None:
    """The long form of the same."""
    swept(site, slurm, 100)


# -- nodes ----------------------------------------------------------------------------------------

_OTHER_NODE = """
printf '%s\\n' 00000000-1111-2222-3333-444444444444 > "$0"/boot_id &&
printf '%s\\n' 0123456789abcdef0123456789abcdef > "$0"/machine-id &&
mount --bind "$0"/boot_id /proc/sys/kernel/random/boot_id &&
mount --bind "$0"/machine-id /etc/machine-id &&
{ cat /etc/hosts; echo 127.0.0.1 elsewhere; } > "$0"/hosts && mount --bind "$0"/hosts /etc/hosts &&
hostname elsewhere && exec "$@"
"""


def another_machine(folder: Path) -> list[str]:
    """What to put before a command so that it sees another boot id, machine id and host name."""
    return ["unshare", "--mount", "--uts", "sh", "-c", _OTHER_NODE, str(folder)]


def can_be_another_machine(folder: Path) -> bool:
    words = [*another_machine(folder), "true"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def machine_dies(slurm: Any, node: str) -> None:
    """Kill everything on the machine of *node*, those first who would tell the controller."""
    there = os.readlink(f"/proc/{slurm.pid(f'slurmd.{node}')}/ns/uts")
    tells = {"slurmd\n": 0, "slurmstepd\n": 1}
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/ns/uts") == there:
                comm = Path(f"/proc/{pid}/comm").read_text()
                found.append((tells.get(comm, 2), int(pid)))
    for _, pid in sorted(found):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_lost_machine_holds_up_its_own_alone(site: Site, slurm: Any) -> None:
    """Another boot id and host name, gone with all that ran there: named, and its siblings go on.

    Nothing that can be seen from here tells it from a machine that is cut off.
    """
    if not can_be_another_machine(site.path):
        pytest.skip("needs to bind over /proc/sys/kernel/random/boot_id and /etc/machine-id")
    slurm.kill("slurmd.n2")
    slurm.start_node("n2", *another_machine(site.path))
    slurm.wait_for_nodes()
    try:
        # Four to a node.
        site.kind = attrs.evolve(SLURM, table=SLURM.table.replace("cpus = 1", "cpus = 16"))
        site.write()
        site.hold()
        program = site.start_run()
        site.began()
        folder = site.states / site.id
        there = {
            name.index
            for name in names(folder, site.id)
            if (live_state(folder, name).identity or site).host == "elsewhere"
        }
        assert 0 < len(there) < PROCESSES, there
        machine_dies(slurm, "n2")
        slurm.run("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=gone")
        site.let_go()
        _, err = program.communicate(timeout=300)
        assert program.returncode != 0
        assert "boot" in err
        assert "n2" in err
        expected = [
            ProcessStatus.RUNNING if index in there else ProcessStatus.COMPLETED
            for index in range(PROCESSES)
        ]
        assert site.each() == expected
    finally:
        slurm.kill("slurmd.n2")
        slurm.start_node("n2")
        slurm.wait_for_nodes()
    site.resume("--force")
    site.is_done_once(runs=dict.fromkeys(there, 2))


# -- the orchestrator -----------------------------------------------------------------------------


@pytest.mark.long
def test_killed_twenty_times_nothing_is_lost_or_doubled(site: Site) -> None:
    """At random instants of one experiment, of more jobs than end in that time."""
    jobs = 140
    text = (site.path / "e.toml").read_text()
    text = text.replace(f"processes = {PROCESSES}", f"processes = {jobs}")
    (site.path / "e.toml").write_text(text.replace(f"jobs = {PROCESSES}", "jobs = 6"))
    chance, killed = random.Random(17), 0
    while killed < 20:
        program = site.start("run", "e.toml", env={"LASTS": "0.5"})
        try:
            program.wait(chance.uniform(0.2, 2.0))
            break
        except subprocess.TimeoutExpired:
            program.kill()
            killed += 1
        program.communicate()
    site("run", "e.toml")
    assert killed == 20
    assert site.runs() == dict.fromkeys(range(jobs), 1)
    # An attempt that was killed before it was submitted never ran.
    assert sorted(index for index, _ in site.said("end")) == list(range(jobs))
    site.is_consistent()
