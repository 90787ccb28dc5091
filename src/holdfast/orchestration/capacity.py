"""How many CPUs may really be used: a batch job or a container is given fewer than there are."""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

__all__ = ["usable_cpus"]


def usable_cpus(proc: Path = Path("/proc/self")) -> int:
    """The CPUs of this process by its affinity and by the quota of its cgroups; at least one.

    Args:
        proc: Where the kernel tells of cgroups and mounts.
    """
    affine = hasattr(os, "sched_getaffinity")
    cpus = len(os.sched_getaffinity(0)) if affine else os.cpu_count() or 1
    # Of one and a half, two processes make use.
    return max(1, min([cpus, *map(math.ceil, _quotas(proc))]))


def _quotas(proc: Path) -> Iterator[float]:
    """The CPUs that each cgroup of this process, and each above it, may use, where limited."""
    for folder in _folders(proc):
        try:
            if (folder / "cpu.max").exists():
                quota, period = (folder / "cpu.max").read_text("ascii").split()
            else:
                quota = (folder / "cpu.cfs_quota_us").read_text("ascii").strip()
                period = (folder / "cpu.cfs_period_us").read_text("ascii").strip()
            if quota not in ("max", "-1"):
                yield int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue


def _folders(proc: Path) -> Iterator[Path]:
    try:
        groups = (proc / "cgroup").read_text(errors="surrogateescape").splitlines()
        mounts = (proc / "mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return
    # `4:cpu,cpuacct:/job` of version 1, `0::/job` of version 2.
    own: dict[str, str] = {}
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            own["cgroup2"] = path
        elif "cpu" in controllers.split(","):
            own["cgroup"] = path
    for line in mounts:
        left, _, right = line.partition(" - ")
        fields, (kind, _, options) = left.split(), [*right.split(), "", "", ""][:3]
        if kind not in own or (kind == "cgroup" and "cpu" not in options.split(",")):
            continue
        point, root = Path(fields[4]), PurePosixPath(fields[3])
        group = PurePosixPath(own[kind])
        # A container sees its own group as the root, whatever it is called outside.
        inside = group.relative_to(root) if group.is_relative_to(root) else PurePosixPath()
        folder = point / inside
        yield folder
        yield from (each for each in folder.parents if each.is_relative_to(point))
