"""What a doctor asks of a cluster before anybody trusts it with an experiment.

The last question is a job: it writes to the directory that the doctor was called in, which the
nodes have to see, too.
"""

import contextlib
import json
import os
import shlex
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from holdfast.engine_options import EngineOptions
from holdfast.engines.slurm import batch
from holdfast.engines.slurm.batch import Asked
from holdfast.engines.slurm.client import Client, LimitReached, NobodyKnows
from holdfast.engines.slurm.limits import Limits
from holdfast.errors import EngineError

__all__ = ["examine"]

_LOOK_EVERY_S: Final = 0.2
_ASK_EVERY_S: Final = 3.0
_WAITED_S: Final = 60.0
#: A difference of clocks that nobody notices; files on NFS are compared by seconds at best.
_SKEW_S: Final = 2.0
_USUAL_GRACE_S: Final = 30.0

_PROBE: Final = """
import json, os, sys, time
said = {"python": sys.version.split()[0], "now": time.time(), "host": os.uname().nodename}
said["old"], said["seen"] = sys.version_info < (3, 11), os.path.exists(sys.argv[1])
try:
    import holdfast
    said["holdfast"] = holdfast.__version__
except ImportError as err:
    said["missing"] = str(err)
with open("said.tmp", "w") as file:
    json.dump(said, file)
    file.flush()
    os.fsync(file.fileno())
os.link("said.tmp", "said")
"""

Said = tuple[str, str]


def examine(client: Client, wanted: EngineOptions, clock: Callable[[], datetime]) -> Iterator[Said]:
    """Yield how it is, `ok`, `warning` or `problem`, and what."""
    try:
        yield "ok", f"{client.version()} is installed here"
        client.ping()
        limits = Limits.of(client.config())
    except EngineError as err:
        yield "problem", err.problem
        return
    yield "ok", f"cluster {limits.cluster}, Slurm {limits.version}: its controller answers"
    yield from _limits(limits, wanted)
    with _folder() as (folder, why):
        if folder is None:
            yield "problem", f"no job was tried: {why}"
            return
        yield from _job(client, wanted, limits, folder, clock)


def _limits(limits: Limits, wanted: EngineOptions) -> Iterator[Said]:
    arrays = f"arrays of {limits.most_tasks:,}" if limits.most_tasks else "no arrays"
    room = limits.room(wanted.per_job)
    yield (
        "ok",
        f"{arrays}, {limits.most_jobs:,} jobs of all users; up to {room:,} commands at a time",
    )
    grace_s = limits.grace_s(_USUAL_GRACE_S)
    short = grace_s < _USUAL_GRACE_S
    text = f"KillWait is {limits.kill_wait_s:g} s: grace periods end after {grace_s:g} s"
    yield ("warning" if short else "ok"), text
    if limits.proctrack == "proctrack/linuxproc":
        yield (
            "warning",
            "ProctrackType is linuxproc: what a killed job leaves behind Slurm does not find; "
            "proctrack/cgroup does",
        )
    if limits.remembers_s < 60:
        text = f"MinJobAge is {limits.remembers_s:g} s: how a job ended is soon forgotten"
        yield "warning", text


@contextlib.contextmanager
def _folder() -> Iterator[tuple[Path | None, str]]:
    """A folder below the current directory that is gone afterwards, or why there is none."""
    path = Path.cwd() / f".holdfast-doctor-{os.urandom(6).hex()}"
    try:
        path.mkdir()
    except OSError as err:
        yield None, f"{path.parent} cannot be written to: {err.strerror}"
        return
    try:
        yield path, ""
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _job(
    client: Client,
    wanted: EngineOptions,
    limits: Limits,
    folder: Path,
    clock: Callable[[], datetime],
) -> Iterator[Said]:
    probe = folder / "probe.py"
    probe.write_text(_PROBE, encoding="ascii")
    python = shlex.quote(wanted.python or sys.executable)
    try:
        words = batch.options(wanted, Asked.of(wanted, {}), folder=folder, grace_s=1.0)
        words += ["--job-name=holdfast-doctor", "--output=log"]
        number = client.submit(
            words, f"#!/bin/sh\nexec {python} probe.py {shlex.quote(batch.NODE)}\n"
        )
    except (EngineError, LimitReached, NobodyKnows) as err:
        yield "problem", f"a job is not taken: {getattr(err, 'problem', err)}"
        return
    said, state = _wait(client, number, folder)
    if said is None:
        client.cancel([str(number)])
        log = ""
        with contextlib.suppress(OSError):
            log = (folder / "log").read_text(errors="replace").strip()[-500:]
        if state == "PENDING" or state.startswith("PENDING "):
            yield "warning", f"a job still waits after {_WAITED_S:.0f} s: {state}"
        else:
            what = f"job {number} wrote nothing to {folder.parent}, as Slurm says {state}"
            yield "problem", f"{what}: {log}" if log else f"{what}: do the nodes see it?"
        return
    host, now = said.get("host"), said.get("now")
    yield "ok", f"a job on {host} wrote to {folder.parent}, and that was read here"
    yield _runs(said)
    if isinstance(now, int | float):
        # Until it was seen, time passed on both clocks.
        passed_s = clock().timestamp() - now
        if passed_s < -_SKEW_S or passed_s > _LOOK_EVERY_S + _ASK_EVERY_S + _SKEW_S:
            yield "warning", f"the clocks of {host} and this host differ by {abs(passed_s):.1f} s"
        else:
            yield "ok", f"the clocks of {host} and this host agree"


def _runs(said: Mapping[str, Any]) -> Said:
    """Whether a node can run what a job begins with."""
    python = f"its Python {said.get('python')}"
    if said.get("old"):
        return "problem", f"{python} is older than 3.11: name another one in `[engine] python`"
    if said.get("seen"):
        return "ok", f"{python} runs holdfast from {batch.NODE}"
    if "missing" in said:
        return "problem", f"{python} has no holdfast, and {batch.NODE} is not there"
    own = (
        f"{python} has holdfast {said.get('holdfast')} of its own, since {batch.NODE} is not there"
    )
    return "warning", f"{own}: keep it at the version of this host"


def _wait(client: Client, number: int, folder: Path) -> tuple[dict[str, Any] | None, str]:
    """What the job said, or what Slurm says of it."""
    pause, state = threading.Event(), "nothing"
    rounds = int(_ASK_EVERY_S / _LOOK_EVERY_S)
    over = False
    for turn in range(int(_WAITED_S / _LOOK_EVERY_S)):
        # Listed: a network file system may keep showing that a file is not there.
        if any(path.name == "said" for path in folder.iterdir()):
            with contextlib.suppress(OSError, ValueError):
                found = json.loads((folder / "said").read_bytes())
                return (found if isinstance(found, dict) else None), state
        if over:
            break
        if turn % rounds == rounds - 1:
            with contextlib.suppress(EngineError):
                job = client.job(number) or {}
                state = job.get("JobState", "nothing")
                over = state not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")
                if state == "PENDING":
                    state = f"PENDING ({job.get('Reason', '')})"
        pause.wait(_LOOK_EVERY_S)
    return None, state
