"""The store in the laboratory: the short form of every experiment, in every run."""

import attrs
import pytest

from . import campaigns, schedules
from .boundaries import reference
from .campaigns import LONG, SHORT, Figures
from .checking import scratch
from .effects import Tree
from .lives import killed_then_cut, lives
from .recording import STRACE, record
from .sabotage import SABOTAGES
from .workloads import argv, warm_up

pytestmark = pytest.mark.timeout(900)  # seconds of work, minutes where others work, too


def _none_lost(figures: Figures) -> None:
    print(figures)
    assert not figures.losses, f"{figures}\n" + "\n".join(figures.problems[:3])


@pytest.mark.parametrize("name", campaigns.workloads(SHORT))
def test_no_power_cut_loses_an_acknowledged_step(name: str) -> None:
    """Every directory that a power cut may leave holds what was promised, and life goes on."""
    figures = campaigns.power_cuts(SHORT, [name])
    _none_lost(figures)
    assert figures.numbers["states"] > 30


def test_a_successor_of_a_killed_owner_builds_on_nothing_that_a_power_cut_takes_away() -> None:
    """Killed, gone on from, and only then the power goes."""
    _none_lost(campaigns.killed_twice(SHORT))


def test_a_delete_that_was_killed_at_any_sync_is_finished_durably() -> None:
    """Its successor only sees that the view is gone; a power cut could bring it back alone."""
    warm_up()
    with scratch() as where:
        ref = reference("delete", where)
        for at in ref.before_syncs():
            if "unlink" in ref.calls[at - 2 : at]:
                found = killed_then_cut(ref, at, where)
                assert not found.losses, found.problems[0]
                assert found.judged > 10


def test_a_protocol_with_a_step_removed_or_swapped_is_caught() -> None:
    """Every sync and every change of the store is needed: left out or late, it is missed."""
    figures = campaigns.mutated()
    print(figures)
    assert not figures.problems, "\n".join(figures.problems)
    assert figures.numbers["syncs"] >= 10
    assert figures.numbers["changes"] >= 10
    assert figures.numbers["removals"] >= 15


def test_no_error_and_no_kill_at_any_operation_loses_a_step() -> None:
    """EIO, ENOSPC, EDQUOT, EINTR, EROFS or death at an operation: old or new state, never a mix."""
    _none_lost(campaigns.errors_from_inside(SHORT))


@pytest.mark.skipif(STRACE is None, reason="strace is missing: system calls are not failed")
def test_no_error_and_no_kill_at_any_system_call_loses_a_step() -> None:
    """The same, injected by the kernel."""
    figures = campaigns.errors_from_outside(SHORT)
    _none_lost(figures)
    assert figures.numbers["struck"] == figures.numbers["tried"]


def test_no_interleaving_of_claimants_loses_or_doubles_a_step() -> None:
    """With locks one owner at a time; without, epochs fence; deletes are no exception."""
    figures = campaigns.interleavings(SHORT)
    _none_lost(figures)
    assert figures.numbers["fenced"] > 5
    assert figures.numbers["refused"] > 50


def test_a_schedule_is_reproduced_by_its_seed() -> None:
    """The same number, the same operations in the same order."""
    warm_up()
    with scratch() as where:
        first = schedules.run(7, "no_locks", where)
        again = schedules.run(7, "no_locks", where)
    assert first.order == again.order


@pytest.mark.parametrize(("sabotage", "setting"), SABOTAGES)
def test_a_sabotaged_protocol_is_noticed_by_the_schedules(
    sabotage: schedules.Sabotage, setting: schedules.Setting
) -> None:
    """No fence, a link that clobbers, a lock that everybody gets: schedules find it."""
    warm_up()
    with scratch() as where:
        for seed in range(150):
            if schedules.run(seed, setting, where, cuts=0, sabotage=sabotage).problems:
                return
    pytest.fail("got away with it in 150 schedules")


@pytest.mark.skipif(STRACE is None, reason="strace is missing: recordings are not compared")
@pytest.mark.parametrize("name", ["record", "delete", "refused", "compaction"])
def test_both_recorders_tell_the_same(name: str) -> None:
    """System calls seen by strace and operations seen by the watched files are the same effects."""
    with scratch() as where:
        (life,) = lives([name], where)
        root, marks = where / "traced", where / "marks"
        root.mkdir()
        command, env = argv(name, root, marks)
        trace = record(command, root, marks, env=env)
        assert trace.end().digest == Tree.scan(root).digest
    assert [type(each) for each in trace.effects] == [type(each) for each in life.trace.effects]
    assert [text for _, text in trace.marks()] == [text for _, text in life.trace.marks()]


def test_no_killed_writer_takes_an_acknowledged_step_along() -> None:
    """Writers killed every few milliseconds: each acknowledged batch is there once and whole."""
    figures = campaigns.hammered(SHORT)
    _none_lost(figures)
    assert figures.numbers["acknowledged"] >= SHORT.transitions
    assert figures.numbers["kills"] > 10


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_long_hammer() -> None:
    """A million acknowledged transitions."""
    figures = campaigns.hammered(LONG)
    _none_lost(figures)
    assert figures.numbers["acknowledged"] >= 1_000_000


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_long_power_cuts() -> None:
    """Ten thousand distinct states and many more."""
    figures = campaigns.power_cuts(LONG)
    _none_lost(figures)
    assert figures.numbers["states"] >= 10_000


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_long_kills_before_power_cuts() -> None:
    """The owner killed before every operation of every workload."""
    _none_lost(campaigns.killed_twice(LONG))


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_long_boundaries() -> None:
    """Every operation and every system call, every error: 100 %."""
    _none_lost(campaigns.errors_from_inside(LONG))
    _none_lost(campaigns.errors_from_outside(attrs.evolve(LONG)))


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_long_schedules() -> None:
    """Thousands of interleavings."""
    _none_lost(campaigns.interleavings(LONG))
