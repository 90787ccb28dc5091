"""What other experiments have done already of the work of this one, and taking it from there.

`Search` is asked by a run, which takes what it offers, and by a dry run, which only verifies it:
there is no other opinion on what is reused, from where, and why not.
"""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import attrs

from holdfast.config.experiment_file import Experiment
from holdfast.errors import DiskError, HoldfastError, ResultInvalidError, cause
from holdfast.lifecycle.events import Requested
from holdfast.lifecycle.records import ExperimentState, ProcessProgress, ResultRef
from holdfast.lifecycle.reuse import Origin, Proof
from holdfast.provenance import code
from holdfast.provenance.digests import Digests
from holdfast.results import acceptance, outputs, reusing
from holdfast.results.changed import Changed, Comparing
from holdfast.results.going_on import GoingOn, always, check
from holdfast.status import ProcessStatus
from holdfast.store.manager import StateManager

__all__ = ["Ancestor", "Copying", "Found", "Search", "told", "verified"]

#: Experiments that a sentence names.
_MOST_NAMED: Final = 3

#: Experiments that are asked for one work: the newest may have lost it, or have run other code.
_MOST_ASKED: Final = 32

#: Ancestors whose states are kept in memory.
_MOST_KEPT: Final = 32


@attrs.frozen(kw_only=True, eq=False)
class Ancestor:
    """A completed process of another experiment that did the work of one of ours.

    Attributes:
        index: Ours.
        state: The other experiment, *folder* is its own, and *process* the index there.
    """

    index: int
    work: str
    state: ExperimentState
    folder: Path
    process: int

    @property
    def progress(self) -> ProcessProgress:
        """What is recorded of the process."""
        return self.state.processes[self.process]

    @property
    def origin(self) -> Origin:
        """Who ran it, and by way of which experiment its result comes here."""
        own, there = self.progress.origin, self.state.experiment_id
        if own is None:
            attempt = self.progress.attempt
            return Origin(experiment_id=there, process=self.process, attempt=attempt)
        return attrs.evolve(own, via=there)

    @property
    def _root(self) -> tuple[str, int, int]:
        origin = self.origin
        return origin.experiment_id, origin.process, origin.attempt

    def proof(self, problem: str | None = None) -> Proof:
        """What the guard of the event is shown."""
        done = self.progress
        return Proof(origin=self.origin, work=done.work, status=done.status, problem=problem)


@attrs.frozen(kw_only=True)
class Found:
    """What there is to reuse.

    Attributes:
        ancestors: By our index, what is taken.
        changed: By our index, the newest that would be if its code had not changed since, and how
            it has.
        refused: By our index, why the newest of the same work was not taken, if not for its code.
        rivals: By our index, how many experiments have finished the same work.
    """

    ancestors: Mapping[int, Ancestor]
    changed: Mapping[int, tuple[Ancestor, Mapping[str, str]]]
    refused: Mapping[int, str]
    rivals: Mapping[int, int]


#: Says what is wrong with ancestors that are about to be taken, together; None if nothing is.
Judge = Callable[[Sequence[Ancestor]], str | None]


