"""What the doctor says of outputs, records of code, and of results that were reused."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from doctored import symptoms
from holdfast.config.experiment_file import Experiment
from holdfast.doctor import Finding
from holdfast.lifecycle.records import Origin, Ranks, ResultRef
from holdfast.lifecycle.reuse import Proof
from holdfast.provenance import code
from holdfast.provenance.digests import FileDigest
from holdfast.provenance.git import Git
from holdfast.status import ProcessStatus
from holdfast.store.manager import StateManager
from processes import NOBODY, in_a_fork

OLD, NEW = "exp_6", "exp_7"
WORKS = ("a" * 32, "b" * 32)
RECORD = code.Code(
    files={"train.py": FileDigest(size=3, sha256="0" * 64)}, git=Git(revision="1" * 40, dirty=True)
)


def written(folder: Path, path: str, content: bytes) -> ResultRef:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(content)
    return ResultRef(path=path, size=len(content), sha256=hashlib.sha256(content).hexdigest())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A project: its state directory is `.experiment_state`."""
    found = tmp_path / "project"
    found.mkdir()
    return found


@pytest.fixture
def manager(home: Path) -> StateManager:
    return StateManager(home / ".experiment_state")


def told(manager: StateManager) -> list[Finding]:
    return symptoms(manager.state_dir)


# -- outputs --------------------------------------------------------------------------------------


def trained(manager: StateManager, home: Path, **more: Any) -> None:
    """An experiment of two processes, each of which declares a model and a plot."""
    manager.create(OLD, num_processes=2, cwd=home, **more)
    with manager.claim(OLD) as claim:
        claim.record("start")
        for index in range(2):
            outputs = (
                written(home, f"models/{index}.pt", b"weights %d" % index),
                written(home, f"größe-{index}.png", b"plot %d" % index),
            )
            claim.record("start", index)
            claim.record("complete", index, exit_code=0, outputs=outputs)


def _replaced(path: Path) -> None:
    path.write_bytes(path.read_bytes().swapcase())


def _linked(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (Path.unlink, "is missing"),
        (lambda path: shutil.rmtree(path.parent), "is missing"),
        (lambda path: path.write_bytes(b""), "was altered: it has 0 bytes, recorded are 9"),
        (_replaced, "was altered: its SHA-256 is not the recorded one"),
        (_linked, "is a symbolic link, which is never followed"),
    ],
)
def test_an_output_that_is_not_as_it_was_recorded_is_named(
    manager: StateManager, home: Path, spoil: Callable[[Path], None], what: str
) -> None:
    """As a result is: resume runs exactly its process again."""
    trained(manager, home, config={"command": ["true"], "processes": 2})
    assert told(manager) == []
    spoil(home / "models" / "1.pt")
    found = {each.path.name: each for each in told(manager)}
    one = found["1.pt"]
    assert (one.kind, one.severity) == ("result", "problem")
    assert one.what == f"process 1: output models/1.pt {what}"
    assert one.command == ("resume", OLD)
    assert found.keys() <= {"0.pt", "1.pt"}


def test_an_output_that_a_later_experiment_made_anew_is_not_lost(
    manager: StateManager, home: Path
) -> None:
    """Nothing of it where the former is aggregated; damage since is that of the later one."""
    trained(manager, home, config={"command": ["true"], "processes": 2})
    manager.create(NEW, num_processes=1, cwd=home, config={"command": ["true"]})
    with manager.claim(NEW) as claim:
        claim.record("start")
        claim.record("start", 0)
        outputs = (written(home, "models/1.pt", b"other weights"),)
        claim.record("complete", 0, exit_code=0, outputs=outputs)
    (one,) = told(manager)
    assert (one.severity, one.command) == ("hint", ())
    assert one.what == f"process 1: output models/1.pt was made anew by {NEW}/0"
    aggregated(manager)
    assert [each for each in told(manager) if each.path.name == "1.pt"] == []
    _replaced(home / "models" / "1.pt")
    assert {each.severity for each in told(manager) if each.path.name == "1.pt"} == {"problem"}


