"""What a drill decides without running anything: strikes, copies, what differs, what is refused."""

import itertools
import os
import stat
from collections import Counter
from pathlib import Path

import attrs
import pytest

from holdfast.config.experiment_file import Experiment
from holdfast.drill import copying
from holdfast.drill.differences import agreement, differences
from holdfast.drill.eyes import Began, Ended, Eyes, Wrote
from holdfast.drill.looks import Look, look, shape, trace
from holdfast.drill.strikes import SWEEPS, TARGETS, Measured, drawn
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.status import ProcessStatus

MEASURED = Measured(run_s=10.0, attempts_s={"0": 1.0, "1": 2.0}, writes=30)


# -- what is struck, and when ---------------------------------------------------------------------


def test_a_seed_draws_the_same_strikes_again() -> None:
    """And another seed others."""
    one, same, other = (
        list(itertools.islice(drawn(seed, MEASURED, sweeps=True), 50)) for seed in (7, 7, 8)
    )
    assert one == same != other


def test_every_target_is_struck_as_often_as_it_is_listed() -> None:
    """Whatever the seed."""
    for sweeps, targets in ((False, TARGETS), (True, TARGETS + SWEEPS)):
        strikes = itertools.islice(drawn(3, MEASURED, sweeps=sweeps), 10 * len(targets))
        assert Counter(each.target for each in strikes) == Counter(targets * 10)


def test_nothing_waits_for_writes_where_there_are_none() -> None:
    """It would wait for ever; and what it waits for has happened in an undisturbed run."""
    quiet = attrs.evolve(MEASURED, writes=0)
    assert all(
        each.moment != "write" for each in itertools.islice(drawn(1, quiet, sweeps=True), 100)
    )
    assert all(each.skip < 30 for each in itertools.islice(drawn(1, MEASURED, sweeps=False), 100))


# -- what is seen ---------------------------------------------------------------------------------


def test_attempts_and_writes_are_seen_and_the_store_is_not(tmp_path: Path) -> None:
    """In folders that are made meanwhile, too."""
    home, states = tmp_path / "home", tmp_path / "home" / "states"
    home.mkdir()
    with Eyes(home, states) as eyes:
        if not eyes.see_writes:
            pytest.skip("no inotify here")
        (home / "plots").mkdir()
        assert eyes.look(1) == []
        (home / "plots" / "a.png").touch()
        assert eyes.look(1) == [Wrote("plots/a.png")]
        attempts = states / "exp_1" / "attempts"
        attempts.mkdir(parents=True)
        (states / "exp_1" / "others").mkdir()
        (attempts / "3.1.live").touch()
        (states / "exp_1" / "checkpoints" / "3").mkdir(parents=True)
        seen = eyes.look(1)
        (states / "exp_1" / "others" / "1.jsonl").touch()
        (states / "exp_1" / "checkpoints" / "3" / "state").touch()
        (attempts / "3.1.exit").touch()
        while len(seen) < 3:
            seen += eyes.look(1)
    began, wrote, ended = seen
    assert isinstance(began, Began)
    assert isinstance(ended, Ended)
    assert str(began.name) == str(ended.name) == "3.1"
    assert wrote == Wrote("checkpoints/3/state")


def test_what_is_emptied_before_it_is_written_anew_is_known(tmp_path: Path) -> None:
    """Not what is appended to, replaced, or new."""
    home = tmp_path / "home"
    home.mkdir()
    names = ("emptied", "appended", "replaced")
    for name in names:
        (home / name).write_text("before")
    with Eyes(home, tmp_path / "states") as eyes:
        if not eyes.see_writes:
            pytest.skip("no inotify here")
        struck: list[tuple[str, int | None]] = []
        eyes.at_write = lambda path, _, size: struck.append((path, size))
        with (home / "appended").open("a") as file:
            file.write("after")
        (home / "draft").write_text("after")
        (home / "draft").rename(home / "replaced")
        (home / "emptied").write_text("")
        while ("emptied", 6) not in struck:
            eyes.look(1)
        (home / "emptied").write_text("after")
    assert eyes.emptied == {"emptied"}
    assert ("appended", 6) in struck
    assert ("replaced", None) in struck


