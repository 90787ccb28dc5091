"""The guide's PyTorch program under the real torchrun: stopped, killed, gone on with.

Needs torch, as `test_torchrun` does.
"""

import contextlib
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from attempting import Attempt
from holdfast.guide import page
from pages import blocks
from waiting import until

pytestmark = [
    pytest.mark.launchers,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc"),
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None,
        reason="needs torch: pip install torch --index-url https://download.pytorch.org/whl/cpu",
    ),
]

RANKS = 2
TORCHRUN = [
    sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(RANKS),
    "--standalone", "train.py",
]  # fmt: skip


def launcher(folder: Path, attempt: int = 1) -> Attempt:
    made = Attempt(folder, RANKS, attempt=attempt, OMP_NUM_THREADS="1")
    (program,) = [each.text for each in blocks(page("ranks")) if each.name == "train.py"]
    (folder / "train.py").write_text(program)
    return made


@pytest.fixture
def gang(tmp_path: Path) -> Iterator[Attempt]:
    """Attempt 1 of a launcher with two ranks."""
    made = launcher(tmp_path / "gang")
    yield made
    made.end()
    # torchrun's ranks lead sessions of their own, and outlive it.
    for begun in made.attempts.glob("*/*.begun"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(json.loads(begun.read_text())["pid"], signal.SIGKILL)


def losses(made: Attempt) -> list[float]:
    return [
        json.loads(path.read_text())["loss"]
        for index in (4, 5)
        for path in made.results.glob(f"{index}.*.json")
    ]


def steps(made: Attempt) -> list[int]:
    return [line["step"] for index in (4, 5) for line in made.lines(index)[-1:]]


def test_it_goes_on_after_a_kill_as_if_nothing_had_happened(tmp_path, gang):
    """Model, optimizer and random numbers: the losses are those of an undisturbed run."""
    undisturbed = launcher(tmp_path / "undisturbed")
    undisturbed.done(undisturbed.popen(TORCHRUN), 0)
    expected = losses(undisturbed)
    assert len(expected) == RANKS
    assert [undisturbed.told("said", index)["completed"] for index in (4, 5)] == [True, True]

    # All of it takes a fraction of a second: it is held where it is to be killed.
    held = "        while step == 25:\n            __import__('time').sleep(0.05)\n"
    program = gang.folder / "train.py"
    before = "        optimizer.zero_grad()\n"
    assert before in program.read_text()
    program.write_text(program.read_text().replace(before, held + before))
    first = gang.popen(TORCHRUN, start_new_session=True)
    until(lambda: len(list(gang.checkpoints.glob("*/step-20"))) == RANKS, 300)
    for index in (4, 5):
        os.kill(gang.told("begun", index)["pid"], signal.SIGKILL)
    assert first.wait(240) != 0
    second = launcher(gang.folder, attempt=2)
    second.done(second.popen(TORCHRUN), 0)
    assert losses(second) == expected


def test_all_ranks_stop_at_one_step_when_one_is_asked(gang):
    """Each saves that step, and the one that was asked says that it stopped."""
    (gang.folder / "train.py").write_text(
        (gang.folder / "train.py").read_text().replace("range(start, 60)", "range(start, 10**6)")
    )
    process = gang.popen(TORCHRUN)
    # Of the newest only some are kept, and those go by in an instant.
    until(lambda: all(any(gang.checkpoints.glob(f"{index}/step-*")) for index in (4, 5)), 300)
    os.kill(gang.told("begun", 5)["pid"], signal.SIGTERM)
    gang.done(process, 0)
    assert gang.told("said", 5)["why"] == "SIGTERM"
    newest = [
        max(int(path.name.removeprefix("step-")) for path in folder.iterdir())
        for folder in (gang.checkpoints / "4", gang.checkpoints / "5")
    ]
    assert newest[0] == newest[1]


def test_an_exception_of_a_rank_is_told_by_it(gang):
    """Torchrun itself says 1 for whatever it was."""
    (gang.folder / "train.py").write_text(
        (gang.folder / "train.py")
        .read_text()
        .replace("        loss.backward()", "        assert process.rank != 1 or step < 5, 'boom'")
    )
    gang.done(gang.popen(TORCHRUN), 1)
    assert gang.told("said", 5)["error"] == {
        "type": "AssertionError", "message": "boom", "rank": 1,
    }  # fmt: skip
