"""What a run is about: an experiment that goes on or is shown, or a new one that reuses.

Decided once, for `run`, for a dry run and for `explain`. What of the work is finished, and whether
its code has changed since, is looked at before anything is made.
"""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Literal

import attrs

from holdfast.config.experiment_file import Experiment
from holdfast.errors import (
    AmbiguousExperimentError,
    CodeChangedError,
    ConfigError,
    ConfigProblem,
    ExperimentExistsError,
    ExperimentNotFoundError,
    StateCorruptError,
)
from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration import reuse
from holdfast.orchestration.configured import configuration
from holdfast.orchestration.fates import Decision
from holdfast.orchestration.marking import works
from holdfast.orchestration.reuse import Found, Search
from holdfast.orchestration.selecting import EVERYTHING, Selection
from holdfast.orchestration.takeover import foresee
from holdfast.orchestration.taking import Taking
from holdfast.provenance.digests import Digests
from holdfast.results import aggregation, changed
from holdfast.results.changed import Changed
from holdfast.status import SETTLED, ExperimentStatus, ProcessStatus
from holdfast.store.manager import StateManager

__all__ = ["Choice", "Intent", "decisions", "intend", "of_work", "taking_up"]

#: What becomes of finished work whose code has changed since.
Choice = Literal["keep", "rerun"]


@attrs.frozen(kw_only=True)
class Intent:
    """What a run goes on with, or makes.

    Attributes:
        state: The experiment that it goes on with, or shows; None if it makes a new one.
        why: Why it makes a new one although there is one of this work.
        reuse: What a new one may reuse; see `ExperimentState`.
        search: Where it looks for that.
        works: The identity of what each process of a new one does.
        changed: What became of the code of an experiment since its completed processes ran.
    """

    state: ExperimentState | None
    why: str | None = None
    reuse: str | None = None
    search: Search | None = None
    works: Sequence[str] | None = None
    changed: Changed | None = None


def intend(
    manager: StateManager,
    experiment: Experiment,
    named: str | None,
    digests: Digests,
    *,
    fresh: bool = False,
    choice: Choice | None = None,
) -> Intent:
    """What a run of *experiment* does. Makes nothing.

    Args:
        named: The id that it is to have.
        fresh: Whether a new one is made whatever there is, and reuses nothing.
        choice: What becomes of finished work whose code has changed; None to be asked.

    Raises:
        CodeChangedError: It has, and there is no *choice*.
        ExperimentExistsError: *named* is of other work, or taken and *fresh*.
        AmbiguousExperimentError: Several unfinished experiments are of this work.
        ConfigError: A declared file is not there; or what is unfinished is to be rerun.
    """
    state = _match(manager, experiment, named, fresh=fresh)
    if fresh:
        # Nothing is made of what could not be started.
        return Intent(state=None, works=works(experiment, manager.state_dir, digests))
    why = None
    if state is not None:
        if named is None:
            why = _outdated(manager, experiment, state, digests)
        if why is None:
            found = _changed(manager, experiment, state, digests, choice, named=named)
            if not (found and choice == "rerun"):
                return Intent(state=state, changed=found)
            if named is not None:
                detail = "what has changed since is rerun in a new one, without its name"
                raise ExperimentExistsError(named, manager.state_dir, detail)
            why = f"{found} since it ran"
    policy = "all" if choice == "keep" else "unchanged"
    does = works(experiment, manager.state_dir, digests)
    search = Search(manager, experiment, does, digests, policy=policy)
    if choice is None:
        _refuse_reuse(experiment, search, digests)
    return Intent(state=None, why=why, reuse=policy, search=search, works=does)


def taking_up(
    manager: StateManager, state: ExperimentState, digests: Digests, choice: Choice | None
) -> tuple[Experiment, Intent]:
    """What a resume of *state* does, and the experiment that it was made with.

    It goes on with it, or shows it; or makes a new one, where what has changed is to be rerun.

    Raises:
        CodeChangedError, ConfigError: As for `intend`.
    """
    experiment = configuration(state, manager.state_dir)
    found = _changed(manager, experiment, state, digests, choice, named=state.experiment_id)
    if found and choice == "rerun":
        return experiment, intend(manager, experiment, None, digests, choice=choice)
    return experiment, Intent(state=state, changed=found)


