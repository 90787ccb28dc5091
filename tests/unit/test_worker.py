"""What a program says of itself: who it is, what a report, a checkpoint and a result are."""

import json
import math
import os
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import holdfast
from attempting import Attempt
from holdfast.errors import DiskError, InvalidRequestError, WorkerError
from holdfast.store import strictjson
from holdfast.worker import files, progress
from holdfast.worker.checkpoints import Checkpoints
from holdfast.worker.process import Process
from holdfast.worker.results import encoded
from holdfast.worker.whoami import incarnation, who_am_i

HEAVY = {
    "attr", "attrs", "cattrs", "click", "collections", "contextlib", "dataclasses", "enum",
    "functools", "inspect", "json", "pathlib", "psutil", "re", "rich", "shutil", "signal",
    "statemachine", "subprocess", "tempfile", "threading", "typing",
}  # fmt: skip


@pytest.fixture
def process(tmp_path):
    """Process 3 of an experiment."""
    made = Attempt(tmp_path)
    return Process(who_am_i(made.env))


def rank_of(folder, rank, *, ranks=3, **more):
    return Process(who_am_i({**Attempt(folder, ranks, **more).env, "RANK": str(rank)}))


# --- what it costs to be there


def test_a_program_that_imports_it_loads_nothing_else():
    """Neither a dependency nor a module of the standard library that takes its time."""
    source = str(Path(holdfast.__file__).parents[1])
    code = (
        f"import os, stat, sys; sys.path.insert(0, {source!r}); before = set(sys.modules); "
        f"import holdfast; holdfast.process; print(*set(sys.modules) - before)"
    )
    argv = [sys.executable, "-I", "-S", "-c", code]
    run = subprocess.run(argv, capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert {"holdfast.worker", "holdfast.worker.process"} <= loaded
    assert not HEAVY & loaded
    assert {name for name in loaded if not name.startswith(("holdfast", "importlib"))} <= {
        "_signal", "errno", "warnings",
    }  # fmt: skip


# --- who am I


def test_without_an_experiment_it_is_nobody(tmp_path, monkeypatch, capsys):
    """The same script runs alone: nothing is written anywhere, and loops go on as ever."""
    monkeypatch.chdir(tmp_path)
    with holdfast.process() as process:
        assert (process.params, process.rank, process.world_size) == ({}, 0, 1)
        assert (process.index, process.attempt, process.completed) == (0, 1, False)
        assert list(process.track(range(process.resume_step(5), 8))) == [5, 6, 7]
        process.report(loss=0.5)
        assert process.should_stop is False
        process.checkpoint(lambda path: path.write_text("never"))
        assert process.last_checkpoint is None
        print("for the log", file=process.log)
        process.result({"accuracy": math.nan})
        with pytest.raises(InvalidRequestError, match="is not JSON"):
            process.result({"model": object()})
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == "for the log\n"


@pytest.mark.parametrize(
    ("env", "rank", "world_size"),
    [
        ({"RANK": "2", "WORLD_SIZE": "4", "PMI_RANK": "1"}, 2, 4),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "3", "PMIX_RANK": "9"}, 1, 3),
        ({"PMIX_RANK": "1", "PMI_RANK": "7"}, 1, 2),
        ({"PMI_RANK": "0", "PMI_SIZE": "2", "SLURM_PROCID": "5", "SLURM_STEP_ID": "0"}, 0, 2),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_STEP_ID": "0"}, 5, 8),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, 0, 1),
        ({"RANK": "first", "PMI_RANK": "3"}, 3, 4),
    ],
)
def test_a_launcher_says_which_rank_it_is(env, rank, world_size):
    """The launcher nearest to the rank counts; a batch script of Slurm is no rank."""
    who = who_am_i(env)
    assert (who.rank, who.world_size, who.inside) == (rank, world_size, False)


