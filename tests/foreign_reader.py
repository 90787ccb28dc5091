"""A reader of state directories by somebody who has read `holdfast guide storage`, and no more.

Imports nothing of holdfast. What it cannot know from that page, the page has to say.
"""

import hashlib
import json
import math
import os
import re
import stat
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Lines = list[tuple[int, dict[str, Any]]]
TIMES = (
    *("created_at", "started_at", "completed_at", "not_before", "finished_at", "last_updated"),
    "submitted_at",
)
STATE = {
    **{"status": "initialised", "num_processes": 0, "epoch": 0, "revision": 0, "schema_version": 1},
    **dict.fromkeys(("name", "reason", "error_message", "config_hash", "config_path", "cwd")),
    **dict.fromkeys(("owner", "subprocess_pid", "ranks", "reuse", *TIMES[:2], *TIMES[4:6])),
}
PROCESS = {
    **{"status": "pending", "attempt": 0, "failures": 0, "interruptions": 0},
    **dict.fromkeys(("exit_code", "signal", "reason", "error_message", "host", "identity")),
    **dict.fromkeys(("result", "started_at", "completed_at", "work", "code", "origin")),
    **dict.fromkeys(("not_before", "limits", "phase", "submitted_at", "handle", "usage")),
    "outputs": [],
}
KINDS = {
    **dict.fromkeys(("exit_code", "signal", "subprocess_pid"), int),
    **dict.fromkeys(("owner", "identity", "result", "ranks", "origin", "limits"), dict),
    **dict.fromkeys(("handle", "usage"), dict),
}
FILE = {"path": "", "size": 0, "sha256": ""}
ORIGIN = {"experiment_id": "", "process": 0, "attempt": 0}
REASONS = {
    *("exit", "signal", "timeout", "out_of_memory", "preempted", "stall", "user", "stale", "lost"),
    *("result_lost", "launch_error", "reused", "perhaps_memory", "deadline", "time_limit", None),
}
EXPERIMENT = ("initialised", "running", "completed", "aggregated", "failed", "interrupted")
KEYS = {*STATE, "experiment_id", "config", "process_progress", "extra"}
TELLING = {"experiment_id", "status", "num_processes", "total_runs", "process_progress"}
SUFFIXES = (".", ".json", ".jsonl", ".lock", ".tmp", ".live", ".exit", ".out", ".err")
DEVICES = {"con", "prn", "aux", "nul"} | {f"{p}{n}" for p in ("com", "lpt") for n in range(10)}


class RefusedError(Exception):
    """What is there is not to be believed."""


def refuse(why: object) -> Any:
    raise RefusedError(why)


# -- names ----------------------------------------------------------------------------------------


