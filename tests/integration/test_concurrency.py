"""Many processes in one state directory: nothing lost, nothing doubled, nothing half seen."""

import json
import subprocess
from pathlib import Path

from holdfast.status import ProcessStatus
from holdfast.store.manager import StateManager
from processes import hear, python
from waiting import PATIENCE_S

_WRITERS, _READERS, _EXPERIMENTS, _STEPS = 8, 2, 4, 8

# Every writer runs processes of its own in every experiment, and claims for each line anew.
_HAMMER = """
import sys
import warnings
from holdfast import StateManager
from holdfast.errors import AlreadyOwnedError, ExperimentExistsError

warnings.simplefilter("error")
state_dir, me, writers, experiments, steps = sys.argv[1], *map(int, sys.argv[2:])
manager = StateManager(state_dir)
print("ready", flush=True)
sys.stdin.readline()
refused = 0
for step in range(steps):
    name = f"exp_{(me + step) % experiments}"
    try:
        manager.create(name, num_processes=writers * steps)
        print("created", name, flush=True)
    except ExperimentExistsError:
        pass
    own = manager.create(num_processes=1)
    print("created", own.experiment_id, flush=True)
    index = me * steps + step
    while True:
        try:
            with manager.claim(name, wait_s=30) as claim:
                if claim.state.status == "initialised":
                    claim.record("start")
                claim.record("start", index)
                state = claim.record("complete", index, exit_code=0, host=f"writer {me}")
                print("recorded", name, index, state.revision, flush=True)
            break
        except AlreadyOwnedError:
            refused += 1
    loaded = manager.load(name)
    assert loaded.process_progress[index].exit_code == 0, loaded
print("refused", refused, flush=True)
"""

# Readers take shared locks for their looks at liveness, in the way of every claim.
_READER = """
import os, sys, json, warnings
from holdfast import StateManager
from holdfast.errors import ExperimentNotFoundError

warnings.simplefilter("error")
manager = StateManager(sys.argv[1])
print("ready", flush=True)
looks = 0
revisions = {}
ended = False
while not ended:
    # A last look at all of it once the writers are done, however seldom this one got its turn.
    ended = os.path.exists(sys.argv[2])
    for name in os.listdir(sys.argv[1]) if os.path.isdir(sys.argv[1]) else []:
        if not name.endswith(".json"):
            continue
        with open(os.path.join(sys.argv[1], name), "rb") as file:
            plain = json.load(file)
        assert plain["schema_version"] == 1
        if not name.startswith("exp_2"):
            state = manager.load(plain["experiment_id"])
            assert state.revision >= revisions.get(name, 0), (name, state.revision, revisions)
            revisions[name] = state.revision
            manager.liveness(plain["experiment_id"])
            manager.history(plain["experiment_id"])
            looks += 1
    manager.find_incomplete()
print(looks, flush=True)
"""


def test_eight_processes_hammering_one_directory_lose_nothing(
    state_dir: Path, tmp_path: Path
) -> None:
    """Create, claim, record and load from all sides; two readers never see anything invalid.

    A stray view, a revision that goes back, a claim refused because a reader looked: all of them
    are errors in the processes below.
    """
    ended = tmp_path / "ended"
    arguments = (_WRITERS, _EXPERIMENTS, _STEPS)
    readers = [python(_READER, state_dir, ended) for _ in range(_READERS)]
    writers = [python(_HAMMER, state_dir, number, *arguments) for number in range(_WRITERS)]
    for process in (*readers, *writers):
        assert process.stdout is not None
        hear(process.stdout, "ready")
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    said: list[list[str]] = []
    problems = ""
    for writer in writers:
        out, err = writer.communicate(timeout=240)
        problems += err
        said += [line.split() for line in out.splitlines()]
    ended.touch()
    for reader in readers:
        out, err = reader.communicate(timeout=PATIENCE_S)
        problems += err
        assert int(out or 0) > 0, problems
    assert not problems

    created = [name for word, name, *_ in said if word == "created"]
    assert len(created) == len(set(created)) == _WRITERS * _STEPS + _EXPERIMENTS
    manager = StateManager(state_dir)
    assert sorted(created) == manager.list_experiments()
    assert manager.unreadable() == []
    for number in range(_EXPERIMENTS):
        name = f"exp_{number}"
        mine = {
            int(index): int(revision)
            for word, *rest in said
            if word == "recorded" and rest[0] == name
            for index, revision in [rest[1:]]
        }
        state = manager.load(name)
        assert sorted(mine) == state.processes.indices(ProcessStatus.COMPLETED)
        # Each acknowledged line has a revision of its own: none was written over.
        assert len(set(mine.values())) == len(mine)
        assert state.revision == 1 + 2 * len(mine)
        completed = [step for step in manager.history(name) if step.event == "complete"]
        assert sorted(step.index or 0 for step in completed) == sorted(mine)
        view = json.loads((state_dir / f"{name}.json").read_bytes())
        assert view["revision"] == state.revision


_PROBE = """
import os, sys
from holdfast import StateManager
manager = StateManager(sys.argv[1])
print("ready", flush=True)
looks = 0
while not os.path.exists(sys.argv[2]):
    manager.liveness("exp_7")
    looks += 1
    if looks == 20:
        open(f"{sys.argv[2]}.{os.getpid()}", "w").close()
"""


def test_a_look_at_the_lock_never_refuses_a_claim(fast_dir: Path) -> None:
    """Readers hold the lock for moments; a claim that does not wait is not refused for that."""
    manager = StateManager(fast_dir / "state")
    manager.create("exp_7")
    ended = fast_dir / "ended"
    probes = [python(_PROBE, manager.state_dir, ended) for _ in range(3)]
    for probe in probes:
        assert probe.stdout is not None
        hear(probe.stdout, "ready")

    def has_looked(probe: "subprocess.Popen[str]") -> bool:
        return ended.with_name(f"ended.{probe.pid}").exists() or probe.poll() is not None

    epoch = 0
    # However busy the machine is: on until each of them has looked often.
    while epoch < 120 or not all(map(has_looked, probes)):
        epoch += 1
        with manager.claim("exp_7") as claim:
            assert claim.epoch == epoch
    ended.touch()
    for probe in probes:
        _, err = probe.communicate(timeout=PATIENCE_S)
        assert probe.returncode == 0, err
