"""What git says of a directory, from real repositories; and that nothing it does can hurt a run."""

import os
import shutil
import subprocess
from pathlib import Path

import psutil
import pytest

import waiting
from holdfast.provenance.git import Git, look

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="not run: there is no git")


@pytest.fixture(autouse=True)
def _nobodys_settings(tmp_path, monkeypatch):
    """The settings of whoever runs the tests do not count."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)


def git(cwd: Path, *words: str) -> str:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *who, *words], cwd=cwd, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    made.mkdir()
    git(made, "init", "-q")
    return made


@pytest.fixture
def repository(empty: Path) -> Path:
    (empty / "train.py").write_text("one")
    git(empty, "add", ".")
    git(empty, "commit", "-q", "-m", "First")
    return empty


def fake(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have *script* as git, first on PATH."""
    folder.mkdir()
    (folder / "git").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def ended(pid: int) -> bool:
    """Whether it runs no more, be it that nobody has fetched its exit code yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_clean_tree_has_its_revision(repository):
    """Files that git does not track change nothing."""
    (repository / "new.log").touch()
    assert look(repository) == Git(revision=git(repository, "rev-parse", "HEAD"), dirty=False)


@pytest.mark.parametrize("how", ["edited", "staged", "removed"])
def test_a_changed_tracked_file_is_dirty(repository, how):
    """Staged or not."""
    (repository / "train.py").write_text("two")
    if how == "staged":
        git(repository, "add", "train.py")
    elif how == "removed":
        (repository / "train.py").unlink()
    assert look(repository) == Git(revision=git(repository, "rev-parse", "HEAD"), dirty=True)


def test_the_whole_tree_counts(repository):
    """Also from below: a command in `runs/` may well run `../train.py`."""
    (repository / "runs").mkdir()
    (repository / "train.py").write_text("two")
    found = look(repository / "runs")
    assert found is not None
    assert found.dirty


def test_before_the_first_commit_there_is_no_revision(empty):
    """It is a repository all the same."""
    assert look(empty) == Git(revision=None, dirty=False)
    (empty / "train.py").touch()
    git(empty, "add", ".")
    assert look(empty) == Git(revision=None, dirty=True)


def test_a_worktree_has_a_revision_of_its_own(repository, tmp_path):
    """Its `.git` is a file."""
    first = git(repository, "rev-parse", "HEAD")
    git(repository, "worktree", "add", "-q", "-b", "other", str(tmp_path / "other"))
    (tmp_path / "other" / "train.py").write_text("two")
    git(tmp_path / "other", "commit", "-q", "-a", "-m", "Second")
    second = git(tmp_path / "other", "rev-parse", "HEAD")
    assert look(tmp_path / "other") == Git(revision=second, dirty=False)
    assert look(repository) == Git(revision=first, dirty=False)


def test_without_a_repository_git_is_not_even_started(tmp_path, monkeypatch):
    """It costs every run some milliseconds."""
    fake(tmp_path / "bin", f"touch {tmp_path}/started", monkeypatch)
    assert look(tmp_path) is None
    assert look(tmp_path / "nowhere") is None
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("what", ["empty", "nonsense"])
def test_what_only_looks_like_a_repository_is_none(tmp_path, what):
    """A `.git` of nothing."""
    (tmp_path / ".git").write_text("" if what == "empty" else "gitdir: nowhere\n")
    assert look(tmp_path) is None


def test_without_git_nothing_is_known(repository, monkeypatch):
    """And nothing fails."""
    monkeypatch.setenv("PATH", "/nonexistent")
    assert look(repository) is None


def test_a_hung_git_is_stopped_with_what_it_started(repository, tmp_path, monkeypatch):
    """After the timeout the run goes on, and nothing is left behind."""
    fake(tmp_path / "bin", f"sleep 600 & echo $$ $! > {tmp_path}/pids; wait", monkeypatch)
    assert look(repository, 2.0) is None
    for pid in map(int, (tmp_path / "pids").read_text().split()):
        waiting.until(lambda pid=pid: ended(pid))


def test_a_slow_status_does_not_cost_the_revision(repository, tmp_path, monkeypatch):
    """A huge tree on a slow disk: what is known is told."""
    real = shutil.which("git")
    script = f'case "$*" in *status*) exec sleep 600;; *) exec {real} "$@";; esac'
    head = git(repository, "rev-parse", "HEAD")
    fake(tmp_path / "bin", script, monkeypatch)
    assert look(repository, 2.0) == Git(revision=head, dirty=None)


@pytest.mark.parametrize("script", ["exit 3", "kill -9 $$", "echo what", "printf '\\377'", "yes"])
def test_a_git_that_talks_nonsense_says_nothing(repository, tmp_path, monkeypatch, script):
    """Or without end."""
    fake(tmp_path / "bin", script, monkeypatch)
    assert look(repository, 0.5) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="not run: giving a directory away takes root")
def test_a_repository_of_somebody_else_is_not_trusted(repository):
    """Git refuses it (safe.directory), and so does holdfast."""
    for path in (repository, *repository.rglob("*")):
        os.chown(path, 12345, 12345)
    assert look(repository) is None
    git(repository, "config", "--global", "--add", "safe.directory", str(repository))
    assert look(repository) is not None


def test_nothing_that_a_repository_has_set_up_is_run(repository, tmp_path):
    """Neither a monitor of the file system nor a hook; and the index stays as it is."""
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    git(repository, "config", "core.fsmonitor", str(trap))
    hooks = repository / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("post-index-change", "fsmonitor-watchman", "reference-transaction"):
        (hooks / name).symlink_to(trap)
    (repository / "train.py").touch()
    before = (repository / ".git" / "index").read_bytes()
    assert look(repository) is not None
    assert (repository / ".git" / "index").read_bytes() == before
    assert not (tmp_path / "sprung").exists()
    git(repository, "status")
    assert (tmp_path / "sprung").exists()  # the trap works


def test_a_run_from_a_hook_looks_at_its_own_repository(repository, tmp_path, monkeypatch):
    """A hook hands on where it runs."""
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    found = look(repository)
    assert found is not None
    assert found.revision is not None
