"""Every experiment of the laboratory, each in a short and a long form, each with its figures.

The tests run the short forms in every run and the long ones under the marker `long`;
`python -m tests.crash` prints the figures of either.
"""

import errno
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from . import mutants, removals, schedules
from .boundaries import ERRORS, Zygote, boundaries_of, inside, outside, reference
from .chaos import chaos
from .checking import Survey, Verdict, scratch, survey
from .effects import Tree
from .figures import LONG, SHORT, Figures, Scale
from .hammer import hammer
from .jobs import swept_jobs
from .lives import killed_then_cut, lives
from .powercut import FILE_SYSTEMS, cut_power, unavailable
from .recording import STRACE, record
from .subject import Holdfast
from .sweeps import sweeps
from .watching import HALF, INTERRUPT, WRITES
from .workloads import WORKLOADS, argv, warm_up

__all__ = [
    "EXPERIMENTS", "LONG", "SHORT", "Figures", "Scale", "errors_from_inside", "errors_from_outside",
    "hammered", "havoc", "interleavings", "killed_twice", "mutated", "power_cuts",
    "real_power_cuts", "swept", "swept_by_batch",
]  # fmt: skip


def _each(function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], jobs: int) -> list[Any]:
    """`function(*task)` for every task, by *jobs* processes."""
    if jobs == 1:
        return [function(*task) for task in tasks]
    # Not forked: the parent may have threads.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return list(pool.map(function, *zip(*tasks, strict=True)))


def workloads(scale: Scale) -> list[str]:
    """Those that are written, and as many at random as *scale* says."""
    return [*WORKLOADS, *(f"random-{seed}" for seed in range(scale.lives))]


def _recorded(name: str, limit: int, live: float, strace: bool) -> Survey:
    warm_up()
    with scratch() as where:
        if strace:
            root, marks = where / "life", where / "marks"
            root.mkdir()
            command, env = argv(name, root, marks)
            trace = record(command, root, marks, env=env)
            assert trace.end().digest == Tree.scan(root).digest, (
                "the recording is not what happened"
            )
        else:
            (life,) = lives([name], where)
            trace = life.trace
        return survey(name, trace, Holdfast(), where, limit=limit, live_share=live)


def power_cuts(scale: Scale, names: Sequence[str] = ()) -> Figures:
    """Every directory that a power cut in a workload may leave, judged and lived on in.

    Args:
        names: The workloads; by default all of them.
    """
    done = Survey()
    names = names or workloads(scale)
    tasks = [(name, scale.limit, scale.live, STRACE is not None) for name in names]
    for each in _each(_recorded, tasks, scale.jobs):
        done.add(each)
    by = "strace" if STRACE else "watched files, as strace is missing"
    return Figures(
        "power cut (POSIX, ext4)",
        f"{len(done.distinct):,} distinct states, {done.judged:,} judged at {done.cuts:,} cuts, "
        f"{done.second:,} second cuts, by {by}",
        done.losses,
        done.problems,
        {"states": len(done.distinct)},
    )


def _killed(name: str, at: int, limit: int, per_cut: int | None) -> Survey:
    warm_up()
    with scratch() as where:
        return killed_then_cut(reference(name, where), at, where, limit=limit, per_cut=per_cut)


def killed_twice(scale: Scale) -> Figures:
    """The owner is killed, its successor goes on, and then the power goes."""
    tasks = []
    rng = random.Random(0)
    with scratch() as where:
        for name in WORKLOADS:
            ref = reference(name, where)
            points: Sequence[int] = range(len(ref.calls))
            if scale.kills is not None:
                points = rng.sample(ref.before_syncs(), scale.kills)
            tasks += [(name, at, 8, 3 if scale.kills else None) for at in points]
    done = Survey()
    for each in _each(_killed, tasks, scale.jobs):
        done.add(each)
    return Figures(
        "kill, successor, power cut",
        f"{len(done.distinct):,} distinct states after {len(tasks):,} kills, "
        f"{done.judged:,} judged",
        done.losses,
        done.problems,
        {"states": len(done.distinct)},
    )