def _match(
    manager: StateManager, experiment: Experiment, named: str | None, *, fresh: bool
) -> ExperimentState | None:
    """The experiment of this work; None if there is none."""
    wanted = experiment.config_hashes(manager.state_dir)
    if named is not None:
        try:
            state = manager.load(named)
        except ExperimentNotFoundError:
            return None
        if not fresh and state.config_hash in wanted:
            return state
        detail = "a fresh one was asked for" if fresh else "it is of other work"
        raise ExperimentExistsError(named, manager.state_dir, detail)
    return None if fresh else of_work(manager, wanted)


def of_work(manager: StateManager, config_hashes: Collection[str]) -> ExperimentState | None:
    """The experiment that a run of this work goes on with, or shows; None if there is none.

    Args:
        config_hashes: All that the work may be stored under.

    Raises:
        AmbiguousExperimentError: Several are unfinished.
    """
    # Unfinished work comes first: an aggregated twin must not hide it. Of what is finished, be it
    # aggregated or not, the newest counts: else what replaces it is never gone on with, or shown.
    left = [
        state
        for state in _fitting(manager, config_hashes, include_finished=False)
        if state.status not in SETTLED
    ]
    if len(left) > 1:
        matches = tuple(state.experiment_id for state in left)
        query = f"config hash {left[0].config_hash or '':.12}"
        raise AmbiguousExperimentError(query, matches, same_work=True)
    if left:
        return left[0]
    # Nothing is to be run, so nothing is guessed: all of them are done, and it says whose result
    # is shown.
    finished = _fitting(manager, config_hashes, include_finished=True)
    return max(
        finished, key=lambda state: (state.created_at is not None, state.created_at), default=None
    )


def _fitting(
    manager: StateManager, config_hashes: Collection[str], *, include_finished: bool
) -> list[ExperimentState]:
    try:
        found = manager.find_by_config_hash(config_hashes, include_finished=include_finished)
    except AmbiguousExperimentError as err:
        return [manager.load(each) for each in err.matches]
    return [] if found is None else [found]


def _outdated(
    manager: StateManager, experiment: Experiment, state: ExperimentState, digests: Digests
) -> str | None:
    """Why a finished experiment is not what the file asks for now; None if it is."""
    if state.status not in SETTLED:
        return None
    if experiment.identity.files:
        now = works(experiment.numbered_as(state.config), manager.state_dir, digests)
        recorded = [process.work for process in state.process_progress.values()]
        other = sum(old is not None and old != new for old, new in zip(recorded, now, strict=True))
        if other:
            return f"declared files changed since {other:,} of its processes ran"
    if state.status is ExperimentStatus.AGGREGATED and _is_other_aggregation(
        manager, experiment, state
    ):
        return "[aggregate] was changed, and aggregated is final"
    return None


def _is_other_aggregation(
    manager: StateManager, experiment: Experiment, state: ExperimentState
) -> bool:
    """Whether an aggregated experiment was aggregated in another way than is asked for now."""
    if experiment.source.get("aggregate") == state.config.get("aggregate"):
        return False
    with contextlib.suppress(StateCorruptError):  # told by whoever shows it
        found = aggregation.read(manager.folder(state.experiment_id))
        inputs = None if found is None else found.get("inputs")
        if isinstance(inputs, Mapping) and "command" in inputs:
            # It may have failed with what it was made with, and succeeded with what was given then.
            wanted = experiment.aggregate.command
            return bool(inputs["command"] != (None if wanted is None else list(wanted)))
    return True


