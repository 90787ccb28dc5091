"""What a dry run says of new and of old experiments is what a run does, whatever others have done.

Histories are drawn from seeds: ancestors that ran, failed, were killed or are of an older version,
then edits, losses and another matrix. All of them lie in one state directory and went through the
orchestrator itself; only its engine is one of the test's own.
"""

import json
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from holdfast.attempts.names import reports_dir
from holdfast.attempts.records import Attempt
from holdfast.cli.failures import code_of, exit_code
from holdfast.config.experiment_file import Experiment, load_config
from holdfast.errors import CodeChangedError, ConfigError, HoldfastError
from holdfast.lifecycle.records import ExperimentState, Ranks
from holdfast.orchestration.intent import Choice
from holdfast.orchestration.marking import digests_of
from holdfast.orchestration.orchestrator import Orchestrator
from holdfast.orchestration.surveying import lost_results
from holdfast.orchestration.taking import Taking
from holdfast.results import acceptance
from holdfast.status import ExperimentStatus, ProcessStatus
from holdfast.store.manager import StateManager
from instant import InstantEngine, files_below, foretold, put
from processes import in_a_fork

HISTORIES = 500
AT_A_TIME = 25

CHOICES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "no option": ((), {}),
    "--fresh": (("--fresh",), {"fresh": True}),
    "--keep-results": (("--keep-results",), {"code": "keep"}),
    "--rerun-changed": (("--rerun-changed",), {"code": "rerun"}),
}
EDITS = (
    *("script edited", "script deleted", "script touched", "part edited", "another file edited"),
    *("declared edited", "declared deleted", "aggregate changed"),
)
LOSSES = ("altered", "truncated", "deleted", "written anew")
LIVES = ("runs", "killed", "interrupted")
KINDS = {
    *(*CHOICES, *EDITS, *LIVES, *(f"{life}, --fresh" for life in LIVES), "older"),
    *("grown", "shrunk", "reordered", "the same", "ancestor deleted", "back to an earlier one"),
    "overtaken",
    *(f"{what} {how}" for what in ("result", "output") for how in LOSSES),
    *("action run", "action skip", "action reuse", "by way of"),
    *("a rank reused", "an independent rank reused", "several of equal work reused"),
    *("CodeChangedError", "ConfigError", "AmbiguousExperimentError"),
    *("goes on", "goes on, reusing", "goes on without reuse"),
    *(f"an ancestor {status}" for status in ExperimentStatus if status != "initialised"),
}


