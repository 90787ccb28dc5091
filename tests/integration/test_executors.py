"""Attempts in pools of `concurrent.futures`, and what becomes of them when a pool does not last."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest

import pools
from holdfast import (
    EngineError,
    EngineRefusedError,
    ExecutorEngine,
    LocalEngine,
    Orchestrator,
    StateManager,
)
from holdfast.attempts.files import read_exit
from holdfast.attempts.names import AttemptName
from holdfast.attempts.records import Attempt, Slot
from holdfast.engines.contract import TERMINAL, Engine, Handle
from holdfast.lifecycle.handed import handed_over
from processes import parent_of, python, run
from shims import EXPERIMENT, live_file, up
from waiting import PATIENCE_S, until

GATE = "echo up $$ >> log; echo up; until [ -e go ]; do sleep 0.02; done; exit 5"


def attempt(folder: Path, script: str = GATE, index: int = 0, **options: Any) -> Attempt:
    return Attempt(
        name=AttemptName.of_process(EXPERIMENT, index, 1),
        argv=("sh", "-c", script),
        folder=folder,
        cwd=str(folder),
        **options,
    )


def ended(engine: Engine, handle: Handle) -> int | None:
    def over() -> bool:
        engine.wait(0.2)
        return engine.poll([handle])[0].kind in TERMINAL

    until(over)
    found = read_exit(handle.folder, handle.name)
    return None if found is None else found.exit_code


@pytest.fixture
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, initializer=pools.die_with_parent) as pool:
        yield pool


def test_an_attempt_outlives_the_process_of_the_pool_that_ran_it(
    processes: ProcessPoolExecutor, tmp_path: Path
) -> None:
    """The pool is broken then; the attempt's own files tell how it ended."""
    worker = processes.submit(os.getpid).result()
    with ExecutorEngine(processes) as engine:
        (handle,) = engine.submit(EXPERIMENT, [attempt(tmp_path)])
        up(tmp_path)
        os.kill(worker, signal.SIGKILL)
        until(lambda: "its task failed" in engine.poll([handle])[0].text)
        assert engine.poll([handle])[0].kind == "running"
        (tmp_path / "go").touch()
        assert ended(engine, handle) == 5
    assert len((tmp_path / "log").read_text().split("\n")) == 2


def test_a_broken_pool_takes_nothing_more(processes: ProcessPoolExecutor, tmp_path: Path) -> None:
    """That does not heal: in the pool's own words, and what was queued in it is gone."""
    worker = processes.submit(os.getpid).result()
    with ExecutorEngine(processes, max_workers=3) as engine:
        assert engine.room() == 3
        handles = engine.submit(EXPERIMENT, [attempt(tmp_path, GATE, index) for index in range(3)])
        up(tmp_path)
        os.kill(worker, signal.SIGKILL)
        until(lambda: "its task failed" in engine.poll(handles)[2].text)
        with pytest.raises(EngineRefusedError, match=r"abruptly|not usable"):
            engine.submit(EXPERIMENT, [attempt(tmp_path, GATE, 4)])
        (tmp_path / "go").touch()
        assert ended(engine, handles[0]) == 5
        # No shim can begin it any more; the caller revokes it before it starts another.
        assert engine.poll(handles)[2].kind == "gone"


def test_a_pool_that_somebody_shut_down_refuses(tmp_path: Path) -> None:
    """What it had runs to its end."""
    pool = ThreadPoolExecutor(1)
    with ExecutorEngine(pool) as engine:
        assert engine.room() == 1
        (handle,) = engine.submit(EXPERIMENT, [attempt(tmp_path)])
        up(tmp_path)
        pool.shutdown(wait=False)
        with pytest.raises(EngineRefusedError, match="after shutdown"):
            engine.submit(EXPERIMENT, [attempt(tmp_path, GATE, 1)])
        (tmp_path / "go").touch()
        assert ended(engine, handle) == 5


def test_a_program_ends_although_its_pool_waits_for_attempts(tmp_path: Path) -> None:
    """Once the engine is closed, nobody waits for an attempt that runs on."""
    code = (
        "import sys; from concurrent.futures import ThreadPoolExecutor; from pathlib import Path\n"
        "from holdfast import ExecutorEngine\n"
        "from holdfast.attempts.names import AttemptName\n"
        "from holdfast.attempts.records import Attempt\n"
        "folder = Path(sys.argv[1])\n"
        "with ThreadPoolExecutor(1) as pool, ExecutorEngine(pool) as engine:\n"
        "    name = AttemptName('exp_1', '0', 1)\n"
        "    engine.submit('exp_1', [Attempt(name=name, folder=folder, cwd=folder,\n"
        "        argv=['sh', '-c', sys.argv[2]])])\n"
        "    while not (folder / 'attempts/0.1.out').exists(): engine.wait(0.05)\n"
    )
    run(code, tmp_path, GATE)
    up(tmp_path)
    shim = live_file(tmp_path)["pid"]
    assert parent_of(shim)
    (tmp_path / "go").touch()
    until(lambda: read_exit(tmp_path, AttemptName(EXPERIMENT, "0", 1)))


