"""Directories that several users share, and file systems that lack what holdfast needs."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import holdfast
from shell import Shell
from waiting import PATIENCE_S

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="other users take root")


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody reaches, with a sticky state directory that everybody may use."""
    with tempfile.TemporaryDirectory(prefix="holdfast-public-", dir="/tmp") as name:
        path = Path(name)
        path.chmod(0o755)
        (path / "states").mkdir()
        (path / "states").chmod(0o1777)
        yield path


def _as(user: int, folder: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    source = str(Path(holdfast.__file__).parents[1])
    # Reading is allowed, so that a Python below /root can be run; writing is not.
    caps = "+dac_read_search"
    become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    return subprocess.run(
        [
            *(*become, f"--inh-caps={caps}", f"--ambient-caps={caps}"),
            *(sys.executable, "-m", "holdfast", "-C", "../states", *args),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": source, "HOME": str(folder)},
        umask=0o022,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@needs_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv")
def test_a_sticky_directory_is_shared_under_umask_022(public: Path) -> None:
    """The lock that the first user made is another's: it is opened, not made, and read-only."""
    for user in (12345, 12346, 0):
        folder = public / str(user)
        folder.mkdir()
        os.chown(folder, user, user)
        done = _as(user, folder, "run", "--procs", "2", "--", "true")
        if done.stderr.startswith("setpriv:"):
            pytest.skip(f"not run: {done.stderr}")
        assert done.returncode == 0, done.stderr
    lock = (public / "states" / ".run.lock").stat()
    assert (lock.st_uid, lock.st_mode & 0o777) == (12345, 0o644)


_NO_LINKS = """
#include <errno.h>
int link(const char *a, const char *b) { errno = EPERM; return -1; }
int linkat(int a, const char *b, int c, const char *d, int e) { errno = EPERM; return -1; }
"""


def test_a_file_system_without_hard_links_is_named(sh: Shell, tmp_path: Path) -> None:
    """As FAT answers: by `run`, before anything is made, and by the doctor."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler")
    (tmp_path / "links.c").write_text(_NO_LINKS)
    library = tmp_path / "links.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "links.c"], check=True)
    fat = {"LD_PRELOAD": str(library)}
    err = sh("run", "e.toml", code=1, env=fat)[1]
    assert "creating failed: the file system has no hard links (EPERM)" in err
    assert "nothing was made; name a directory on another one, with -C DIR" in err
    out = sh("doctor", code=1, env=fat)[0]
    assert "links" in out
    assert "the file system has no hard links (EPERM)" in out
    # An experiment that was copied there.
    sh("run", "e.toml")
    (sh.states / sh.only_id() / "aggregate.json").unlink()
    err = sh("aggregate", "@last", code=1, env=fat)[1]
    assert "the file system has no hard links (EPERM)" in err
