"""Attempts on a Dask cluster, through the death of every part of it.

Needs `distributed`: `pip install '.[dask]'`, then `pytest -m dask`.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from dask_servers import Cluster, a_cluster, missing, reserved
from holdfast import EngineError, EngineRefusedError
from holdfast.attempts.files import live_state, read_exit
from holdfast.attempts.names import AttemptName, output_path
from holdfast.attempts.records import Attempt
from holdfast.attempts.settling import Lost
from holdfast.engine_options import EngineOptions
from holdfast.engines.contract import TERMINAL, EngineWord, Handle
from holdfast.engines.dask.engine import DaskEngine
from holdfast.guide import page
from pages import run_blocks, section
from processes import hear, python
from settled import settled
from shims import EXPERIMENT, alive, up
from waiting import until

pytestmark = [pytest.mark.dask, pytest.mark.timeout(600)]

#: Counts itself, and ends once it is let go.
GATE = "echo $I >> log; echo up; until [ -e go ]; do sleep 0.02; done; exit 5"


@pytest.fixture(autouse=True)
def installed() -> None:
    lacking = missing()
    if lacking:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(lacking)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The folder of an experiment, which is also where its commands run."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Two workers with one slot each."""
    servers = tmp_path / "servers"
    servers.mkdir()
    with a_cluster(servers, slots=1) as made:
        yield made


Make = Callable[..., DaskEngine]


@pytest.fixture
def make(cluster: Cluster, work: Path) -> Iterator[Make]:
    """Engines on that cluster; what a failed test left is ended."""
    made: list[DaskEngine] = []

    def one_more(**options: Any) -> DaskEngine:
        options = {"name": "dask", "address": cluster.address, **options}
        made.append(DaskEngine(EngineOptions(**options)))
        return made[-1]

    yield one_more
    (work / "go").touch()
    for engine in made:
        engine.close()


def attempts(work: Path, count: int = 1, script: str = GATE, **options: Any) -> list[Attempt]:
    return [
        Attempt(
            name=AttemptName.of_process(EXPERIMENT, index, 1),
            argv=("sh", "-c", script),
            env={"I": str(index)},
            folder=work,
            cwd=str(work),
            **{"grace_s": 60.0, **options},
        )
        for index in range(count)
    ]


def words(engine: DaskEngine, handles: Sequence[Handle]) -> list[EngineWord]:
    """What the engine says; nothing while its scheduler cannot be reached."""
    engine.wait(0.1)
    try:
        return engine.poll(handles)
    except EngineError:
        return []


def kinds(engine: DaskEngine, handles: Sequence[Handle]) -> list[str]:
    return [word.kind for word in words(engine, handles)]


def ended(engine: DaskEngine, handles: Sequence[Handle]) -> list[int | None]:
    """The exit codes, once all are over; None where there is no outcome."""

    def over() -> bool:
        found = words(engine, handles)
        return bool(found) and all(word.kind in TERMINAL for word in found)

    until(over)
    records = [read_exit(handle.folder, handle.name) for handle in handles]
    return [None if record is None else record.exit_code for record in records]


def ran(work: Path) -> list[str]:
    """The attempts that ran, as often as they did."""
    log = work / "log"
    return sorted(log.read_text().split()) if log.exists() else []


def worker_of(cluster: Cluster, word: EngineWord) -> str:
    """The name of the worker that has it."""
    from distributed import Client

    assert word.handle is not None
    with Client(cluster.address, set_as_default=False) as client:
        about = client.scheduler_info()["workers"][word.handle.data["worker"]]
    return str(about["name"])


def running(engine: DaskEngine, handle: Handle) -> EngineWord:
    """Its word, once it runs."""
    until(lambda: kinds(engine, [handle]) == ["running"])
    return engine.poll([handle])[0]


@pytest.mark.parametrize("nanny", [True, False], ids=["for-good", "restarted"])
def test_an_attempt_outlives_its_worker_and_runs_once(
    cluster: Cluster, make: Make, work: Path, nanny: bool
) -> None:
    """Dask runs the task again elsewhere: it finds the attempt taken, and waits for its end."""
    engine = make()
    (handle,) = engine.submit(EXPERIMENT, attempts(work))
    word = running(engine, handle)
    up(work)
    cluster.kill_worker(worker_of(cluster, word), nanny=nanny)
    until(lambda: engine.poll([handle])[0].text != word.text)
    assert kinds(engine, [handle]) == ["running"]
    (work / "go").touch()
    assert ended(engine, [handle]) == [5]
    assert ran(work) == ["0"]


