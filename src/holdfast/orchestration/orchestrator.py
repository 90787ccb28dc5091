"""Run, resume, aggregate: from a configuration to its result, over any number of crashes.

Owns which experiment a call is about, and what there is to show of one that is done;
`holdfast.orchestration.course` takes it from how it was left to its end.
"""

import contextlib
import functools
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs

from holdfast.config import limiting
from holdfast.config.experiment_file import Experiment
from holdfast.config.limiting import NewLimits
from holdfast.encoding import portable
from holdfast.engines.contract import Engine
from holdfast.errors import (
    InvalidRequestError,
    ResultLostError,
    UnreadableStateWarning,
)
from holdfast.lifecycle import display
from holdfast.lifecycle.decisions import decide
from holdfast.lifecycle.records import ExperimentState, Ranks
from holdfast.orchestration import outcomes, partial, selecting, surveying
from holdfast.orchestration.configured import check_number, configuration
from holdfast.orchestration.course import Course, Terms
from holdfast.orchestration.holding import allocator
from holdfast.orchestration.intent import Choice, Intent, intend, taking_up
from holdfast.orchestration.interrupts import Interrupts
from holdfast.orchestration.marking import digests_of
from holdfast.orchestration.outcomes import Outcome
from holdfast.orchestration.selecting import EVERYTHING, Selection
from holdfast.provenance.digests import Digests
from holdfast.results import acceptance, aggregation
from holdfast.status import SETTLED, ExperimentStatus
from holdfast.store.claim import Claim
from holdfast.store.manager import StateManager, utc_now
from holdfast.store.observing import Observer

__all__ = ["Orchestrator", "Outcome"]


