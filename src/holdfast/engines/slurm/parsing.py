"""What Slurm's commands print, as records: jobs, tasks, times, limits, nodes.

Times are asked for as seconds since 1970 (`SLURM_TIME_FORMAT`), and read in Slurm's own form too.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

import attrs

__all__ = [
    "ACCOUNTED",
    "FORMAT",
    "Job",
    "Node",
    "accounted",
    "chunks",
    "config",
    "down",
    "duration",
    "fields",
    "first_number",
    "jobs",
    "node",
    "ranges",
    "tasks",
]

#: Of `squeue -o`. The comment comes last: it may have any character in it.
FORMAT: Final = "%F|%K|%T|%r|%V|%S|%e|%l|%B|%N|%U|%j|%k"
#: Of `sacct --format`.
ACCOUNTED: Final = "JobID,State,Submit,Start,End,TimelimitRaw,NodeList,JobName,Comment"
_NOTHING: Final = {"", "N/A", "n/a", "Unknown", "None", "(null)", "NONE"}
_MOST_TASKS: Final = 4_000_001
_DURATION: Final = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)|(\d+)-(\d+)")
_FIELD: Final = re.compile(r"(?:^|\s)([A-Za-z][\w:/]*)=(\S*)")
_PING: Final = re.compile(r"\b(?:is|are)\s+(?:UP|DOWN/UP|UP/\w+)\b")


@attrs.frozen(kw_only=True)
class Job:
    """One line of `squeue`: a job, an element of an array, or those that still wait.

    Attributes:
        number: Of the array; elements that have begun have one of their own, too, not named here.
        tasks: Which elements, ascending ranges with both ends; `((0, 0),)` of a job that is none.
        array: Whether it is one of an array.
        limit_s: Its time limit; None for none, and where it is not set yet.
        host: Where its script runs.
    """

    number: int
    tasks: tuple[tuple[int, int], ...]
    array: bool
    state: str
    reason: str
    submitted_at: datetime | None
    started_at: datetime | None
    ends_at: datetime | None
    limit_s: float | None
    host: str | None
    nodes: str | None
    user: int
    name: str
    comment: str

    def __iter__(self) -> Iterator[int]:
        for first, last in self.tasks:
            yield from range(first, last + 1)

    @property
    def is_wide(self) -> bool:
        """Whether it has several nodes: `n[1-2]`, `n1,m1`."""
        return self.nodes is not None and not {"[", ","}.isdisjoint(self.nodes)


@attrs.frozen(kw_only=True)
class Node:
    """What the controller says of a node.

    Attributes:
        state: As it stands there, `DOWN*` or `IDLE+DRAIN`.
        booted_at: When it was booted, as it said when it registered last.
    """

    name: str
    state: str
    booted_at: datetime | None

    @property
    def answers(self) -> bool:
        """Whether it is there to be told what to end."""
        words = set(re.split(r"[+]", self.state.rstrip("*~#!%$@^-").upper()))
        return "*" not in self.state and not words & {"DOWN", "FAIL", "UNKNOWN", "NOT_RESPONDING"}


def jobs(output: str) -> list[Job]:
    """Every line that can be understood; a later Slurm may write others."""
    found = [_job(line) for line in output.splitlines()]
    return [job for job in found if job is not None]


def accounted(output: str, user: int) -> list[Job]:
    """Every line of `sacct` that can be understood, as `squeue` would have put it."""
    found = []
    for line in output.splitlines():
        parts = line.split("|", ACCOUNTED.count(","))
        if len(parts) <= ACCOUNTED.count(","):
            continue
        job_id, state, submitted, started, ends, minutes, nodes, name, comment = parts
        number, _, which = job_id.partition("_")
        limit = f"{minutes}:00" if minutes.isdigit() else minutes
        words = [number, which.strip("[]"), state, "", submitted, started, ends, limit, ""]
        job = _job("|".join([*words, nodes, str(user), name, comment]))
        if job is not None:
            found.append(job)
    return found


def _job(line: str) -> Job | None:
    parts = line.split("|", FORMAT.count("|"))
    if len(parts) <= FORMAT.count("|"):
        return None
    number, which, state, reason, submitted, started, ends, limit, host, nodes, user, name = parts[
        :12
    ]
    array = which not in _NOTHING
    try:
        return Job(
            number=int(number),
            tasks=ranges(which) if array else ((0, 0),),
            array=array,
            state=state.strip().upper(),
            reason="" if reason in _NOTHING else reason,
            submitted_at=_time(submitted),
            started_at=_time(started),
            ends_at=_time(ends),
            limit_s=duration(limit),
            host=None if host in _NOTHING else host,
            nodes=None if nodes in _NOTHING else nodes,
            user=int(user),
            name=name,
            comment="" if parts[12] in _NOTHING else parts[12],
        )
    except ValueError:
        return None


def ranges(text: str) -> tuple[tuple[int, int], ...]:
    """The elements that `1-3,7,9-13:2%5` names; what Slurm has cut off at the end is left out.

    Raises:
        ValueError: It is none such.
    """
    found: list[tuple[int, int]] = []
    for part in text.partition("%")[0].split(","):
        if part.endswith("..."):
            # Cut, and nobody knows where: `119...` may be the beginning of `1190`.
            break
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        low, high, by = int(first), int(last or first), int(step or 1)
        if not 0 <= low <= high < _MOST_TASKS or by < 1:
            raise ValueError(text)
        if by == 1 or low == high:
            found.append((low, high))
        else:
            found += ((number, number) for number in range(low, high + 1, by))
    return tuple(found)


def tasks(numbers: "list[int]") -> str:
    """*numbers*, ascending, as Slurm writes them: `1-3,7`."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in found)