def test_an_older_file_that_was_put_back_is_an_altered_output(
    manager: StateManager, home: Path
) -> None:
    """Whoever completed last has made what is to be there."""
    trained(manager, home)
    with_older = (home / "models" / "1.pt").read_bytes()
    manager.create(NEW, num_processes=1, cwd=home, config={"command": ["true"]})
    with manager.claim(NEW) as claim:
        claim.record("start")
        claim.record("start", 0)
        outputs = (written(home, "models/1.pt", b"other weights"),)
        claim.record("complete", 0, exit_code=0, outputs=outputs)
    (home / "models" / "1.pt").write_bytes(with_older)
    (one,) = told(manager)
    assert (one.severity, one.command) == ("problem", ("resume", NEW))


def test_an_output_may_be_moved_away_once_it_is_aggregated(
    manager: StateManager, home: Path
) -> None:
    """Nobody asks for it; an altered one is damage all the same."""
    trained(manager, home, config={"command": ["true"], "processes": 2})
    aggregated(manager)
    (home / "models" / "1.pt").unlink()
    _replaced(home / "models" / "0.pt")
    found = {each.path.name: each.severity for each in told(manager)}
    assert (found["1.pt"], found["0.pt"]) == ("hint", "problem")


def aggregated(manager: StateManager) -> None:
    with manager.claim(OLD) as claim:
        claim.record("complete")
        claim.record("aggregate")


def test_an_output_that_two_ranks_share_is_named_once(manager: StateManager, home: Path) -> None:
    """Both ranks of the launcher have it."""
    manager.create(OLD, num_processes=2, cwd=home, ranks=Ranks(count=2))
    outputs = (written(home, "model.pt", b"weights"),)
    done = [("complete", index, {"exit_code": 0, "outputs": outputs}) for index in range(2)]
    with manager.claim(OLD) as claim:
        claim.record("start")
        claim.record_many([("start", 0), ("start", 1)])
        claim.record_many(done)
    assert told(manager) == []
    (home / "model.pt").unlink()
    assert [each.what for each in told(manager)] == ["process 0: output model.pt is missing"]


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", ""])
def test_an_output_leads_nowhere_else(manager: StateManager, home: Path, path: str) -> None:
    """References come from files; nothing outside of the experiment's directory is read."""
    manager.create(OLD, num_processes=1, cwd=home)
    written(home.parent, "secret", b"mine")
    with manager.claim(OLD) as claim:
        claim.record("start")
        claim.record("start", 0)
        ref = ResultRef(path=path, size=4, sha256=hashlib.sha256(b"mine").hexdigest())
        claim.record("complete", 0, exit_code=0, outputs=(ref,))
    (found,) = told(manager)
    assert found.what.endswith("is recorded under a path outside of its directory")


@pytest.fixture
def open_home() -> Iterator[Path]:
    """A directory that everybody may enter; pytest's own are its user's alone."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)


def as_nobody(manager: StateManager) -> list[dict[str, Any]]:
    """What somebody finds who owns nothing there."""
    told(manager)  # everything is imported before the privileges go

    def look() -> str:
        return json.dumps([attrs.asdict(each) for each in told(manager)], default=str)

    found = json.loads(in_a_fork(look, user=NOBODY))
    assert isinstance(found, list)
    return found


as_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else")


@as_root
@pytest.mark.parametrize("closed", ["models", "models/0.pt"])
def test_outputs_that_may_not_be_looked_at_are_not_taken_for_lost(
    open_home: Path, closed: str
) -> None:
    """Who may is asked for permission."""
    manager = StateManager(open_home / "states")
    trained(manager, open_home)
    (open_home / closed).chmod(0)
    found = as_nobody(manager)
    names = ["0.pt"] if closed.endswith(".pt") else ["0.pt", "1.pt"]
    assert [Path(each["path"]).name for each in found] == names
    assert {each["kind"] for each in found} == {"unreadable"}
    assert all("cannot be read: Permission denied" in each["what"] for each in found)
    assert all("ask its owner" in each["repair"] for each in found)


def test_a_directory_that_is_not_there_has_lost_nothing(manager: StateManager, home: Path) -> None:
    """The disk on which the processes ran may not be mounted: said once, for all of them."""
    elsewhere = home / "scratch"
    elsewhere.mkdir()
    trained(manager, elsewhere)
    assert told(manager) == []
    shutil.rmtree(elsewhere)
    (found,) = told(manager)
    assert (found.kind, found.path) == ("unreadable", elsewhere)
    assert "No such file or directory" in found.what
    assert "nothing is taken for lost" in found.repair


def test_outputs_of_a_project_that_was_moved_are_found(manager: StateManager, home: Path) -> None:
    """What lies in its old place now is another's."""
    config = {"command": ["true"], "processes": 2}
    experiment = Experiment.from_config(config, home)
    config_hash = experiment.config_hash(manager.state_dir)
    trained(manager, home, config=experiment.to_config(), config_hash=config_hash)
    moved = home.rename(home.with_name("moved"))
    written(home, "models/0.pt", b"somebody else's")
    there = StateManager(moved / ".experiment_state")
    assert told(there) == []
    (moved / "models" / "1.pt").unlink()
    assert [each.path for each in told(there)] == [moved / "models" / "1.pt"]


