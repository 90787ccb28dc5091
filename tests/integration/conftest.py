"""Servers that tests of engines share."""

import os
from collections.abc import Iterator

import pytest

import dask_servers


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
