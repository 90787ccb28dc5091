"""What differs between two configurations, or between a process and the nearest that was done.

For people, and decides nothing: whether work is the same is decided by its identity alone.
"""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from holdfast.config.experiment_file import Experiment
from holdfast.config.matrix import identity
from holdfast.config.placeholders import as_text, fill
from holdfast.encoding import local
from holdfast.errors import ConfigError, StateReadError
from holdfast.lifecycle.records import ExperimentState
from holdfast.provenance import code
from holdfast.provenance.digests import Digests
from holdfast.reading import text
from holdfast.status import ProcessStatus

__all__ = ["Difference", "Near", "Nearest", "between", "of_words"]

#: Columns of one value.
_VALUE: Final = 60


@attrs.frozen
class Difference:
    """One thing that differs: `env.LR 0.1 → 0.01`. None stands for what is not there."""

    what: str
    was: Any
    now: Any

    def __str__(self) -> str:
        if isinstance(self.was, list) and isinstance(self.now, list):
            was, now = _shown(self.was), _shown(self.now)
            if was[-1:] == "…" or now[-1:] == "…":
                return f"{text.short(self.what, _VALUE)} {_of_lists(self.was, self.now)}"
        return f"{text.short(self.what, _VALUE)} {_shown(self.was)} → {_shown(self.now)}"


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, str):
        plain = value.isprintable() and value and not any(c in value for c in " \"'→")
        return text.short(value if plain else json.dumps(value, ensure_ascii=False), _VALUE)
    if isinstance(value, bool | int | float):
        return text.short(as_text(value), _VALUE)
    return text.short(json.dumps(value, ensure_ascii=False), _VALUE)


def _of_lists(was: list[Any], now: list[Any]) -> str:
    """What differs between lists of which no more than the beginning could be shown."""
    old, new = ({identity(each): each for each in values} for values in (was, now))
    parts = [
        f"{label}: {_shown([each for key, each in some.items() if key not in other])}"
        for label, some, other in (("new", new, old), ("gone", old, new))
        if some.keys() - other.keys()
    ]
    return f"{len(was):,} → {len(now):,} items ({'; '.join(parts) or 'in another order'})"