# -- copies ---------------------------------------------------------------------------------------


def test_a_copy_has_everything_but_states(tmp_path: Path) -> None:
    """Modes and times, holes, FIFOs; links to what is in it lead to the copy of that."""
    home, target = tmp_path / "home", tmp_path / "copy"
    (home / "src").mkdir(parents=True)
    (home / ".experiment_state").mkdir()
    (home / ".experiment_state" / "x").touch()
    script = home / "src" / "run.sh"
    script.write_text("echo hello\n")
    script.chmod(0o750)
    os.utime(script, ns=(1, 10**18))
    with (home / "sparse").open("wb") as file:
        file.seek(50 << 20)
        file.write(b"end")
    os.mkfifo(home / "fifo")
    (home / "inside").symlink_to(script)
    (home / "relative").symlink_to("src/run.sh")
    (home / "out").symlink_to("../elsewhere")
    (tmp_path / "elsewhere").write_text("data")
    found = copying.survey(home)
    assert found.files == 2
    assert found.size < 1 << 20
    assert found.out == {"out": str(tmp_path / "elsewhere")}
    copying.copy(found, target)
    assert not (target / ".experiment_state").exists()
    info = (target / "src" / "run.sh").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_mtime_ns) == (0o750, 10**18)
    assert trace(target / "sparse") == trace(home / "sparse")
    assert (target / "sparse").stat().st_blocks * 512 < 1 << 20
    assert stat.S_ISFIFO((target / "fifo").lstat().st_mode)
    assert (target / "inside").readlink() == target / "src" / "run.sh"
    assert (target / "relative").readlink() == Path("src/run.sh")
    assert (target / "out").read_text() == "data"


def test_a_copy_is_made_good_by_what_changed_in_it(tmp_path: Path) -> None:
    """All that a run has changed, added or removed is as before; the rest is not copied again."""
    home, target = tmp_path / "home", tmp_path / "copy"
    (home / "data").mkdir(parents=True)
    for name in ("kept", "changed", "removed"):
        (home / "data" / name).write_text(name)
    found = copying.survey(home)
    made = copying.copy(found, target)
    kept = (target / "data" / "kept").stat().st_ino
    before = (target / "data" / "changed").stat()
    (target / "data" / "changed").write_text("CHANGED")
    os.utime(target / "data" / "changed", ns=(before.st_atime_ns, before.st_mtime_ns))
    (target / "data" / "removed").unlink()
    (target / "new" / "deep").mkdir(parents=True)
    (target / "new" / "deep" / "file").touch()
    (target / ".experiment_state").mkdir()
    copying.undo(found, target, made)
    copying.copy(found, target)
    assert {path.name: path.read_text() for path in (target / "data").iterdir()} == {
        name: name for name in ("kept", "changed", "removed")
    }
    assert (target / "data" / "kept").stat().st_ino == kept
    assert sorted(path.name for path in target.iterdir()) == ["data"]


def leading_out(home: Path, *command: str, **env: str) -> list[str]:
    return copying.leading_out(
        Experiment.from_config({"command": list(command), "env": env}, cwd=home)
    )


def test_paths_that_lead_out_of_a_copy_are_found_wherever_they_stand(tmp_path: Path) -> None:
    """In options, redirections and variables; not the program, and nothing of the system's."""
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "link").symlink_to(home)
    assert leading_out(home, f"{home}/bin/python", "train.py", "/dev/null", "/usr/share/x") == []
    assert leading_out(home, "train", f"--out={home}/out") == [
        f"word 2 of command names {home}/out, which is in the folder itself"
    ]
    assert len(leading_out(home, "sh", "-c", f"echo >{tmp_path}/link/x;echo >/no/such")) == 2
    (tmp_path / "made").touch()
    told = f"{tmp_path}/made, which looks like an output"
    assert leading_out(home, "train", "--data", f"{tmp_path}/made") == []
    for words in (["--out-dir", "{}"], ["-o", "{}"], ["--save-to={}"], ["sh", "-c", "echo >{}"]):
        [says] = leading_out(home, "train", *(word.format(f"{tmp_path}/made") for word in words))
        assert says.endswith(told)
    assert leading_out(home, "train", LOG_DIR=f"{tmp_path}/made") == [f"env.LOG_DIR names {told}"]
    assert leading_out(home, "train", OUT=f"a:{home}") == [
        f"env.OUT names {home}, which is in the folder itself"
    ]
    assert leading_out(home, "train", "--data", str(tmp_path), "a/b", "1/2", "http://x/y") == []
    assert leading_out(home, "train", f"{home}er/x") == [
        f"word 2 of command names {home}er/x, which is not there: it would be made"
    ]