def stem_of(name: str) -> str:
    low = name.lower()
    kept = re.fullmatch("[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name)
    if kept and not low.endswith(SUFFIXES) and low.split(".")[0] not in DEVICES:
        return name
    slug = re.sub("[^A-Za-z0-9_]+", "-", name[:240])[:60].strip("-_") or "experiment"
    return f"{slug}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def stems(top: Path) -> list[str]:
    names = [path.name for path in top.iterdir() if path.name[0] != "."]
    folders = {name for name in names if name[-5:] != ".json" and is_folder(top / name / "journal")}
    return sorted({name[:-5] for name in names if name[-5:] == ".json"} | folders)


def is_folder(path: Path) -> bool:
    return not path.is_symlink() and not path.parent.is_symlink() and path.is_dir()


def read_file(path: Path, limit: int) -> bytes:
    info = path.lstat()
    if not stat.S_ISREG(info.st_mode) or info.st_size > limit:
        refuse("no regular file, or too large")
    return path.read_bytes()


# -- states ---------------------------------------------------------------------------------------


def parse(data: bytes, **how: Any) -> Any:
    return json.loads(data.decode(), parse_constant=refuse, parse_float=finite, **how)


def finite(text: str) -> float:
    return float(text) if math.isfinite(float(text)) else refuse("beyond a double")


def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(pairs) if len(dict(pairs)) == len(pairs) else refuse("a duplicate key")


def normal(plain: dict[str, Any], stem: str) -> dict[str, Any]:
    """A state with every default filled in, whatever its schema."""
    extra: dict[str, Any] = {}
    if "schema_version" not in plain:
        plain = {key: value for key, value in plain.items() if value is not None}
        known = plain.keys() & TELLING or refuse("no experiment")
        total = plain.pop("total_runs", 0) if "num_processes" not in known else 0
        plain = {"experiment_id": stem, "num_processes": total, "schema_version": 1, **plain}
        for index, process in plain.get("process_progress", {}).items():
            if strange := {key: process[key] for key in process if key not in PROCESS}:
                extra.setdefault("process_progress", {})[index] = strange
    if plain["schema_version"] > 1:
        refuse("a newer schema")
    state = STATE | {"config": {}} | {key: plain[key] for key in plain if key in KEYS}
    state["extra"] = extra | plain.get("extra", {}) | {k: plain[k] for k in plain if k not in KEYS}
    given = {int(index): entry for index, entry in plain.get("process_progress", {}).items()}
    count = state["num_processes"] or max(given, default=-1) + 1
    if max(given, default=-1) >= count or count > 1_000_000:
        refuse("a process too many")
    if count % (state["ranks"] or {"count": 1})["count"]:
        refuse("half a gang")
    state["num_processes"], state["process_progress"] = count, {}
    for index in range(count):
        entry = given.get(index, {})
        state["process_progress"][index] = PROCESS | {k: entry[k] for k in entry if k in PROCESS}
    statuses = {process["status"] for process in state["process_progress"].values()}
    if state["status"] in ("completed", "aggregated") and statuses - {"completed"}:
        refuse("settled, but not its processes")
    return checked(state, stem)


def checked(state: dict[str, Any], stem: str) -> dict[str, Any]:
    if stem_of(state["experiment_id"]) != stem:
        refuse("of another name")
    check(state, {**STATE, "config": {}, "extra": {}}, EXPERIMENT)
    for process in state["process_progress"].values():
        check(process, PROCESS, ("pending", "running", "completed", "failed"))
    return state


def check(record: dict[str, Any], defaults: dict[str, Any], statuses: tuple[str, ...]) -> None:
    """Refuse what no table allows; times become UTC."""
    for key, default in defaults.items():
        value, kind = record[key], KINDS.get(key, str) if default is None else type(default)
        null = value is None and default is None
        if not null and (type(value) is not kind or (kind is int and default == 0 > value)):
            refuse(f"{key} is {value}")
        if key in TIMES and value is not None:
            record[key] = utc(value)
    if record["status"] not in statuses or record["reason"] not in REASONS:
        refuse("an unknown word")
    if record.get("reuse") not in (None, "unchanged", "all"):
        refuse("an unknown policy")
    for each in record.get("outputs", ()):
        inner(each, FILE)
    if record.get("phase") not in (None, "queued", "held", "running"):
        refuse("an unknown phase")
    for number in (record.get("usage") or {}).values():
        if type(number) not in (int, float) or number < 0:
            refuse("no quantity")
    for limit in (record.get("limits") or {}).values():
        seconds = [limit["to"], *([] if limit["from"] is None else [limit["from"]])]
        if limit.keys() != {"from", "to"} or any(type(n) not in (int, float) for n in seconds):
            refuse("no limit")
        if min(seconds) < 0:
            refuse("less than no time")
    if record.get("origin") is not None:
        inner(record["origin"], ORIGIN, via=None)


def inner(plain: Any, needed: dict[str, Any], **optional: None) -> None:
    """Refuse an object without one of the keys, or with another value than those are like."""
    words = {"status": "", "reason": None}
    check({**optional, **plain, **words}, {**optional, **needed}, ("",))
    if plain.get("experiment_id") == "":
        refuse("an origin without a name")


def utc(text: str) -> str:
    return datetime.fromisoformat(text).astimezone(UTC).isoformat()


# -- journals -------------------------------------------------------------------------------------


def valid(line: bytes) -> Any:
    """The object in a line; None if the checksum is wrong."""
    if line[:9] != b"%08x " % zlib.crc32(line[9:]):
        return None
    try:
        said = parse(line[9:])
    except ValueError as err:
        return refuse(err)
    return said if isinstance(said, dict) else refuse("a checksum of no object")


def read_lines(data: bytes) -> Lines:
    """The valid lines, each with the offset behind it."""
    found: Lines = []
    at, data = 0, data.rstrip(b"\0")
    for line in data.split(b"\n")[:-1]:
        if (said := valid(line)) is None:
            break
        at += len(line) + 1
        found.append((at, said))
    tail = data[at:]
    rest = tail.removesuffix(b"\n")
    starts = [match.start() for match in re.finditer(rb"[0-9a-f]{8} \{", rest) if match.start()]
    if any(map(valid, tail.split(b"\n")[:-1])) or any(valid(rest[start:]) for start in starts):
        refuse("a line behind one that is damaged")
    if not tail.endswith(b"\n") and valid(tail[:-1]):
        refuse("a damaged line feed")
    return found


def journals(top: Path, stem: str) -> Iterator[tuple[int, Lines]]:
    """Every epoch that has a base, the highest first."""
    folder = top / stem / "journal"
    if not is_folder(top / stem) or not os.path.lexists(folder):
        return
    names = os.listdir(folder) if is_folder(folder) else refuse("journal/ is no directory")
    epochs = sorted(int(name[:-6]) for name in names if re.fullmatch(r"\d{8,}\.jsonl", name))
    for epoch in reversed(epochs):
        lines = read_lines(read_file(folder / f"{epoch:08}.jsonl", 1 << 30))
        if not lines or lines[0][1]["kind"] != "claim":
            refuse("no claim")
        if len(lines) > 1 and lines[1][1]["kind"] == "base":
            yield epoch, lines


def fold(epoch: int, lines: Lines, stem: str) -> dict[str, Any] | None:
    """The state after all lines; None if it is deleted."""
    state, deleted = normal(lines[1][1]["state"], stem), False
    revision = state["revision"]
    for _, line in lines[2:]:
        kind, changes = line["kind"], line.get("changes", ())
        quiet = kind == "changes" and all(each["event"] == "released" for each in changes)
        expected = revision if kind == "deleted" or quiet else revision + 1
        if kind not in ("changes", "saved", "deleted") or line["revision"] != expected:
            refuse("a line that does not follow")
        revision, deleted = expected, kind == "deleted" or deleted
        if kind == "saved":
            state = normal(line["state"], stem)
        elif kind == "changes":
            state["last_updated"] = utc(line["at"])
            for each in changes:
                _, _, index = each["from"], each["to"], each.get("process")
                record = state if index is None else state["process_progress"][index]
                record.update(each["set"])
                state["last_updated"] = utc(each.get("at", line["at"]))
    return None if deleted else checked({**state, "revision": revision, "epoch": epoch}, stem)


# -- what is asked --------------------------------------------------------------------------------


def load(top: Path, stem: str) -> dict[str, Any] | None:
    """The state of an experiment; None if there is none."""
    folder, view = top / stem, top / f"{stem}.json"
    for epoch, lines in journals(top, stem):
        return fold(epoch, lines, stem)
    if not os.path.lexists(view):
        return None
    plain = parse(read_file(view, 512 << 20), object_pairs_hook=object_of)
    state = normal(plain, stem)
    if folder.is_symlink() or (state["epoch"] and folder.exists() and not folder.is_dir()):
        refuse("something hides the folder")
    return state


def history(top: Path, stem: str) -> list[tuple[Any, ...]]:
    """Each step: when, of which process (None: the experiment), event, from, to."""
    based = dict(journals(top, stem))
    counted: list[tuple[Lines, float]] = []
    epoch, end = max(based, default=0), float("inf")
    while epoch:
        counted.append((based[epoch], end))
        source = based[epoch][1][1]["from"] or {"epoch": 0, "offset": 0}
        epoch, end = (
            source["epoch"] if source["epoch"] < epoch else refuse("upwards"),
            source["offset"],
        )
    steps: list[tuple[Any, ...]] = []
    for lines, end in reversed(counted):
        status = lines[1][1]["state"]["status"]
        if "compacts" not in lines[0][1]:
            steps.append((utc(lines[0][1]["at"]), None, "claimed", status, status))
        for _, line in (each for each in lines[2:] if each[0] <= end):
            for each in line.get("changes", ()):
                what = (each.get("process"), each["event"], each["from"], each["to"])
                steps.append((utc(each.get("at", line["at"])), *what))
            if line["kind"] in ("saved", "deleted") and not line.get("changes"):
                steps.append((utc(line["at"]), None, line["kind"], status, status))
    return steps