# -- records of code ------------------------------------------------------------------------------


def ran(manager: StateManager) -> Path:
    """An experiment of which two processes ran with the same code; the path of its record."""
    manager.create(OLD, num_processes=3)
    with manager.claim(OLD) as claim:
        name = code.write(manager.folder(OLD), RECORD)
        claim.record("start")
        for index in (0, 2):
            claim.record("start", index, code=name)
            claim.record("complete", index, exit_code=0)
    return manager.folder(OLD) / "code" / f"{name}.json"


@pytest.mark.parametrize(
    ("spoil", "kind", "what"),
    [
        (Path.unlink, "missing", "is missing, the code of process 0, 2"),
        (
            lambda path: shutil.rmtree(path.parent),
            "missing",
            "is missing, the code of process 0, 2",
        ),
        (lambda path: path.write_bytes(b""), "unreadable", "is no record of the code of"),
        (_replaced, "unreadable", "damaged, or of a newer holdfast"),
        (_linked, "foreign", "is a symbolic link, which is never followed"),
    ],
)
def test_a_record_of_code_that_tells_nothing_is_named(
    manager: StateManager, spoil: Callable[[Path], None], kind: str, what: str
) -> None:
    """For all processes that ran with it, once."""
    path = ran(manager)
    assert told(manager) == []
    spoil(path)
    (found,) = (each for each in told(manager) if not each.path.name.endswith(".moved"))
    assert (found.kind, found.severity, found.path) == (kind, "problem", path)
    assert what in found.what


def test_a_damaged_record_of_an_earlier_attempt_is_named(manager: StateManager) -> None:
    """The history names it, and no process any more."""
    path = ran(manager)
    earlier = path.with_name(f"{'e' * 32}.json")
    earlier.write_text("{}")
    (found,) = told(manager)
    assert (found.kind, found.path) == ("unreadable", earlier)
    assert "the code of an earlier attempt" in found.what


@as_root
@pytest.mark.parametrize("closed", ["", ".json"])
def test_a_record_that_may_not_be_read_is_left(open_home: Path, closed: str) -> None:
    """It is neither missing nor damaged."""
    manager = StateManager(open_home / "states")
    path = ran(manager)
    path = path if closed else path.parent
    path.chmod(0)
    (found,) = as_nobody(manager)
    assert (found["kind"], found["path"]) == ("unreadable", str(path))
    assert "Permission denied" in found["what"]
    assert "ask its owner" in found["repair"]


@pytest.mark.parametrize("name", ["../../../secret", "/etc/passwd", "x", "", "A" * 32, "a\0b"])
def test_a_name_that_is_none_of_a_record_leads_nowhere(
    manager: StateManager, home: Path, name: str
) -> None:
    """It is missing, whatever lies where it leads."""
    (home / "secret.json").write_text("{}")
    manager.create(OLD, num_processes=1)
    with manager.claim(OLD) as claim:
        claim.record("start")
        claim.record("start", 0, code=name)
        claim.record("complete", 0, exit_code=0)
    (found,) = told(manager)
    assert (found.kind, found.what) == ("missing", "is missing, the code of process 0")
    assert found.path == manager.folder(OLD) / "code"


