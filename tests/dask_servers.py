"""A Dask scheduler and workers by their command lines, on loopback, for tests."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from waiting import until

__all__ = ["Cluster", "a_cluster", "found", "missing", "reserved"]


def missing() -> str:
    """Why no servers can be started here; empty if they can."""
    try:
        import distributed  # noqa: F401
    except ImportError:
        return "distributed is not installed: pip install 'holdfast[dask]'"
    return ""


def reserved() -> socket.socket:
    """A port of loopback that is nobody else's as long as this is open.

    It is bound and never listens: the kernel gives its number to nobody who asks for any port, and
    who asks for it by number, with SO_REUSEADDR as every server of Dask's does, may listen on it.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


class Cluster:
    """Servers in *folder*.

    Attributes:
        address: Of the scheduler, also of one that was started again.
        workers: Each as the process of its command line.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # For as long as this is there: else, while no scheduler runs, another might get it.
        self._port = reserved()
        self.port = int(self._port.getsockname()[1])
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self._logs = 0

    def _start(
        self, *words: str, cwd: Path, hidden: Path | None = None, host: str = ""
    ) -> subprocess.Popen[bytes]:
        self._logs += 1
        log = self.folder / f"{words[0]}.{self._logs}.log"
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        env.pop("DASK_SCHEDULER_ADDRESS", None)
        command = [sys.executable, "-m", "dask", *words]
        if hidden is not None:
            hide = 'mount -t tmpfs none "$0" && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", hide, str(hidden), *command]
        if host:
            command = [*self._as_host(host), *command]
        with log.open("wb") as out:
            return subprocess.Popen(
                command,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )

    def _as_host(self, host: str) -> list[str]:
        """What runs a command as on a host of that name, booted just now."""
        boot, machine = self.folder / f"{host}.boot", self.folder / f"{host}.machine"
        boot.unlink(missing_ok=True)  # the mount of one that runs keeps its own
        boot.write_text(f"{uuid.uuid4()}\n")
        machine.write_text(f"{uuid.uuid5(uuid.NAMESPACE_DNS, host).hex}\n")
        mounts = (
            'hostname "$0" && mount --bind "$1" /proc/sys/kernel/random/boot_id && '
            'mount --bind "$2" /etc/machine-id && shift 2 && exec "$@"'
        )
        return ["unshare", "--mount", "--uts", "sh", "-c", mounts, host, str(boot), str(machine)]

    def start_scheduler(self) -> None:
        self.scheduler = self._start(
            *("scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard"),
            cwd=self.folder,
        )
        until(self._answers)

    def _answers(self) -> bool:
        assert self.scheduler is not None
        assert self.scheduler.poll() is None, "the scheduler ended"
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", self.port)) == 0

    def start_worker(
        self,
        name: str,
        *,
        slots: int = 4,
        resources: str = "",
        hidden: Path | None = None,
        host: str = "",
    ) -> None:
        """One more, in a directory of its own.

        Args:
            hidden: A directory in whose place it has an empty one.
            host: The name of the host that it believes to be on, booted at this moment.
        """
        where = self.folder / name
        where.mkdir(exist_ok=True)
        more = ("--resources", resources) if resources else ()
        self.workers[name] = self._start(
            *("worker", self.address, "--host", "127.0.0.1", "--name", name),
            *("--nthreads", str(slots), "--nworkers", "1", "--no-dashboard"),
            *("--memory-limit", "0", "--local-directory", str(where), "--death-timeout", "120"),
            *more,
            cwd=where,
            hidden=hidden,
            host=host,
        )

    def wait(self, count: int) -> None:
        """Until so many workers are connected."""
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=120)

    def pid_of(self, name: str) -> int:
        """The process of a worker itself, below its nanny."""
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            found = client.run(os.getpid)
            info = client.scheduler_info()["workers"]
        return int(next(found[each] for each, about in info.items() if about["name"] == name))

    def kill_worker(self, name: str, *, nanny: bool = True) -> None:
        """SIGKILL a worker, so that its nanny starts it again, or both."""
        pid = self.pid_of(name)
        if nanny:
            process = self.workers.pop(name)
            process.kill()
            process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def kill_scheduler(self) -> None:
        assert self.scheduler is not None
        self.scheduler.kill()
        self.scheduler.wait()
        self.scheduler = None

    def stop(self) -> None:
        """End everything that was started, once: its pids may be a stranger's afterwards."""
        ours = [*self.workers.values(), *([self.scheduler] if self.scheduler else [])]
        for process in ours:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.workers.clear()
        self.scheduler = None

    def close(self) -> None:
        """As `stop`, and give up the port."""
        self.stop()
        self._port.close()


@contextlib.contextmanager
def a_cluster(folder: Path, *, slots: int = 4) -> Iterator[Cluster]:
    """A scheduler and two workers."""
    made = Cluster(folder)
    try:
        made.start_scheduler()
        for name in ("one", "two"):
            made.start_worker(name, slots=slots)
        made.wait(2)
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def found(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Dask's own configuration names *cluster*, here and in what is started meanwhile."""
    import dask.config

    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", cluster.address)
    with dask.config.set({"scheduler-address": cluster.address}):
        yield
