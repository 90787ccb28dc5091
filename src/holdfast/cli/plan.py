"""`--dry-run`, and what differs between a file and the experiment that it is to resume.

Tells the plan that a run would follow, and has none of its own. Nothing is claimed, stopped or
written.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from holdfast.cli.failures import OWNED
from holdfast.cli.where import Where
from holdfast.config.experiment_file import Experiment
from holdfast.encoding import local
from holdfast.errors import ConfigError, ConfigProblem
from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration.configured import check_number, configuration
from holdfast.orchestration.orchestrator import of_work
from holdfast.orchestration.takeover import Decision, foresee
from holdfast.reading import forms, text
from holdfast.reading.evidence import params_words
from holdfast.status import ExperimentStatus
from holdfast.store.manager import StateManager

__all__ = ["print_plan", "refuse_other_work"]

SCHEMA: Final = "holdfast.plan/1"

_MOST_DIFFERENCES: Final = 10

_STYLES: Final[dict[str, text.Style]] = {
    "run": "cyan",
    "skip": "dim",
    "adopt": "green",
    "blocked": "red",
}


def print_plan(
    where: Where,
    experiment: Experiment | None,
    resumed: str | None,
    *,
    fresh: bool,
    force: bool,
    as_json: bool,
) -> int:
    """Say for every process whether it would be run, and why; the exit code."""
    manager = where.manager()
    state = _state(manager, experiment, resumed, fresh=fresh)
    if experiment is None:
        assert state is not None
        experiment = configuration(state, manager.state_dir)
    elif state is not None:
        check_number(state, experiment, "what is to be run")
        experiment = experiment.numbered_as(state.config)
    decided = _decided(manager, state, experiment, force=force)
    living = None if state is None else manager.liveness(state.experiment_id)
    code = OWNED if living is not None and living.kind == "alive" else 0
    actions = Counter(each.action for each in decided)
    idle = not actions["run"] and not actions["adopt"] and not actions["blocked"]
    unfinished = state is not None and state.status is not ExperimentStatus.AGGREGATED
    aggregates = unfinished and idle and all(each.completed for each in decided)
    if as_json:
        content = {
            "experiment_id": None if state is None else state.experiment_id,
            "config_hash": experiment.config_hash(manager.state_dir),
            "liveness": forms.verdict(living),
            "processes": [
                {
                    "index": index,
                    "params": dict(experiment.params[index]),
                    "argv": list(experiment.argv(index)),
                    "action": each.action,
                    "why": each.why,
                }
                for index, each in enumerate(decided)
            ],
            "aggregates": aggregates,
        }
        forms.print_json(SCHEMA, content)
        return code
    rows = [
        (str(index), each.action, text.short(each.why), params_words(experiment.params, index))
        for index, each in enumerate(decided)
    ]
    header = ("PROCESS", "ACTION", "WHY", "PARAMETERS")
    text.emit(text.table(header, rows, right=(0,), styles=_STYLES))
    what = "a new experiment" if state is None else text.one_line(state.experiment_id)
    others = ((actions["adopt"], "taken over"), (actions["blocked"], "left as they are"))
    also = "".join(f", {number:,} {words}" for number, words in others if number)
    text.say(
        f"{what}: {actions['run']:,} of {text.count(len(decided), 'process')} would be run{also}"
    )
    if aggregates:
        text.say("only the aggregation would be run")
    if living is not None and living.kind == "alive":
        text.say(f"not as long as its owner runs it: {living}")
    return code


def _decided(
    manager: StateManager, state: ExperimentState | None, experiment: Experiment, *, force: bool
) -> Sequence[Decision]:
    if state is None:
        return [Decision("run", "a new experiment")] * experiment.num_processes
    folder = manager.folder(state.experiment_id)
    now, limits, retry = datetime.now(UTC), experiment.limits, experiment.retry
    return foresee(state, folder, now, limits, retry, force=force).decisions


def _state(
    manager: StateManager, experiment: Experiment | None, resumed: str | None, *, fresh: bool
) -> ExperimentState | None:
    """The experiment that a run would go on with; None if it would make a new one."""
    if resumed is not None:
        return manager.load(resumed)
    if fresh:
        return None
    assert experiment is not None
    return of_work(manager, experiment.config_hashes(manager.state_dir))


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
        stored = Experiment.from_stored(state.config, Path(local(state.cwd or ".")))
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
    found: list[ConfigProblem] = []
    for key in now:
        old, new = before.get(key), now[key]
        if old == new:
            continue
        if key == "params":
            found += _of_params(old or [], new)
        elif isinstance(old, Mapping) and isinstance(new, Mapping):
            found += [
                _difference(f"{key}.{name}", old.get(name), new.get(name))
                for name in sorted({*old, *new})
                if old.get(name) != new.get(name)
            ]
        else:
            found.append(_difference(key, old, new))
    if not found:
        found.append(ConfigProblem("hash", "the experiment was made with another configuration"))
    return found


def _of_params(old: list[Any], new: list[Any]) -> list[ConfigProblem]:
    found = []
    if len(old) != len(new):
        found.append(ConfigProblem("processes", f"{len(old)} in the experiment, {len(new)} now"))
    changed = [i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b]
    found += [_difference(f"process {i}", old[i], new[i]) for i in changed[:_MOST_DIFFERENCES]]
    if len(changed) > _MOST_DIFFERENCES:
        rest = len(changed) - _MOST_DIFFERENCES
        found.append(ConfigProblem("processes", f"{rest:,} more with other parameters"))
    return found


def _difference(where: str, old: Any, new: Any) -> ConfigProblem:
    was, now = (
        "nothing" if each is None else text.short(json.dumps(each, ensure_ascii=False))
        for each in (old, new)
    )
    return ConfigProblem(where, f"{was} in the experiment, {now} now")
