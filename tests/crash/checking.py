"""What every directory that a crash may leave must still be good for.

A `Subject` is a store as the judge sees it: it can be looked at, and it can live on. `Holdfast` is
ours; `naive` has those that must fail. The judge rebuilds a directory and asks of it:

1. Every experiment is what was last acknowledged, or what the call under way would have made of
   it: nothing missing, nothing half there, nothing unreadable, nothing in the listing that is not
   there and nothing there that is not listed; the history has as many transitions; the view is
   whole and shows the experiment's status.
2. `holdfast doctor` finds no step that the machines do not have, and what it mends (in half of the
   cases) changes nothing. Life goes on, without force: what is there is claimed and a legal step
   recorded, what is not there is created, and a fresh look finds that.
3. The power goes again during that second life, and after a sample of its cuts, 1. holds again for
   what the second life was promised.
"""

import contextlib
import itertools
import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from .effects import Trace, Tree
from .models import CrashState, crash_states, cuts
from .subject import NOTHING, Expected, Found, Subject
from .watching import Recorder

__all__ = ["Judge", "Survey", "Verdict", "expectations", "scratch", "survey"]


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory in memory where there is one: ten thousand rebuilt states should cost no disk."""
    base = "/dev/shm" if os.path.isdir("/dev/shm") else None
    path = Path(tempfile.mkdtemp(prefix="holdfast-crash-", dir=base)).resolve()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def expectations(
    marks: Sequence[tuple[int, str]], cut: int, beginning: Expected | None = None
) -> Expected:
    """What each experiment may be after a cut: as promised, or as the call under way leaves it.

    Args:
        marks: All promises of the life that was cut, also those after the cut: the first of them
            tells what the call under way would have made of its experiment.
        beginning: What each experiment may have been before; None is absent.
    """
    parsed = [(at, json.loads(text)) for at, text in marks]
    allowed: dict[str, tuple[Found, ...]] = {m["id"]: (NOTHING,) for _, m in parsed}
    allowed.update(beginning or {})
    for at, mark in parsed:
        found = Found(mark["digest"], mark["events"], mark["status"])
        if at < cut:
            allowed[mark["id"]] = (found,)
        else:
            allowed[mark["id"]] = (*allowed[mark["id"]], found)
            break
    return allowed


@attrs.define
class Verdict:
    """What the judge found in one directory."""

    problems: list[str] = attrs.field(factory=list)
    second: int = 0


@attrs.define
class Judge:
    """Rebuilds directories and judges them.

    Attributes:
        seconds: How many cuts of each second life are tried.
    """

    subject: Subject
    where: Path
    seconds: int = 2
    _numbers: Iterator[int] = attrs.field(factory=itertools.count)

    def judge(
        self,
        tree: Tree,
        expected: Expected,
        seed: str,
        *,
        live: bool = True,
        views: Expected | None = None,
    ) -> Verdict:
        """What is wrong with *tree*, given what was promised.

        Args:
            views: What the views may show beside that.
        """
        root = self.where / str(next(self._numbers))
        tree.rebuild(root)
        try:
            return self._judge(root, expected, views or {}, random.Random(seed), live=live)
        except Exception as err:  # whatever a store raises on what a crash left is a finding
            return Verdict([f"{type(err).__name__}: {err}"])
        finally:
            shutil.rmtree(root, ignore_errors=True)

    def _judge(
        self, root: Path, expected: Expected, views: Expected, rng: random.Random, *, live: bool
    ) -> Verdict:
        found, wrong = self.subject.look(root, expected)
        verdict = Verdict(wrong)
        for name, allowed in expected.items():
            if found[name] not in allowed:
                verdict.problems.append(f"{name} is {found[name]}, promised was {allowed}")
            try:
                shown = self.subject.view(root, name)
            except (ValueError, KeyError) as err:
                verdict.problems.append(f"the view of {name} is not whole: {err}")
            else:
                if shown not in {each.status for each in (*allowed, *views.get(name, ()))}:
                    verdict.problems.append(f"the view of {name} says {shown!r} of {allowed}")
        if verdict.problems or not live:
            return verdict
        recorder = Recorder(root)
        verdict.problems += self.subject.live_on(root, found, recorder.mark, recorder, rng)
        if verdict.problems:
            return verdict
        self._again(recorder.trace(), found, expected, verdict, rng)
        return verdict

    def _again(
        self,
        trace: Trace,
        found: Mapping[str, Found],
        before: Expected,
        verdict: Verdict,
        rng: random.Random,
    ) -> None:
        """The power goes a second time. Until then the view may have been that of *before*."""
        marks = trace.marks()
        for _ in range(self.seconds):
            cut = rng.randrange(len(trace.effects) + 1)
            states = list(crash_states(trace, seed=rng.getrandbits(32), limit=8, only=[cut]))
            _, state = rng.choice(states)
            expected = expectations(marks, cut, {name: (now,) for name, now in found.items()})
            again = self.judge(state.tree, expected, "", live=False, views=before)
            verdict.second += 1
            verdict.problems += [
                f"second life, {'; '.join(state.lost)}: {problem}" for problem in again.problems
            ]


@attrs.define
class Survey:
    """The figures of an enumeration.

    Attributes:
        distinct: Digests of the distinct directories that were judged.
        judged: Directories times promises: a directory is judged anew when more was promised.
        second: Directories after a second power cut.
        losses: Number of directories with anything wrong; the first few are told in *problems*.
    """

    cuts: int = 0
    distinct: set[str] = attrs.field(factory=set)
    judged: int = 0
    second: int = 0
    losses: int = 0
    problems: list[str] = attrs.field(factory=list)

    def add(self, other: "Survey") -> None:
        """Count *other* in."""
        self.cuts += other.cuts
        self.distinct |= other.distinct
        self.judged += other.judged
        self.second += other.second
        self.losses += other.losses
        self.problems = (self.problems + other.problems)[:10]


def survey(
    name: str,
    trace: Trace,
    subject: Subject,
    where: Path,
    *,
    seed: int = 0,
    limit: int = 100,
    per_cut: int | None = None,
    seconds: int = 1,
    live_share: float = 1.0,
    stop_at_first: bool = False,
    beginning: Expected | None = None,
    since: int = 0,
    known: dict[tuple[str, str], Verdict] | None = None,
) -> Survey:
    """Judge the directories that a power cut anywhere in *trace* may leave.

    Args:
        name: Of the workload, for messages.
        where: A directory to rebuild in.
        limit: Combinations per cut and model up to which all are taken (see `models`).
        per_cut: At most so many directories of each cut, drawn at random; None is all.
        seconds: Power cuts during each second life.
        live_share: The share of directories in which life goes on, drawn at random.
        stop_at_first: One problem is enough: for stores that are meant to fail.
        beginning: What each experiment may have been before the first mark; None is absent.
        since: Only cuts from this effect on.
        known: Verdicts of other surveys on directories in which life did not go on, to be used
            again and added to: equal directories of which the same was promised get the same.
    """
    known = {} if known is None else known
    judge = Judge(subject, where, seconds)
    marks = trace.marks()
    rng = random.Random(f"{name} {seed}")
    done = Survey()
    judged: set[tuple[str, str]] = set()
    for cut in cuts(trace):
        if cut < since:
            continue
        done.cuts += 1
        expected = expectations(marks, cut, beginning)
        promised = repr(expected)
        states = list(crash_states(trace, seed=seed, limit=limit, only=[cut]))
        if per_cut is not None and len(states) > per_cut:
            states = rng.sample(states, per_cut)
        for key, state in states:
            case = (key, promised)
            if case in judged:
                continue
            judged.add(case)
            live = rng.random() < live_share
            verdict = None if live else known.get(case)
            if verdict is None:
                verdict = judge.judge(state.tree, expected, f"{seed} {key}", live=live)
                if not live:
                    known[case] = verdict
            done.judged += 1
            done.second += verdict.second
            done.distinct.add(key)
            if verdict.problems:
                done.losses += 1
                if len(done.problems) < 10:
                    done.problems.append(_tell(name, trace, state, verdict.problems))
                if stop_at_first:
                    return done
    return done


def _tell(name: str, trace: Trace, state: CrashState, problems: Sequence[str]) -> str:
    before = trace.notes[state.cut] if state.cut < len(trace.notes) else "the end"
    lost = "\n    ".join(state.lost) or "nothing lost"
    what = "\n    ".join(problems)
    return (
        f"{name}, power cut before {before!r} (effect {state.cut}, {state.model})\n"
        f"    {lost}\n  then:\n    {what}\n{state.tree.describe()}"
    )
