"""Where an experiment lives: found from any folder, never taken from a stranger, always said."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shell import Shell

FILE = 'command = ["sh", "-c", "echo x >> runs"]'

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving files away takes root")


class Project:
    """`proj` with an experiment file and `proj/sub`, beside `other`, below the home."""

    def __init__(self, sh: Shell) -> None:
        self.sh, self.home = sh, sh.path
        (sh.path / "proj" / "sub").mkdir(parents=True)
        (sh.path / "other").mkdir()
        (sh.path / "proj" / "e.toml").write_text(FILE)

    def at(self, folder: str, *args: str, code: int = 0) -> tuple[str, str]:
        self.sh.path = self.home / folder
        try:
            return self.sh(*args, code=code)
        finally:
            self.sh.path = self.home

    @property
    def runs(self) -> int:
        return len((self.home / "proj" / "runs").read_text().splitlines())


@pytest.fixture
def project(sh: Shell) -> Project:
    return Project(sh)


def test_work_that_is_done_is_found_from_any_folder(project: Project) -> None:
    """From above, beside and below; it is said where the experiments are."""
    assert "experiments are in" not in project.at("proj", "run", "e.toml")[1]
    for folder, file, said in (
        (".", "proj/e.toml", "proj/.experiment_state"),
        ("other", "../proj/e.toml", "../proj/.experiment_state"),
        ("proj/sub", "../e.toml", "../.experiment_state"),
    ):
        err = project.at(folder, "run", file)[1]
        assert err.startswith(f"the experiments are in {said}\n")
        assert "aggregated already" in err
    assert project.runs == 1
    out, err = project.at("proj/sub", "ls")
    assert "aggregated" in out
    assert err == "the experiments are in ../.experiment_state\n"
    assert "the experiments are in" not in project.at("proj", "ls")[1]


def test_a_next_command_names_the_place_where_it_would_not_be_found(project: Project) -> None:
    """From below it is found again; from elsewhere `-C` is needed."""
    (project.home / "proj" / "e.toml").write_text('command = ["false"]')
    project.at("proj", "run", "e.toml", code=3)
    failed = project.at("other", "run", "../proj/e.toml", code=3)[1]
    assert "next: " in failed
    assert " -C ../proj/.experiment_state resume " in failed
    assert " -C " not in project.at("proj/sub", "run", "../e.toml", code=3)[1]


def test_what_is_here_comes_first_only_if_the_work_is_here(project: Project) -> None:
    """A state directory of other work does not draw this work away from its own; named ones do."""
    project.at("proj", "run", "e.toml")
    project.at("other", "run", "--procs", "1", "--", "true")
    assert "../proj/.experiment_state" in project.at("other", "run", "../proj/e.toml")[1]
    assert project.runs == 1
    err = project.at("other", "-C", ".experiment_state", "run", "../proj/e.toml")[1]
    assert "in ../proj/.experiment_state is the same work; this makes a new experiment" in err
    assert project.runs == 2
    # Now it is in both, and what is here counts.
    assert "experiments are in" not in project.at("other", "run", "../proj/e.toml")[1]
    project.sh.env["HOLDFAST_STATE_DIR"] = str(project.home / "named")
    project.at("proj", "run", "e.toml")
    assert (project.home / "named").is_dir()


def test_what_lies_beside_the_file_is_nearer_than_what_lies_above(project: Project) -> None:
    """New work goes there, also from the folder of the file, where it finds what can be reused."""
    project.at("proj", "-C", ".experiment_state", "run", "e.toml")
    project.at(".", "-C", ".experiment_state", "run", "--procs", "1", "--", "true")
    (project.home / "proj" / "e.toml").write_text(FILE + "\nprocesses = 2")
    for folder, file in (("proj", "e.toml"), ("proj/sub", "../e.toml")):
        err = project.at(folder, "run", "--fresh", file)[1]
        assert ("experiments are in" in err) is (folder != "proj")
    assert len(list((project.home / "proj" / ".experiment_state").glob("*.json"))) == 3
    assert len(list((project.home / ".experiment_state").glob("*.json"))) == 1


def test_a_new_experiment_is_made_here(project: Project) -> None:
    """If there is no state directory beside the file or above."""
    assert "experiments are in" not in project.at("other", "run", "../proj/e.toml")[1]
    assert (project.home / "other" / ".experiment_state").is_dir()
    assert not (project.home / "proj" / ".experiment_state").exists()


def test_the_same_work_of_another_place_is_told(project: Project) -> None:
    """A state directory or a file that was moved alone: new work, and said before it starts."""
    project.at("proj", "run", "e.toml")
    (project.home / "proj" / ".experiment_state").rename(project.home / "other" / "states")
    err = project.at("proj", "-C", "../other/states", "run", "e.toml")[1]
    told, started = err.index("is the same work of another place"), err.index("running exp_")
    assert told < started
    assert "warning" not in project.at("proj", "-C", "../other/states", "run", "e.toml")[1]
    fresh = project.at("proj", "-C", "../other/states", "run", "--fresh", "e.toml")[1]
    assert "same work" not in fresh


def test_the_search_ends_at_the_home(project: Project) -> None:
    """What lies above the home is somebody else's."""
    project.at(".", "run", "--procs", "1", "--", "true")
    assert "aggregated" in project.at("proj/sub", "ls")[0]
    project.sh.env["HOME"] = str(project.home / "proj")
    assert "no experiments in .experiment_state" in project.at("proj/sub", "ls")[1]


