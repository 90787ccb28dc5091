"""`--dry-run`, and what differs between a file and the experiment that it is to resume.

Looks only: nothing is claimed, stopped or written.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from holdfast import results
from holdfast.attempts import AttemptName
from holdfast.cli import forms, text
from holdfast.cli.app import Where
from holdfast.cli.evidence import params_words, unwatched
from holdfast.cli.failures import OWNED
from holdfast.config.experiment_file import Experiment
from holdfast.errors import ConfigError, ConfigProblem
from holdfast.orchestration import recovery
from holdfast.orchestration.orchestrator import of_work
from holdfast.records import ExperimentState
from holdfast.status import ExperimentStatus, ProcessStatus
from holdfast.store.manager import StateManager

__all__ = ["print_plan", "refuse_other_work"]

SCHEMA: Final = "holdfast.plan/1"

_MOST_DIFFERENCES: Final = 10


def print_plan(
    where: Where, experiment: Experiment | None, resumed: str | None, *, fresh: bool, as_json: bool
) -> int:
    """Say for every process whether it would be run, and why; the exit code."""
    manager = where.manager()
    state = _state(manager, experiment, resumed, fresh=fresh)
    if experiment is None:
        assert state is not None
        experiment = recovery.configuration(state, manager.state_dir)
    elif state is not None:
        recovery.check_number(state, experiment, "what is to be run")
    decided = [
        _decide(manager, state, index, experiment.retry.max_attempts)
        if state is not None
        else ("run", "a new experiment")
        for index in range(experiment.num_processes)
    ]
    living = None if state is None else manager.liveness(state.experiment_id)
    code = OWNED if living is not None and living.kind == "alive" else 0
    runs = sum(action == "run" for action, _ in decided)
    aggregates = state is not None and not runs and _is_to_be_aggregated(state)
    if as_json:
        content = {
            "experiment_id": None if state is None else state.experiment_id,
            "config_hash": experiment.config_hash(manager.state_dir),
            "liveness": forms.verdict(living),
            "processes": _processes(experiment, decided),
            "aggregates": aggregates,
        }
        forms.print_json(SCHEMA, content)
        return code
    rows = [
        (str(index), action, why, params_words(experiment.params, index))
        for index, (action, why) in enumerate(decided)
    ]
    header = ("PROCESS", "ACTION", "WHY", "PARAMETERS")
    text.emit(text.table(header, rows, right=(0,), styles={"run": "cyan", "skip": "dim"}))
    what = "a new experiment" if state is None else text.one_line(state.experiment_id)
    text.say(f"{what}: {runs:,} of {text.count(len(decided), 'process')} would be run")
    if aggregates:
        text.say("only the aggregation would be run")
    if living is not None and living.kind == "alive":
        text.say(f"not as long as its owner runs it: {living}")
    return code


def _is_to_be_aggregated(state: ExperimentState) -> bool:
    return state.can_aggregate() and state.status is not ExperimentStatus.AGGREGATED


def _processes(experiment: Experiment, decided: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {
            "index": index,
            "params": dict(experiment.params[index]),
            "argv": list(experiment.argv(index)),
            "action": action,
            "why": why,
        }
        for index, (action, why) in enumerate(decided)
    ]


def _state(
    manager: StateManager, experiment: Experiment | None, resumed: str | None, *, fresh: bool
) -> ExperimentState | None:
    """The experiment that a run would go on with; None if it would make a new one."""
    if resumed is not None:
        return manager.load(resumed)
    if fresh:
        return None
    assert experiment is not None
    return of_work(manager, experiment.config_hash(manager.state_dir))


def _decide(
    manager: StateManager, state: ExperimentState, index: int, max_attempts: int
) -> tuple[str, str]:
    process = state.processes[index]
    folder = manager.folder(state.experiment_id)
    if process.status is ProcessStatus.COMPLETED:
        if process.result is not None and state.status is not ExperimentStatus.AGGREGATED:
            problem = results.verify(folder, process.result)
            if problem is not None:
                return "run", f"its result {process.result.path} is lost: {problem}"
        return "skip", f"completed in attempt {process.attempt}"
    if process.status is ProcessStatus.RUNNING:
        name = AttemptName(state.experiment_id, index, process.attempt)
        now, words = unwatched(folder, name, process.identity)
        why = f"attempt {process.attempt} {words}"
        if now == "failed":
            return _again(why, left=process.failures + 1 < max_attempts)
        return ("run" if now == "lost" else "skip"), why
    if process.status is ProcessStatus.FAILED:
        why = f"failed: {forms.why_failed(process)}"
        # Whoever resumes what has failed as a whole wants it tried again, whatever the budget.
        ended = state.status is ExperimentStatus.FAILED
        return _again(why, left=ended or process.failures < max_attempts)
    if process.attempt == 0:
        return "run", "never tried"
    why = f" ({process.reason})" if process.reason is not None else ""
    return "run", f"attempt {process.attempt} did not complete{why}"


def _again(why: str, *, left: bool) -> tuple[str, str]:
    return ("run", why) if left else ("skip", f"{why}; no attempt left")


def refuse_other_work(
    where: Where, state: ExperimentState, experiment: Experiment, *, file: str | None
) -> None:
    """Make sure that *experiment*, read from *file* if any, is the work of *state*.

    Raises:
        ConfigError: It is not; with every difference.
    """
    state_dir = where.state_dir
    if experiment.config_hash(state_dir) == state.config_hash:
        return
    try:
        stored = Experiment.from_config(state.config, Path(state.cwd or "."))
        before: Mapping[str, Any] = stored.work(state_dir)
    except ConfigError:
        before = {}
    problems = _differences(before, experiment.work(state_dir))
    said = f"`{where.command('resume', state.experiment_id)}` goes on with what it was made with"
    if file is not None:
        said += f", `{where.command('run', file)}` runs this file"
    problems.append(ConfigProblem("so", said))
    title = f"{file or 'the command'} does other work than {text.one_line(state.experiment_id)}"
    raise ConfigError(title, problems)


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
        "nothing" if each is None else json.dumps(each, ensure_ascii=False) for each in (old, new)
    )
    return ConfigProblem(where, f"{was} in the experiment, {now} now")