# -- what differs ---------------------------------------------------------------------------------


def made(folder: Path, files: dict[str, str], **facts: object) -> Look:
    """What a life has left: these *files*, and a completed process 3 of four."""
    folder.mkdir()
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    progress = ProcessProgress(
        status=ProcessStatus.COMPLETED, attempt=int(str(facts.pop("attempt", 1)))
    )
    state = ExperimentState(experiment_id="x", process_progress={3: progress})
    return attrs.evolve(look(folder, folder / "states"), state=state, **facts)  # type: ignore[arg-type]


def found(tmp_path: Path, one: Look, two: Look, killed: Look) -> list[str]:
    agreed = agreement(one, two)
    return [
        f"{each.kind}: {each.about} {each.says}"
        for each in differences(agreed, killed, agreed.keys)
    ]


@pytest.mark.parametrize(
    ("one", "two", "killed", "says"),
    [
        ("a\nb\n", "a\nb\n", "a\nb\n", None),
        ("a\nb\n", "a\nb\n", "a\nb\nb\n", "repeated: f has 3 lines, undisturbed 2 lines"),
        ("a\nb\n", "a\nb\n", "a\n", "lost: f has 1 line, undisturbed 2 lines"),
        ("a\nb\n", "a\nb\n", "a\nc\n", "different: f has another content than undisturbed"),
        ("abc", "abc", "ab", "different: f has 2 bytes, undisturbed 3"),
        # In another order: the lines count.
        ("a\nb\n", "b\na\n", "a\nb\n", None),
        ("a\nb\n", "b\na\n", "a\nb\na\n", "repeated: f has 3 lines, undisturbed 2 lines"),
        ("a\nb\n", "b\na\n", "a\nc\n", "different: f has another content than undisturbed"),
        # With times in them: how many lines.
        ("a 1\nb 2\n", "a 3\nb 4\n", "a 5\nb 6\n", None),
        ("a 1\nb\n", "a 2\nb\n", "a 3\na\nb\n", "repeated: f has 3 lines, undisturbed 2 lines"),
        # Nothing is the same: it has to be there.
        ("a 1\n", "a 3\nb 4\n", "x\ny\nz\n", None),
        ("a 1\n", "a 3\nb 4\n", "", "lost: f is empty, undisturbed it has 4 bytes"),
        ("a 1\n", "a 3\nb 4\n", None, "lost: f is missing, undisturbed it is there"),
        ("\0001", "\0002", "\0003333", None),
    ],
)  # fmt: skip
def test_files_are_compared_as_far_as_they_agree(
    tmp_path: Path, one: str, two: str, killed: str | None, says: str | None
) -> None:
    """Without kills; what differs then says nothing of them."""
    lives = [
        made(tmp_path / str(number), {} if text is None else {"f": text})
        for number, text in enumerate((one, two, killed))
    ]
    assert found(tmp_path, *lives) == ([] if says is None else [says])


def test_torn_json_is_seen_whatever_it_said(tmp_path: Path) -> None:
    """Where its values differ each time, half of it is still no JSON."""
    lives = [
        made(tmp_path / str(number), {"f.json": text})
        for number, text in enumerate(('{"t": 1}', '{"t": 22}', '{"t": '))
    ]
    assert found(tmp_path, *lives) == ["lost: f.json is torn: no JSON; 6 bytes, undisturbed 8"]