@attrs.define
class Sweep:
    """What an experiment file asks for: drawn once, then grown, shrunk, reordered."""

    kind: str
    count: int
    lr: list[int]
    seed: list[int]
    pairs: list[tuple[int, int]]
    ranks: int
    independent: bool
    declares: bool
    outputs: str | None
    index: bool
    link: bool
    fail_fast: bool
    swapped: bool = False
    aggregate: str | None = None

    @classmethod
    def drawn(cls, draw: random.Random) -> "Sweep":
        kind = draw.choice(("a number", *["a grid"] * 4, "pairs"))
        ranks, independent = draw.choice((0, 0, 0, 2, 3)), draw.random() < 0.5
        outputs = ["model-{index}.pt"]
        if kind == "a grid" and not (ranks and independent):
            outputs = ["model-{lr}-{seed}.pt", "plots/{lr}-{seed}-*.png"]
        return cls(
            kind=kind,
            count=draw.randint(1, 4),
            lr=draw.sample(range(1, 5), draw.randint(1, 3)),
            seed=draw.sample(range(1, 4), draw.randint(1, 2)),
            pairs=[(draw.randint(1, 2), draw.randint(1, 2)) for _ in range(draw.randint(2, 5))],
            ranks=ranks,
            independent=independent,
            declares=draw.random() < 0.4,
            outputs=draw.choice(outputs) if draw.random() < 0.4 else None,
            index=draw.random() < 0.1,
            link=draw.random() < 0.2,
            fail_fast=draw.random() < 0.3,
        )

    def another(self, draw: random.Random) -> tuple["Sweep", str]:
        """The same with more, fewer or other combinations, and which of these."""
        how = draw.choice(("grown", "shrunk", "reordered", "the same", "the same"))
        change: dict[str, Any] = {}
        if how == "grown":
            change["lr"] = [*self.lr, *set(range(1, 5)).difference(self.lr)][: len(self.lr) + 1]
            change["count"] = self.count + 1
            change["pairs"] = [*self.pairs, (draw.randint(1, 3), 1)]
        elif how == "shrunk":
            change["lr"] = self.lr[1:] or self.lr
            change["count"] = max(1, self.count - 1)
            change["pairs"] = self.pairs[1:] or self.pairs
        elif how == "reordered":
            change["lr"] = draw.sample(self.lr, len(self.lr))
            change["pairs"] = draw.sample(self.pairs, len(self.pairs))
            change["swapped"] = not self.swapped
        return attrs.evolve(self, **change), how

    def text(self) -> str:
        """The experiment file."""
        words = ["sh", "work.sh", "--out=said.txt"]
        if self.kind == "a number":
            shape, words = f"processes = {self.count}", [*words, "part-1.sh", "{index}"]
        else:
            words += ["part-{lr}.sh", "{lr}", "{seed}"]
            axes = [f"lr = {self.lr}", f"seed = {self.seed}"]
            if self.kind == "pairs":
                rows = ", ".join(f"{{lr = {lr}, seed = {seed}}}" for lr, seed in self.pairs)
                axes = [f"include = [{rows}]"]
            shape = "\n".join(["[matrix]", *(reversed(axes) if self.swapped else axes)])
        lines = [f"command = {json.dumps(words)}"]
        if self.ranks:
            independent = str(self.independent).lower()
            lines.append(f"ranks = {{count = {self.ranks}, independent = {independent}}}")
        lines += [
            shape,
            f'[limits]\njobs = 2\ngrace = "0s"\nfail_fast = {str(self.fail_fast).lower()}',
        ]
        lines.append('[retry]\nmax_attempts = 1\nbackoff = "0s"')
        if self.declares or self.index:
            name = "data-1.csv" if self.kind == "a number" else "data-{lr}.csv"
            files = json.dumps([name] if self.declares else [])
            lines.append(f"[identity]\nfiles = {files}\nindex = {str(self.index).lower()}")
        if self.outputs:
            lines.append(f"[outputs]\nfiles = {json.dumps([self.outputs])}")
        if self.aggregate:
            lines.append(f'[aggregate]\ncommand = ["echo", "{self.aggregate}"]')
        lines.append(f"[store]\nlink = {str(self.link).lower()}")
        return "\n".join(lines) + "\n"