def test_among_records_of_code_only_they_are_expected(manager: StateManager) -> None:
    """Elsewhere users may keep what they like; here it could pass for evidence."""
    folder = ran(manager).parent
    (folder / "train.py").write_text("print()")
    (folder / "notes").mkdir()
    os.mkfifo(folder / "fifo")
    found = told(manager)
    assert {each.path.name for each in found} == {"train.py", "notes", "fifo"}
    assert {(each.kind, each.severity) for each in found} == {("foreign", "hint")}
    assert all("holdfast makes none of that name here" in each.what for each in found)


def test_what_a_writer_of_a_record_left_is_removed(manager: StateManager, home: Path) -> None:
    """As other temporaries are, once nobody can be writing them."""
    left = ran(manager).with_name(".tmp-0123456789abcdef")
    left.write_text("half a rec")
    assert told(manager) == []
    hours_ago = left.stat().st_mtime - 7200
    os.utime(left, (hours_ago, hours_ago))
    (found,) = symptoms(manager.state_dir, fix=True)
    assert (found.kind, found.fixed, left.exists()) == ("leftover", True, False)


# -- what was reused ------------------------------------------------------------------------------


@pytest.fixture
def reused(manager: StateManager, home: Path) -> StateManager:
    """An experiment of two processes, both taken from another, the second by way of a third."""
    manager.create(OLD, num_processes=2)
    with manager.claim(OLD) as claim:
        claim.record("start")
        for index in range(2):
            result = written(manager.folder(OLD), f"results/{index}.1.json", b"%d" % index)
            claim.record("start", index, work=WORKS[index])
            claim.record("complete", index, exit_code=0, result=result)
    manager.create(NEW, num_processes=2, reuse="unchanged", config_path=home / "exp.toml")
    with manager.claim(NEW) as claim:
        claim.record("start")
        for index in range(2):
            claim.record("reuse", index, **taken(manager, index, index))
    assert told(manager) == []
    return manager


def taken(manager: StateManager, index: int, source: int, **more: Any) -> dict[str, Any]:
    """The facts of a reuse."""
    result = written(manager.folder(NEW), f"results/{index}.0.json", b"%d" % source)
    via = "exp_5" if source else None
    origin = Origin(experiment_id=OLD, process=source, attempt=1, via=via)
    proof = Proof(origin=origin, work=WORKS[source], status=ProcessStatus.COMPLETED)
    return {"work": WORKS[source], "proof": proof, "result": result, **more}


def again(manager: StateManager, content: bytes) -> None:
    """Process 1 of the ancestor has lost its result, and ran again."""
    (manager.folder(OLD) / "results/1.1.json").unlink()
    with manager.claim(OLD) as claim:
        claim.record("requeue", 1, result_lost=True)
        claim.record("start", 1, work=WORKS[1])
        result = written(manager.folder(OLD), "results/1.2.json", content)
        claim.record("complete", 1, exit_code=0, result=result)


def edited(manager: StateManager) -> None:
    (manager.folder(OLD) / "results/1.1.json").write_text("2")


def lost(manager: StateManager) -> None:
    (manager.folder(OLD) / "results/1.1.json").unlink()


def waiting(manager: StateManager) -> None:
    with manager.claim(OLD) as claim:
        claim.record("requeue", 1, result_lost=True)


def other_work(manager: StateManager) -> None:
    with manager.claim(OLD) as claim:
        claim.record("requeue", 1, result_lost=True)
        claim.record("start", 1, work="c" * 32)
        claim.record("complete", 1, exit_code=0)