def test_what_waits_in_a_pool_never_begins_once_it_was_cancelled(tmp_path: Path) -> None:
    """It is revoked on the disk, so that not even another engine's task begins it."""
    with ThreadPoolExecutor(1) as pool, ExecutorEngine(pool) as engine:
        first, second = engine.submit(EXPERIMENT, [attempt(tmp_path), attempt(tmp_path, GATE, 1)])
        up(tmp_path)
        assert engine.poll([first, second])[1].kind == "queued"
        assert engine.cancel([second]) == {}
        (tmp_path / "go").touch()
        assert ended(engine, first) == 5
        assert ended(engine, second) is None
    assert len((tmp_path / "log").read_text().split("\n")) == 2


def test_slots_cannot_be_held_in_a_pool(tmp_path: Path) -> None:
    """Their locks are descriptors of this very program."""
    slot = Slot(kind="gpu", name="0", path=tmp_path / "slot", fd=0)
    with ThreadPoolExecutor(1) as pool, ExecutorEngine(pool) as engine:
        with pytest.raises(EngineRefusedError, match="slots"):
            engine.check([attempt(tmp_path, slots=(slot,))])
        with pytest.raises(EngineRefusedError, match="slots"):
            engine.submit(EXPERIMENT, [attempt(tmp_path, slots=(slot,))])


class Elsewhere(ThreadPoolExecutor):
    """Workers that do not see the experiment's folder."""

    def submit(self, function: Any, /, wanted: Any, **options: Any) -> Any:
        return super().submit(function, attrs.evolve(wanted, apart=True), **options)


def test_what_came_back_waits_for_a_disk_that_refuses(tmp_path: Path) -> None:
    """The pool has it nowhere else: it is kept, and taken in once there is room."""
    with Elsewhere(1) as pool, ExecutorEngine(pool) as engine:
        (handle,) = engine.submit(EXPERIMENT, [attempt(tmp_path, "echo printed; exit 5")])
        kept = (tmp_path / "attempts").rename(tmp_path / "kept")
        (tmp_path / "attempts").symlink_to(kept)  # nothing is written through a link
        until(lambda: engine.wait(0.1) or refused(engine, handle))
        assert not list(kept.iterdir())
        (tmp_path / "attempts").unlink()
        kept.rename(tmp_path / "attempts")
        assert ended(engine, handle) == 5
    assert (tmp_path / "attempts" / "0.1.out").read_text() == "printed\n"


def refused(engine: Engine, handle: Handle) -> bool:
    """Whether the disk did not take what came back."""
    try:
        engine.poll([handle])
    except EngineError as err:
        return "waits for the disk" in str(err)
    return False


def test_a_pool_that_died_with_its_program_has_nothing_any_more(tmp_path: Path) -> None:
    """The experiment is stale, and any engine takes up what runs on, by its files."""
    (tmp_path / "pool.toml").write_text(
        'processes = 2\ncommand = ["sh", "-c", "until [ -e go ]; do sleep 0.02; done"]\n'
    )
    code = (
        "import os, sys, threading, time; from concurrent.futures import ThreadPoolExecutor\n"
        "from pathlib import Path\n"
        "from holdfast import ExecutorEngine, Orchestrator, StateManager, load_config\n"
        "os.chdir(sys.argv[1])\n"
        "def die():\n"
        "    while len(list(Path('.experiment_state').glob('*/attempts/*.out'))) < 2:\n"
        "        time.sleep(0.02)\n"
        "    os._exit(9)\n"
        "threading.Thread(target=die, daemon=True).start()\n"
        "with ThreadPoolExecutor(2) as pool, ExecutorEngine(pool) as engine:\n"
        "    Orchestrator(StateManager(), engine).run(load_config('pool.toml'))\n"
    )
    with python(code, tmp_path) as child:
        assert child.wait(PATIENCE_S) == 9, child.stderr
    manager = StateManager(tmp_path / ".experiment_state")
    (state,) = map(manager.load, manager.list_experiments())
    assert state.processes_running == 2
    assert handed_over(state) == []
    assert manager.cleanup_stale(dry_run=True) == [state.experiment_id]
    (tmp_path / "go").touch()
    with LocalEngine() as engine:
        outcome = Orchestrator(manager, engine).resume(state.experiment_id)
    assert outcome.state.processes_completed == 2
    assert {each.attempt for each in outcome.state.process_progress.values()} == {1}