class History:
    """A state directory and a project with a past, drawn from a seed."""

    def __init__(self, path: Path, seed: int) -> None:
        self.draw = random.Random(seed)
        self.path = path
        self.kinds: list[str] = []
        path.mkdir()
        self.states = path / "states"
        self.manager = StateManager(self.states)
        self.file = path / "e.toml"
        (path / "plots").mkdir()
        for name in ("work.sh", *(f"part-{lr}.sh" for lr in range(1, 6))):
            (path / name).write_text(f"# {name}\n")
        for lr in range(1, 6):
            (path / f"data-{lr}.csv").write_text(f"{lr}\n")
        self.sweep = Sweep.drawn(self.draw)
        self.experiment: Experiment = self.written()
        past: list[Sweep] = []
        if self.draw.random() < 0.15:
            self.overtaken()
        for _ in range(self.draw.choice((0, 1, 1, 2, 2, 3))):
            past.append(self.sweep)
            self.live()
            if self.draw.random() < 0.75:
                self.sweep, how = self.sweep.another(self.draw)
                self.kinds.append(how)
            if self.draw.random() < 0.3:
                self.edit()
        if past and self.draw.random() < 0.3:
            self.kinds.append("back to an earlier one")
            self.sweep = self.draw.choice(past)
        for _ in range(self.draw.choice((0, 0, 1, 1, 2))):
            self.edit()
        self.lose()
        if self.draw.random() < 0.1 and (ids := self.manager.list_experiments()):
            self.kinds.append("ancestor deleted")
            self.manager.delete(self.draw.choice(sorted(ids)), force=True)
        self.choice = self.draw.choice(("no option", *CHOICES))
        self.kinds.append(self.choice)
        self.engine = InstantEngine(begin=self.begin)
        self.experiment = self.written()

    def written(self) -> Experiment:
        """The experiment file, as it is to be now."""
        self.file.write_text(self.sweep.text())
        return load_config(self.file)

    # -- ancestors --------------------------------------------------------------------------------

    def overtaken(self) -> None:
        """One is killed, a larger one does its work, and then it is wanted again."""
        self.kinds.append("overtaken")
        wanted = self.sweep
        self.live("killed")
        self.sweep = attrs.evolve(wanted, lr=[*wanted.lr, 5], pairs=[*wanted.pairs, (3, 3)])
        self.live("runs")
        self.sweep = wanted

    def live(self, kind: str | None = None) -> None:
        """Another experiment, or the last one goes on, to whatever end; of one *kind*, at once."""
        self.experiment = self.written()
        fresh = kind is None and self.draw.random() < 0.2
        kind = kind or self.draw.choice(("runs", "runs", "runs", "killed", "interrupted", "older"))
        code: Choice | None = None if fresh else self.draw.choice((None, "keep", "rerun"))
        if kind == "older":
            self.older()
            return
        self.stops_at = self.draw.randint(1, 4) if kind != "runs" else 0
        self.stops_by = kind
        self.fails = self.draw.choice((0.0, 0.0, 0.0, 0.3))
        said = 0
        if kind == "killed":
            in_a_fork(lambda: self.carried_on(fresh=fresh, code=code))
        else:
            said = self.carried_on(fresh=fresh, code=code)
        self.kinds.append(f"{kind}, --fresh" if fresh else kind)
        if said not in (0, 3, 130):
            self.kinds.append(f"an ancestor ends with {said}")

    def carried_on(self, *, fresh: bool, code: Choice | None) -> int:
        engine = InstantEngine(begin=self.begin_badly)
        try:
            return code_of(orchestrated(self, engine, fresh=fresh, code=code))
        except (CodeChangedError, ConfigError) as err:
            return exit_code(err)
        except HoldfastError as err:
            return exit_code(err)

    def begin_badly(self, attempt: Attempt) -> None:
        if attempt.name.index is None:
            return
        self.stops_at -= 1
        stops = self.stops_at == 0
        dies = stops and self.stops_by == "killed"
        if dies and self.draw.random() < 0.4:
            signal.raise_signal(signal.SIGKILL)
        if self.draw.random() < self.fails:
            put(attempt.folder, attempt.name, "exit", {"exit_code": 3})
        else:
            self.begin(attempt)
        if dies:
            put(attempt.folder, attempt.name, "exit", {"exit_code": self.draw.choice((0, 3))})
            signal.raise_signal(signal.SIGKILL)
        if stops:
            signal.raise_signal(signal.SIGINT)

    def begin(self, attempt: Attempt) -> None:
        """What the command does: results, and the outputs that are declared."""
        name, folder = attempt.name, attempt.folder
        if name.index is None:
            return
        value = json.dumps(self.value(name.experiment_id, name.index))
        (self.path / "said.txt").write_text(value)
        acceptance.prepare(folder)
        if not name.is_launcher:
            if self.draw.random() < 0.8:
                acceptance.path_of(folder, name).write_text(value)
        else:
            for rank in range(name.index, name.index + self.experiment.rank_count):
                own = reports_dir(folder, name)
                own.mkdir(exist_ok=True)
                (own / f"{rank}.0-9-9-h.said").write_text('{"completed": true}')
                ours = acceptance.of_rank(rank, name.attempt, "0-9-9-h")
                acceptance.path_of(folder, ours).write_text(value)
        ranks = range(name.index, name.index + self.experiment.rank_count)
        own = self.numbered(name.experiment_id)
        for pattern in {each for rank in ranks for each in own.outputs(rank)}:
            (self.path / pattern.replace("*", "a")).write_text(f"{value} {attempt.argv}")

    def numbered(self, name: str) -> Experiment:
        """The experiment, its processes in the order that *name* was made with."""
        return self.experiment.numbered_as(self.manager.load(name).config)

    def value(self, name: str, index: int) -> Any:
        """What process *index* of *name* computes: its words and its data."""
        own = self.numbered(name)
        argv = own.argv(index)
        data = [(self.path / name).read_text() for name in own.declared(index)]
        return [list(argv), data]

    def older(self) -> None:
        """An experiment of a version that knew neither identities nor code."""
        self.kinds.append("older")
        experiment = self.experiment
        state = self.manager.create(
            num_processes=experiment.num_processes,
            ranks=Ranks(count=self.sweep.ranks, independent=self.sweep.independent)
            if self.sweep.ranks
            else None,
            config=experiment.to_config(),
            config_hash=experiment.config_hash(self.states),
            config_path=self.file,
            cwd=self.path,
        )
        with self.manager.claim(state.experiment_id) as claim:
            claim.record("start")
            gangs = range(0, state.num_processes, state.rank_count or 1)
            fates = self.draw.choices(("complete", "complete", "fail", "pending"), k=len(gangs))
            if self.draw.random() < 0.6:
                fates = ["complete"] * len(gangs)
            for first, fate in zip(gangs, fates, strict=True):
                ranks = list(state.gang(first))
                if fate != "pending":
                    claim.record_many([("start", index, {}) for index in ranks])
                if fate == "fail":
                    facts = {"exit_code": 1, "reason": "exit"}
                    claim.record_many([("fail", index, facts) for index in ranks])
                elif fate == "complete":
                    done = {"exit_code": 0}
                    claim.record_many([("complete", index, done) for index in ranks])
            if set(fates) == {"complete"} and self.draw.random() < 0.7:
                claim.record("complete")
            elif "fail" in fates and self.draw.random() < 0.5:
                claim.record("fail", reason="exit")

    # -- what became of it ------------------------------------------------------------------------

    def edit(self) -> None:
        kind = self.draw.choice(EDITS)
        self.kinds.append(kind)
        if kind == "aggregate changed":
            self.sweep = attrs.evolve(self.sweep, aggregate=self.draw.choice("abc"))
            return
        lr = 1 if self.sweep.kind == "a number" else self.draw.choice(self.sweep.lr)
        name = {"script": "work.sh", "part": f"part-{lr}.sh", "declared": f"data-{lr}.csv"}.get(
            kind.partition(" ")[0], "notes.txt"
        )
        path = self.path / name
        if kind.endswith("deleted"):
            path.unlink(missing_ok=True)
        elif kind.endswith("touched"):
            path.touch()
        else:
            path.write_text(f"# {self.draw.random()}\n")

    def lose(self) -> None:
        """Some results and outputs, wherever they are."""
        chance = self.draw.choice((0.0, 0.0, 0.1, 0.4))
        results = sorted(self.states.glob("*/results/*.json"))
        outputs = sorted([*self.path.glob("*.pt"), *self.path.glob("plots/*")])
        for path in (*results, *outputs):
            if self.draw.random() < chance:
                how = self.draw.choice(LOSSES)
                self.kinds.append(f"{'result' if path in results else 'output'} {how}")
                content = path.read_bytes()
                path.chmod(0o644)
                if how == "deleted":
                    path.unlink()
                elif how == "truncated":
                    path.write_bytes(content[:-1])
                elif how == "altered":
                    path.write_bytes(content[:-1] + b" ")
                else:
                    path.unlink()
                    path.write_bytes(content)

    # -- what is asked of it ----------------------------------------------------------------------

    def states_now(self) -> dict[str, ExperimentState]:
        return {name: self.manager.load(name) for name in self.manager.list_experiments()}