class Search:
    """Looks for the work of one experiment in all the others."""

    def __init__(
        self,
        manager: StateManager,
        experiment: Experiment,
        works: Sequence[str],
        digests: Digests,
        *,
        policy: str,
        own: str | None = None,
    ) -> None:
        """Look in the directory of *manager* for *works* of *experiment*.

        Args:
            policy: `unchanged`, or `all`, whatever became of the code since.
            own: The id of the experiment itself, if it is there already.
        """
        self._manager = manager
        self._experiment = experiment
        self._works = works
        self._policy = policy
        self._own = own
        self._comparing = Comparing(experiment.cwd, digests)
        self._states: dict[str, ExperimentState | None] = {}
        self._done: dict[str, Mapping[str, Sequence[int]]] = {}
        self._folders: dict[str, Path] = {}
        self._asked: set[str] = set()
        self._known: dict[str, Sequence[str]] = {}

    def find(self, pending: Collection[int], judge: Judge, *, going_on: GoingOn = always) -> Found:
        """What *judge* takes for the *pending* processes, the newest experiments first.

        Two processes of equal work are given two processes that ran apart from each other. The
        ranks of a gang come from one gang, all of them or none.

        Raises:
            GaveUpError: It is not *going_on* any more.
        """
        units = self._units(pending)
        doers = self._doers({self._works[unit[0]] for unit in units})
        ancestors: dict[int, Ancestor] = {}
        changed: dict[int, tuple[Ancestor, Mapping[str, str]]] = {}
        refused: dict[int, str] = {}
        used: set[tuple[str, int, int]] = set()
        for unit in units:
            check(going_on)
            for found in self._candidates(unit, doers.get(self._works[unit[0]], ()), used):
                fates = self._changed(found)
                if fates:
                    for each in found:
                        if each.index not in refused:  # one reason is told, that of the newest
                            changed.setdefault(each.index, (each, fates))
                    continue
                problem = judge(found)
                if problem is None:
                    ancestors.update({each.index: each for each in found})
                    used.update(each._root for each in found)
                    break
                who = found[0].state.experiment_id
                for each in found:
                    if each.index not in changed:
                        refused.setdefault(each.index, f"that of {who}: {problem}")
        for index in ancestors:
            changed.pop(index, None)
            refused.pop(index, None)
        rivals = {index: len(doers.get(self._works[index], ())) for index in ancestors}
        return Found(ancestors=ancestors, changed=changed, refused=refused, rivals=rivals)

    def _doers(self, wanted: set[str]) -> Mapping[str, Sequence[str]]:
        """The experiments that have completed them, asked once: what is taken is verified then."""
        if unknown := wanted - self._asked:
            self._asked |= unknown
            self._known |= self._manager.doers(unknown, limit=_MOST_ASKED)
        return self._known

    def _units(self, pending: Collection[int]) -> list[range]:
        """What is reused all or none: processes, or whole gangs."""
        ranks = self._experiment.ranks
        if ranks is None or ranks.independent:
            return [range(index, index + 1) for index in sorted(pending)]
        gangs = sorted({index - index % ranks.count for index in pending})
        return [range(first, first + ranks.count) for first in gangs]

    def _candidates(
        self, unit: range, ids: Sequence[str], used: Collection[tuple[str, int, int]]
    ) -> Iterator[list[Ancestor]]:
        for experiment_id in ids:
            state = self._load(experiment_id)
            if state is None:
                continue
            folder = self._folders[experiment_id]
            for first in self._done[experiment_id].get(self._works[unit[0]], ()):
                theirs = range(first, first + len(unit))
                if len(unit) > 1 and theirs != state.gang(first):
                    continue
                found = [
                    Ancestor(
                        index=index,
                        work=self._works[index],
                        state=state,
                        folder=folder,
                        process=process,
                    )
                    for index, process in zip(unit, theirs, strict=True)
                ]
                same = all(self._is_done(each) for each in found)
                if same and not any(each._root in used for each in found):
                    yield found

    def _is_done(self, ancestor: Ancestor) -> bool:
        done = ancestor.progress
        return done.status is ProcessStatus.COMPLETED and done.work == ancestor.work

    def _load(self, experiment_id: str) -> ExperimentState | None:
        """The state of *experiment_id*, None if it is gone, unreadable, or our own."""
        if experiment_id == self._own:
            return None
        if experiment_id not in self._states:
            for eldest in list(self._states)[: 1 - _MOST_KEPT]:
                del self._states[eldest], self._done[eldest]
            state = None
            with contextlib.suppress(HoldfastError):  # what cannot be read proves nothing
                state = self._manager.load(experiment_id)
            done: defaultdict[str, list[int]] = defaultdict(list)
            for index, process in () if state is None else state.process_progress.items():
                if process.status is ProcessStatus.COMPLETED and process.work is not None:
                    done[process.work].append(index)
            self._states[experiment_id], self._done[experiment_id] = state, done
            self._folders[experiment_id] = self._manager.folder(experiment_id)
        return self._states[experiment_id]

    def _changed(self, found: Sequence[Ancestor]) -> Mapping[str, str]:
        if self._policy == "all":
            return {}
        fates: dict[str, str] = {}
        for each in found:
            fates |= self._comparing.fates(each.folder, each.progress)
        return fates


def verified(experiment: Experiment, digests: Digests) -> Judge:
    """Whether what is found is as it was recorded; nothing is taken."""

    def judge(found: Sequence[Ancestor]) -> str | None:
        if (problem := _outputs(experiment, found, digests)) is not None:
            return problem
        for each in found:
            ref = each.progress.result
            try:
                problem = None if ref is None else acceptance.verify(each.folder, ref)
            except OSError as err:
                problem = f"cannot be read: {cause(err)}"
            if ref is not None and problem is not None:
                return f"{ref.path} {problem}"
        return None

    return judge


