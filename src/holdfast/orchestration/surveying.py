"""How somebody left an experiment: what became of its attempts, and which results are lost.

Touches nothing; `holdfast.orchestration.takeover` says what follows.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal

import attrs

from holdfast.attempts.family import Census
from holdfast.attempts.looking import Ended, Gone, Look, Running, Unbegun, Undecided, look
from holdfast.errors import DiskError, StateReadError
from holdfast.identity import Verdict
from holdfast.lifecycle.events import ProcessExited
from holdfast.lifecycle.records import ExperimentState, ResultRef
from holdfast.orchestration import exits
from holdfast.orchestration.known import NOBODY, Entrusted, Known, recorded_as_running
from holdfast.orchestration.taking import Lost, Taking
from holdfast.orchestration.words import LOST, meaning
from holdfast.results import acceptance
from holdfast.results.going_on import GaveUpError, GoingOn, always
from holdfast.status import ExperimentStatus, ProcessStatus

__all__ = ["Survey", "lost_results", "survey"]


@attrs.frozen(kw_only=True)
class Survey:
    """How an experiment was found.

    Attributes:
        looks: What became of every process that is recorded as running.
        facts: Of those that ended, the fact for the lifecycle.
        said: The facts that will come, once nothing of their launchers is left, of independent
            ranks that had said that they completed.
        lost: Completed processes whose recorded result, or an output, is missing or altered.
    """

    looks: Mapping[int, Look | Entrusted]
    facts: Mapping[int, ProcessExited]
    said: Mapping[int, ProcessExited]
    lost: Mapping[int, Lost]


def survey(
    state: ExperimentState,
    folder: Path,
    at: datetime,
    *,
    known: Known = NOBODY,
    take: Taking,
    later: exits.Later = exits.never,
    verify: bool = True,
    going_on: GoingOn = always,
) -> Survey:
    """Look at everything that a takeover depends on. Touches nothing, unless *take* does.

    Args:
        at: Now.
        known: What the engine has: what waits in a scheduler's queue has no files yet, and is not
            taken for one that never began.
        verify: Whether to read every recorded result and output.

    Raises:
        StateReadError: A recorded result or output could not be read.
    """
    looks: dict[int, Look | Entrusted] = {}
    facts: dict[int, ProcessExited] = {}
    said: dict[int, ProcessExited] = {}
    census = Census()
    for name, ranks in recorded_as_running(state).items():
        process = state.processes[ranks[0]]
        shim, means = process.identity, LOST
        found: Look | Entrusted
        try:
            found = look(folder, name, shim=shim, census=census)
            if isinstance(found, Unbegun) and name in known.handles:
                found = Running(shim, _unclear("alive", "the engine has it"))
            whose = known.entrusted(name, process, begun=not isinstance(found, Unbegun))
            if whose is not None and not isinstance(found, Ended):
                found = whose
            elif whose is not None and isinstance(found, Ended) and name in known.words:
                word = known.words[name]
                means = meaning(word, found.record, None, engine=str(known.engine))
                found = whose if means.kind == "ending" else found
            if (
                isinstance(found, Ended)
                and going_on()
                and not later(folder, name, found.record, take)
            ):
                told = exits.exited(state, folder, name, found.record, at, means=means, take=take)
                facts.update({fact.process: fact for fact in told})
            elif isinstance(found, Gone | Unbegun):
                fates = exits.lost(state, folder, name, at, "", attrs.evolve(take, durably=False))
                said |= {each.process: each for each in fates if isinstance(each, ProcessExited)}
        except (DiskError, OSError) as err:
            # It may hold a success, and what it is about may even run: the loop looks again.
            found = Undecided(_unclear("unknown", str(err).splitlines()[0]), shim)
        looks.update(dict.fromkeys(ranks, found))
    # Nobody asks for the results of one that is aggregated.
    verify = verify and state.status is not ExperimentStatus.AGGREGATED
    lost = lost_results(state, folder, going_on, take) if verify else {}
    return Survey(looks=looks, facts=facts, said=said, lost=lost)


def _unclear(kind: Literal["alive", "unknown"], words: str) -> Verdict:
    return Verdict(kind=kind, method="none", compared=words, observer="this process")


def lost_results(
    state: ExperimentState,
    folder: Path,
    going_on: GoingOn = always,
    take: Taking | None = None,
) -> dict[int, Lost]:
    """Completed processes of which something recorded is missing or altered, ascending, and what.

    Args:
        going_on: Once it is False, the rest is skipped.
        take: Looks at outputs, too; without it, only results are looked at.

    Raises:
        StateReadError: A result or output could not be read.
    """
    found = {}
    for index in state.processes.indices(ProcessStatus.COMPLETED):
        process = state.processes[index]
        if process.result is None and not process.outputs:
            continue
        if not going_on():
            break
        lost = _lost_result(folder, process.result)
        if lost is None and take is not None:
            try:
                lost = take.lost(process, going_on)
            except GaveUpError:
                break
        if lost is not None:
            found[index] = lost
    return _with_gangs(state, found) if state.has_gangs else found


def _lost_result(folder: Path, result: ResultRef | None) -> Lost | None:
    if result is None:
        return None
    try:
        problem = acceptance.verify(folder, result)
    except OSError as err:
        # An I/O error proves nothing about the result.
        raise StateReadError.of(folder / result.path, "reading", err) from err
    return None if problem is None else Lost("result", result.path, problem)


def _with_gangs(state: ExperimentState, lost: Mapping[int, Lost]) -> dict[int, Lost]:
    """*lost*, with all the ranks of a gang of which one is lost."""
    found: dict[int, Lost] = {}
    for index, own in lost.items():
        if index in found:
            continue
        for rank in state.gang(index):
            result = state.processes[rank].result
            path = "of which nothing is recorded" if result is None else result.path
            theirs = f"{own.kind} {own.path} of process {index}, of the same gang, {own.problem}"
            found[rank] = lost.get(rank) or Lost("result", path, f"is as it was, but {theirs}")
    return found
