"""One claimed experiment on its way to its end: taken over, driven, aggregated, or stopped.

`holdfast.orchestration.orchestrator` decides which; `holdfast.orchestration.takeover` plans what
becomes of what was left, `holdfast.orchestration.loop` runs it.
"""

import contextlib
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs

from holdfast.config.experiment_file import Experiment
from holdfast.config.limiting import NewLimits
from holdfast.engines.contract import LOCAL, Engine
from holdfast.errors import (
    AggregationError,
    ConfigProblem,
    DiskError,
    EngineRefusedError,
    HoldfastError,
    ResultLostError,
    WorkingDirectoryGoneError,
)
from holdfast.lifecycle.events import Event, ProcessExited, Requested
from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration import exits, hooks, outcomes, partial, reuse, surveying, takeover
from holdfast.orchestration.aggregating import conclude
from holdfast.orchestration.fates import alone, others_words
from holdfast.orchestration.holding import allocator
from holdfast.orchestration.intent import Intent
from holdfast.orchestration.interrupts import Interrupts
from holdfast.orchestration.known import NOBODY, recorded_as_running
from holdfast.orchestration.launching import Launcher
from holdfast.orchestration.loop import Loop
from holdfast.orchestration.marking import Marks
from holdfast.orchestration.outcomes import NOTHING_INHERITED, Inherited, Outcome
from holdfast.orchestration.policies import policy, samples
from holdfast.orchestration.selecting import EVERYTHING, Selection
from holdfast.orchestration.takeover import Takeover
from holdfast.orchestration.watch import Watch
from holdfast.provenance.digests import Digests
from holdfast.status import SETTLED, ExperimentStatus, ProcessStatus, Reason
from holdfast.store.claim import Claim
from holdfast.store.manager import StateManager

__all__ = ["Course", "Terms"]


@attrs.frozen(kw_only=True)
class Terms:
    """What an orchestrator was made with; see there."""

    manager: StateManager
    engine: Engine
    clock: Callable[[], datetime]
    monotonic: Callable[[], float]
    on_change: Callable[[ExperimentState], None] | None
    on_note: Callable[[str], None] | None
    on_hold: Callable[[Collection[int]], None] | None
    on_begin: Callable[[Claim], None] | None
    force: bool
    gone_grace_s: float | None
    aggregation_engine: Callable[[], Engine] | None = None

    def note(self, words: str) -> None:
        """Tell people what they want to know at once."""
        if self.on_note is not None:
            self.on_note(words)