class Copying:
    """Has what is found copied to an experiment's folder, as it is verified.

    Attributes:
        events: What is to be recorded of it, once it is settled.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        digests: Digests,
        fence: Callable[[], None],
        clock: Callable[[], datetime],
    ) -> None:
        """Take what *experiment* needs to its *folder*, as long as *fence* lets it."""
        self.events: list[Requested] = []
        self._experiment = experiment
        self._folder = folder
        self._digests = digests
        self._fence = fence
        self._clock = clock
        self._copied: dict[tuple[Path, str | None], str | None] = {}

    def run(self, search: Search, pending: Collection[int], going_on: GoingOn) -> Found:
        """What *search* finds for *pending*, taken and durable, also where it is given up.

        Raises:
            GaveUpError: It was not *going_on* any more.
            StateWriteError: The folder cannot be written to.
        """
        try:
            return search.find(pending, self._judge, going_on=going_on)
        finally:
            results = [event.facts["result"] for event in self.events]
            if taken := [ref for ref in results if ref is not None]:
                reusing.settle(self._folder, taken)

    def _judge(self, found: Sequence[Ancestor]) -> str | None:
        if (problem := _outputs(self._experiment, found, self._digests)) is not None:
            return problem
        made: list[Requested] = []
        for each in found:
            ref, result = each.progress.result, None
            if ref is not None:
                acceptance.prepare(self._folder)
                try:
                    result = reusing.take(
                        *(self._folder, each.index, each.folder, ref),
                        link=self._experiment.store.link,
                        fence=self._fence,
                    )
                except ResultInvalidError as err:
                    return f"{ref.path} {err.problem}"
                except DiskError as err:
                    if self._folder in (err.path, *err.path.parents):
                        raise
                    return f"{ref.path} cannot be read: {err.cause}"
            made.append(self._event(each, result))
        self.events.extend(made)
        return None

    def _event(self, ancestor: Ancestor, result: ResultRef | None) -> Requested:
        done = ancestor.progress
        return Requested(
            entity="process",
            event="reuse",
            at=self._clock(),
            process=ancestor.index,
            evidence=f"the same work as {ancestor.origin}",
            facts={
                "proof": ancestor.proof(),
                "work": ancestor.work,
                "code": self._code(ancestor.folder, done.code),
                "result": result,
                "outputs": _declared(self._experiment, ancestor),
                "host": done.host,
            },
        )

    def _code(self, source: Path, name: str | None) -> str | None:
        """The code record *name*, which many share, as it is here now."""
        key = source, name
        if key not in self._copied:
            self._copied[key] = code.copy(source, self._folder, name)
        return self._copied[key]


def _outputs(experiment: Experiment, found: Sequence[Ancestor], digests: Digests) -> str | None:
    """What is wrong with the outputs of ancestors; a gang declares them for its first rank."""
    recorded = [ref for each in found for ref in _declared(experiment, each)]
    wanted = experiment.outputs(found[0].index)
    missing = outputs.unmatched(wanted, [ref.path for ref in recorded])
    if missing:
        return f"output {missing[0]} was not declared when it ran"
    try:
        return outputs.verify(experiment.cwd, recorded, digests)
    except OSError as err:
        return f"its outputs cannot be read: {cause(err)}"


def _declared(experiment: Experiment, ancestor: Ancestor) -> tuple[ResultRef, ...]:
    """What it left of what is asked for now: other files may be deleted, or another's by now."""
    return outputs.matching(experiment.outputs(ancestor.index), ancestor.progress.outputs)


def told(found: Found, state: ExperimentState) -> Iterator[str]:
    """What people want to know of what was reused, in *state*, before anything is started."""
    total, left = state.num_processes, state.processes_pending
    if found.ancestors:
        counts = Counter(each.state.experiment_id for each in found.ancestors.values())
        named = [f"{count:,} in {name}" for name, count in counts.most_common(_MOST_NAMED)]
        if len(counts) > _MOST_NAMED:
            named.append(f"{sum(counts.values()):,} in {len(counts):,} experiments altogether")
        what = ", ".join(named)
        if len(counts) == 1:
            name = next(iter(counts))
            rivals = max(found.rivals.values(), default=1)
            newest = f" (the newest of {rivals:,})" if rivals > 1 else ""
            what = f"{name}{newest}"
            yield f"{counts[name]:,} of {total:,} are finished in {what}, {left:,} to run"
        else:
            yield f"{len(found.ancestors):,} of {total:,} are finished ({what}), {left:,} to run"
    if found.changed:
        files: dict[str, str] = {}
        for _, fates in found.changed.values():
            files |= fates
        words = str(Changed(files=files, processes=tuple(found.changed)))
        they, are = ("it", "is") if len(found.changed) == 1 else ("they", "are")
        yield f"{len(found.changed):,} of {total:,} {are} not reused: {words} since {they} ran"
    if found.refused:
        index, why = next(iter(found.refused.items()))
        are = "is" if len(found.refused) == 1 else "are"
        yield f"{len(found.refused):,} of {total:,} {are} not reused; process {index}: {why}"