def chunks(numbers: "list[int]", most_characters: int = 2000) -> Iterator[str]:
    """*numbers* as `tasks` writes them, in parts that fit on a command line."""
    part: list[str] = []
    length = 0
    for word in tasks(numbers).split(",") if numbers else ():
        if part and length + len(word) >= most_characters:
            yield ",".join(part)
            part, length = [], 0
        part.append(word)
        length += len(word) + 1
    if part:
        yield ",".join(part)


def _time(text: str) -> datetime | None:
    if text in _NOTHING:
        return None
    if text.isdigit():
        return datetime.fromtimestamp(int(text), UTC) if 0 < int(text) < 1 << 33 else None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def duration(text: str) -> float | None:
    """Seconds of `1-02:03:04`, `02:03:04`, `2:03` or `1-02`; None of `UNLIMITED` and the like."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        return None
    days, hours, minutes, seconds, days_only, hours_only = (
        int(each or 0) for each in found.groups()
    )
    total = ((days + days_only) * 24 + hours + hours_only) * 3600 + minutes * 60 + seconds
    return float(total)


def down(output: str) -> str:
    """What `scontrol ping` says where no controller is up; empty where one is."""
    if _PING.search(output):
        return ""
    # Beneath, it asks in capitals for the daemon to be restored to service.
    lines = [line.strip() for line in output.splitlines() if line.startswith("Slurmctld")]
    return "; ".join(lines) or "scontrol ping says nothing"


def config(output: str) -> dict[str, str]:
    """`scontrol show config`, by name."""
    found = {}
    for line in output.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            found[name.strip()] = value.strip()
    return found


def fields(output: str) -> dict[str, str]:
    """The first record of `scontrol show job` or `scontrol show node`, by name."""
    found: dict[str, str] = {}
    for name, value in _FIELD.findall(output.split("\n\n", 1)[0]):
        found.setdefault(name, value)
    return found


def node(output: str) -> Node | None:
    """`scontrol show node` of one; None where it is none."""
    found = fields(output)
    if "NodeName" not in found:
        return None
    return Node(
        name=found["NodeName"],
        state=found.get("State", "UNKNOWN"),
        booted_at=_time(found.get("BootTime", "")),
    )


def first_number(values: Mapping[str, str], name: str, default: float) -> float:
    """The number with which a value of the configuration begins, `30 sec`, also of those within
    `SchedulerParameters`; *default* where there is none.
    """
    text = values.get(name)
    if text is None:
        inner = re.search(rf"(?:^|,){name}=(\d+)", values.get("SchedulerParameters", ""))
        text = "" if inner is None else inner[1]
    found = re.match(r"\d+", text)
    return default if found is None else float(found[0])