def orchestrated(made: History, engine: InstantEngine, **choice: Any) -> Any:
    orchestrator = Orchestrator(
        made.manager, engine, monotonic=lambda: engine.now, gone_grace_s=0.0
    )
    return orchestrator.run(made.experiment, **choice)


def kept(path: Path) -> dict[str, tuple[int, int]]:
    """Every file but for caches and the lock that runs take while they choose."""
    return {
        name: seen
        for name, seen in files_below(path).items()
        if "/.digests/" not in name and not name.endswith("/.run.lock")
    }


@pytest.mark.parametrize("first", range(0, HISTORIES, AT_A_TIME))
def test_what_a_dry_run_says_of_others_work_is_what_a_run_does(memory: Path, first: int) -> None:
    """Started, reused and from where, left, refused: for every process, and it touches nothing."""
    for seed in range(first, first + AT_A_TIME):
        told_and_done(History(memory / str(seed), seed), seed)


def told_and_done(made: History, seed: int) -> None:
    """Ask what would be done, and do it."""
    told = f"seed {seed}, {made.kinds}"
    options, choice = CHOICES[made.choice]
    before = kept(made.path)
    said, code = foretold(made.states, made.file, *options)
    if made.choice != "--fresh" and made.states.exists():
        explained = foretold(made.states, made.file, *options, verb=("explain",))
        assert explained == (said, code), told
    assert kept(made.path) == before, f"{told}: what only looks wrote something"
    states = made.states_now()
    known = {name: len(made.manager.history(name)) for name in states}
    if code == 0:
        outcome = orchestrated(made, made.engine, **choice)
        assert code_of(outcome) in (0, 3), f"{told}: {outcome.message}"
        check(made, said, known, states, outcome.state.experiment_id, told)
        return
    with pytest.raises(HoldfastError) as caught:
        orchestrated(made, made.engine, **choice)
    assert exit_code(caught.value) == code, f"{told}: {caught.value}"
    made.kinds.append(type(caught.value).__name__)
    now = made.states_now()
    assert {name: each.process_progress for name, each in now.items()} == {
        name: each.process_progress for name, each in states.items()
    }, told
    if not isinstance(caught.value, ConfigError):
        # Which processes are to be run, and miss a declared file, only a claim shows for certain.
        assert kept(made.path) == before, told