def _mounted(point: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "none", str(point)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@needs_root
def test_the_search_ends_at_a_mount_point(project: Project) -> None:
    """The file system above may be another host's."""
    project.at(".", "run", "--procs", "1", "--", "true")
    mount = project.home / "proj" / "sub"
    if not _mounted(mount):
        pytest.skip("no mounts here")
    try:
        (mount / "below").mkdir()
        assert "no experiments in" in project.at("proj/sub/below", "ls")[1]
        project.at("proj/sub", "run", "--procs", "1", "--", "true")
        assert "../.experiment_state" in project.at("proj/sub/below", "ls")[1]
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


@needs_root
def test_the_search_ends_at_a_folder_of_others(project: Project) -> None:
    """They decide what is above it."""
    project.at(".", "run", "--procs", "1", "--", "true")
    os.chown(project.home / "proj", 12345, 12345)
    assert "no experiments in" in project.at("proj/sub", "ls")[1]


@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_what_others_can_write_into_is_not_used(project: Project, mode: int) -> None:
    """Its commands may be theirs; an error names -C, which is as good as consent."""
    project.at("proj", "run", "e.toml")
    states = project.home / "proj" / ".experiment_state"
    states.chmod(mode)
    for folder, args in (
        ("proj/sub", ("resume", "@last")),
        ("proj/sub", ("ls",)),
        ("other", ("run", "../proj/e.toml")),
    ):
        err = project.at(folder, *args, code=1)[1]
        assert "can write there" in err
        assert "-C " in err
    assert project.runs == 1
    project.at("proj/sub", "-C", "../.experiment_state", "ls")
    project.at("proj", "ls")


@needs_root
@pytest.mark.parametrize("linked", [False, True])
def test_a_planted_state_directory_runs_nothing(project: Project, linked: bool) -> None:
    """Another user's, or his link to one of ours, found above or where everybody may write."""
    evil = project.home / "evil"
    evil.mkdir()
    (evil / "e.toml").write_text('command = ["sh", "-c", "touch ../owned; false"]')
    project.at("evil", "run", "e.toml", code=3)
    (project.home / "owned").unlink()
    public = project.home / "public"
    (public / "mine").mkdir(parents=True)
    public.chmod(0o1777)
    planted = public / ".experiment_state"
    if linked:
        planted.symlink_to(evil / ".experiment_state")
    else:
        shutil.copytree(evil / ".experiment_state", planted)
    os.chown(planted, 12345, 12345, follow_symlinks=False)
    for folder in ("public/mine", "public"):
        for args in (("resume", "@last"), ("ls",), ("run", "--procs", "1", "--", "true")):
            err = project.at(folder, *args, code=1)[1]
            assert "12345" in err
            assert "-C " in err
    assert not (project.home / "owned").exists()


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-U", "--map-user=54321", "true"], check=False).returncode != 0,
    reason="needs user namespaces",
)
def test_a_user_without_a_home_runs_and_looks(project: Project) -> None:
    """As in a container that runs as a user whom it does not know."""
    del project.sh.env["HOME"]
    nameless = ["unshare", "-U", "--map-user=54321", sys.executable, "-m", "holdfast"]
    for words in (["run", "e.toml"], ["ls"]):
        done = subprocess.run(
            [*nameless, *words],
            cwd=project.home / "proj",
            env=project.sh.env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