def between(
    before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> Iterator[Difference]:
    """What differs between two mappings, key by key: `limits.jobs 2 → 4`, `lr 0.1 → 0.2`."""
    for key in dict.fromkeys((*before, *now)):
        old, new = before.get(key), now.get(key)
        if _same(old, new):
            continue
        name = f"{prefix}{key}"
        if isinstance(old, Mapping | None) and isinstance(new, Mapping | None):
            yield from between(old or {}, new or {}, f"{name}.")
        else:
            yield Difference(name, old, new)


def of_words(before: Sequence[Any], now: Sequence[Any]) -> Iterator[Difference]:
    """What differs between two commands: `word 3 of the command: a → b`, counted from 1."""
    for at, old, new in _pairs(before, now):
        was = None if old is None else before[old]
        yield Difference(_word(at), was, None if new is None else now[new])


def _word(at: int) -> str:
    return f"word {at + 1} of the command:"


def _pairs(
    before: Sequence[Any], now: Sequence[Any]
) -> Iterator[tuple[int, int | None, int | None]]:
    """Where two commands differ: the place, and the indices of the words, None for no word."""
    old, new = ([json.dumps(each) for each in words] for words in (before, now))
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for kind, a, a_end, b, b_end in matcher.get_opcodes():
        if kind == "equal":
            continue
        for step in range(max(a_end - a, b_end - b)):
            there = a + step if a + step < a_end else None
            here = b + step if b + step < b_end else None
            yield (a + step if here is None else b + step), there, here


def _same(old: Any, new: Any) -> bool:
    return old is new or identity(old) == identity(new)


# -- the nearest that was done --------------------------------------------------------------------

_Params = tuple[tuple[str, str], ...]


@attrs.frozen(kw_only=True)
class Near:
    """The process of another experiment that is most like one of ours.

    Attributes:
        name: `exp_a/3`.
        differences: Why what it did is not the work of ours.
        failed: How it failed, if it did the very same.
        told: Whether what is decided of ours says so already.
    """

    name: str
    differences: tuple[str, ...]
    failed: str | None = None
    told: bool = False

    def __str__(self) -> str:
        if self.failed is not None:
            return f"failed as {self.name}: {self.failed}"
        return f"{', '.join(self.differences)} (unlike {self.name})"


class Nearest:
    """Finds what is most like processes of *experiment* among what others have completed."""

    def __init__(
        self,
        experiment: Experiment,
        state_dir: Path,
        digests: Digests,
        others: Iterable[tuple[ExperimentState, Path]],
    ) -> None:
        """Look among *others*, each with its folder, the newest first."""
        self._experiment = experiment
        found = (_Other.of(experiment, state_dir, digests, *each) for each in others)
        self._others = [each for each in found if each is not None]

    def of(self, index: int) -> Near | None:
        """What is most like process *index*; None if there is nothing."""
        for other in self._others:
            if (tried := other.failed(index)) is not None:
                name = f"{other.state.experiment_id}/{tried}"
                why = other.state.processes[tried].error_message or "nobody knows why"
                return Near(name=name, differences=(), failed=why)
        best: Near | None = None
        for other in self._others:
            process = other.nearest(index)
            found = tuple(map(str, other.differences(index, process)))
            if found and (best is None or len(found) < len(best.differences)):
                name = f"{other.state.experiment_id}/{process}"
                best = Near(name=name, differences=found)
            if best is not None and len(best.differences) == 1:
                break
        return best


class _Other:
    """One other experiment, as it is compared with ours."""

    def __init__(
        self,
        ours: Experiment,
        theirs: Experiment,
        state: ExperimentState,
        folder: Path,
        state_dir: Path,
        digests: Digests,
    ) -> None:
        self.state = state
        self._ours = ours
        self._theirs = theirs
        self._folder = folder
        self._digests = digests
        self._done = state.processes.indices(ProcessStatus.COMPLETED)
        keys = {key for each in ours.params for key in each}
        self._common = keys & {key for each in theirs.params for key in each}
        self._by_params: dict[_Params, int] = {}
        self._but_one: dict[_Params, int] = {}
        for index in self._done:
            params = self._projected(theirs.params[index])
            self._by_params.setdefault(params, index)
            for at in range(len(params)):
                # The last one: values are added at the end, and look most like what is there.
                self._but_one[*params[:at], *params[at + 1 :]] = index
        self._failed = {
            self._projected(theirs.params[index]): index
            for index in state.processes.indices(ProcessStatus.FAILED)
        }
        self._words = list(_pairs(theirs.command, ours.command))
        self._env = [
            name
            for name in dict.fromkeys((*theirs.env, *ours.env))
            if theirs.env.get(name) != ours.env.get(name)
        ]
        templates = [*ours.command, *ours.env.values(), *theirs.command, *theirs.env.values()]
        counted = ours.matrix is None or theirs.matrix is None
        self._counts = counted or any("{count" in each for each in templates)
        self._numbers = counted or any("{index" in each for each in templates)
        self._numbers = self._numbers or ours.identity.index or theirs.identity.index
        places = (each.work(state_dir)["cwd"] for each in (theirs, ours))
        self._same_for_all = [
            Difference(what, was, now)
            for what, was, now in (
                ("runs in", *places),
                ("ranks", _ranks(theirs), _ranks(ours)),
                ("independent", _independent(theirs), _independent(ours)),
            )
            if was != now
        ]
        if self._counts and theirs.num_processes != ours.num_processes:
            number = theirs.num_processes, ours.num_processes
            self._same_for_all.append(Difference("processes", *number))
        self._declared: dict[tuple[str, tuple[str, ...]], tuple[str, ...]] = {}

    @classmethod
    def of(
        cls,
        ours: Experiment,
        state_dir: Path,
        digests: Digests,
        state: ExperimentState,
        folder: Path,
    ) -> "_Other | None":
        """None if there is nothing to compare with."""
        if not state.processes_completed or not state.config.get("command"):
            return None
        try:
            theirs = Experiment.from_stored(
                state.config, state.cwd, state_dir=state_dir, config_hash=state.config_hash
            )
        except (ConfigError, TypeError, ValueError):
            return None  # made by hand, or by a version that could do more
        if theirs.num_processes != state.num_processes:
            return None
        return cls(ours, theirs, state, folder, state_dir, digests)

    def _projected(self, params: Mapping[str, Any]) -> _Params:
        return tuple((k, identity(params[k])) for k in sorted(params) if k in self._common)

    def failed(self, index: int) -> int | None:
        """The process that did the work of our process *index*, and failed; None if none did."""
        found = self._failed.get(self._projected(self._ours.params[index]))
        return None if found is None or any(self.differences(index, found)) else found

    def nearest(self, index: int) -> int:
        """The completed process that shares the most parameters with our process *index*."""
        params = self._projected(self._ours.params[index])
        done = self.state.process_progress.get(index)
        completed = done is not None and done.status is ProcessStatus.COMPLETED
        if completed and self._projected(self._theirs.params[index]) == params:
            return index
        if (found := self._by_params.get(params)) is not None:
            return found
        for at in range(len(params) - 1, -1, -1):
            found = self._but_one.get((*params[:at], *params[at + 1 :]))
            if found is not None:
                return found
        return self._done[0]

    def differences(self, index: int, process: int) -> Iterator["Difference | str"]:
        """Why the work of their *process* is not that of our *index*."""
        ours, theirs = self._ours, self._theirs
        yield from between(theirs.params[process], ours.params[index])
        if self._words:
            yield from self._of_command(index, process)
        if self._env:
            was, now = theirs.environment(process), ours.environment(index)
            changed = {name: (was.get(name), now.get(name)) for name in self._env}
            for name, (old, new) in changed.items():
                if old != new:
                    yield Difference(f"env.{name}", old, new)
        if self._numbers and index != process:
            yield Difference("index", process, index)
        yield from self._same_for_all
        yield from self._of_declared(index, process)

    def _of_command(self, index: int, process: int) -> Iterator[Difference]:
        was = [_filled(self._theirs, word, process) for word in self._theirs.command]
        now = [_filled(self._ours, word, index) for word in self._ours.command]
        for at, old, new in self._words:
            before = None if old is None else was[old]
            after = None if new is None else now[new]
            if before != after:
                yield Difference(_word(at), before, after)

    def _of_declared(self, index: int, process: int) -> Iterator[str]:
        """The declared files that are not what they were; nothing where that is not recorded."""
        name = self.state.processes[process].code
        paths = self._ours.declared(index)
        if name is None:
            if self.state.processes[process].work is None:
                yield "what it did was not recorded (an older version ran it)"
            return
        key = name, paths
        if key not in self._declared:
            ran = code.read(self._folder, name)
            self._declared[key] = () if ran is None else tuple(self._fates(ran, paths))
        yield from self._declared[key]

    def _fates(self, ran: code.Code, paths: Sequence[str]) -> Iterator[str]:
        for path in dict.fromkeys((*ran.declared, *paths)):
            then = ran.declared.get(path)
            try:
                if then is None:
                    yield f"declared {path} is new"
                elif path not in paths:
                    yield f"{path} is not declared any more"
                elif self._digests.of(self._ours.cwd / local(path)) != then:
                    yield f"declared {path} changed"
            except StateReadError as err:
                yield f"declared {path} cannot be read: {err.cause}"


def _filled(experiment: Experiment, word: str, index: int) -> str | None:
    first = index - index % experiment.rank_count
    counted = {"index": first, "count": experiment.num_processes}
    return fill(word, {**experiment.params[index], **counted})


def _ranks(experiment: Experiment) -> int | None:
    return None if experiment.ranks is None else experiment.ranks.count


def _independent(experiment: Experiment) -> bool | None:
    return None if experiment.ranks is None else experiment.ranks.independent