def without_a_result(manager: StateManager) -> None:
    with manager.claim(OLD) as claim:
        claim.record("requeue", 1, result_lost=True)
        claim.record("start", 1, work=WORKS[1])
        claim.record("complete", 1, exit_code=0)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (edited, "whose result was altered: its SHA-256 is not the recorded one"),
        (lost, "whose result is missing"),
        (waiting, "which is pending again"),
        (other_work, "which has done other work since"),
        (without_a_result, "which has another result now"),
        (lambda manager: again(manager, b"other"), "which has another result now, of attempt 2"),
    ],
)
def test_an_ancestor_that_was_edited_is_told_of(
    reused: StateManager, home: Path, change: Callable[[StateManager], None], what: str
) -> None:
    """As information: our own copy is what it was."""
    change(reused)
    (found,) = (each for each in told(reused) if each.kind == "origin")
    assert found.severity == "hint"
    assert found.path == reused.folder(NEW) / "results/1.0.json"
    assert found.what == f"process 1 was taken from exp_6/1, attempt 1, by way of exp_5, {what}"
    assert "its own copy is untouched" in found.repair
    assert found.command == ("run", "--fresh", str(home / "exp.toml"))
    assert not [each for each in told(reused) if each.path.is_relative_to(reused.folder(NEW))][1:]


def test_an_ancestor_that_found_the_same_again_is_no_news(reused: StateManager) -> None:
    """What it has now is to the byte what was taken."""
    again(reused, b"1")
    assert told(reused) == []


def test_an_ancestor_that_is_gone_is_no_finding(reused: StateManager) -> None:
    """The reuse stands on its own file."""
    reused.delete(OLD)
    assert told(reused) == []


def test_another_of_the_name_of_a_deleted_ancestor_is_none(reused: StateManager) -> None:
    """Ids are chosen by people, and come again."""
    reused.delete(OLD)
    reused.create(OLD, num_processes=1)
    assert told(reused) == []


def test_an_ancestor_that_cannot_be_read_is_named_once(reused: StateManager) -> None:
    """Its own finding says all that there is to say."""
    journal = reused.folder(OLD) / "journal" / "00000001.jsonl"
    data = bytearray(journal.read_bytes())
    data[len(data) // 2] ^= 1
    journal.write_bytes(data)
    assert {(each.kind, each.path) for each in told(reused)} == {("unreadable", journal)}


def test_a_copy_that_is_not_untouched_is_a_lost_result(reused: StateManager) -> None:
    """With `link`, an edit of the ancestor is one of ours, and nobody says that all is well."""
    ours, theirs = reused.folder(NEW) / "results/1.0.json", reused.folder(OLD) / "results/1.1.json"
    ours.unlink()
    ours.hardlink_to(theirs)
    assert told(reused) == []
    theirs.write_text("2")
    assert {(each.kind, each.path) for each in told(reused)} == {
        ("result", ours),
        ("result", theirs),
    }


def test_a_reused_result_of_another_name_could_not_be(reused: StateManager) -> None:
    """It would be that of an attempt, and the next one might write over it."""
    with reused.claim(NEW) as claim:
        claim.record("requeue", 1, result_lost=True)
        facts = taken(reused, 1, 1)
        result = written(reused.folder(NEW), "results/1.1.json", b"1")
        claim.record("reuse", 1, **facts | {"result": result})
    (found,) = told(reused)
    assert (found.kind, found.severity) == ("illegal", "problem")
    assert found.what == (
        "process 1 was reused, and its result is recorded as results/1.1.json, not results/1.0.json"
    )
    assert found.command == ("show", "--history", NEW)


def test_what_was_reused_without_a_result_is_fine(manager: StateManager) -> None:
    """A process need not write one."""
    manager.create(OLD, num_processes=1)
    with manager.claim(OLD) as claim:
        claim.record("start")
        claim.record("start", 0, work=WORKS[0])
        claim.record("complete", 0, exit_code=0)
    manager.create(NEW, num_processes=1)
    with manager.claim(NEW) as claim:
        claim.record("start")
        claim.record("reuse", 0, **taken(manager, 0, 0) | {"result": None})
    (manager.folder(NEW) / "results/0.0.json").unlink()
    assert told(manager) == []