def check(
    made: History,
    said: dict[str, Any],
    known: dict[str, int],
    states: dict[str, ExperimentState],
    name: str,
    told: str,
) -> None:
    """What was said has happened, and nothing else."""
    new = set(made.manager.list_experiments()) - set(known)
    assert new == ({name} if said["experiment_id"] is None else set()), told
    assert said["experiment_id"] in (None, name), told
    for other, count in known.items():
        assert other == name or len(made.manager.history(other)) == count, told
    steps = made.manager.history(name)[known.get(name, 0) :]
    starts = Counter(
        step.index for step in steps if step.event == "start" and step.index is not None
    )
    reuses = {step.index: step.evidence for step in steps if step.event == "reuse"}
    state = made.manager.load(name)
    was = states.get(name)
    for each in said["processes"]:
        index, action, why = each["index"], each["action"], each["why"]
        seen = f"{told}: {each} {starts} {reuses}"
        assert starts[index] == (action == "run"), seen
        assert (index in reuses) == (action == "reuse"), seen
        made.kinds.append(f"action {action}")
        if action == "reuse":
            assert reuses[index] == why.replace("finished as", "the same work as"), seen
        done = state.processes[index].status is ProcessStatus.COMPLETED
        assert done or "no attempt left" in why, seen
        ref = state.processes[index].result
        if ref is not None and action in ("run", "reuse"):
            found = json.loads((made.manager.folder(name) / ref.path).read_text())
            assert found == json.loads(json.dumps(made.value(name, index))), seen
    made.kinds += features(made, state, was, set(reuses))
    launched = {each.index for each in made.engine.submitted if each.index is not None}
    ranks = made.experiment.rank_count
    assert launched == {index - index % ranks for index in starts}, told
    given_up = state.num_processes - state.processes_completed
    assert (state.status is ExperimentStatus.AGGREGATED) == (given_up == 0), told
    if was is None or was.status is not ExperimentStatus.AGGREGATED:
        take = Taking(experiment=made.experiment, digests=digests_of(made.states), durably=False)
        assert lost_results(state, made.manager.folder(name), take=take) == {}, told
        assert said["aggregates"] == (not starts and not given_up), told


def features(
    made: History, state: ExperimentState, was: ExperimentState | None, reuses: set[int | None]
) -> Iterator[str]:
    """What this history was about, by what has happened."""
    reused = [each for index, each in state.process_progress.items() if index in reuses]
    if any(each.origin is not None and each.origin.via is not None for each in reused):
        yield "by way of"
    if reused and state.ranks is not None:
        yield "an independent rank reused" if state.ranks.independent else "a rank reused"
    if len({each.work for each in reused}) < len(reused):
        yield "several of equal work reused"
    if was is not None and was.status is not ExperimentStatus.AGGREGATED:
        yield "goes on"
        yield "goes on without reuse" if was.reuse is None else "goes on"
        if reused:
            yield "goes on, reusing"


def test_every_kind_of_past_is_among_the_histories(memory: Path) -> None:
    """The property above is asked of all that can be left, edited, lost and wanted."""
    missing = set(KINDS)
    for seed in range(HISTORIES):
        made = History(memory / str(seed), seed)
        missing -= {f"an ancestor {each.status}" for each in made.states_now().values()}
        told_and_done(made, seed)
        missing -= set(made.kinds)
        if not missing:
            break
    assert not missing