def test_a_process_is_not_given_a_rank_by_the_step_around_holdfast(tmp_path):
    """`srun holdfast run` sets SLURM_PROCID in everything that it runs."""
    step = {"SLURM_PROCID": "3", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4"}
    who = who_am_i({**Attempt(tmp_path).env, **step})
    assert (who.inside, who.rank, who.world_size, who.writes) == (True, 0, 1, True)


def test_a_rank_is_a_process_of_the_experiment(tmp_path):
    """Its index follows from that of its launcher's first rank."""
    process = rank_of(tmp_path, 2)
    assert (process.index, process.rank, process.world_size) == (6, 2, 3)
    assert process.params == {"lr": 0.1}


def test_many_parameters_come_in_a_file(tmp_path):
    """The variable is left out where they are long."""
    (tmp_path / "params.json").write_text('{"text": "ä"}', encoding="utf-8")
    env = Attempt(tmp_path, HOLDFAST_PARAMS_FILE=str(tmp_path / "params.json")).env
    del env["HOLDFAST_PARAMS"]
    assert Process(who_am_i(env)).params == {"text": "ä"}


@pytest.mark.parametrize("rank", [3, 17])
def test_a_rank_too_many_is_an_error(tmp_path, rank):
    """It would be a process of somebody else's."""
    with pytest.raises(WorkerError, match=rf"rank {rank}.*only 3 ranks.*\n.*ranks = N"):
        rank_of(tmp_path, rank)


@pytest.mark.parametrize("size", [2, 4])
def test_another_number_of_ranks_than_declared_is_an_error(tmp_path, monkeypatch, size):
    """Who divides the work by `world_size` would leave some undone, and nobody would notice."""
    made = Attempt(tmp_path, 3, RANK="0", WORLD_SIZE=str(size))
    for name, value in made.env.items():
        monkeypatch.setenv(name, value)
    words = f"started {size} ranks, but 3 are declared"
    with pytest.raises(WorkerError, match=words):
        holdfast.process()
    assert words in made.told("said", 4)["error"]["message"]
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert holdfast.process().world_size == 3


def test_a_launcher_that_does_not_say_which_rank_is_an_error(tmp_path):
    """Every rank would take itself for the same one."""
    with pytest.raises(WorkerError, match=r"which of the 3 ranks(.|\n)*holdfast rank --rank R"):
        who_am_i(Attempt(tmp_path, 3).env)


@pytest.mark.parametrize(
    ("marks", "inside"),
    [
        ("beef.17.3.1", True),
        ("feed.4.0.7:beef.17.3.1", True),
        ("beef.17.3.1:feed.4.0.7", False),
        ("beef.17.3.1:feed.4.3.2", False),
        ("beef.17.13.1", False),
        ("beef.17.aggregate.1", False),
        ("", False),
    ],
)
def test_variables_of_an_enclosing_attempt_are_not_its_own(tmp_path, marks, inside):
    """The innermost mark says whose attempt it is."""
    assert who_am_i(Attempt(tmp_path, HOLDFAST_SESSION=marks).env).inside is inside


def test_of_undeclared_ranks_only_the_first_writes(tmp_path):
    """All of them are one process: the last one would win."""
    env = {**Attempt(tmp_path).env, "WORLD_SIZE": "2"}
    first, second = (Process(who_am_i({**env, "RANK": str(rank)})) for rank in (0, 1))
    assert (second.index, second.rank, second.world_size) == (3, 1, 2)
    second.result("second")
    assert list((tmp_path / "results").iterdir()) == []
    first.result("first")
    second.result("second")
    assert json.loads((tmp_path / "results" / "3.1.json").read_text()) == "first"


@given(st.dictionaries(st.sampled_from(sorted([
    "RANK", "WORLD_SIZE", "PMI_RANK", "HOLDFAST_INDEX", "HOLDFAST_LAUNCHER", "HOLDFAST_RANKS",
    "HOLDFAST_ATTEMPT", "HOLDFAST_SESSION", "HOLDFAST_INCARNATION", "HOLDFAST_STOP_AT",
    "HOLDFAST_COMPLETED", "HOLDFAST_REPORTS", "HOLDFAST_RESULT", "TORCHELASTIC_RESTART_COUNT",
])), st.sampled_from(["", "0", "1", "3", "-1", "x", "1.5", "3.1", "a.1.3.1", "0-1-2-h", "9" * 40, "٣"])))  # fmt: skip  # noqa: E501
def test_any_environment_makes_somebody_or_an_error_that_says_why(env):
    """Nothing that a launcher sets ends a program with a traceback of ours."""
    try:
        who = who_am_i(env)
    except WorkerError:
        return
    assert who.index >= 0
    assert 0 <= who.rank < who.world_size
    assert who.inside or who.file("said") is None


def test_an_incarnation_is_one_part_of_a_name():
    """Restart, pid, start time and host, without the dot that ends it."""
    told = incarnation({"TORCHELASTIC_RESTART_COUNT": "2"}, 4711)
    assert told.startswith("2-4711-")
    assert "." not in told
    assert "/" not in told


# --- reports


def test_the_last_report_is_kept(tmp_path, process, monkeypatch):
    """However fast they come, few lines are written, and the last one always is."""
    with process:
        for step in range(1000):
            process.report(step=step, total=1000, loss=step / 2)
    lines = Attempt(tmp_path).lines()
    assert len(lines) < 50
    assert (lines[-1]["step"], lines[-1]["total"], lines[-1]["loss"]) == (999, 1000, 499.5)


def test_a_report_comes_when_it_is_due(tmp_path, process, monkeypatch):
    """At most one in half a second; what was told in between is not forgotten."""
    now = [100.0]
    monkeypatch.setattr(progress, "_monotonic", lambda: now[0])
    process.report(step=1)
    process.report(loss=0.5)
    now[0] += 0.4
    process.report(step=2, acc=0.25)
    assert len(Attempt(tmp_path).lines()) == 1
    now[0] += 0.2
    process.report(message="warm")
    told = Attempt(tmp_path).lines()[-1]
    told.pop("time")
    assert told == {"step": 2, "loss": 0.5, "acc": 0.25, "message": "warm"}


class Scalar:
    """Like a tensor of one number, with what it comes from."""

    def __init__(self, value):
        self.value = value
        self.detached = False

    def detach(self):
        self.detached = True
        return self

    def item(self):
        return self.value


class Broken:
    def __str__(self):
        raise RuntimeError("CUDA error")

    item = detach = __float__ = __str__


def test_values_are_numbers_of_any_library_or_short_texts(tmp_path, process):
    """What is neither is left out, and nothing that is reported ends a program."""
    odd = {"list": [1], "none": None, "broken": Broken(), "huge": 10**5000, "nan": math.nan}
    with process:
        process.report(
            loss=Scalar(0.5), name="x" * 1000, flag=True, step=Broken(), message=Broken(), **odd
        )
    told = Attempt(tmp_path).lines()[-1]
    assert told["loss"] == 0.5
    assert told["flag"] is True
    assert len(told["name"]) == 200
    assert math.isnan(told["nan"])
    assert told.keys() == {"loss", "flag", "name", "nan", "message", "time"}


def test_a_tensor_that_waits_to_be_written_keeps_no_graph(process):
    """It would hold the memory of a whole step."""
    process.report(loss=0.1)
    waiting = Scalar(0.2)
    process.report(loss=waiting)
    assert waiting.detached


def test_progress_stays_below_a_mebibyte(tmp_path):
    """The last lines stay whole; a reader of the old file is in the midst of none."""
    lines = files.Lines(str(tmp_path / "p"), limit=10_000, keep=2_000)
    for number in range(1000):
        assert lines.append(b'{"step": %d, "pad": "%s"}' % (number, b"x" * 100))
        assert (tmp_path / "p").stat().st_size <= 10_000
    lines.close()
    steps = [json.loads(line)["step"] for line in (tmp_path / "p").read_text().splitlines()]
    assert steps == list(range(steps[0], 1000))


@pytest.mark.parametrize("where", ["reports", "attempts"])
def test_a_removed_folder_ends_no_program(tmp_path, process, monkeypatch, where):
    """Reports go into a new one, or nowhere."""
    clock = count()
    monkeypatch.setattr(progress, "_monotonic", lambda: next(clock) * 10.0)
    process.report(step=1)
    made = Attempt(tmp_path)
    folder = made.reports if where == "reports" else made.attempts
    folder.rename(tmp_path / "gone")
    for path in (tmp_path / "gone").rglob("*.progress"):
        path.unlink()
    process.report(step=2)
    process.report(step=3)
    if where == "reports":
        assert made.lines()[-1]["step"] == 3


def test_what_is_no_regular_file_is_not_written_to(tmp_path):
    """A FIFO would wait for its reader for ever; a link leads to what is somebody else's."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "target").touch()
    (tmp_path / "link").symlink_to("target")
    for name in ("fifo", "link"):
        assert not files.Lines(str(tmp_path / name)).append(b"{}")
    assert (tmp_path / "target").read_bytes() == b""


# --- loops


def said_by(process):
    path = process._who.file("said")
    return json.loads(Path(path).read_text()) if Path(path).exists() else None


def stopping(process):
    """Have it asked to stop, as holdfast asks."""
    Path(process._who.requests()[0]).touch()


def test_a_range_says_steps_and_total(tmp_path, process):
    """Its items are the steps, so that a loop that goes on says where it is."""
    with process:
        assert list(process.track(range(5, 9, 2))) == [5, 7]
    lines = Attempt(tmp_path).lines()
    assert (lines[0]["step"], lines[0]["total"]) == (5, 9)
    assert (lines[-1]["step"], lines[-1]["total"]) == (9, 9)


def test_anything_else_is_counted(tmp_path, process):
    """With `len()` where there is one, and without end where there is none."""
    with process:
        assert list(process.track("ab")) == ["a", "b"]
        assert list(process.track(iter("abc"))) == ["a", "b", "c"]
    lines = Attempt(tmp_path).lines()
    assert (lines[0]["step"], lines[0]["total"]) == (0, 2)
    assert lines[-1]["step"] == 3


def test_the_outermost_loop_says_the_step(tmp_path, process):
    """Batches within epochs do not move it, and are no epochs to go on with."""
    with process:
        for epoch in process.track(range(3)):
            for _ in process.track(range(100)):
                pass
            process.checkpoint(lambda path, epoch=epoch: path.write_text(str(epoch)))
    assert Attempt(tmp_path).lines()[-1]["step"] == 3
    assert process.resume_step() == 3


def test_a_loop_that_was_left_for_a_stop_says_stopped(process):
    """Also if another ran to its end meanwhile."""
    with process:
        for _ in process.track(range(3)):
            list(process.track(range(2)))
            stopping(process)
            if process.should_stop:
                break
        process.result("half")
    assert said_by(process) == {
        **{"stopped": True, "why": "request", "saved": False},
        **{"result": "3.1.json", "at": said_by(process)["at"]},
    }


def test_a_loop_without_track_that_saw_a_stop_says_stopped(process):
    """Nothing tells that it came to its end."""
    stopping(process)
    with process:
        assert process.should_stop
    assert said_by(process)["stopped"]


def test_a_loop_that_ran_to_its_end_says_completed(process):
    """Whatever it was asked in its last step."""
    with process:
        for step in process.track(range(3)):
            if step == 2:
                stopping(process)
                assert process.should_stop
    assert said_by(process)["completed"] is True


def test_a_stop_that_nobody_saw_stops_nothing(process):
    """The program did all that it had to do."""
    stopping(process)
    with process:
        pass
    assert said_by(process)["completed"] is True


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("boom"), {"error": {"type": "ValueError", "message": "boom", "rank": 0}}),
        (SystemExit(0), {"completed": True}),
        (SystemExit(), {"completed": True}),
        (SystemExit(3), None),
        (SystemExit("why"), {"error": {"type": "SystemExit", "message": "why", "rank": 0}}),
        (KeyboardInterrupt(), {"stopped": True, "why": "SIGINT"}),
    ],
)
def test_an_exception_that_leaves_the_block_is_recorded_and_goes_on(process, error, said):
    """What it was, and of which rank; an exit code speaks for itself."""
    with pytest.raises(type(error)), process:
        raise error
    found = said_by(process)
    if found is not None:
        found.pop("at")
    assert found == said


def test_the_message_of_an_error_is_cut(process):
    """A thousand characters say it; an exception whose text fails is told by its name."""
    with pytest.raises(ValueError, match="x"), process:
        raise ValueError("x" * 5000)
    assert len(said_by(process)["error"]["message"]) == 1000


def test_blocks_within_each_other_are_one(process, monkeypatch):
    """A library that opens its own does not end that of the program around it."""
    with process:
        with holdfast.process() as inner:
            assert inner is process
        assert said_by(process) is None
    assert said_by(process)["completed"] is True
    assert holdfast.process() is not process


def test_the_time_limit_ahead_is_a_stop(tmp_path):
    """There is time to save what would be lost."""
    for at, stops in (("1", True), ("9999999999", False), ("soon", False)):
        process = Process(who_am_i(Attempt(tmp_path, HOLDFAST_STOP_AT=at).env))
        with process:
            assert process.should_stop is stops
        if stops:
            assert said_by(process)["why"] == "time"


@pytest.mark.parametrize(("ranks", "file"), [(None, "3.1.warn"), (2, "launcher-4.1.warn")])
def test_a_warning_that_a_node_passes_on_is_a_stop(tmp_path, ranks, file):
    """Of this attempt alone, and also for ranks, whose launcher would die of the signal."""
    attempt = Attempt(tmp_path, ranks, **({"RANK": "1", "WORLD_SIZE": "2"} if ranks else {}))
    (attempt.attempts / file.replace(".1.", ".2.")).touch()
    with Process(who_am_i(attempt.env)) as process:
        assert not process.should_stop
    (attempt.attempts / file).touch()
    with Process(who_am_i(attempt.env)) as process:
        assert process.should_stop
        assert process._stop.why == "warning"


# --- checkpoints


def write(text):
    return lambda path: path.write_text(text)


def tree(text):
    def save(path):
        (path / "deep").mkdir(parents=True)
        (path / "deep" / "model").write_text(text)

    return save


@pytest.mark.parametrize("make", [write, tree])
def test_the_last_two_checkpoints_are_kept(tmp_path, process, make):
    """The newest is gone on with; files and folders alike."""
    with process:
        for step in process.track(range(5)):
            process.checkpoint(make(str(step)))
    assert process.resume_step() == 5
    assert process.last_checkpoint == tmp_path / "checkpoints" / "3" / "step-5"
    assert sorted(path.name for path in process.last_checkpoint.parent.iterdir()) == [
        "step-4", "step-5",
    ]  # fmt: skip


@pytest.mark.parametrize("before", [write, tree])
@pytest.mark.parametrize("after", [write, tree])
def test_a_checkpoint_of_the_same_step_replaces_the_one_before(process, before, after):
    """Whatever they are; and what is ahead of it belongs to a past that was given up."""
    for step in (4, 5, 6):
        process.checkpoint(before("old"), next_step=step)
    process.checkpoint(after("new"), next_step=5)
    assert process.resume_step() == 5
    newest = process.last_checkpoint
    assert (newest / "deep" / "model" if after is tree else newest).read_text() == "new"
    assert {path.name for path in newest.parent.iterdir()} == {"step-5"}


def test_a_save_that_fails_leaves_the_one_before(tmp_path, process):
    """And nothing of its own."""
    process.checkpoint(write("good"), next_step=1)

    def fail(path):
        tree("half")(path)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        process.checkpoint(fail, next_step=2)
    with pytest.raises(WorkerError, match=r"no checkpoint was written to .*\n.*exactly the name"):
        process.checkpoint(lambda path: None, next_step=2)
    assert process.resume_step() == 1
    assert os.listdir(process.last_checkpoint.parent) == ["step-1"]


def test_what_a_killed_process_did_not_finish_is_removed(tmp_path, process):
    """By the next process of the same index, when it begins; its own files of the user's stay."""
    folder = tmp_path / "checkpoints" / "3"
    for name in (".step-4-0-1-2-host.tmp", ".step-2.former.tmp", "step-x", "mine.tmp"):
        (folder / name).touch()
    with process:
        assert process.resume_step() == 2
    assert sorted(os.listdir(folder)) == [".step-2.former.tmp", "mine.tmp", "step-x"]
    process.checkpoint(write("new"), next_step=2)
    assert process.last_checkpoint == folder / "step-2"
    assert sorted(os.listdir(folder)) == ["mine.tmp", "step-2", "step-x"]


def test_ranks_go_on_with_the_newest_step_that_all_have(tmp_path):
    """Those that have none take the first one's."""
    ranks = [rank_of(tmp_path, rank) for rank in range(3)]
    assert [each.resume_step(7) for each in ranks] == [7, 7, 7]
    for step in (1, 2):
        ranks[0].checkpoint(write("zero"), next_step=step)
    ranks[1].checkpoint(write("one"), next_step=1)
    assert [each.resume_step() for each in ranks] == [1, 1, 1]
    assert [each.last_checkpoint.read_text() for each in ranks] == ["zero", "one", "zero"]
    ranks[1].checkpoint(write("one"), next_step=5)
    assert ranks[2].resume_step(7) in (1, 7)


def test_a_slow_rank_finds_a_step_that_the_fast_ones_have_kept(tmp_path):
    """However far they are ahead: else all would begin anew, although each has saved."""
    ranks = [rank_of(tmp_path, rank) for rank in range(3)]
    for step in range(1, 8):
        ranks[0].checkpoint(write("zero"), next_step=step)
        ranks[1].checkpoint(write("one"), next_step=step)
    ranks[2].checkpoint(write("two"), next_step=1)
    assert [each.resume_step() for each in ranks] == [1, 1, 1]
    for step in range(8, 20):
        ranks[0].checkpoint(write("zero"), next_step=step)
    ranks[2].checkpoint(write("two"), next_step=2)
    assert [each.resume_step() for each in ranks] == [1, 1, 1]
    kept = os.listdir(tmp_path / "checkpoints" / "4")
    assert sorted(kept) == ["step-1", "step-18", "step-19"]


def test_independent_ranks_have_their_own_checkpoints(tmp_path):
    """And learn whether they have completed before."""
    ranks = [rank_of(tmp_path, rank, completed="5") for rank in range(3)]
    ranks[0].checkpoint(write("zero"), next_step=9)
    assert [each.resume_step() for each in ranks] == [9, 0, 0]
    assert [each.completed for each in ranks] == [False, True, False]


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=12))
def test_the_newest_checkpoint_is_the_last_one_saved(tmp_path_factory, saves):
    """Whatever the order of steps, as files or folders."""
    own = tmp_path_factory.mktemp("checkpoints") / "3"
    for number, (step, folder) in enumerate(saves):
        checkpoints = Checkpoints(str(own), None, (3,), "0-1-2-host")
        checkpoints.save(step, (tree if folder else write)(str(number)))
        assert checkpoints.agreed() == step
        path = Path(checkpoints.path())
        assert (path / "deep" / "model" if folder else path).read_text() == str(number)
        assert len(os.listdir(own)) <= 2


