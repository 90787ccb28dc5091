"""Plots: what is in them, what is said to be missing, and that nothing is shown by itself."""

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

import holdfast
from experiments import going_on, hostile, sweep
from holdfast import StateManager
from holdfast.errors import InvalidRequestError
from holdfast.lifecycle.records import ExperimentState


@pytest.fixture
def manager(tmp_path: Path) -> StateManager:
    return StateManager(tmp_path / ".experiment_state")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: Any) -> tuple[StateManager, ExperimentState]:
    manager = StateManager(tmp_path_factory.mktemp("swept") / ".experiment_state")
    return manager, sweep(manager, 60, failures=7, retries=5, interruptions=4, curves=20)


def drawn(ax: Any, folder: Path) -> bytes:
    """The picture of *ax*, which must not warn of anything."""
    path = folder / "plot.png"
    with warnings.catch_warnings():
        # Fonts lack characters of names; how a name is spelt is not ours.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        ax.figure.savefig(path)
    return path.read_bytes()


def said(ax: Any) -> str:
    """What is said under the axes, or in them."""
    return ax.get_xlabel().partition("\n")[2] or " ".join(each.get_text() for each in ax.texts)


def across(ax: Any) -> str:
    return ax.get_xlabel().partition("\n")[0]


def labels(ax: Any) -> list[str]:
    return ax.get_legend_handles_labels()[1]


def test_results_has_a_point_for_each_process_and_says_what_has_none(swept, tmp_path):
    """With the mean where several processes have a value in common, and what failed marked."""
    manager, state = swept
    ax = holdfast.plot.results(manager, state, x="lr", y="accuracy")
    [points] = [each for each in ax.collections if each.get_label() == "process"]
    frame = manager.to_pandas(state)
    assert len(points.get_offsets()) == frame["result.accuracy"].notna().sum() == 53
    assert (across(ax), ax.get_ylabel()) == ("lr", "accuracy")
    assert "7 of 60 processes failed" in said(ax)
    assert set(labels(ax)) == {"process", "failed", "mean ± standard deviation"}
    [means] = [each for each in ax.containers if each.get_label().startswith("mean")]
    expected = frame.groupby("params.lr")["result.accuracy"].mean()
    assert list(means[0].get_ydata()) == pytest.approx(expected.tolist())
    assert drawn(ax, tmp_path).startswith(b"\x89PNG")


def test_without_names_it_takes_what_varies_and_what_is_a_number(swept):
    """The first parameter with more than one value, and the first result."""
    manager, state = swept
    ax = holdfast.plot.results(manager, state.experiment_id)
    assert (across(ax), ax.get_ylabel()) == ("lr", "accuracy")
    ax = holdfast.plot.results(manager, state, x="index", y="max_rss_bytes")
    assert (across(ax), ax.get_ylabel()) == ("index", "max_rss [bytes]")
    assert across(holdfast.plot.results(manager, state, x="duration_s")) == "duration [s]"


def test_any_column_can_be_x(swept, tmp_path):
    """Texts, times and what is JSON among them."""
    manager, state = swept
    for name in ("status", "started_at", "host", "result.best.epoch", "params.width"):
        assert drawn(holdfast.plot.results(manager, state, x=name), tmp_path)
    ax = holdfast.plot.results(manager, state, x="status")
    assert [each.get_text() for each in ax.get_xticklabels()] == ["failed", "completed"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"x": "learning", "y": "accurracy"}, "x is 'learning', which is no column"),
        ({"y": "accurracy"}, "did you mean accuracy"),
        ({"y": "status"}, "status is no number: numbers are index"),
        ({"x": "nothing at all like it"}, "there are index, status"),
    ],
)
def test_a_column_that_is_not_there_is_answered_in_words(swept, given, words):
    """It says what may have been meant, or what there is."""
    manager, state = swept
    with pytest.raises(InvalidRequestError, match=words):
        holdfast.plot.results(manager, state, **given)


def test_a_timeline_has_a_bar_for_each_attempt(swept, tmp_path):
    """By how it ended, retries and interruptions among them."""
    manager, state = swept
    ax = holdfast.plot.timeline(manager, state)
    counts = {each.get_label(): len(each.get_paths()) for each in ax.collections}
    assert counts["completed (53)"] == 53
    assert counts["interrupted (4)"] == 4
    history = manager.history(state.experiment_id)
    failed = sum(each.event == "fail" and each.entity == "process" for each in history)
    assert counts[f"failed ({failed})"] == failed > 7
    assert "minutes since" in ax.get_xlabel()
    assert drawn(ax, tmp_path)


