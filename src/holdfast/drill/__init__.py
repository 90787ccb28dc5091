"""Does an experiment survive? Run undisturbed twice, then killed and resumed again and again.

Owns the order of all that, what counts as equal, and which kill is suspected. The experiment is
run by the real command line, in a copy of its folder.
"""

import itertools
import os
import random
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Literal

import attrs

from holdfast.config.experiment_file import Experiment
from holdfast.drill import tree
from holdfast.drill.differences import Agreement, Difference, agreement, differences, per_attempt
from holdfast.drill.eyes import Eyes
from holdfast.drill.folders import Folders
from holdfast.drill.kills import Kill, Stray
from holdfast.drill.life import Life
from holdfast.drill.looks import Look, look, shape
from holdfast.drill.runs import Runs
from holdfast.drill.strikes import Measured, drawn
from holdfast.reading import text

__all__ = ["Drill", "Round", "Verdict"]

Verdict = Literal[
    "equal", "not equal", "does not run", "cannot be compared", "wrote elsewhere", "never hit"
]

#: Kills in one life at the most: each life is looked at, and names the fewer suspects.
_MOST_KILLS: Final = 6
#: Names in a list of them, and characters of each.
_NAMED: Final = 4
_WORDS: Final = 24
#: How far files are compared that differ without kills.
_HOW: Final = {
    "bytes": "whole",
    "lines": "(lines in any order)",
    "count": "(how many lines)",
    "there": "(that it is there)",
    None: "(how many)",
}
#: Kills that a life has room for, more or less.
_KILLS_A_LIFE: Final = 4
#: Lives in a row in which nothing could be hit, before that is the answer.
_MOST_MISSED: Final = 5


@attrs.frozen(kw_only=True)
class Round:
    """One life in which there were kills."""

    seed: int
    kills: tuple[Kill, ...]
    found: tuple[Difference, ...]
    repeated: int
    besides: tuple[str, ...]
    took_s: float


