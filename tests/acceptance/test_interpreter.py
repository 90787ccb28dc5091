"""Which Python runs a command, and on how many CPUs at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast
from holdfast.orchestration.capacity import usable_cpus
from shell import Shell

FILE = 'command = ["{python}", "-c", "import sys; print(sys.executable)"]'


@pytest.fixture
def bare(sh: Shell) -> Shell:
    """A machine whose PATH has `python3` but no `python`, and a project with an environment."""
    (sh.path / "bin").mkdir()
    base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    for name in ("python3", f"python3.{sys.version_info.minor}", "python3.1"):
        (sh.path / "bin" / name).symlink_to(base)
    (sh.path / "bin" / "sh").symlink_to("/bin/sh")
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        sh.env.pop(name, None)
    sh.env["PATH"] = str(sh.path / "bin")
    (sh.path / "proj").mkdir()
    subprocess.run([base, "-m", "venv", "--without-pip", sh.path / "proj" / ".venv"], check=True)
    packages = next((sh.path / "proj" / ".venv" / "lib").glob("python*")) / "site-packages"
    ours = [path for path in sys.path if "site-packages" in path]
    (packages / "all.pth").write_text("\n".join(ours))
    return sh


def _run(sh: Shell, folder: str, python: str, **env: str) -> tuple[str, str]:
    """Which interpreter ran it, and what was said."""
    path = sh.path / folder
    path.mkdir(exist_ok=True)
    (path / "e.toml").write_text(FILE.replace("{python}", python))
    own = str(sh.path / "proj" / ".venv" / "bin" / "python3")
    source = str(Path(holdfast.__file__).parents[1])
    done = subprocess.run(
        [own, "-m", "holdfast", "run", "--fresh", "e.toml"],
        cwd=path,
        env={**sh.env, "PYTHONPATH": source, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    logs = [own, "-m", "holdfast", "logs", "-o", "@last"]
    env = {**sh.env, "PYTHONPATH": source}
    shown = subprocess.run(logs, cwd=path, env=env, capture_output=True, text=True, check=True)
    return shown.stdout.splitlines()[-1], done.stderr


def test_python3_is_the_projects_own_where_nobody_chose_another(bare: Shell) -> None:
    """Beside the file and above it; said once."""
    own = str(bare.path / "proj" / ".venv" / "bin" / "python3")
    for folder in ("proj", "proj/deep"):
        for python in ("python3", f"python3.{sys.version_info.minor}"):
            ran, err = _run(bare, folder, python)
            assert ran == own
            assert err.count("is holdfast's own") == 1
            assert f"{python} is holdfast's own, {own}\nrunning" in err


def test_a_chosen_python_is_not_replaced(bare: Shell) -> None:
    """Another project's file, another version, an active environment, `python` on PATH."""
    other = bare.path / "bin"
    for folder, python, env in (
        ("elsewhere", "python3", {}),
        ("proj", "python3.1", {}),
        ("proj", "python3", {"VIRTUAL_ENV": "/some/venv"}),
        ("proj", "python3", {"CONDA_PREFIX": "/some/conda"}),
    ):
        ran, err = _run(bare, folder, python, **env)
        assert not ran.startswith(str(bare.path / "proj")), (folder, python, env)
        assert "holdfast's own" not in err
    (other / "python").symlink_to(other / "python3")
    assert "holdfast's own" not in _run(bare, "proj", "python3")[1]


def _told(tmp_path: Path, cgroup: str, mounts: str) -> Path:
    (tmp_path / "cgroup").write_text(cgroup)
    (tmp_path / "mountinfo").write_text(mounts)
    return tmp_path


def test_a_quota_counts_from_any_group_above(tmp_path: Path) -> None:
    """Both versions of cgroups, in a container that sees its own group as the root, or none."""
    all_cpus = len(os.sched_getaffinity(0))
    folder = tmp_path / "fs"
    (folder / "job" / "step").mkdir(parents=True)
    mount = f"30 20 0:26 / {folder} rw - cgroup2 cgroup rw\n"
    where = _told(tmp_path, "0::/job/step\n", mount)
    assert usable_cpus(where) == all_cpus
    (folder / "job" / "step" / "cpu.max").write_text("max 100000\n")
    assert usable_cpus(where) == all_cpus
    (folder / "job" / "cpu.max").write_text("50000 100000\n")
    assert usable_cpus(where) == 1
    (folder / "job" / "cpu.max").write_text("9999900000 100000\n")
    assert usable_cpus(where) == all_cpus
    one = f"31 20 0:27 /docker/abc {folder} rw - cgroup cgroup rw,cpu,cpuacct\n"
    where = _told(tmp_path, "4:cpu,cpuacct:/docker/abc\n2:memory:/x\n", one)
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cpus(where) == all_cpus
    (folder / "cpu.cfs_quota_us").write_text("100000\n")
    assert usable_cpus(where) == 1
    assert usable_cpus(tmp_path / "nothing") == all_cpus


def test_a_real_quota_is_the_default_of_jobs(sh: Shell) -> None:
    """One process at a time in a group that has half a CPU."""
    mounted = Path("/sys/fs/cgroup/cpu")
    group = mounted / f"holdfast-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "cpu.cfs_quota_us").write_text("50000")
    except OSError as err:
        pytest.skip(f"no cgroup of our own: {err}")
    try:
        code = "from holdfast.orchestration.capacity import usable_cpus; print(usable_cpus())"
        script = f'echo $$ > {group}/cgroup.procs && exec "$0" -c "{code}"'
        done = subprocess.run(
            ["sh", "-c", script, sys.executable], env=sh.env, capture_output=True, check=True
        )
        assert done.stdout.strip() == b"1"
    finally:
        group.rmdir()