def mutated() -> Figures:
    """Our protocol without, or with a late, step; here a *survivor* counts as the loss."""
    survivors = []
    killed = ["adopt", "aggregate"]
    known: dict[tuple[str, str], Verdict] = {}
    with scratch() as where:
        recorded = list(lives(WORKLOADS, where))
        synced = mutants.steps(recorded)
        for step in synced:
            if not mutants.caught(step, mutants.without, recorded, killed, where, known):
                survivors.append(f"without {step} nothing is lost")
            swapped = mutants.caught(step, mutants.behind, recorded, [], where, known)
            swapped = swapped or mutants.caught(step, mutants.late, recorded, [], where, known)
            if not swapped and not mutants.caught(step, mutants.behind, [], killed, where, known):
                survivors.append(f"with a late {step} nothing is lost")
        changed = mutants.changes(recorded)
        for step in changed:
            if not mutants.caught(step, mutants.overtaken, recorded, [], where, known):
                survivors.append(f"with {step} behind the next sync nothing is lost")
        references = [reference(name, where) for name in WORKLOADS]
        left_out = removals.steps(references, where)
        for removal in left_out:
            if not removals.noticed(removal, references, where):
                survivors.append(f"nobody notices that {removal} is left out")
    total = 2 * len(synced) + len(changed) + len(left_out)
    text = (
        f"{len(synced)} syncs left out and late, {len(changed)} changes late, {len(left_out)} left "
        f"out: {total - len(survivors)} of {total} caught"
    )
    numbers = {"syncs": len(synced), "changes": len(changed), "removals": len(left_out)}
    return Figures("our protocol, a step missing", text, len(survivors), survivors, numbers)


def _inside(name: str, faults: int | None, seed: int) -> tuple[int, int, list[str]]:
    warm_up()
    with scratch() as where:
        ref = reference(name, where)
        space = [(at, error, False) for at in range(len(ref.calls)) for error in ERRORS]
        space += [(at, INTERRUPT, False) for at in range(len(ref.calls))]
        space += [(at, HALF, False) for at, call in enumerate(ref.calls) if call in WRITES]
        # A disk that stays full, or read-only.
        space += [
            (at, e, True) for at in range(len(ref.calls)) for e in (errno.ENOSPC, errno.EROFS)
        ]
        tried = space
        if faults is not None:
            tried = random.Random(f"{name} {seed}").sample(space, min(faults, len(space)))
        problems = []
        for at, error, sticky in tried:
            problems += inside(ref, at, error, where, sticky=sticky)
        return len(tried), len(space), problems


def errors_from_inside(scale: Scale) -> Figures:
    """Death and errors at the operations of the store's own door to the file system."""
    tried = possible = 0
    problems: list[str] = []
    for one, of, found in _each(_inside, [(n, scale.faults, 0) for n in WORKLOADS], scale.jobs):
        tried, possible, problems = tried + one, possible + of, problems + found
    text = f"{tried:,} of {possible:,} tried ({tried / possible:.0%})"
    return Figures("operations x (kill, errors)", text, len(problems), problems, {"tried": tried})


def _outside(name: str, injections: int | None, seed: int) -> tuple[int, int, int, list[str]]:
    warm_up()
    with scratch() as where, Zygote() as zygote:
        ref = reference(name, where)
        counts = boundaries_of(zygote, name, where)
        space = [
            (call, at, error)
            for call, count in sorted(counts.items())
            for at in range(1, count + 1)
            for error in ERRORS
        ]
        tried = space
        if injections is not None:
            tried = random.Random(f"{name} {seed}").sample(space, min(injections, len(space)))
        struck, problems = 0, []
        for call, at, error in tried:
            hit, found = outside(zygote, ref, call, at, error, where)
            struck += hit
            problems += found
        return len(tried), len(space), struck, problems


def errors_from_outside(scale: Scale) -> Figures:
    """Death and errors injected by the kernel into system calls."""
    title = "system calls x (kill, errors)"
    if STRACE is None:
        return Figures(title, "NOT RUN: strace is missing")
    tried = possible = struck = 0
    problems: list[str] = []
    tasks = [(name, scale.injections, 0) for name in WORKLOADS]
    for one, of, hit, found in _each(_outside, tasks, scale.jobs):
        tried, possible, struck, problems = (
            tried + one,
            possible + of,
            struck + hit,
            problems + found,
        )
    text = f"{tried:,} of {possible:,} tried ({tried / possible:.0%}), {struck:,} struck"
    return Figures(title, text, len(problems), problems, {"tried": tried, "struck": struck})


def _schedules(setting: schedules.Setting, first: int, last: int) -> list[schedules.Outcome]:
    warm_up()
    with scratch() as where:
        return [schedules.run(seed, setting, where) for seed in range(first, last)]