class Orchestrator:
    """Drives experiments to their end with one manager and one engine.

    SIGINT (Ctrl-C) and SIGTERM stop all processes within their grace period and leave the
    experiment `interrupted`, with the reason `user` or `preempted`; a second one kills at once.
    Attempts of an engine that outlives this program, such as Slurm, they leave alone: the
    experiment stays `running`, and `Outcome.left` says how many.
    An orchestrator that is killed leaves its processes running: `resume` adopts them.

    Example:
        >>> with LocalEngine() as engine:
        ...     outcome = Orchestrator(StateManager(), engine).run(
        ...         {"command": ["python", "measure.py", "{index}"], "processes": 3}
        ...     )
    """

    def __init__(
        self,
        manager: StateManager,
        engine: Engine,
        *,
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
        on_change: Callable[[ExperimentState], None] | None = None,
        on_step: Observer | None = None,
        on_note: Callable[[str], None] | None = None,
        on_hold: Callable[[Collection[int]], None] | None = None,
        on_begin: Callable[[Claim], None] | None = None,
        force: bool = False,
        wait_s: float = 2.0,
        gone_grace_s: float | None = None,
        aggregation_engine: Callable[[], Engine] | None = None,
    ) -> None:
        """Drive experiments of *manager* on *engine*.

        Args:
            clock: Says what time it is, aware.
            monotonic: Seconds that no clock change touches, for grace periods.
            on_change: Called in the loop with every new state that it records: it waits for it,
                and ends with what it raises.
            on_step: Called with `(state, changes)` for everything that is recorded, in a thread of
                its own, which the loop never waits for; see `Claim.on_step`.
            on_note: Called with what people want to know before anything is started: what is reused
                from where, what is held back, which code has changed, and who asks to stop it.
            on_hold: Called with the processes that are not to be started, before anything is, and
                when somebody asks for some of them to stop.
            on_begin: Called once the experiment is owned and nothing keeps it from being run,
                before anything is recorded.
            force: Take owners and attempts whose death cannot be proven for dead.
            wait_s: How long to wait for a claim that another program holds for a moment.
            gone_grace_s: How long an exit record may come after the engine's word that an attempt
                is over, before the attempt is taken for lost; None for 2 seconds of the local
                engine, and 30 of others, whose files may be seen late.
            aggregation_engine: Gives the engine for the aggregation's own command, which is closed
                after that; None for this machine.
        """
        self._manager = manager
        self._clock = clock
        self._on_step = on_step
        self._force = force
        self._wait_s = wait_s
        self._terms = Terms(
            manager=manager,
            engine=engine,
            clock=clock,
            monotonic=monotonic,
            on_change=on_change,
            on_note=on_note,
            on_hold=on_hold,
            on_begin=on_begin,
            force=force,
            gone_grace_s=gone_grace_s,
            aggregation_engine=aggregation_engine,
        )

    def run(
        self,
        config: Experiment | Mapping[str, Any],
        *,
        experiment_id: str | None = None,
        fresh: bool = False,
        code: Choice | None = None,
        jobs: int | None = None,
        aggregate: bool = True,
        leave: bool = False,
    ) -> Outcome:
        """Run the experiment that *config* describes, or go on with the one that does already.

        A new experiment reuses what others have finished of the same work.

        Args:
            config: From `load_config`, or a mapping with the keys of an experiment file.
            experiment_id: Name of the experiment; one of that name must be of the same work.
            fresh: Make a new experiment whatever there is, and run all of it.
            code: What becomes of finished work whose code has changed since: `keep` its results, or
                `rerun` what changed, in a new experiment that reuses the rest.
            jobs: At most so many processes at a time; default as configured, else as many as the
                engine takes, of the local one all CPUs.
            aggregate: Whether to go on to the aggregation once all processes are completed.
            leave: Only submit all that may be submitted, and leave it to the engine: retries,
                `fail_fast` and the aggregation wait for the next run or resume.

        Raises:
            EngineRefusedError: The engine never takes it; nothing was recorded.
            ConfigError: *config* cannot be used.
            InvalidRequestError: *jobs* is no whole number, or less than 1.
            CodeChangedError: Finished work ran with other code, and *code* is None.
            AmbiguousExperimentError: Several experiments are of this work.
            ExperimentExistsError: *experiment_id* is of other work, or taken and *fresh*.
            AlreadyOwnedError, UnknownLivenessError: Somebody else owns it, or may.
            StateWriteError: The file system refused. What runs goes on; resume adopts it.
        """
        _check_jobs(jobs)
        experiment = (
            config if isinstance(config, Experiment) else Experiment.from_config(config, Path.cwd())
        )
        with contextlib.ExitStack() as held:
            digests = held.enter_context(digests_of(self._manager.state_dir))
            intending = functools.partial(
                intend,
                *(self._manager, experiment, experiment_id, digests),
                fresh=fresh,
                choice=code,
            )
            if experiment.identity.files or experiment.output.files:
                # Hashing them can take minutes, for which runs of other files would have to wait:
                # under the lock, their digests are known already.
                with _quietly():
                    intending()
            # Two runs of one file, started at once, make one experiment: the second finds it.
            with self._manager.run_lock(), _quietly():
                intent = intending()
                state, claim = intent.state, None
                if state is None:
                    if (slots := allocator(experiment)) is not None:
                        slots.check()  # a need that cannot be met makes no experiment
                    state = self._create(experiment, experiment_id, intent.reuse)
                    claim = held.enter_context(self._claim(state.experiment_id))
            if state.status is ExperimentStatus.AGGREGATED:
                return self._shown(state)
            if claim is None:
                check_number(state, experiment, "what is to be run")
                experiment = experiment.numbered_as(state.config)
                # Without the lock: waiting for an owner must not hold up runs of other files.
                claim = held.enter_context(self._claim(state.experiment_id))
            return self._carry_on(
                *(claim, experiment, digests, intent), jobs=jobs, aggregate=aggregate, leave=leave
            )

    def resume(
        self,
        experiment_id: str,
        *,
        only: Iterable[int] | None = None,
        failed_only: bool = False,
        limits: Mapping[str, Any] | None = None,
        engine: Mapping[str, Any] | None = None,
        code: Choice | None = None,
        jobs: int | None = None,
        aggregate: bool = True,
        leave: bool = False,
    ) -> Outcome:
        """Go on with an experiment, with the configuration that it was made with.

        Completed processes are not run again, running ones are adopted, failed ones are tried
        again if the experiment had failed. If some are held back, the experiment is `interrupted`
        in the end, and the next resume goes on with everything.

        Args:
            only: Start these processes alone, also if they had failed, and now, although they may
                wait for the end of a pause; with them go the other ranks of their launchers. None
                for all.
            failed_only: Start only those that had failed.
            limits: Keys of `[limits]` that change from now on, for later resumes, too:
                `{"timeout": "4h"}`; None as a value lifts a limit.
            engine: The same for `[engine]`: `{"time": "8h"}`. It is recorded; what the engine of
                this orchestrator is asked for, that was made with.
            code: As for `run`, of an experiment that is finished.
            jobs: As for `run`.
            aggregate: As for `run`.
            leave: As for `run`.

        Raises:
            EngineRefusedError: As for `run`.
            ExperimentNotFoundError, StateCorruptError, SchemaTooNewError: It cannot be loaded.
            ConfigError: It was made without a configuration that can be run; or *limits* are none.
            InvalidRequestError: *only* names no processes of it, or excludes *code*; or *jobs* is
                no whole number.
            CodeChangedError: It is finished, ran with other code, and *code* is None.
            AlreadyOwnedError, UnknownLivenessError, StateWriteError: As for `run`.
        """
        _check_jobs(jobs)
        state = self._load(experiment_id)
        selection = selecting.select(state, only, failed_only=failed_only)
        if code == "rerun" and not selection.is_everything:
            what = "rerun makes a new experiment, of which nothing is held back"
            raise InvalidRequestError("code", what)
        aggregated = state.status is ExperimentStatus.AGGREGATED
        if aggregated and not (state.config.get("command") and selection.is_everything):
            return self._shown(state)
        with contextlib.ExitStack() as held:
            digests = held.enter_context(digests_of(self._manager.state_dir))
            change = functools.partial(
                limiting.changed, given=limits or {}, title=experiment_id, options=engine or {}
            )
            if partial.is_idle(self._manager, state, selection, digests, self._clock()):
                self._note_unused(state, change)
                return outcomes.idle(state, selection)
            experiment, intent = taking_up(self._manager, state, digests, code)
            if intent.state is None:
                experiment, _ = change(experiment)
                how = {"code": code, "jobs": jobs, "aggregate": aggregate, "leave": leave}
                return self.run(experiment, **how)  # type: ignore[arg-type]
            if aggregated:
                return self._shown(state)
            change(experiment)  # refused before it is claimed
            claim = held.enter_context(self._claim(experiment_id))
            if claim.state.config != state.config:
                experiment = configuration(claim.state, self._manager.state_dir)
            experiment, changed = change(experiment)
            return self._carry_on(
                *(claim, experiment, digests, intent),
                selection=selection,
                changed=changed,
                jobs=jobs,
                aggregate=aggregate,
                leave=leave,
            )

    def aggregate(self, experiment_id: str) -> Outcome:
        """Aggregate an experiment whose processes are all completed; runs none of them.

        Of one that is aggregated, a missing `aggregate.json` is made again, by its own command if
        it has one.

        Raises:
            InvalidTransitionError: Not all of them are; it says which.
            ResultLostError: A recorded result is missing or altered.
            ExperimentNotFoundError, AlreadyOwnedError, ConfigError, StateWriteError: As for
                `resume`.
        """
        state = self._load(experiment_id)
        if (shown := self._complete(state)) is not None:
            return shown
        experiment = configuration(state, self._manager.state_dir)
        self._refuse_aggregation(state)
        with self._claim(experiment_id) as claim, self._interrupts() as interrupts:
            state = claim.state
            # Its owner may have finished it while we waited for the claim.
            if (shown := self._complete(state)) is not None:
                return shown
            digests = digests_of(self._manager.state_dir)
            return Course(self._terms, claim, experiment, digests, interrupts).aggregate()

    def stop(
        self, experiment_id: str, *, grace_s: float | None = None, force: bool = False
    ) -> Outcome:
        """Stop what runs of an experiment that nobody drives, record how it ended, and interrupt.

        Of one that somebody drives, `Lookout.ask` asks them.

        Args:
            grace_s: Instead of the grace period that it was made with.
            force: Whether everything is killed at once.

        Raises:
            AlreadyOwnedError, UnknownLivenessError: Somebody drives it, or may.
            ConfigError, ExperimentNotFoundError, StateWriteError: As for `resume`.
        """
        state = self._load(experiment_id)
        experiment = configuration(state, self._manager.state_dir)
        # No context: nothing is started, and Ctrl-C ends the waiting alone.
        interrupts = self._interrupts()
        with self._claim(experiment_id) as claim:
            digests = digests_of(self._manager.state_dir)
            course = Course(self._terms, claim, experiment, digests, interrupts)
            return course.stop(force=force, grace_s=grace_s)

    def _refuse_aggregation(self, state: ExperimentState) -> None:
        """Refuse without a claim, which later messages would name as an owner."""
        if self._manager.liveness(state.experiment_id).kind == "alive":
            return  # the claim says whose it is
        if state.status not in SETTLED and not state.can_aggregate():
            decide("experiment", state, "aggregate", {}, experiment_id=state.experiment_id)
        # What runs on may still change what is to be aggregated.
        self._manager.refuse_survivors(state.experiment_id, force=self._force)

    # -- which experiment -------------------------------------------------------------------------

    def _load(self, experiment_id: str) -> ExperimentState:
        with _quietly():
            return self._manager.load(experiment_id)

    def _create(
        self, experiment: Experiment, experiment_id: str | None, reuse: str | None
    ) -> ExperimentState:
        return self._manager.create(
            experiment_id,
            num_processes=len(experiment.params),
            ranks=None if experiment.ranks is None else Ranks(**attrs.asdict(experiment.ranks)),
            config=experiment.to_config(),
            config_hash=experiment.config_hash(self._manager.state_dir),
            config_path=None if experiment.path is None else portable(str(experiment.path)),
            name=experiment.name or (experiment.path.stem if experiment.path else None),
            cwd=portable(str(experiment.cwd)),
            reuse=reuse,
        )

    def _claim(self, experiment_id: str) -> Claim:
        return self._manager.claim(
            experiment_id, wait_s=self._wait_s, force=self._force, on_step=self._on_step
        )

    def _interrupts(self) -> Interrupts:
        return Interrupts(self._terms.engine.wake)

    def _carry_on(
        self,
        claim: Claim,
        experiment: Experiment,
        digests: Digests,
        intent: Intent,
        *,
        selection: Selection = EVERYTHING,
        changed: NewLimits | None = None,
        jobs: int | None,
        aggregate: bool,
        leave: bool,
    ) -> Outcome:
        # Somebody else may have finished it while we waited for the claim.
        if claim.state.status is ExperimentStatus.AGGREGATED:
            return self._shown(claim.state)
        whole = selection.is_everything
        with (
            self._interrupts() as interrupts,
            display.followed(lambda: claim.state, claim.folder, whole=whole),
        ):
            course = Course(self._terms, claim, experiment, digests, interrupts, intent.works)
            outcome = course.run(
                intent,
                selection=selection,
                changed=changed,
                jobs=jobs,
                aggregate=aggregate,
                leave=leave,
            )
            return attrs.evolve(outcome, folder=claim.folder)

    def _note_unused(
        self,
        state: ExperimentState,
        change: Callable[[Experiment], tuple[Experiment, NewLimits | None]],
    ) -> None:
        """Say that what was given changes nothing: there is no event that could record it."""
        _, new = change(configuration(state, self._manager.state_dir))
        if new is not None:
            self._terms.note(f"{new.words}: not recorded, since nothing is to be run")

    # -- what there is to show --------------------------------------------------------------------

    def _complete(self, state: ExperimentState) -> Outcome | None:
        """What there is to show of an aggregated experiment; None if something is to be made."""
        if state.status is not ExperimentStatus.AGGREGATED:
            return None
        shown = self._shown(state)
        if shown.lost:
            index = shown.lost[0]
            result = state.processes[index].result
            assert result is not None
            problem = acceptance.verify(self._manager.folder(state.experiment_id), result)
            raise ResultLostError(
                state.experiment_id,
                index,
                result.path,
                problem or "was lost",
                aggregated=True,
                file=state.config_path,
            )
        return None if shown.aggregate is None else shown

    def _shown(self, state: ExperimentState) -> Outcome:
        folder = self._manager.folder(state.experiment_id)
        found = aggregation.read(folder)
        lost = surveying.lost_results(state, folder) if found is None else ()
        return outcomes.shown(state, found, list(lost))


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    # A killed owner leaves a view that lags behind its journal; our claim rewrites it at once.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreadableStateWarning)
        yield


def _check_jobs(jobs: object) -> None:
    # 0 would count as not given, and 1.5 as 2.
    if jobs is not None and (type(jobs) is not int or jobs < 1):
        raise InvalidRequestError("jobs", f"must be a whole number of 1 or more, got {jobs!r:.80}")
