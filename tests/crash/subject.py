"""A store as the judge sees it, and ours as one.

A `Subject` can be looked at, and it can live on from what is there. `Holdfast` is our store,
through its public API and with its doctor; `naive` has those that must fail.
"""

import json
import random
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from holdfast.doctor import examine
from holdfast.errors import ExperimentNotFoundError, HoldfastError, UnreadableStateWarning
from holdfast.ids import sanitize_experiment_id
from holdfast.lifecycle.records import ExperimentState
from holdfast.results import acceptance, aggregation
from holdfast.store.files import Files
from holdfast.store.history import Transition
from holdfast.store.manager import StateManager

from .bench import ABSENT, Bench, Ticking, digest, legal_step
from .watching import Recorder, WatchedFiles

__all__ = ["NOTHING", "Expected", "Found", "Holdfast", "Subject", "is_step"]


class Found(NamedTuple):
    """What a look finds of one experiment.

    Attributes:
        digest: Of its state, or `absent`.
        events: Number of transitions in its history.
        status: Of the experiment. It changes with a call that is a promise of its own, and the
            view is refreshed in that call: so it is what the view must say too.
    """

    digest: str
    events: int
    status: str = ""


NOTHING = Found(ABSENT, 0)


Expected = Mapping[str, tuple[Found, ...]]


class Subject(Protocol):
    """A store, as far as the judge is concerned."""

    def look(self, root: Path, ids: Iterable[str]) -> tuple[dict[str, Found], list[str]]:
        """What is there of *ids*, and what is wrong with the directory as a whole."""

    def view(self, root: Path, name: str) -> str:
        """The status that people see; raises ValueError if it is not whole."""

    def live_on(
        self,
        root: Path,
        found: Mapping[str, Found],
        say: Callable[[str], None],
        recorder: Recorder,
        rng: random.Random,
    ) -> list[str]:
        """Go on from what was *found*, saying what was promised; return what went wrong."""


def is_step(transition: Transition) -> bool:
    """Whether it moved something: `claimed`, `released` and their like do not."""
    return transition.source != transition.target


def _unproven(state: ExperimentState, folder: Path) -> list[str]:
    """Results and aggregates that the state promises and that are not there as promised."""
    wrong = []
    for index, process in state.process_progress.items():
        problem = None if process.result is None else acceptance.verify(folder, process.result)
        if problem is not None:
            wrong.append(f"the result of {state.experiment_id}/{index} {problem}")
    proven = any(process.result is not None for process in state.process_progress.values())
    if str(state.status) == "aggregated" and proven and aggregation.read(folder) is None:
        wrong.append(f"{state.experiment_id} is aggregated and has no aggregate")
    return wrong


class Holdfast:
    """Our store, through its public API."""

    def look(self, root: Path, ids: Iterable[str]) -> tuple[dict[str, Found], list[str]]:
        manager = StateManager(root / ".experiment_state")
        found: dict[str, Found] = {}
        wrong: list[str] = []
        with warnings.catch_warnings():
            # A view that lies behind its journal after a crash is no loss: load says so.
            warnings.simplefilter("ignore", UnreadableStateWarning)
            for name in ids:
                try:
                    state = manager.load(name)
                    events = sum(map(is_step, manager.history(name)))
                    wrong += _unproven(state, manager.folder(name))
                    found[name] = Found(digest(state), events, str(state.status))
                except ExperimentNotFoundError:
                    found[name] = NOTHING
                except (HoldfastError, OSError) as err:
                    found[name] = Found(f"unreadable: {type(err).__name__}: {err}", 0)
            listed = set(manager.list_experiments())
            wrong += [f"unreadable: {path}: {err}" for path, err in manager.unreadable()]
        there = {name for name, is_now in found.items() if is_now != NOTHING}
        if listed != there:
            wrong.append(f"listed are {sorted(listed)}, there are {sorted(there)}")
        return found, wrong

    def view(self, root: Path, name: str) -> str:
        """The status that `cat` shows; empty without a view. Raises ValueError if it is torn."""
        path = root / ".experiment_state" / f"{sanitize_experiment_id(name)}.json"
        try:
            return str(json.loads(path.read_bytes())["status"])
        except FileNotFoundError:
            return ""

    def live_on(
        self,
        root: Path,
        found: Mapping[str, Found],
        say: Callable[[str], None],
        recorder: Recorder,
        rng: random.Random,
    ) -> list[str]:
        files = WatchedFiles(recorder)
        clock = Ticking(rng.choice((0.1, 2.0)))
        bench = Bench(root, say, files, clock, {name: each.events for name, each in found.items()})
        wrong = self._ask_the_doctor(root, files, fix=rng.random() < 0.5)
        for name, before in found.items():
            try:
                wrong += self._go_on(bench, name, before.digest, rng)
            except (HoldfastError, OSError) as err:
                wrong.append(f"{name} cannot go on: {type(err).__name__}: {err}")
        return wrong

    def _ask_the_doctor(self, root: Path, files: Files, *, fix: bool) -> list[str]:
        """What its machines would not have allowed; what it mends is found unchanged afterwards."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnreadableStateWarning)
            findings = examine(root / ".experiment_state", fix=fix, margin_s=0, files=files)
        return [
            f"doctor: {each.kind}: {each.path}: {each.what}"
            for each in findings
            if each.kind in ("illegal", "unreadable", "result", "missing", "foreign")
        ]

    def _go_on(self, bench: Bench, name: str, before: str, rng: random.Random) -> list[str]:
        manager = bench.manager()
        wrong = []
        with warnings.catch_warnings():
            warnings.simplefilter("error", UnreadableStateWarning)
            if before == ABSENT:
                state = manager.create(name, num_processes=2)
                bench.promised(state, 0, "create")
                before = digest(state)
            with manager.claim(name) as claim:
                if digest(claim.state) != before:
                    wrong.append(f"{name} was claimed as another state than was loaded")
                for _ in range(2):
                    if str(claim.state.status) == "completed":  # what it computes is written first
                        made = aggregation.build(claim.state, claim.folder)
                        aggregation.write(claim.folder, made, files=bench.files)
                    events = legal_step(claim, bench.clock(), rng)
                    if events:
                        state = claim.record_many(events).state
                        bench.promised(state, len(events), "second life")
                last = digest(claim.state)
            # Released: now the view must agree too, or load warns, which is an error here.
            if digest(manager.load(name)) != last:
                wrong.append(f"{name} is another after its release")
        return wrong