def test_a_timeline_of_what_runs_goes_up_to_now(manager: StateManager):
    """Without waiting for anything to end."""
    with going_on(manager, 12, running=3, pending=2):
        ax = holdfast.plot.timeline(manager, "going-on")
    assert "running (3)" in labels(ax)
    assert said(ax) == "2 processes without an attempt"


def test_progress_has_a_line_for_each_process_that_reported(swept, tmp_path):
    """And says how many did not."""
    manager, state = swept
    ax = holdfast.plot.progress(manager, state, "loss")
    assert len(ax.lines) == 20
    assert said(ax) == "40 of 60 processes reported none"
    assert (across(ax), ax.get_ylabel()) == ("step", "loss")
    assert len(holdfast.plot.progress(manager, state, most=5).lines) == 5
    with pytest.raises(InvalidRequestError, match="y is 'los', which nobody reported; reported"):
        holdfast.plot.progress(manager, state, "los")
    assert drawn(ax, tmp_path)


def test_it_draws_into_the_axes_it_is_given(swept):
    """Three in one figure, as in a paper."""
    manager, state = swept
    figure = Figure(layout="constrained")
    for ax, plot in zip(
        figure.subplots(1, 3),
        (holdfast.plot.results, holdfast.plot.timeline, holdfast.plot.progress),
        strict=True,
    ):
        assert plot(manager, state, ax=ax) is ax


def test_an_empty_experiment_has_empty_plots(manager: StateManager, tmp_path: Path):
    """Nothing has begun: axes, and words that say so."""
    manager.create("new", num_processes=3)
    for plot in (holdfast.plot.timeline, holdfast.plot.progress):
        assert drawn(plot(manager, "new"), tmp_path)
    assert said(holdfast.plot.timeline(manager, "new")) == "no attempt has begun"
    words = "no process reported a number while it ran"
    assert said(holdfast.plot.progress(manager, "new")) == words
    with pytest.raises(InvalidRequestError, match="no result is a number"):
        holdfast.plot.results(manager, "new")
    ax = holdfast.plot.results(manager, "new", y="duration_s")
    assert said(ax) == "3 without duration_s"


def test_hostile_words_are_words(manager: StateManager, tmp_path: Path):
    """Formulas, markup and control characters: neither an error nor typeset."""
    state = hostile(manager)
    for plot in (holdfast.plot.timeline, holdfast.plot.progress):
        assert drawn(plot(manager, state), tmp_path)
    for each in manager.to_records(state)[0]:
        if each.startswith(("params.", "result.")):
            assert drawn(holdfast.plot.results(manager, state, x=each, y="index"), tmp_path)
    manager.create("formula", name=r"$\frac{$", num_processes=1)
    ax = holdfast.plot.timeline(manager, "formula")
    assert r"\$\frac{\$ (formula)" in ax.get_title()
    assert drawn(ax, tmp_path)


def test_ten_thousand_processes_are_a_few_things_to_draw(swept):
    """A bar or point of its own for each would take minutes."""
    manager, state = swept
    ax = holdfast.plot.timeline(manager, state)
    assert len(ax.get_children()) < 40
    assert len(holdfast.plot.results(manager, state).get_children()) < 40


def test_a_script_shows_nothing_and_keeps_no_figure(tmp_path: Path):
    """Neither pyplot nor a window; and `import holdfast` loads no matplotlib."""
    StateManager(tmp_path).create("one", num_processes=1)
    script = f"""
import sys, holdfast
assert not [name for name in sys.modules if name.startswith(("matplotlib", "holdfast.plot"))]
ax = holdfast.plot.timeline(holdfast.StateManager({str(tmp_path)!r}), "one")
ax.figure.savefig({str(tmp_path / "one.pdf")!r})
print("matplotlib.pyplot" in sys.modules)
"""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert run.stdout == "False\n"
    assert (tmp_path / "one.pdf").read_bytes().startswith(b"%PDF")


def test_without_matplotlib_it_says_what_to_type(tmp_path: Path):
    """Before anything is read."""
    script = f"""
import sys
sys.modules["matplotlib"] = None
import holdfast
try:
    holdfast.plot.results(holdfast.StateManager({str(tmp_path)!r}), "gone")
except holdfast.NotInstalledError as err:
    print(err)
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout == "matplotlib is not installed\n  pip install 'holdfast[plot]'\n"