def interleavings(scale: Scale) -> Figures:
    """Claimants, readers, deleters, interleaved operation by operation."""
    settings: tuple[schedules.Setting, ...] = ("locks", "no_locks", "deletes", "lawless")
    chunk = max(1, scale.schedules // max(1, 2 * scale.jobs))
    tasks = [
        (setting, first, min(first + chunk, scale.schedules))
        for setting in settings
        for first in range(0, scale.schedules, chunk)
    ]
    outcomes = [each for part in _each(_schedules, tasks, scale.jobs) for each in part]
    problems = [problem for each in outcomes for problem in each.problems]
    text = (
        f"{len(outcomes):,} schedules, {sum(o.operations for o in outcomes):,} operations, "
        f"{sum(o.acknowledged for o in outcomes):,} acknowledged, "
        f"{sum(o.refused for o in outcomes):,} refused, "
        f"{sum(o.fenced for o in outcomes):,} fenced, "
        f"{sum(o.power_cuts for o in outcomes):,} power cuts"
    )
    return Figures(
        "two claimants and a reader", text, len(problems), problems,
        {"fenced": sum(o.fenced for o in outcomes), "refused": sum(o.refused for o in outcomes)},
    )  # fmt: skip


def real_power_cuts(kind: str, scale: Scale) -> Figures:
    """A real file system shut down under load and mounted again."""
    title = f"{kind} losing power"
    why_not = unavailable(kind)
    if why_not is not None:
        return Figures(title, f"NOT RUN: {why_not}")
    # Images belong on a disk, not in memory.
    with tempfile.TemporaryDirectory() as where:
        done = cut_power(kind, Path(where), scale.cuts)
    text = f"{done.cuts} cuts, {done.acknowledged:,} acknowledged transitions"
    return Figures(title, text, len(done.problems), done.problems, {"cuts": done.cuts})


def hammered(scale: Scale) -> Figures:
    """Writers killed at random, their promises kept."""
    with scratch() as where:
        done = hammer(where, scale.transitions)
    text = f"{done.acknowledged:,} acknowledged transitions, {done.kills:,} writers killed"
    return Figures(
        "kill hammer", text, len(done.problems), done.problems,
        {"acknowledged": done.acknowledged, "kills": done.kills},
    )  # fmt: skip


def swept(scale: Scale) -> Figures:
    """Whole trees under real runs, swept by TERM in every order, with the orchestrator or not."""
    done = sweeps(scale.sweeps)
    text = (
        f"{done.sweeps:,} sweeps of {done.signals:,} signals ({done.slow:,} too slow to count), "
        f"{done.interrupted:,} interrupted, {done.went_on:,} went on and {done.saved:,} saved; "
        f"{done.false} false completions, {done.charged} charged failures, {done.hangs} hangs, "
        f"{done.codes} wrong exit codes, {done.strays} strays, {done.unfinished} unfinished"
    )
    return Figures(
        "a batch system's sweeps", text, done.losses, done.problems,
        {"sweeps": done.sweeps, "slow": done.slow, "went_on": done.went_on, "saved": done.saved},
    )  # fmt: skip


def swept_by_batch(scale: Scale) -> Figures:
    """Jobs on a node, swept by TERM in every order, some before their commands have begun."""
    done = swept_jobs(scale.batch_jobs)
    text = (
        f"{done.sweeps:,} jobs, {done.signals:,} signals ({done.slow:,} too slow to count), "
        f"{done.interrupted:,} interrupted, {done.went_on:,} went on and {done.saved:,} saved; "
        f"{done.false} false completions, {done.charged} charged failures, {done.hangs} hangs, "
        f"{done.codes} wrong exit codes, {done.strays} strays, {done.unfinished} unfinished"
    )
    return Figures(
        "sweeps of jobs on a node", text, done.losses, done.problems,
        {"sweeps": done.sweeps, "slow": done.slow, "went_on": done.went_on, "saved": done.saved},
    )  # fmt: skip


def havoc(scale: Scale) -> Figures:
    """Experiments of all kinds of processes, of which every part is killed, stopped and swept."""
    done = chaos(scale.experiments, scale.events, sizes=scale.sizes, work_s=scale.work_s)
    text = (
        f"{done.experiments} experiments of {done.processes:,} processes, {done.starts:,} starts, "
        f"{done.runs:,} runs, {done.kills:,} events ({_counted(done.events)}); "
        f"{done.overlaps} overlaps, {done.repeats} repeats, {done.lost} lost, "
        f"{done.strays} strays, {done.false} false completions, {done.hangs} hangs"
    )
    return Figures(
        "chaos", text, done.losses, done.problems,
        {"events": done.kills, "starts": done.starts, "processes": done.processes},
    )  # fmt: skip


def _counted(events: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in events.most_common())


EXPERIMENTS: dict[str, Callable[[Scale], Figures]] = {
    "power-cuts": power_cuts,
    "kills": killed_twice,
    "mutants": lambda _: mutated(),
    "inside": errors_from_inside,
    "outside": errors_from_outside,
    "schedules": interleavings,
    **{kind: partial(real_power_cuts, kind) for kind in FILE_SYSTEMS},
    "hammer": hammered,
    "sweeps": swept,
    "jobs": swept_by_batch,
    "chaos": havoc,
}