def test_a_task_that_dask_gives_up_is_judged_by_its_files(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `allowed-failures` 0, its first dead worker is its last: the attempt runs on."""
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")
    with a_cluster(tmp_path, slots=1) as cluster:
        engine = DaskEngine(EngineOptions(name="dask", address=cluster.address))
        (handle,) = engine.submit(EXPERIMENT, attempts(work))
        name = worker_of(cluster, running(engine, handle))
        up(work)
        cluster.kill_worker(name)
        until(lambda: "KilledWorker" in engine.poll([handle])[0].text)
        assert kinds(engine, [handle]) == ["running"]
        (work / "go").touch()
        assert ended(engine, [handle]) == [5]
        engine.close()
    assert ran(work) == ["0"]


def test_a_scheduler_that_was_started_again_changes_nothing(
    cluster: Cluster, make: Make, work: Path
) -> None:
    """While it is away nobody guesses; what runs, runs on; what waited is gone, and can begin
    again.
    """
    engine = make()
    handles = engine.submit(EXPERIMENT, attempts(work, 3))
    until(lambda: kinds(engine, handles).count("running") == 2)
    until(lambda: len(ran(work)) == 2)
    cluster.kill_scheduler()
    until(lambda: kinds(engine, handles) == [])
    with pytest.raises(EngineError, match="cannot be reached"):
        engine.poll(handles)
    (waited,) = {handle.name for handle in handles if handle.name.unit not in ran(work)}
    cluster.start_scheduler()
    for name in ("three", "four"):
        cluster.start_worker(name, slots=1)
    cluster.wait(2)
    until(lambda: sorted(kinds(engine, handles)) == ["gone", "running", "running"])
    assert {word.name for word in engine.poll(handles) if word.kind == "gone"} == {waited}
    assert isinstance(settled(work, waited), Lost)
    (work / "go").touch()
    others = [handle for handle in handles if handle.name != waited]
    assert ended(engine, others) == [5, 5]
    again = Attempt(
        name=AttemptName(EXPERIMENT, waited.unit, 2),
        argv=("sh", "-c", GATE),
        env={"I": waited.unit},
        folder=work,
        cwd=str(work),
    )
    assert ended(engine, engine.submit(EXPERIMENT, [again])) == [5]
    assert ran(work) == ["0", "1", "2"]


def test_what_ends_while_the_scheduler_is_away_is_known_by_its_files(
    cluster: Cluster, make: Make, work: Path
) -> None:
    """What still runs then is known to run, and of what waited nobody can say anything."""
    engine = make()
    handles = engine.submit(EXPERIMENT, attempts(work, 3, GATE.replace("go", "go.$I")))
    until(lambda: kinds(engine, handles).count("running") == 2)
    until(lambda: len(ran(work)) == 2)
    cluster.kill_scheduler()
    until(lambda: kinds(engine, handles) == [])
    (work / f"go.{ran(work)[0]}").touch()
    until(lambda: sorted(kinds(engine, handles)) == ["completed", "running", "unknown"])
    (work / f"go.{ran(work)[1]}").touch()
    until(lambda: sorted(kinds(engine, handles)) == ["completed", "completed", "unknown"])


def test_a_scheduler_that_cannot_be_reached_is_an_error_that_passes(
    cluster: Cluster, make: Make, work: Path
) -> None:
    """Only what waits: no file tells anything, and nobody is asked to believe a word."""
    engine = make()
    cluster.stop()
    with pytest.raises(EngineError, match="cannot be reached"):
        engine.submit(EXPERIMENT, attempts(work))
    with pytest.raises(EngineError, match="cannot be reached"):
        engine.check(attempts(work))


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("tcp://127.0.0.1:banana", "banana"),
        ("tcp://127.0.0.1", "missing port"),
        ("http://127.0.0.1:8787", "unknown address scheme 'http'"),
        ("tls://127.0.0.1:8786", "no certificates are configured"),
    ],
)
def test_an_address_that_no_client_takes_is_refused(work: Path, address: str, why: str) -> None:
    """For good, and at once: no half-made client is left to end with a traceback."""
    options = EngineOptions(name="dask", address=address)
    with closing(DaskEngine(options)) as engine, pytest.raises(EngineRefusedError, match=why):
        engine.submit(EXPERIMENT, attempts(work))


def test_whoever_comes_after_a_killed_orchestrator_finds_what_runs_and_what_waits(
    cluster: Cluster, make: Make, work: Path
) -> None:
    """By the names under which it was published."""
    code = (
        "import sys; from pathlib import Path\n"
        "from holdfast.engines.dask.engine import DaskEngine\n"
        "from holdfast.engine_options import EngineOptions\n"
        "from test_dask import attempts\n"
        "engine = DaskEngine(EngineOptions(name='dask', address=sys.argv[2]))\n"
        "engine.submit('exp_1', attempts(Path(sys.argv[1]), 4))\n"
        "print('submitted', flush=True)\n"
        "engine.wait(600)\n"
    )
    here = str(Path(__file__).parent)
    with python(f"import sys; sys.path.append({here!r})\n{code}", work, cluster.address) as program:
        hear(program.stdout, "submitted")
        program.kill()
    engine = make()
    found = engine.find(EXPERIMENT, work)
    assert sorted(name.unit for name in found) == ["0", "1", "2", "3"]
    handles = list(found.values())
    until(lambda: sorted(kinds(engine, handles)) == ["queued", "queued", "running", "running"])
    (work / "go").touch()
    assert ended(engine, handles) == [5, 5, 5, 5]
    assert ran(work) == ["0", "1", "2", "3"]
    until(lambda: published(cluster) == [])
    assert engine.find(EXPERIMENT, work) == {}


def published(cluster: Cluster) -> list[str]:
    from distributed import Client

    with Client(cluster.address, set_as_default=False) as client:
        return list(client.list_datasets())


def test_a_copy_of_an_experiment_has_none_of_its_tasks(
    cluster: Cluster, make: Make, work: Path, tmp_path: Path
) -> None:
    """The token of a folder is of that very folder."""
    engine = make()
    handles = engine.submit(EXPERIMENT, attempts(work, 3))
    # What runs has written its files by then: none comes or goes while they are copied.
    until(lambda: len(ran(work)) == 2)
    subprocess.run(["cp", "-r", str(work), str(tmp_path / "copy")], check=True)
    assert make().find(EXPERIMENT, tmp_path / "copy") == {}
    (work / "go").touch()
    assert ended(engine, handles) == [5, 5, 5]


def test_each_slot_runs_one_attempt(make: Make, work: Path) -> None:
    """As many at a time as the workers have slots, and the next as soon as one is free."""
    # The first waits for a second, however long that takes; the others find that both were there.
    script = (
        "mkdir running.$I; echo $I >> log; "
        "while :; do n=$(ls -d running.* | wc -l); echo $n >> most; [ $n -lt 2 ] || : > pair; "
        "[ ! -e pair ] || break; sleep 0.02; done; sleep 0.1; rmdir running.$I"
    )
    engine = make()
    assert engine.room() is None
    handles = engine.submit(EXPERIMENT, attempts(work, 8, script))
    assert ended(engine, handles) == [0] * 8
    assert max(map(int, (work / "most").read_text().split())) == 2
    assert ran(work) == [str(index) for index in range(8)]


def test_what_runs_is_stopped_through_its_worker(make: Make, work: Path) -> None:
    """No file asks for it; the command has its grace period, and its end is recorded as asked."""
    script = "trap 'sleep 0.1; exit 0' TERM; echo up; while :; do sleep 0.02; done"
    engine = make()
    handles = engine.submit(EXPERIMENT, attempts(work, 1, script))
    up(work)
    assert engine.cancel(handles) == {}
    assert ended(engine, handles) == [0]
    found = read_exit(work, handles[0].name)
    assert found is not None
    assert found.stop_requested == "user"


def test_what_waits_never_begins_once_it_was_cancelled(make: Make, work: Path) -> None:
    """Workers refuse it, the scheduler forgets it, and on the disk it is revoked."""
    engine = make()
    handles = engine.submit(EXPERIMENT, attempts(work, 6))
    until(lambda: kinds(engine, handles).count("running") == 2)
    until(lambda: len(ran(work)) == 2)
    waiting = [word.name for word in engine.poll(handles) if word.kind == "queued"]
    assert len(waiting) == 4
    out = [handle for handle in handles if handle.name in waiting]
    assert engine.cancel(out) == {}
    assert kinds(engine, out) == ["gone"] * 4
    assert {live_state(work, name).kind for name in waiting} == {"revoked"}
    (work / "go").touch()
    others = [handle for handle in handles if handle.name not in waiting]
    assert ended(engine, others) == [5, 5]
    assert len(ran(work)) == 2


def test_what_a_killed_shim_left_is_stopped_where_it_is(make: Make, work: Path) -> None:
    """On the worker's host, by the worker: nobody else could see it."""
    script = "echo $I >> log; (trap '' TERM; exec sleep 600) & echo up $!; wait"
    engine = make()
    (handle,) = engine.submit(EXPERIMENT, attempts(work, 1, script, grace_s=0.2))
    word = running(engine, handle)
    left = int(up(work)[1])
    assert word.handle is not None
    assert word.handle.identity is not None
    assert word.handle.identity.pid is not None
    os.kill(word.handle.identity.pid, signal.SIGKILL)
    assert ended(engine, [handle]) == [None]
    assert not alive(left)
    assert isinstance(settled(work, handle.name), Lost)


def test_resources_are_passed_through(cluster: Cluster, make: Make, work: Path) -> None:
    """Held while no worker has what is asked for, and running on the one that comes."""
    engine = make(resources={"LICENCE": 1.0})
    notes = engine.check(attempts(work))
    assert [note for note in notes if "no worker has LICENCE=1" in note]
    handles = engine.submit(EXPERIMENT, attempts(work, 2))
    assert [word.kind for word in engine.poll(handles)] == ["held", "held"]
    assert "LICENCE" in engine.poll(handles)[0].text
    cluster.start_worker("licensed", slots=4, resources="LICENCE=1")
    until(lambda: sorted(kinds(engine, handles)) == ["queued", "running"])
    (first,) = [word for word in engine.poll(handles) if word.kind == "running"]
    assert worker_of(cluster, first) == "licensed"
    (work / "go").touch()
    assert ended(engine, handles) == [5, 5]


def test_workers_of_another_version_are_refused(
    make: Make, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sent to them they might take for something else."""
    monkeypatch.setattr("holdfast.engines.dask.tasks.version", lambda: "0.0")
    with pytest.raises(EngineRefusedError, match=r"has holdfast .*, and this is 0\.0"):
        make().check(attempts(work))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_a_host_that_died_proves_nothing_before_it_is_back(tmp_path: Path, work: Path) -> None:
    """The worker that runs its task again cannot tell from elsewhere; one on that host can, by the
    boot that followed.
    """
    made = Cluster(tmp_path)
    engine = DaskEngine(EngineOptions(name="dask", address=made.address))
    try:
        made.start_scheduler()
        made.start_worker("dying", slots=1, host="far")
        made.wait(1)
        (handle,) = engine.submit(EXPERIMENT, attempts(work))
        word = running(engine, handle)
        assert word.host == "far"
        up(work)
        assert word.handle is not None
        assert word.handle.identity is not None
        shim = word.handle.identity.pid
        assert shim is not None
        command = int(Path(f"/proc/{shim}/task/{shim}/children").read_text().split()[0])
        made.kill_worker("dying")
        for pid in (shim, command):
            os.kill(pid, signal.SIGKILL)
        # Until somebody takes its task, nobody says that it runs.
        until(lambda: kinds(engine, [handle]) == ["unknown"])
        made.start_worker("elsewhere", slots=1, host="other")
        until(lambda: kinds(engine, [handle]) == ["node_fail"])
        assert "NotOverError" in engine.poll([handle])[0].text
        made.start_worker("back", slots=1, host="far")
        until(lambda: kinds(engine, [handle]) == ["gone"])
        assert "as worker" in engine.poll([handle])[0].text
        assert ran(work) == ["0"]
    finally:
        engine.close()
        made.close()


@pytest.fixture
def apart(tmp_path: Path, work: Path) -> Iterator[Cluster]:
    """Two workers that have a file system of their own where the experiment's folder is."""
    servers = tmp_path / "servers"
    servers.mkdir()
    made = Cluster(servers)
    try:
        made.start_scheduler()
        for name in ("one", "two"):
            made.start_worker(name, slots=2, hidden=work)
        made.wait(2)
        yield made
    finally:
        made.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_without_a_shared_file_system_everything_comes_back(apart: Cluster, work: Path) -> None:
    """Exit record, outputs and result; parameters go there. It is told once that this is so."""
    script = (
        'cat "$HOLDFAST_PARAMS_FILE"; echo failed >&2; pwd > "$HOLDFAST_RESULT"; '
        'printf \'{"seen": %s}\' "$(cat $HOLDFAST_PARAMS_FILE)" > "$HOLDFAST_RESULT"; exit $I'
    )
    wanted = []
    for each in attempts(work, 3, script):
        unit = each.name.unit
        params = work / "params" / f"{unit}.json"
        params.parent.mkdir(exist_ok=True)
        params.write_text(f'{{"i": {unit}}}')
        (work / "results").mkdir(exist_ok=True)
        env = {
            **each.env,
            "HOLDFAST_PARAMS_FILE": str(params),
            "HOLDFAST_RESULT": str(work / "results" / f"{each.name}.json"),
        }
        wanted.append(Attempt(name=each.name, argv=each.argv, env=env, folder=work, cwd=str(work)))
    engine = DaskEngine(EngineOptions(name="dask", address=apart.address))
    (note,) = engine.check(wanted)
    assert "2 of 2 workers do not see" in note
    assert not engine.shares_files
    assert engine.check(wanted) == []
    handles = engine.submit(EXPERIMENT, wanted)
    assert ended(engine, handles) == [0, 1, 2]
    for index, each in enumerate(wanted):
        assert output_path(work, each.name).read_text() == f'{{"i": {index}}}'
        result = Path(each.env["HOLDFAST_RESULT"]).read_text()
        assert result == f'{{"seen": {{"i": {index}}}}}'
    engine.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_what_ended_apart_while_nobody_watched_is_found_and_brought_back(
    apart: Cluster, work: Path
) -> None:
    """Its value waits with the scheduler for whoever comes next; what was revoked stays so."""
    first = DaskEngine(EngineOptions(name="dask", address=apart.address))
    handles = first.submit(EXPERIMENT, attempts(work, 2, "echo $I; exit 7"))
    first.close()
    second = DaskEngine(EngineOptions(name="dask", address=apart.address))

    def back() -> bool:
        second.find(EXPERIMENT, work)
        return all(read_exit(work, handle.name) for handle in handles)

    until(back)
    assert ended(second, handles) == [7, 7]
    assert second.find(EXPERIMENT, work) == {}
    second.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_what_runs_apart_is_stopped_too(apart: Cluster, work: Path, tmp_path: Path) -> None:
    """No file that is written here is seen there."""
    engine = DaskEngine(EngineOptions(name="dask", address=apart.address))
    # An attempt runs from when its shim does; one that is stopped then has no command to signal.
    begun = tmp_path / "begun"
    handles = engine.submit(EXPERIMENT, attempts(work, 1, f": > {begun}; exec sleep 600"))
    until(begun.exists)
    assert engine.cancel(handles) == {}
    assert ended(engine, handles) == [None]
    found = read_exit(work, handles[0].name)
    assert found is not None
    assert (found.stop_requested, found.signal) == ("user", signal.SIGTERM)
    engine.close()


def test_the_page_of_the_guide_does_what_it_says(tmp_path: Path) -> None:
    """Typed word for word: a cluster of its own, servers by their command lines, a killed run.

    But for the port, which somebody else on this machine may have.
    """
    with reserved() as port:
        written = section(page("engines"), "Dask")
        assert written.count("8786") == 3
        try:
            run_blocks(written.replace("8786", str(port.getsockname()[1])), tmp_path)
        finally:
            for each in psutil.process_iter(["cwd"]):
                if str(each.info["cwd"]).startswith(str(tmp_path)):
                    # What a failed one left, or a worker that takes its time to go, or has gone.
                    with suppress(psutil.NoSuchProcess):
                        each.kill()


def test_a_cluster_of_our_own_is_not_to_be_found_again(work: Path) -> None:
    """It ends with this program: nothing is recorded that would say that it has an attempt."""
    with closing(DaskEngine()) as engine:
        (handle,) = engine.submit(EXPERIMENT, attempts(work))
        word = running(engine, handle)
        assert word.handle is not None
        assert word.handle.identity is not None
        assert (handle.record, word.handle.record) == (None, None)
        (work / "go").touch()
        assert ended(engine, [handle]) == [5]


def test_the_doctor_counts_the_workers_of_a_cluster_of_its_own() -> None:
    """One is one worker, and its scheduler has no address that anybody needs."""
    with closing(DaskEngine(EngineOptions(name="dask"))) as engine:
        said = [words for _, words in engine.examine()]
    assert "the scheduler of this program answers" in said
    assert any(words.startswith("1 worker has holdfast") for words in said)