# --- results


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON)
def test_any_json_is_delivered_as_it_is_accepted(value):
    """What `result` takes, acceptance takes, with NaN and Infinity."""
    found = strictjson.loads(encoded(value), finite=False)
    assert repr(found) == repr(value)


class Array:
    def tolist(self):
        return [1.5, [2.5]]


def test_arrays_of_other_libraries_are_lists():
    """Nobody has to convert what `tolist()` converts."""
    assert json.loads(encoded({"curve": Array()})) == {"curve": [1.5, [2.5]]}


DEEP = []
for _ in range(200):
    DEEP = [DEEP]
LOOP = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"a": object()}, "object is nothing that JSON has"),
        ({1: "a", "1": "b"}, "two keys of an object are written alike"),
        ([{True: 1, "true": 2}], "written alike"),
        ({1.5: 1, "1.5": 2, None: 3}, "written alike"),
        (DEEP, "more than 100 levels"),
        (LOOP, "Circular reference"),
        ({(1, 2): 3}, "keys must be"),
        (["x" * (64 << 20)], "name large files in it"),
        ([10**5000], "digits"),
    ],
)
def test_what_is_no_result_is_refused_before_it_is_written(tmp_path, process, value, why):
    """While the program can still do something about it."""
    with pytest.raises(InvalidRequestError, match=f"the result is not JSON: .*{why}"):
        process.result(value)
    assert os.listdir(tmp_path / "results") == []


def test_the_last_result_counts(tmp_path, process):
    """It replaces the one before as a whole, and nothing else is left."""
    process.result({"a": 1})
    process.result({"b": 2})
    assert os.listdir(tmp_path / "results") == ["3.1.json"]
    assert Attempt(tmp_path).result() == {"b": 2}


def test_a_result_that_cannot_be_stored_is_an_error(tmp_path, process):
    """Nobody believes that it is safe."""
    (tmp_path / "results").rmdir()
    with pytest.raises(DiskError, match=r"3\.1\.json: writing the result failed: No such file"):
        process.result(1)
