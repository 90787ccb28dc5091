"""What a program was told is safe is on the disk, whatever a power cut leaves of the rest."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from attempting import Attempt
from holdfast.worker.checkpoints import Checkpoints

from .checking import scratch
from .effects import Entries, Sync, Trace, Tree
from .models import crash_states, cuts
from .recording import STRACE, record

pytestmark = pytest.mark.skipif(STRACE is None, reason="strace is missing")

#: What one process does, with a mark for everything that it was told is safe.
ONE = """
import os
import holdfast
marks = os.open(os.environ["MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def mark(*words): os.write(marks, (" ".join(map(str, words)) + "\\n").encode())
def tree(path):
    path.mkdir()
    (path / "model").write_text("tree")
with holdfast.process() as process:
    process.result("first")
    mark("result 3 first")
    process.checkpoint(lambda path: path.write_text("file"), next_step=1)
    mark("checkpoint 1")
    process.checkpoint(tree, next_step=2)
    mark("checkpoint 2")
    process.checkpoint(tree, next_step=2)
    mark("checkpoint 2")
    process.checkpoint(tree, next_step=3)
    mark("checkpoint 3")
    process.result("second")
    mark("result 3 second")
mark("said 3")
"""

#: Eight ranks at once, each with two results.
EIGHT = """
import os
pids = []
for rank in range(8):
    if not (pid := os.fork()):
        import holdfast
        os.environ["RANK"] = str(rank)
        marks = os.open(os.environ["MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        with holdfast.process() as process:
            for value in ("first", "second"):
                process.result(value)
                os.write(marks, f"result {process.index} {value}\\n".encode())
        os.write(marks, f"said {process.index}\\n".encode())
        os._exit(0)
    pids.append(pid)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids)
"""


def traced(folder: Path, code: str, ranks: int | None = None) -> Trace:
    made = Attempt(folder / "root", ranks)
    marks = folder / "marks"
    marks.touch()
    trace = record(
        [sys.executable, "-c", code],
        made.folder,
        marks,
        env={**made.env, "MARKS": str(marks), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert trace.end().digest == Tree.scan(made.folder.resolve()).digest
    return trace


def problems(root: Path, told: list[str]) -> list[str]:
    """What of that which was *told* is not in *root*, and what is there that is not whole."""
    found: list[str] = []
    newest = dict(mark.rsplit(" ", 1) for mark in told)
    for what, value in newest.items():
        kind, *index = what.split()
        if kind == "result":
            data = [path.read_bytes() for path in root.glob(f"results/{index[0]}.*.json")]
            # The next one may be there before it is told.
            if data not in ([json.dumps(value).encode()], [b'"second"']):
                found.append(f"{what} {value} was acknowledged: {data}")
        elif kind == "said" and not list(root.glob(f"attempts/*/{value}.*.said")):
            found.append(f"{what} {value} was acknowledged")
    checkpoints = Checkpoints(str(root / "checkpoints" / "3"), None, (3,), "")
    if (checkpoints.agreed() or 0) < int(newest.get("checkpoint", 0)):
        found.append(f"checkpoint {newest['checkpoint']} was acknowledged")
    newest_path = checkpoints.path()
    if newest_path is not None:
        path = Path(newest_path)
        content = path / "model" if path.is_dir() else path
        if not content.exists() or content.read_text() not in ("file", "tree"):
            found.append(f"{path.name} is not whole")
    for path in (*root.glob("results/*.json"), *root.glob("attempts/*/*.said")):
        try:
            json.loads(path.read_bytes())
        except ValueError:
            found.append(f"{path.name} is not whole")
    return found


def first_problem(trace: Trace, limit: int, every: int) -> tuple[str | None, int]:
    """What some power cut takes that was acknowledged, and how many ways to lose power were tried.

    Args:
        limit: Combinations for each cut, and *every* how manieth cut is tried.
    """
    marks = trace.marks()
    states = 0
    with scratch() as where:
        for digest, state in crash_states(trace, seed=1, limit=limit, only=cuts(trace)[::every]):
            root = where / digest
            state.tree.rebuild(root)
            found = problems(root, [text for at, text in marks if at < state.cut])
            if found:
                return f"{found} in {state}", states
            shutil.rmtree(root)
            states += 1
    return None, states


@pytest.mark.parametrize(
    ("code", "ranks", "limit", "every"), [(ONE, None, 40, 1), (EIGHT, 8, 2, 4)]
)
@pytest.mark.timeout(1800)
def test_nothing_acknowledged_is_lost_in_a_power_cut(tmp_path, code, ranks, limit, every):
    """Results, checkpoints and completions, of one process and of eight ranks at once."""
    trace = traced(tmp_path, code, ranks)
    assert len(trace.marks()) == (7 if ranks is None else 24)
    problem, states = first_problem(trace, limit, every)
    assert problem is None
    assert states > 100


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_nothing_that_eight_ranks_were_told_is_lost_in_any_of_many_power_cuts(tmp_path):
    """The long form of the same."""
    problem, states = first_problem(traced(tmp_path, EIGHT, 8), 100, 1)
    assert problem is None
    assert states > 1000


@pytest.mark.parametrize("forgotten", ["a file", "a folder"])
def test_a_sync_that_is_left_out_is_noticed(tmp_path, forgotten):
    """The judge sees what would be lost without it."""
    trace = traced(tmp_path, ONE)
    folders = {
        inode
        for effect in trace.effects
        if isinstance(effect, Entries) and effect.makes == "directory"
        for _, inode in effect.changes
    } | set(range(len(trace.initial.paths) + 1))
    syncs = [
        at
        for at, effect in enumerate(trace.effects)
        if isinstance(effect, Sync) and (effect.inode in folders) == (forgotten == "a folder")
    ][::3]
    noticed = [at for at in syncs if first_problem(trace.without(at), 8, 1)[0] is not None]
    # Some are of what is sure to follow: a folder that another sync makes durable, too.
    assert len(noticed) >= len(syncs) // 2
