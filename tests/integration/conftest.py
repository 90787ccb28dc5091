"""Servers and disks that tests share."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import browsing
import dask_servers
from waiting import until


@pytest.fixture(scope="session")
def dask_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dask_servers.Cluster]:
    """A Dask scheduler and two workers of this test process."""
    lacking = dask_servers.missing()
    if lacking and os.environ.get("CI"):
        pytest.fail(lacking)
    elif lacking:
        pytest.skip(lacking)
    with dask_servers.a_cluster(tmp_path_factory.mktemp("dask"), slots=32) as cluster:
        yield cluster


@pytest.fixture
def dask(
    dask_cluster: dask_servers.Cluster, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dask_servers.Cluster]:
    """That cluster, found by everything that the test starts."""
    with dask_servers.found(dask_cluster, monkeypatch):
        yield dask_cluster


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A Chromium of this test process."""
    lacking = browsing.missing()
    if lacking and os.environ.get("CI"):
        pytest.fail(lacking)
    elif lacking:
        pytest.skip(lacking)
    with browsing.a_browser() as found:
        yield found


@pytest.fixture(scope="session")
def axe(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core."""
    return browsing.axe(tmp_path_factory.mktemp("axe"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for next to nothing."""
    path = tmp_path / "small"
    path.mkdir()
    options = "size=256k,nr_inodes=40"
    mount = ["mount", "-t", "tmpfs", "-o", options, "holdfast-test", str(path)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a tmpfs")
    yield path
    # An attempt may still be there for a moment.
    until(lambda: subprocess.run(["umount", str(path)], capture_output=True).returncode == 0)
