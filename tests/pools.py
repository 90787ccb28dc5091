"""Engines over pools of `concurrent.futures` that end with them, as any program makes one."""

import ctypes
import signal
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

from holdfast.engines.executor import ExecutorEngine

__all__ = ["Processes", "Threads"]


class Threads(ExecutorEngine):
    """Over a pool of threads, as many as any test wants to run at once."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(64)
        super().__init__(self.pool)

    def close(self) -> None:
        super().close()
        self.pool.shutdown()


def die_with_parent() -> None:
    """Without this, the processes of a pool whose program was killed wait for tasks for ever."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


class Processes(ExecutorEngine):
    """Over a pool of processes."""

    def __init__(self) -> None:
        self.pool = ProcessPoolExecutor(4, initializer=die_with_parent)
        super().__init__(self.pool)

    def close(self) -> None:
        super().close()
        self.pool.shutdown(wait=False)