def _changed(
    manager: StateManager,
    experiment: Experiment,
    state: ExperimentState,
    digests: Digests,
    choice: Choice | None,
    *,
    named: str | None,
) -> Changed:
    """What changed since the processes of *state* ran; finished work needs a *choice* then.

    Raises:
        CodeChangedError: The experiment is finished, and there is no *choice*.
        ConfigError: It is unfinished, and is to be rerun: it goes on, whatever has changed.
    """
    folder = manager.folder(state.experiment_id)
    # What is finished by its name is shown as it was made, unless that is to run anew; what goes on
    # mixes, and that is said.
    declared = state.status not in SETTLED or choice == "rerun"
    found = changed.of_state(
        *(state, folder, experiment.cwd, digests),
        command=experiment.aggregate.command,
        declared=declared,
    )
    if found and choice is None and state.status in SETTLED:
        raise CodeChangedError(
            state.experiment_id,
            str(found),
            len(found.processes),
            state.num_processes,
            file=None if named is not None or experiment.path is None else str(experiment.path),
        )
    if found and choice == "rerun" and state.status not in SETTLED:
        what = "it is unfinished, and goes on with the code as it is now"
        way = "resume it, or delete it and run all of it anew"
        problems = [ConfigProblem("--rerun-changed", what, way)]
        raise ConfigError(state.experiment_id, problems)
    return found


def _refuse_reuse(experiment: Experiment, search: Search, digests: Digests) -> None:
    """Raise CodeChangedError if finished work would be reused but for its code."""
    found = search.find(range(experiment.num_processes), lambda _: None)
    judge = reuse.verified(experiment, digests)
    lost = {index: each for index, each in found.changed.items() if judge([each[0]]) is None}
    if not lost:
        return
    ancestors = {each[0].state.experiment_id: None for each in lost.values()}
    files: dict[str, str] = {}
    for _, fates in lost.values():
        files |= fates
    raise CodeChangedError(
        ", ".join(ancestors),
        str(Changed(files=files, processes=tuple(lost))),
        len(lost),
        experiment.num_processes,
        file=None if experiment.path is None else str(experiment.path),
        reuse=True,
    )


def decisions(
    manager: StateManager,
    experiment: Experiment,
    intent: Intent,
    digests: Digests,
    at: datetime,
    *,
    selection: Selection = EVERYTHING,
    force: bool = False,
) -> tuple[Sequence[Decision], Found | None]:
    """What a run that *intent* is about does with each process, and what of them it reuses.

    Args:
        selection: What is not held back of an experiment that goes on.

    Raises:
        ConfigError: A declared file is not there.
        StateReadError: A recorded result or output could not be read.
    """
    state, search = intent.state, intent.search
    if state is None:
        why = "a new experiment"
        if intent.why is not None:
            why = f"a new experiment: {intent.why}"
        made: list[Decision] = [Decision("run", why)] * experiment.num_processes
        pending: Collection[int] = range(experiment.num_processes)
    else:
        folder = manager.folder(state.experiment_id)
        take = Taking(experiment=experiment, digests=digests)
        foreseen = foresee(
            *(state, folder, at, experiment.limits, experiment.retry),
            take=take,
            selection=selection,
            force=force,
        )
        made = list(foreseen.decisions)
        pending = _left(foreseen.state, made)
        if foreseen.starts:
            # Asked of what reuses nothing, too: a declared file that is gone starts nothing.
            does = works(experiment, manager.state_dir, digests)
            if state.reuse is not None:
                own = state.experiment_id
                search = Search(manager, experiment, does, digests, policy=state.reuse, own=own)
    if search is None or not pending:
        return made, None
    found = search.find(pending, reuse.verified(experiment, digests))
    for index in pending:
        made[index] = _of_search(made[index], index, found)
    return made, found


def _left(state: ExperimentState, made: Sequence[Decision]) -> list[int]:
    return [
        index
        for index in state.processes.indices(ProcessStatus.PENDING)
        if made[index].action == "run"
    ]


def _of_search(decision: Decision, index: int, found: Found) -> Decision:
    if (ancestor := found.ancestors.get(index)) is not None:
        return Decision("reuse", f"finished as {ancestor.origin}", completed=True)
    if (other := found.changed.get(index)) is not None:
        ancestor, fates = other
        told = Changed(files=fates, processes=(index,))
        return attrs.evolve(decision, why=f"{decision.why}; {told} since {ancestor.origin} did it")
    if (why := found.refused.get(index)) is not None:
        return attrs.evolve(decision, why=f"{decision.why}; {why}")
    return decision