class Course:
    """One claimed experiment, from how it was left to how it ends."""

    def __init__(
        self,
        terms: Terms,
        claim: Claim,
        experiment: Experiment,
        digests: Digests,
        interrupts: Interrupts,
        works: Sequence[str] | None = None,
    ) -> None:
        """Go on with *experiment* as *claim* has it.

        Args:
            digests: Of files that belong to the work.
            interrupts: What asks it to stop.
            works: What each process does, if that is known already.
        """
        self._terms = terms
        self._claim = claim
        self._experiment = experiment
        self._interrupts = interrupts
        state_dir = terms.manager.state_dir
        self._marks = Marks(experiment, state_dir, claim.folder, digests, terms.monotonic, works)
        self._watch, self._loop = self._on(terms.engine)
        self._held: frozenset[int] = frozenset()

    def _on(self, engine: Engine) -> tuple[Watch, Loop]:
        """What runs attempts of it on *engine*."""
        terms, claim, experiment = self._terms, self._claim, self._experiment
        watch = Watch(
            engine=engine,
            launcher=Launcher(
                experiment_id=claim.state.experiment_id,
                experiment=experiment,
                folder=claim.folder,
                state_dir=terms.manager.state_dir,
                # Not the one that is stored: a project can be moved, or copied, with its state.
                cwd=str(experiment.cwd),
            ),
            clock=terms.clock,
            state=lambda: claim.state,
            fence=claim.check_fence,
            monotonic=terms.monotonic,
            gone_grace_s=terms.gone_grace_s if engine is terms.engine else None,
            force=terms.force,
        )
        told = terms.on_change, self._marks, terms.note, self._hold
        return watch, Loop(claim, watch, self._interrupts, *told)

    def run(
        self,
        intent: Intent,
        *,
        selection: Selection = EVERYTHING,
        changed: NewLimits | None = None,
        jobs: int | None,
        aggregate: bool,
        leave: bool = False,
    ) -> Outcome:
        """Start what is left, or what of it is selected, and see it to its end.

        Args:
            changed: Limits that are to be recorded.
            jobs: As for `Orchestrator.run`, as are *aggregate* and *leave*.
        """
        claim, experiment, terms = self._claim, self._experiment, self._terms
        taken = self._take_over(selection, changed)
        if taken is None:
            return self._ended()
        inherited = Inherited(
            skipped=taken.skipped, adopted=taken.adopted, running=taken.running, held=taken.held
        )
        if taken.starts:
            if (slots := allocator(experiment)) is not None:
                slots.check()
            _check_directory(claim.state, experiment, terms.manager.state_dir)
            # Before anything is recorded: a declared file that is gone starts nothing.
            _ = self._marks.works
            if not self._may_start():
                return self._ended()
        found = claim.state
        if terms.on_begin is not None:
            terms.on_begin(claim)
        self._record(taken.events)
        self._tell(found, taken, intent, selection, changed)
        inherited = self._reuse(intent.search, inherited)
        plan = policy(experiment, jobs, terms.engine)
        again_run: set[int | None] = set()
        while True:
            if claim.state.status is ExperimentStatus.RUNNING:
                self._loop.drive(plan, taken.held, selection.named(found), leave=leave)
            done = claim.state.status is ExperimentStatus.COMPLETED
            if leave or not done or not aggregate or self._interrupts.count:
                return self._told(self._ended(inherited, leave=leave))
            try:
                return self._told(self._concluded(inherited))
            except ResultLostError:
                again = self._take_over()
                requeued = {
                    event.process
                    for event in (() if again is None else again.events)
                    if isinstance(event, Requested) and event.event == "requeue"
                }
                # Something goes on changing it: running it once more would not help, for hours.
                if again is None or not requeued or requeued & again_run:
                    raise
                again_run |= requeued
            self._record(again.events)

    def aggregate(self) -> Outcome:
        """Aggregate it, without running any process."""
        claim = self._claim
        state = claim.state
        if state.status not in SETTLED and state.can_aggregate():
            taken = self._take_over()
            if taken is None:
                return self._ended()
            done = Requested(entity="experiment", event="complete", at=self._terms.clock())
            claim.record_many([*taken.events, done])
        if claim.state.status not in SETTLED:
            # Refused by the machine, with all its reasons.
            claim.record("aggregate")
        return self._told(self._concluded(Inherited(skipped=state.processes_completed)))

    def stop(self, *, force: bool, grace_s: float | None) -> Outcome:
        """Stop what runs of it, and record how that ended."""
        claim, loop = self._claim, self._loop
        taken = self._take_over(verify=False)
        if taken is not None:
            manager = self._terms.manager
            left = manager.survivors(claim.state.experiment_id)
            self._watch.adopt_others(name for name, _ in left)
            evidence = f"asked by {claim.state.owner}; {_evidence(claim)}"
            loop.requests.stop(evidence, force=force, grace_s=grace_s)
            self._record(taken.facts)
            # Nothing is waited for of those: they find the request where they begin.
            if elsewhere := list(self._watch.elsewhere):
                self._watch.asking.ask(elsewhere, force=force, why=Reason.USER, grace_s=grace_s)
            if claim.state.status is ExperimentStatus.RUNNING:
                loop.drive(policy(self._experiment, None, self._terms.engine))
            loop.drain()
        return self._ended()

    def _may_start(self) -> bool:
        """Whether the engine takes what is to be started; False if a signal came before it could
        say so.

        Raises:
            EngineRefusedError: It never will.
        """
        engine, experiment = self._terms.engine, self._experiment
        if engine.name != LOCAL and experiment.needs:
            words = "[needs] are slots of this machine, and attempts run elsewhere"
            raise EngineRefusedError(engine.name, words)
        if engine.name == LOCAL:
            return True
        told = self._loop.checked(list(samples(self._watch.launcher, self._claim.state)))
        for words in told or ():
            self._terms.note(words)
        return told is not None

    def _tell(
        self,
        found: ExperimentState,
        taken: Takeover,
        intent: Intent,
        selection: Selection,
        changed: NewLimits | None,
    ) -> None:
        """Say what is to be known of a run before anything starts; *found* is how it was left."""
        terms = self._terms
        running = self._claim.state.status is ExperimentStatus.RUNNING
        if not selection.is_everything:
            self._hold(taken.held)
            for words in partial.notes(selection, found, taken):
                terms.note(words)
        if changed is not None:
            terms.note(changed.told(recorded=running, running=taken.running))
        if intent.changed and running:
            terms.note(intent.changed.since(found.num_processes))

    def _hold(self, processes: Collection[int]) -> None:
        """Have these held back, too, for all who are told of that."""
        self._held |= frozenset(processes)
        if self._terms.on_hold is not None:
            self._terms.on_hold(self._held)

    def _reuse(self, search: reuse.Search | None, inherited: Inherited) -> Inherited:
        """Complete what others have finished, before anything is started."""
        claim, marks, terms = self._claim, self._marks, self._terms
        state, held = claim.state, inherited.held
        pending = [i for i in state.processes.indices(ProcessStatus.PENDING) if i not in held]
        if state.reuse is None or state.status is not ExperimentStatus.RUNNING or not pending:
            return inherited
        looking = search or marks.search(terms.manager, state.reuse, state.experiment_id)
        copying = reuse.Copying(
            marks.experiment, claim.folder, marks.digests, claim.check_fence, terms.clock
        )
        found = self._loop.beside(lambda going_on: copying.run(looking, pending, going_on))
        self._record(copying.events)
        if found is not None:
            for words in reuse.told(found, claim.state):
                terms.note(words)
        return attrs.evolve(inherited, reused=len(copying.events))

    def _take_over(
        self,
        selection: Selection = EVERYTHING,
        changed: NewLimits | None = None,
        *,
        verify: bool = True,
    ) -> Takeover | None:
        """Look at what was left, say what follows, and watch what runs; nothing is recorded yet.

        None if a signal came before the engine could be asked.
        """
        claim, experiment, loop = self._claim, self._experiment, self._loop
        state = claim.state
        known = loop.known() if state.processes_running else NOBODY
        if known is None:
            return None
        at = self._terms.clock()
        found = loop.beside(
            lambda going_on: surveying.survey(
                *(state, claim.folder, at),
                known=known,
                take=loop.taking,
                later=exits.takes_long,
                verify=verify,
                going_on=going_on,
            )
        )
        assert found is not None
        ended = self._marks.ended(state, list(found.facts.values()))
        found = attrs.evolve(
            found, facts={fact.process: fact for fact in ended if isinstance(fact, ProcessExited)}
        )
        taken = takeover.plan(
            state,
            found,
            at,
            experiment.limits,
            experiment.retry,
            selection=selection,
            changed=changed,
            evidence=_evidence(claim),
            force=self._terms.force,
        )
        adopted = recorded_as_running(state)
        for name in taken.adopt:
            process = state.processes[adopted[name][0]]
            self._watch.adopt([name], {name: known.handle(name, claim.folder, process)})
        for name, whose in taken.alone.items():
            self._watch.block(name, others_words(whose))
        for words in alone(taken.alone):
            self._terms.note(words)
        for name in taken.settle:
            assert name.index is not None
            self._watch.settle(name, state.processes[name.index].identity)
        return taken

    def _record(self, events: Sequence[Event]) -> None:
        if events:
            self._claim.record_many(events)
            self._changed()

    def _changed(self) -> None:
        if self._terms.on_change is not None:
            self._terms.on_change(self._claim.state)

    def _concluded(self, inherited: Inherited) -> Outcome:
        claim = self._claim
        try:
            found = self._conclude()
        except AggregationError as err:
            if claim.state.status is ExperimentStatus.AGGREGATED:
                raise
            claim.record("fail", reason=Reason.EXIT, error_message=f"aggregation: {err.problem}")
            found = None
        self._changed()
        if found is None:
            return self._ended(inherited)
        return outcomes.aggregated(claim.state, found, inherited)

    def _conclude(self) -> Mapping[str, Any] | None:
        """Aggregate, where that has a command, on the engine that is meant for it."""
        terms, interrupts = self._terms, self._interrupts
        make = terms.aggregation_engine
        if make is None and terms.engine.name != LOCAL:
            from holdfast.engines.local.engine import LocalEngine

            make = LocalEngine
        if self._experiment.aggregate.command is None or make is None:
            return conclude(self._claim, self._watch, self._loop, interrupts)
        with contextlib.closing(make()) as engine:
            interrupts.wake_also(engine.wake)
            return conclude(self._claim, *self._on(engine), interrupts)

    def _told(self, outcome: Outcome) -> Outcome:
        """*outcome*, once the hooks have been told of it, which is kept in the history."""
        claim = self._claim
        state_dir = str(self._terms.manager.state_dir.absolute())
        for hook in hooks.due(outcome, self._experiment, state_dir):
            if self._interrupts.count:
                break
            try:
                self._remark(hook, hooks.begun(hook))
                end = self._loop.beside(functools.partial(hooks.run, hook))
                assert end is not None
                words = hooks.told(hook, end)
                if not end.ok:
                    self._terms.note(f"the hook {words}")
                self._remark(hook, words)
            except HoldfastError as err:
                # Nobody else's business: what it was to be told of is stored.
                self._terms.note(f"the hook {hook.name} was left: {err}")
                break
        return attrs.evolve(outcome, state=claim.state)

    def _remark(self, hook: hooks.Hook, words: str) -> None:
        """Keep *words* in the history; a full disk is what a hook may have to tell of."""
        try:
            self._claim.remark("hook", words)
        except DiskError as err:
            self._terms.note(f"the hook {hook.name} is not in the history: {err.cause}")

    def _ended(self, inherited: Inherited = NOTHING_INHERITED, *, leave: bool = False) -> Outcome:
        state, interrupts = self._claim.state, self._interrupts
        engine, left, untaken = self._terms.engine, 0, 0
        if state.status is ExperimentStatus.RUNNING and (leave or engine.outlives):
            theirs = recorded_as_running(state).keys() - self._watch.blocked.keys()
            unknown = {*self._watch.untaken, *self._watch.unsubmitted}
            left, untaken = len(theirs - unknown), len(theirs & unknown)
        pending = ProcessStatus.PENDING
        held = {i for i in self._held if state.processes[i].status is pending} | inherited.held
        by_user = state.status is ExperimentStatus.INTERRUPTED and state.reason is Reason.USER
        return outcomes.unfinished(
            state,
            interrupts.first,
            attrs.evolve(inherited, held=frozenset(held)),
            blocked={str(name): why for name, why in self._watch.blocked.items()},
            stopped=interrupts.requested or (interrupts.partly and by_user),
            left=left,
            untaken=untaken,
            engine=engine.name,
        )


def _check_directory(state: ExperimentState, experiment: Experiment, state_dir: Path) -> None:
    """Make sure that the processes have a directory to run in, before any is started for nothing.

    Raises:
        WorkingDirectoryGoneError: It is gone; with the ways out.
    """
    gone = experiment.cwd
    if state.status is ExperimentStatus.INITIALISED or gone.is_dir():
        return
    problem = ConfigProblem(
        "working directory",
        f"{gone} is gone, and no other beside or above {state_dir.absolute()} is the one that it "
        f"was made for",
    )
    file = None if state.config_path is None else Path(state.config_path).name
    raise WorkingDirectoryGoneError(state.experiment_id, [problem], gone, file)


def _evidence(claim: Claim) -> str:
    if claim.verdict is not None:
        return str(claim.verdict)
    return f"its last owner ({claim.previous or 'not recorded'}) let it go"