@attrs.define(kw_only=True)
class Drill:
    """Everything that is done, and what came of it.

    Attributes:
        experiment: What is drilled.
        folders: Where it runs.
        options: What every `run` and `resume` is given.
        settings: What `--set` has.
        ignore: Patterns of files that are not compared.
        compare: Keys of results; None for all that agree undisturbed.
        daemons: Whether what was released may stay alive.
        tell: Where lines of progress go.
        undisturbed: What the lives without kills have left.
        rounds: The others.
        agreed: What is compared.
        dropped: Differences that showed without kills, too.
        code: The exit code of a run that did not get to its end undisturbed.
        said: What it said.
        elsewhere: What a run in the copy has changed outside of it.
        left: What was alive after undisturbed runs.
    """

    experiment: Experiment
    folders: Folders
    kills: int
    seed: int
    sweeps: bool
    options: Sequence[str] = ()
    settings: Sequence[str] = ()
    ignore: Sequence[str] = ()
    compare: Sequence[str] | None = None
    daemons: bool = False
    tell: Callable[[str], None]
    undisturbed: list[Look] = attrs.field(factory=list)
    rounds: list[Round] = attrs.field(factory=list)
    agreed: Agreement | None = None
    measured: Measured | None = None
    dropped: list[str] = attrs.field(factory=list)
    code: int | None = None
    said: list[str] = attrs.field(factory=list)
    elsewhere: list[str] = attrs.field(factory=list)
    left: list[Difference] = attrs.field(factory=list)
    _before: frozenset[tree.Member] = attrs.field(init=False, factory=frozenset)
    _emptied: set[str] = attrs.field(factory=set)
    _durations: list[float] = attrs.field(factory=list)
    _attempts: dict[str, list[float]] = attrs.field(factory=dict)
    _writes: list[int] = attrs.field(factory=list)

    # -- what is done

    def run(self) -> Verdict:
        """Do all of it. Whatever happens, nothing that it started is alive afterwards."""
        self._before = frozenset(tree.below(os.getpid()))
        try:
            return self._run()
        finally:
            tree.end(self._before)
            tree.reap()

    def _run(self) -> Verdict:
        for _ in range(2):
            found = self._undisturbed()
            if self.elsewhere:
                return "wrote elsewhere"
            if found is None:
                return "does not run"
            done = text.count(len(found.done), "process")
            self.tell(f"undisturbed: {done} completed in {text.duration(self._durations[-1])}")
            if self.left:
                return "not equal"
        self.agreed = agreement(*self.undisturbed)
        if set(self.compare or ()) - self.agreed.keys:
            return "cannot be compared"
        self._tell_compared(self.agreed)
        attempts = {unit: statistics.median(each) for unit, each in self._attempts.items()}
        self.measured = Measured(
            run_s=max(self._durations), attempts_s=attempts, writes=min(self._writes)
        )
        missed = 0
        while (left := self.kills - self.struck) > 0 and missed < _MOST_MISSED:
            made = self._round(self.measured, self.seed + len(self.rounds), left)
            missed = 0 if made.kills else missed + 1
            if made.found:
                return "not equal"
        return "equal" if self.struck else "never hit"

    def _tell_compared(self, agreed: Agreement) -> None:
        made = [path for path in agreed.levels if not agreed.first.files[path].as_copied]
        parts = [f"{_listed(sorted(self.keys))} of results"] if self.keys else []
        parts += [text.count(len(made), "file")] if made else []
        self.tell(f"compared: {', '.join(['who completes', *parts])}")
        if self.compare is None and agreed.unequal_keys:
            self.tell(f"different without kills, not compared: {_listed(agreed.unequal_keys)}")
        if agreed.unequal_files:
            told = [f"{path} {_HOW[agreed.levels.get(path)]}" for path in agreed.unequal_files]
            self.tell("different without kills, compared in part:")
            for each in told[:_NAMED]:
                self.tell(f"  {text.one_line(each)}")
            if len(told) > _NAMED:
                self.tell(f"  and {len(told) - _NAMED} more")
        about_s = max(self._durations) * (2 * self.kills / _KILLS_A_LIFE + 1)
        self.tell(f"this takes about {text.duration(about_s)}")

    @property
    def struck(self) -> int:
        """Kills that were done."""
        return sum(len(each.kills) for each in self.rounds)

    @property
    def keys(self) -> Collection[str]:
        """Of results, that are compared."""
        assert self.agreed is not None
        return self.agreed.keys if self.compare is None else self.compare

    def _eyes(self) -> Eyes:
        return Eyes(self.folders.home, self.folders.state_dir, self._emptied)

    def _look(self, lines: Mapping[str, int] | None) -> Look:
        folders = self.folders
        return look(
            folders.home,
            folders.state_dir,
            self.ignore,
            folders.known,
            lines,
            folders.elsewhere,
        )

    def _life(self, eyes: Eyes) -> Life:
        file = self.experiment.path
        assert file is not None
        runs = Runs(
            file=self.folders.home / file.name,
            state_dir=self.folders.state_dir,
            log=self.folders.log,
            options=self.options,
            settings=self.settings,
        )
        return Life(
            runs=runs,
            eyes=eyes,
            tell=self.tell,
            check=self.folders.check,
            before=self._before,
            daemons=self.daemons,
        )

    def _undisturbed(self) -> Look | None:
        """Run it once; None if it did not get to its end."""
        self.folders.lay_out()
        before, lines = self.folders.outside(), self.folders.lines()
        with self._eyes() as eyes:
            life = self._life(eyes)
            life.undisturbed()
            took_s = life.age_s
        self._finish()
        now = self.folders.outside()
        self.elsewhere = sorted(path for path in before if now.get(path) != before[path])
        self.elsewhere += sorted(now.keys() - before.keys())
        if life.code:
            self.code, self.said = life.code, life.runs.said()
            return None
        found = self._look(lines)
        self.undisturbed.append(found)
        if len(self.undisturbed) == 1:
            # What an undisturbed run leaves is what a person compares with.
            self.folders.keep("undisturbed", sum(each.size for each in found.files.values()))
        self.left += map(_stray, life.strays)
        self._durations.append(took_s)
        self._writes.append(life.writes)
        self._note_attempts(found)
        return found

    def _finish(self) -> None:
        tree.end(self._before)
        tree.reap()

    def _note_attempts(self, found: Look) -> None:
        assert found.state is not None
        ranks = found.state.rank_count
        for index, process in found.state.processes.items():
            if process.started_at is not None and process.completed_at is not None:
                unit = str(index) if ranks is None else f"launcher-{index - index % ranks}"
                took_s = (process.completed_at - process.started_at).total_seconds()
                self._attempts.setdefault(unit, []).append(max(took_s, 0.0))

    def _round(self, measured: Measured, seed: int, most: int) -> Round:
        self.folders.lay_out()
        lines = self.folders.lines()
        strikes = itertools.islice(
            drawn(seed, measured, sweeps=self.sweeps), min(most, _MOST_KILLS)
        )
        self.tell(f"round {len(self.rounds) + 1} (seed {seed}):")
        with self._eyes() as eyes:
            life = self._life(eyes)
            life.disturbed(strikes, measured, random.Random(seed), self.struck + 1)
            took_s = life.age_s
        self._finish()
        seen = self._look(lines)
        found = [*self._of_life(life), *self._differences(seen)]
        if found and not life.gave_up and not life.strays:
            found = self._confirmed(found)
        suspected = tuple(attrs.evolve(each, kills=_suspects(each, life.kills)) for each in found)
        made = Round(
            seed=seed,
            kills=tuple(life.kills),
            found=suspected,
            repeated=seen.repeated,
            besides=self._besides(seen),
            took_s=took_s,
        )
        self.rounds.append(made)
        if life.gave_up:
            self.code, self.said = life.code, life.runs.said()
        again = f"{text.count(seen.repeated, 'attempt')} run again"
        how = f"not equal, {text.count(len(found), 'difference')}" if found else "equal"
        self.tell(f"  {how}; {text.duration(took_s)}, {again}")
        return made

    # -- what came of it

    def _differences(self, seen: Look) -> list[Difference]:
        assert self.agreed is not None
        return list(differences(self.agreed, seen, self.keys))

    def _of_life(self, life: Life) -> list[Difference]:
        found = []
        if life.gave_up:
            found.append(Difference(kind="never ends", about="the experiment", says=life.gave_up))
        found += map(_stray, life.strays)
        return found

    def _confirmed(self, found: list[Difference]) -> list[Difference]:
        """Those of *found* that do not show without any kill, too."""
        self.tell("  something differs: once more undisturbed, to see whether kills did it")
        self.folders.keep("killed")
        again = self._undisturbed()
        if again is None:
            return found
        without = {each.key for each in self._differences(again)}
        self.agreed = self._narrowed(again)
        self.dropped += [each.about for each in found if each.key in without]
        found = [each for each in found if each.key not in without]
        if not found:
            self.folders.drop("killed")
        return found

    def _narrowed(self, again: Look) -> Agreement:
        one, two = self.undisturbed[:2]
        first, second = agreement(one, two), agreement(one, again)
        weakest = ("bytes", "lines", "count", "there")
        levels = {
            path: max(level, second.levels[path], key=weakest.index)
            for path, level in first.levels.items()
            if path in second.levels
        }
        return attrs.evolve(
            first,
            keys=first.keys & second.keys,
            levels=levels,
            shapes={k: v for k, v in first.shapes.items() if second.shapes.get(k) == v},
            unequal_keys=tuple(sorted({*first.unequal_keys, *second.unequal_keys})),
            unequal_files=tuple(sorted({*first.unequal_files, *second.unequal_files})),
        )

    def _besides(self, seen: Look) -> tuple[str, ...]:
        """Files that only a life with kills has left, and that are no difference."""
        known = {shape(path) for path in self.undisturbed[0].files}
        own = per_attempt(self.undisturbed[0], seen)
        return tuple(
            path
            for path in sorted(seen.files.keys() - self.undisturbed[0].files.keys())
            if shape(path) not in known or path in own
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(text.short(name, _WORDS) for name in names[:_NAMED]) + more


def _stray(stray: Stray) -> Difference:
    of = "" if stray.of is None else f", started by {stray.of},"
    released = ", released" if stray.released else ""
    return Difference(
        kind="left alive",
        about=f"pid {stray.pid}, {text.short(stray.words, _WORDS) or '?'}{of}",
        says=f"was alive {stray.when}{released}",
        processes=frozenset() if stray.of is None else frozenset((stray.of.index or 0,)),
    )


def _suspects(found: Difference, kills: Sequence[Kill]) -> tuple[int, ...]:
    """The kills that may have made this difference, as few as can be."""
    if found.processes:
        hit = [
            kill.number
            for kill in kills
            if any(name.index in found.processes or name.is_launcher for name in kill.hit)
        ]
        if hit:
            return tuple(hit)
    if found.path is not None:
        wrote = [kill.number for kill in kills if kill.hit and found.path in kill.wrote]
        if wrote:
            return tuple(wrote)
    return tuple(kill.number for kill in kills if kill.hit) or tuple(k.number for k in kills)