def test_more_files_of_a_kind_are_repeated_side_effects(tmp_path: Path) -> None:
    """Although no two runs name them alike."""
    lives = [
        made(tmp_path / str(number), {f"sent/{name}.eml": "" for name in names})
        for number, names in enumerate((["1f2e3d4c", "77"], ["0a1b2c3d", "12"], ["5", "66", "9"]))
    ]
    [told] = found(tmp_path, *lives)
    assert told.startswith("repeated: sent/*.eml are 3 files, undisturbed 2: sent/")


def test_drafts_that_a_kill_left_are_no_difference(tmp_path: Path) -> None:
    """Of a kind that no undisturbed run leaves."""
    files = {"model": "x"}
    lives = [
        made(tmp_path / str(number), more)
        for number, more in enumerate(
            (files, files, {**files, "tmpab12cd34": "x", "model.new": ""})
        )
    ]
    assert found(tmp_path, *lives) == []


def test_files_that_each_attempt_names_after_itself_tell_of_the_rerun_only(tmp_path: Path) -> None:
    """`log.3.1` of the killed attempt is torn, and `log.3.2` is new."""
    files = {"log.3.1": "a\nb\n", "fold3_seed1": "a\n", "fold3_seed2": "b\n"}
    one, two = (made(tmp_path / name, files) for name in ("one", "two"))
    killed = made(
        tmp_path / "killed",
        {"log.3.1": "a\n", "log.3.2": "a\nb\n", "fold3_seed1": "b\n", "fold3_seed2": "b\n"},
        attempt=2,
    )
    assert found(tmp_path, one, two, killed) == [
        "different: fold3_seed1 has another content than undisturbed"
    ]


def test_values_are_compared_where_all_processes_agree(tmp_path: Path) -> None:
    """A time that happens to be the same for one of them is none that counts."""
    one, two = (
        made(tmp_path / str(n), {}, values={(3, "loss"): 0.5, (3, "s"): 1, (2, "s"): n})
        for n in (1, 2)
    )
    same = attrs.evolve(one, values={(3, "loss"): 0.5, (3, "s"): 9, (2, "s"): 9})
    other = attrs.evolve(one, values={(3, "loss"): 0.75, (3, "s"): 1, (2, "s"): 1})
    none = attrs.evolve(one, values={})
    assert found(tmp_path, one, two, same) == []
    assert found(tmp_path, one, two, other) == [
        "different: loss of process 3 is 0.75, undisturbed 0.5"
    ]
    assert found(tmp_path, one, two, none) == [
        "lost: loss of process 3 is missing, undisturbed it is 0.5"
    ]


def test_a_result_that_says_which_attempt_made_it_is_no_difference(tmp_path: Path) -> None:
    """That it was another one is told already."""
    one = made(tmp_path / "one", {}, values={(3, "attempt"): 1, (3, "n"): 1, (2, "n"): 2})
    again = made(
        tmp_path / "again", {}, values={(3, "attempt"): 2, (3, "n"): 2, (2, "n"): 2}, attempt=2
    )
    assert found(tmp_path, one, one, again) == ["different: n of process 3 is 2, undisturbed 1"]


def test_a_process_completed_twice_is_repeated(tmp_path: Path) -> None:
    """Even if all that it has left is the same."""
    one = made(tmp_path / "one", {}, completions={3: 1})
    twice = attrs.evolve(one, completions={3: 2})
    assert found(tmp_path, one, one, twice) == [
        "repeated: process 3 was completed 2 times, undisturbed 1"
    ]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("model.pt", "model.pt"),
        ("out/3.7.json", "out/*.*.json"),
        ("a/0f8fad5b-d9cb-469f-a165-70867728950e.txt", "a/*.txt"),
        ("tmp8k2_x9qz", "*"),
        ("decade/facade.txt", "decade/facade.txt"),
        ("run-deadbeef01.log", "run-*.log"),
    ],
)
def test_names_that_are_made_up_have_one_shape(path: str, name: str) -> None:
    """Numbers, hashes and random drafts stand for one another; words do not."""
    assert shape(path) == name
