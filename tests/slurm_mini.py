"""A throw-away Slurm cluster on this machine, loopback only: what the `slurm` tests run against.

    apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge
    eval "$(python tests/slurm_mini.py start)"
    python tests/slurm_mini.py stop

The first exports SLURM_CONF, by which `sbatch`, `squeue` and holdfast find it. Two virtual nodes,
no cgroups, no database. `SLURM_MINI_DIR` and `SLURM_MINI_PORT` (and as many more as there are
nodes) choose another place, for clusters side by side.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from waiting import until

__all__ = ["Cluster", "a_cluster", "missing", "ports"]

_PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scancel", "scontrol")
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"

_CONF = """
ClusterName=mini
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={first}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={dir}/run/munge.sock
# Bound to loopback only.
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={dir}/ctld
SlurmdSpoolDir={dir}/spool.%n
SlurmctldPidFile={dir}/run/slurmctld.pid
SlurmdPidFile={dir}/run/slurmd.%n.pid
SlurmctldLogFile={dir}/log/slurmctld.log
SlurmdLogFile={dir}/log/slurmd.%n.log
# No cgroups, no systemd, no affinity: works in any container.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
# Short waits.
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,bf_interval=1,sched_interval=1,default_queue_depth=1000,requeue_delay=0
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
KillWait={kill_wait}
OverTimeLimit=0
InactiveLimit=0
MinJobAge={min_job_age}
MaxArraySize={max_array}
MaxJobCount={max_jobs}
ReturnToService=2
# Virtual nodes may claim more than there is.
SlurmdParameters=config_overrides
SlurmctldTimeout=10
# Long ones: a machine that stands still for some seconds loses neither a node nor a message.
SlurmdTimeout={node_timeout}
MessageTimeout=30
JobRequeue=1
PropagateResourceLimits=NONE
NodeName=n[1-{nodes}] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs={cpus} CoresPerSocket={cpus} RealMemory=2000 State=UNKNOWN
PartitionName=debug Nodes=n[1-{nodes}] Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=n[1-{nodes}] MaxTime=INFINITE State=UP PriorityTier=10
PartitionName=short Nodes=n[1-{nodes}] MaxTime=60 State=UP PriorityTier=1
"""  # noqa: E501


def missing() -> str:
    """What has to be installed; empty where nothing is."""
    lacking = [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
    if not lacking:
        return ""
    return (
        f"needs {', '.join(lacking)}: "
        "apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge"
    )


class Cluster:
    """One controller, its nodes, and the daemon that signs what they say to each other.

    Attributes:
        dir: Everything of it; owned by us and entered by everybody, as munge wants it.
        conf: What `SLURM_CONF` has to be.
    """

    def __init__(self, dir: Path, port: int, *, nodes: int = 2, cpus: int = 4, **knobs: int):
        self.dir = dir
        self.port = port
        self.nodes = nodes
        self.cpus = cpus
        self.knobs = {
            "kill_wait": 10, "min_job_age": 300, "max_array": 10001, "max_jobs": 20000,
            "node_timeout": 30, **knobs,
        }  # fmt: skip
        self.conf = dir / "slurm.conf"
        self.env = {**os.environ, "SLURM_CONF": str(self.conf), "PATH": _PATH}

    def start(self) -> None:
        """Bring up what is not, and wait for the nodes: after a dead controller up to a minute."""
        for name in ("ctld", "log", "run"):
            (self.dir / name).mkdir(mode=0o755, parents=True, exist_ok=True)
        self.configure()
        key = self.dir / "munge.key"
        if not key.exists():
            key.write_bytes(os.urandom(128))
            key.chmod(0o600)
        run = self.dir / "run"
        if self.pid("munged") is None:
            self.run(
                "munged", "--force", f"--key-file={key}", f"--socket={run}/munge.sock",
                f"--pid-file={run}/munged.pid", f"--log-file={self.dir}/log/munged.log",
                f"--seed-file={run}/munged.seed", "--num-threads=2",
            )  # fmt: skip
        self.start_controller()
        for number in range(1, self.nodes + 1):
            self.start_node(f"n{number}")
        self.wait_for_nodes()

    def configure(self, **knobs: int) -> None:
        """Write the configuration; one that runs reads it again."""
        self.knobs |= knobs
        values = {
            **self.knobs,
            "dir": self.dir, "port": self.port, "first": self.port + 1,
            "last": self.port + self.nodes, "nodes": self.nodes, "cpus": self.cpus,
            "user": pwd.getpwuid(os.getuid()).pw_name,
        }  # fmt: skip
        # Whole: whatever runs on the cluster reads it, too.
        written = self.conf.with_suffix(".tmp")
        written.write_text(_CONF.format_map(values))
        written.replace(self.conf)
        if self.pid("slurmctld") is not None:
            self.run("scontrol", "reconfigure")

    def has_saved(self, job: str) -> bool:
        """Whether the controller has written down the job of that name, and all that was before."""
        with contextlib.suppress(FileNotFoundError):  # for a moment, while it is replaced
            return job.encode() in (self.dir / "ctld" / "job_state").read_bytes()
        return False

    def start_controller(self) -> None:
        if self.pid("slurmctld") is None:
            self.run("slurmctld")

    def start_node(self, name: str, *within: str) -> None:
        """Start the daemon of a node, if it is not there, by the command *within*."""
        (self.dir / f"spool.{name}").mkdir(exist_ok=True)
        if self.pid(f"slurmd.{name}") is None:
            self.run(*within, "slurmd", "-N", name)
            # The controller may take the node for idle all the time, and send it jobs. Its pid is
            # written once it listens.
            until(lambda: self.pid(f"slurmd.{name}") is not None)

    def wait_for_nodes(self, within_s: float = 180.0) -> None:
        deadline = time.monotonic() + within_s
        while True:
            lines = self.run("sinfo", "-h", "-N", "-p", "debug", "-o", "%N %T", check=False)
            found = dict(line.split() for line in lines.splitlines())
            if len(found) == self.nodes and set(found.values()) <= {"idle", "mixed", "allocated"}:
                return
            for name, state in found.items():
                # By a controller that has forgotten what runs there, and gave its number away.
                if state.startswith(("drain", "down")) and not state.endswith("*"):
                    self.run("scontrol", "update", f"NodeName={name}", "State=RESUME", check=False)
            if time.monotonic() > deadline:
                raise TimeoutError(f"nodes are {found}; see {self.dir}/log")
            time.sleep(0.1)

    def stop(self) -> None:
        """End everything, jobs first: a slurmd with a job does not exit at TERM."""
        if (controller := self.pid("slurmctld")) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(controller, signal.SIGCONT)
            if not self.cancel_all():
                print(f"jobs are left on {self.dir}", file=sys.stderr)
        names = [path.stem for path in (self.dir / "run").glob("*.pid")]
        names.sort(key=lambda name: ("slurmd" not in name, name == "munged"))
        for sent, within_s in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
            for name in names:
                self.signal(name, sent)
            deadline = time.monotonic() + within_s
            while any(self.pid(name) for name in names) and time.monotonic() < deadline:
                time.sleep(0.05)
        for step in self.steps():
            with contextlib.suppress(ProcessLookupError):
                os.kill(step, signal.SIGKILL)

    def cancel_all(self, within_s: float = 120.0) -> bool:
        """End all jobs; whether nothing of them is left. Who cannot be asked may have some."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
                if self.run("squeue", "-h", "-o", "%i").strip() == "":
                    return True
                self.run("scancel", "-Q", "-u", self.user)
            time.sleep(0.1)
        return False

    @property
    def user(self) -> str:
        return pwd.getpwuid(os.getuid()).pw_name

    def steps(self) -> list[int]:
        """The daemons of jobs that still run on its nodes."""
        found = []
        wanted = f"SLURM_CONF={self.conf}".encode()
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                comm, environ = Path(f"/proc/{pid}/comm"), Path(f"/proc/{pid}/environ")
                if comm.read_text() == "slurmstepd\n" and wanted in environ.read_bytes().split(
                    b"\0"
                ):
                    found.append(int(pid))
        return found

    def pid(self, name: str) -> int | None:
        """That of the daemon `munged`, `slurmctld` or `slurmd.n1`; None where it does not run."""
        try:
            pid = int((self.dir / "run" / f"{name}.pid").read_text())
            comm = Path(f"/proc/{pid}/comm").read_text().strip()
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, ValueError):
            return None
        return pid if comm == name.partition(".")[0] and state != "Z" else None

    def signal(self, name: str, number: int) -> None:
        pid = self.pid(name)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self, name: str) -> None:
        """End a daemon at once, as a power cut does, and see it gone."""
        self.signal(name, signal.SIGKILL)
        while self.pid(name) is not None:
            time.sleep(0.01)

    def run(self, *argv: str, check: bool = True, timeout: float = 120) -> str:
        done = subprocess.run(
            argv, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=timeout, check=False, cwd="/",
        )  # fmt: skip
        if check and done.returncode != 0:
            raise RuntimeError(f"{argv}: {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout


@contextlib.contextmanager
def ports(count: int, first: int) -> Iterator[int]:
    """The first of *count* ports in a row that nobody has, below those given out at random.

    As long as the context lasts, nobody else gets them from here: until its daemon listens, and
    while that is down, a port looks free.
    """
    for start in [*range(first, 30000, 20), *range(10000, first, 20)]:
        wanted = range(start, start + count)
        with contextlib.ExitStack() as held:
            try:
                for port in wanted:
                    # A name without a file, which is gone when we are.
                    name = f"\0holdfast-tests-port-{port}"
                    held.enter_context(socket.socket(socket.AF_UNIX)).bind(name)
                with contextlib.ExitStack() as tried:
                    for port in wanted:
                        tried.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            yield start
            return
    raise RuntimeError("no ports are free")


@contextlib.contextmanager
def a_cluster(nodes: int = 2, cpus: int = 4, **knobs: int) -> Iterator[Cluster]:
    """One of its own, whatever runs beside it; nothing of it is left."""
    # In a directory that everybody may enter: munge refuses others, and long names of sockets.
    place = Path(tempfile.mkdtemp(prefix="holdfast-slurm-"))
    place.chmod(0o755)
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    port = int(os.environ.get("SLURM_MINI_PORT", "16817")) + 100 * worker
    with ports(nodes + 1, port) as first:
        cluster = Cluster(place, first, nodes=nodes, cpus=cpus, **knobs)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
            shutil.rmtree(place, ignore_errors=True)


def main(words: list[str]) -> int:
    default = Path(tempfile.gettempdir()) / f"holdfast-slurm-{os.getuid()}"
    place = Path(os.environ.get("SLURM_MINI_DIR", default))
    cluster = Cluster(
        place,
        int(os.environ.get("SLURM_MINI_PORT", "16817")),
        nodes=int(os.environ.get("SLURM_MINI_NODES", "2")),
        cpus=int(os.environ.get("SLURM_MINI_CPUS", "4")),
    )
    if words == ["start"]:
        if lacking := missing():
            print(lacking, file=sys.stderr)
            return 1
        place.mkdir(mode=0o755, parents=True, exist_ok=True)
        cluster.start()
        print(f"export SLURM_CONF={cluster.conf}")
    elif words == ["stop"]:
        cluster.stop()
    elif words == ["status"]:
        print(cluster.run("sinfo"), cluster.run("squeue", "-t", "all"), sep="")
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
