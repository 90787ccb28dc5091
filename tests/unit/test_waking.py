"""What ends the wait of an engine."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from holdfast.engines.contract import Engine
from holdfast.engines.executor import ExecutorEngine
from holdfast.engines.local.engine import LocalEngine
from holdfast.engines.slurm.engine import SlurmEngine


def on_threads() -> Engine:
    """An engine of a pool that nothing was given to."""
    return ExecutorEngine(ThreadPoolExecutor(1))


@pytest.mark.parametrize("make", [LocalEngine, SlurmEngine, on_threads])
def test_a_wake_that_comes_late_touches_no_file_of_anybodys(
    make: Callable[[], Engine], tmp_path: Path
) -> None:
    """A signal can come after an engine was closed, whose descriptors are others' by then."""
    engine = make()
    engine.close()
    descriptors = [os.open(tmp_path / "precious", os.O_RDWR | os.O_CREAT) for _ in range(16)]
    engine.wake()
    for fd in descriptors:
        os.close(fd)
    assert (tmp_path / "precious").read_bytes() == b""
