"""`explain` and `--dry-run`, and what differs between a file and the experiment it is to resume.

Tells the plan that a run would follow, and has none of its own. Nothing is claimed, stopped or
written.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import attrs

from holdfast.cli.failures import FAILED, OWNED, report, told
from holdfast.cli.where import Where
from holdfast.config import limiting
from holdfast.config.experiment_file import Experiment
from holdfast.config.limiting import NewLimits
from holdfast.config.matrix import identity
from holdfast.errors import CodeChangedError, ConfigError, ConfigProblem, HoldfastError
from holdfast.identity import Verdict
from holdfast.lifecycle.records import ExperimentState
from holdfast.lifecycle.reuse import Origin
from holdfast.orchestration.configured import check_number
from holdfast.orchestration.deadline import Deadline, deadline_of
from holdfast.orchestration.fates import Decision
from holdfast.orchestration.holding import allocator
from holdfast.orchestration.intent import Choice, decisions, intend, taking_up
from holdfast.orchestration.marking import digests_of
from holdfast.orchestration.reuse import Ancestor, Found
from holdfast.orchestration.selecting import EVERYTHING, Selection
from holdfast.provenance.digests import Digests
from holdfast.reading import forms, text
from holdfast.reading.differences import Difference, Near, Nearest, between
from holdfast.reading.evidence import params_words
from holdfast.results.changed import Changed
from holdfast.status import SETTLED, ExperimentStatus
from holdfast.store.manager import StateManager

__all__ = ["Plan", "plan", "print_plan", "refuse_other_work"]

SCHEMA: Final = "holdfast.plan/1"

_MOST_DIFFERENCES: Final = 10
#: Experiments that are compared with what is to run, the newest.
_MOST_COMPARED: Final = 4

_STYLES: Final[dict[str, text.Style]] = {
    "run": "cyan",
    "skip": "dim",
    "reuse": "green",
    "adopt": "green",
    "hold": "dim",
    "blocked": "red",
}


@attrs.frozen(kw_only=True)
class Plan:
    """What a run would do, and why.

    Attributes:
        experiment: As its processes are numbered in what follows.
        state: What it would go on with, or show; None if it would make a new one.
        decisions: What would be done with each process.
        found: What of the work others have finished; None if that is not asked.
        near: Of processes that would run, or are blocked, the nearest that others have completed.
        changed: What became of the code of its completed processes.
        limits: What changes of its limits.
        problem: Why it would start nothing before somebody has chosen.
    """

    experiment: Experiment
    state: ExperimentState | None
    decisions: Sequence[Decision]
    found: Found | None
    near: Mapping[int, Near]
    changed: Changed | None = None
    limits: NewLimits | None = None
    problem: CodeChangedError | None = None

    @property
    def actions(self) -> Counter[str]:
        """How many processes there are of each action."""
        return Counter(each.action for each in self.decisions)

    def deadline(self) -> Deadline | None:
        """The deadline of what it would go on with, if that has passed: it would start nothing."""
        if self.state is None or self.state.status in SETTLED:
            return None
        found = deadline_of(self.state, self.experiment.limits)
        return found if found is not None and datetime.now(UTC) >= found.closes else None

    def origin(self, index: int) -> Origin | None:
        """Who did the work of a process that is reused, or was."""
        if self.found is not None and (ancestor := self.found.ancestors.get(index)) is not None:
            return ancestor.origin
        return None if self.state is None else self.state.processes[index].origin


def plan(
    where: Where,
    experiment: Experiment | None,
    resumed: str | None,
    *,
    fresh: bool,
    code: Choice | None,
    force: bool,
    selection: Selection = EVERYTHING,
    limits: Mapping[str, Mapping[str, Any]] | None = None,
) -> Plan:
    """What a run of *experiment*, or a resume of *resumed*, would do. Raises as they do.

    Args:
        selection: What is not held back of *resumed*.
        limits: What changes of its limits, and of what its engine is asked, by table.
    """
    manager = where.manager()
    # What is rerun is a new experiment, and has no name yet.
    unnamed = resumed if experiment is None else None
    with digests_of(manager.state_dir) as digests:

        def part(code: Choice | None) -> Plan:
            of_run = (manager, experiment, resumed, digests, fresh, code, force)
            return _plan(*of_run, selection, limits)

        try:
            made = part(code)
        except CodeChangedError as err:
            made = _undecided(
                err,
                part("keep"),
                _plan(manager, experiment, unnamed, digests, fresh, "rerun", force),
            )
        near = dict(made.near)
        if made.found is not None:
            near |= {i: _unlike(*each) for i, each in made.found.changed.items()}
        unlike = None if fresh else _nearest(manager, made, digests)
        for index, each in enumerate(made.decisions):
            if unlike is None or each.action != "run" or index in near:
                continue
            if (found := unlike.of(index)) is not None:
                near[index] = found
        return _closed(attrs.evolve(made, near=near))


def _closed(made: Plan) -> Plan:
    """*made*, in which nothing is started once its deadline has passed."""
    if made.problem is not None or made.deadline() is None:
        return made
    return attrs.evolve(
        made,
        decisions=[
            attrs.evolve(each, action="blocked", why=f"its deadline has passed; {each.why}")
            if each.action == "run"
            else each
            for each in made.decisions
        ],
    )


def _unlike(ancestor: Ancestor, fates: Mapping[str, str]) -> Near:
    """What would be reused but for its code; WHY tells that already."""
    name = f"{ancestor.state.experiment_id}/{ancestor.process}"
    differences = tuple(f"{path} {fate}" for path, fate in fates.items())
    return Near(name=name, differences=differences, told=True)


def _plan(
    manager: StateManager,
    experiment: Experiment | None,
    resumed: str | None,
    digests: Digests,
    fresh: bool,
    code: Choice | None,
    force: bool,
    selection: Selection = EVERYTHING,
    limits: Mapping[str, Mapping[str, Any]] | None = None,
) -> Plan:
    new: NewLimits | None = None
    if experiment is None:
        assert resumed is not None
        experiment, intent = taking_up(manager, manager.load(resumed), digests, code)
        given = limits or {}
        experiment, new = limiting.changed(
            experiment, given.get("limits", {}), resumed, given.get("engine")
        )
    else:
        intent = intend(manager, experiment, resumed, digests, fresh=fresh, choice=code)
    state = intent.state
    if state is not None:
        check_number(state, experiment, "what is to be run")
        experiment = experiment.numbered_as(state.config)
    decided, reused = decisions(
        *(manager, experiment, intent, digests, datetime.now(UTC)),
        selection=selection,
        force=force,
    )
    slots = allocator(experiment)
    if slots is not None and any(each.action == "run" for each in decided):
        slots.look()
    return Plan(
        experiment=experiment,
        state=state,
        decisions=decided,
        found=reused,
        near={},
        changed=intent.changed,
        limits=new,
    )


def _undecided(problem: CodeChangedError, keep: Plan, rerun: Plan) -> Plan:
    """The plan of a run that starts nothing: both ways in one, and what they would do."""
    again = {identity(each): i for i, each in enumerate(rerun.experiment.params)}
    made, near = [], {}
    for index, kept in enumerate(keep.decisions):
        at = index
        if rerun.experiment.params[index] != keep.experiment.params[index]:
            at = again.get(identity(keep.experiment.params[index]), index)
        other = rerun.decisions[at]
        if kept.action == "skip" and other.action != "run":
            made.append(kept)
            continue
        if kept.action == other.action:
            ways = f"{_VERBS[kept.action]} once that is decided: {kept.why}"
        else:
            ways = f"{problem.changed} (keep: {kept.action}, rerun: {other.action}); {kept.why}"
        if rerun.found is not None and at in rerun.found.changed:
            near[index] = _unlike(*rerun.found.changed[at])
        made.append(Decision("blocked", ways))
    return attrs.evolve(keep, decisions=made, near=near, problem=problem)


_VERBS: Final = {
    "run": "runs it",
    "skip": "keeps it",
    "reuse": "reuses it",
    "adopt": "takes it over",
    "blocked": "leaves it as it is",
}


def _nearest(manager: StateManager, made: Plan, digests: Digests) -> Nearest | None:
    """What compares processes with those of other experiments of this file; None if none runs."""
    if not made.actions["run"]:
        return None
    own = None if made.state is None else made.state.experiment_id
    states: dict[str, ExperimentState] = {}
    if made.found is not None:
        looked = [each for each, _ in made.found.changed.values()]
        for ancestor in (*made.found.ancestors.values(), *looked):
            states.setdefault(ancestor.state.experiment_id, ancestor.state)
    experiment = made.experiment
    name = experiment.name or (experiment.path.stem if experiment.path else None)
    alike = [
        each
        for each in manager.listing().experiments
        if each.name == name and each.processes_completed and each.experiment_id != own
    ]
    alike.sort(key=lambda each: (str(each.created_at), each.experiment_id), reverse=True)
    for each in alike[:_MOST_COMPARED]:
        if each.experiment_id not in states:
            with contextlib.suppress(HoldfastError):  # deleted since, or damaged
                states[each.experiment_id] = manager.load(each.experiment_id)
    newest = sorted(states.values(), key=lambda each: str(each.created_at), reverse=True)
    others = [(each, manager.folder(each.experiment_id)) for each in newest[:_MOST_COMPARED]]
    return Nearest(experiment, manager.state_dir, digests, others)


def print_plan(where: Where, made: Plan, *, as_json: bool) -> int:
    """Say for every process whether it would be run, and why; the exit code."""
    state, actions = made.state, made.actions
    living = None if state is None else where.manager().liveness(state.experiment_id)
    owned = living is not None and living.kind == "alive"
    idle = not any(actions[each] for each in ("run", "adopt", "hold", "blocked"))
    unfinished = state is None or state.status is not ExperimentStatus.AGGREGATED
    aggregates = unfinished and idle and all(each.completed for each in made.decisions)
    ends = OWNED if owned else FAILED if actions["blocked"] and made.deadline() else 0
    if as_json:
        forms.print_json(SCHEMA, _form(where, made, living, aggregates=aggregates))
    else:
        text.emit(_table(made))
        text.flush()
        for line in _summary(made, aggregates=aggregates):
            text.say(line)
        if owned:
            text.say(f"not while its owner runs it: {living}")
    return ends if made.problem is None else report(made.problem, where)


def _form(where: Where, made: Plan, living: Verdict | None, *, aggregates: bool) -> dict[str, Any]:
    state, experiment = made.state, made.experiment
    processes = []
    for index, each in enumerate(made.decisions):
        origin, near = made.origin(index), made.near.get(index)
        processes.append(
            {
                "index": index,
                "params": dict(experiment.params[index]),
                "argv": list(experiment.argv(index)),
                "action": each.action,
                "why": each.why,
                "origin": None if origin is None else attrs.asdict(origin),
                "nearest": None if near is None else near.name,
                "differences": [] if near is None else list(near.differences),
                "failed": None if near is None else near.failed,
            }
        )
    return {
        "experiment_id": None if state is None else state.experiment_id,
        "config_hash": experiment.config_hash(where.state_dir),
        "liveness": forms.verdict(living),
        "processes": processes,
        "aggregates": aggregates,
        "deadline_passed": made.deadline() is not None,
        "changed": str(made.changed) if made.changed else None,
        "problem": None if made.problem is None else told(made.problem, where),
    }


def _table(made: Plan) -> list[str]:
    rows = []
    for index, each in enumerate(made.decisions):
        why, near = each.why, made.near.get(index)
        if near is not None and not near.told:
            why = f"{near}; {why}"
        params = params_words(made.experiment.params, index)
        rows.append((str(index), each.action, params, text.short(why)))
    # What is last gets the room that there is.
    header = ("PROCESS", "ACTION", "PARAMETERS", "WHY")
    return text.table(header, rows, right=(0,), styles=_STYLES)


def _summary(made: Plan, *, aggregates: bool) -> Iterator[str]:
    state, actions = made.state, made.actions
    total = text.count(len(made.decisions), "process")
    what = "a new experiment" if state is None else text.one_line(state.experiment_id)
    if made.changed and state is not None and state.status not in SETTLED:
        yield made.changed.since(state.num_processes)
    if made.limits is not None:
        yield made.limits.words
    if made.problem is not None:
        yield f"{what}: nothing would be started, of {total}"
        return
    if actions["blocked"] and (deadline := made.deadline()) is not None:
        yield f"{what}: nothing would be started, of {total}: {deadline}"
        return
    others = (
        (actions["reuse"], "reused"),
        (actions["adopt"], "taken over"),
        (actions["hold"], "held back"),
        (actions["blocked"], "left as they are"),
    )
    also = "".join(f", {number:,} {words}" for number, words in others if number)
    yield f"{what}: {actions['run']:,} of {total} would be run{also}"
    if aggregates:
        yield "only the aggregation would be run"


def refuse_other_work(
    where: Where, state: ExperimentState, experiment: Experiment, *, file: str | None
) -> None:
    """Make sure that *experiment*, read from *file* if any, is the work of *state*.

    Raises:
        ConfigError: It is not; with every difference.
    """
    state_dir = where.state_dir
    if state.config_hash in experiment.config_hashes(state_dir):
        return
    try:
        stored = Experiment.from_stored(
            state.config, state.cwd, state_dir=state_dir, config_hash=state.config_hash
        )
        before: Mapping[str, Any] = _numbered(stored, state_dir)
    except ConfigError:
        before = {}
    problems = _differences(before, _numbered(experiment, state_dir))
    said = f"`{where.command('resume', state.experiment_id)}` goes on with what it was made with"
    if file is not None:
        said += f", `{where.command('run', file)}` runs this file"
    problems.append(ConfigProblem("so", said))
    title = f"{file or 'the command'} does other work than {text.one_line(state.experiment_id)}"
    raise ConfigError(title, problems)


def _numbered(experiment: Experiment, state_dir: Path) -> dict[str, Any]:
    """The work of *experiment*, its processes in the order of their indices."""
    return {**experiment.work(state_dir), "params": list(map(dict, experiment.params))}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[ConfigProblem]:
    old, new = before.get("params", []), now["params"]
    found = [
        _difference(each) for each in between({**before, "params": None}, {**now, "params": None})
    ]
    if len(old) != len(new):
        found.append(ConfigProblem("processes", f"{len(old)} in the experiment, {len(new)} now"))
    changed = [i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b]
    found += [
        _difference(Difference(f"process {i}", old[i], new[i])) for i in changed[:_MOST_DIFFERENCES]
    ]
    if len(changed) > _MOST_DIFFERENCES:
        rest = len(changed) - _MOST_DIFFERENCES
        found.append(ConfigProblem("processes", f"{rest:,} more with other parameters"))
    if not found:
        found.append(ConfigProblem("hash", "the experiment was made with another configuration"))
    return found


def _difference(found: Difference) -> ConfigProblem:
    was, now = (
        "nothing" if each is None else text.short(json.dumps(each, ensure_ascii=False))
        for each in (found.was, found.now)
    )
    return ConfigProblem(found.what, f"{was} in the experiment, {now} now")
