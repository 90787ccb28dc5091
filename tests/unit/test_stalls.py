"""Which attempts have stalled: by what this process saw, and by its own monotonic clock alone."""

import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest

from holdfast.attempts import files
from holdfast.attempts.names import AttemptName, prepare, progress_path, reports_dir
from holdfast.attempts.progress import MOST_BYTES
from holdfast.config.experiment_file import Experiment
from holdfast.engines.local.engine import LocalEngine
from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration.launching import Launcher
from holdfast.orchestration.stalls import Stalls
from holdfast.orchestration.watch import Watch
from holdfast.status import Reason

NAME = AttemptName("exp_7", "0", 1)
TOLD = "it has reported nothing for 60 s, since 12:33:56Z (limits.stall)"


@attrs.define
class Clock:
    """Seconds that pass only when they are told to."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@attrs.frozen
class Subject:
    """A watch on one attempt that reports, and the clock that it goes by."""

    watch: Watch
    clock: Clock
    stalls: Stalls

    @property
    def path(self) -> Path:
        return progress_path(self.watch.launcher.folder, NAME)

    def report(self, lines: int = 1) -> None:
        with self.path.open("a") as file:
            file.write(f"{json.dumps({'step': 1, 'pad': 'x' * 1000})}\n" * lines)

    def after(self, seconds: float) -> dict[AttemptName, str]:
        """Which attempts have stalled, so many seconds later."""
        self.clock.now += seconds
        return self.stalls.look()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[..., Subject]]:
    with LocalEngine() as engine:

        def make(**limits: object) -> Subject:
            prepare(tmp_path)
            launcher = Launcher(
                experiment_id="exp_7",
                experiment=Experiment.from_config({"command": ["true"], "limits": limits}),
                folder=tmp_path,
                state_dir=tmp_path,
                cwd=str(tmp_path),
            )
            clock = Clock()
            state = ExperimentState(experiment_id="exp_7", num_processes=1)
            watch = Watch(
                engine=engine,
                launcher=launcher,
                clock=lambda: datetime(2024, 1, 15, 12, 34, 56, tzinfo=UTC),
                state=lambda: state,
                fence=lambda: None,
                monotonic=clock,
            )
            watch.adopt([NAME], {})
            return Subject(watch, clock, Stalls(watch))

        yield make


def test_silence_counts_from_the_last_report(made: Callable[..., Subject]) -> None:
    """Told for as long as it lasts; a report ends it."""
    subject = made(stall="60s")
    subject.report()
    assert subject.after(0) == {}
    assert subject.after(59) == {}
    assert subject.after(1) == {
        NAME: "it has reported nothing for 60 s, since 12:33:56Z (limits.stall); it runs on"
    }
    assert list(subject.after(5)) == [NAME]
    subject.report()
    assert subject.after(1) == {}
    assert subject.after(59) == {}
    assert list(subject.after(1)) == [NAME]
    assert files.requested(subject.watch.launcher.folder, NAME) is None


def test_what_never_reports_never_stalls(made: Callable[..., Subject]) -> None:
    """It may not know how; and an empty file, or something else, is no report."""
    subject = made(stall="1s", on_stall="restart")
    assert subject.after(10_000) == {}
    subject.path.touch()
    assert subject.after(10_000) == {}
    subject.path.unlink()
    subject.path.symlink_to("elsewhere")
    assert subject.after(10_000) == {}
    assert subject.after(10_000) == {}
    assert subject.watch.asking.asked == {}


def test_a_report_that_was_there_before_counts_from_when_it_was_seen(
    made: Callable[..., Subject],
) -> None:
    """Whoever takes a running attempt over cannot know for how long it has been silent."""
    subject = made(stall="60s")
    subject.report()
    os.utime(subject.path, (0, 0))
    assert subject.after(0) == {}
    assert subject.after(59) == {}
    assert list(subject.after(1)) == [NAME]


@pytest.mark.parametrize("at", [0, 4_000_000_000])
def test_a_clock_that_is_set_makes_no_stall(made: Callable[..., Subject], at: int) -> None:
    """Times of files are only compared with what they were."""
    subject = made(stall="60s")
    subject.report()
    subject.after(0)
    for _ in range(5):
        subject.report()
        os.utime(subject.path, (at, at))
        assert subject.after(50) == {}


def test_reports_of_ranks_count_for_their_attempt(made: Callable[..., Subject]) -> None:
    """In files of their own; what else lies there does not."""
    subject = made(stall="60s")
    folder = reports_dir(subject.watch.launcher.folder, NAME)
    folder.mkdir()
    (folder / "0.0-9-9-h.begun").write_text("{}")
    assert subject.after(100) == {}
    assert subject.after(100) == {}
    (folder / "0.0-9-9-h.progress").write_text("{}\n")
    assert subject.after(1) == {}
    (folder / "0.0-9-9-h.log").write_text("much ado\n")
    assert list(subject.after(60)) == [NAME]


def test_with_restart_it_is_asked_to_stop_once(made: Callable[..., Subject]) -> None:
    """The request says why, so that whoever finds its end knows, too."""
    subject = made(stall="60s", on_stall="restart")
    subject.report()
    subject.after(0)
    assert subject.after(60) == {NAME: f"{TOLD}; it is stopped and tried again"}
    assert files.requested(subject.watch.launcher.folder, NAME) is Reason.STALL
    assert subject.after(60) == {}


def test_what_is_about_to_end_has_not_stalled(made: Callable[..., Subject]) -> None:
    """Its command has ended: whatever its outcome waits for, it is not to be lost."""
    subject = made(stall="60s", on_stall="restart")
    subject.report()
    subject.after(0)
    subject.watch.completing.add(NAME)
    assert subject.after(600) == {}
    assert files.requested(subject.watch.launcher.folder, NAME) is None


def test_a_cut_is_no_report(made: Callable[..., Subject]) -> None:
    """A file that shrinks under our hands does not hide a silence."""
    subject = made(stall="60s")
    subject.report(lines=2 * MOST_BYTES // 1000)
    assert subject.after(0) == {}
    assert subject.after(59) == {}
    assert list(subject.after(1)) == [NAME]


@pytest.mark.parametrize("limits", [{}, {"stall": "60s"}])
def test_what_outgrew_its_room_is_cut_while_it_runs_and_at_its_end(
    made: Callable[..., Subject], limits: dict[str, str]
) -> None:
    """With a limit or without."""
    subject = made(**limits)
    for _ in range(2):
        subject.report(lines=2 * MOST_BYTES // 1000)
        subject.after(10)
        assert subject.path.stat().st_size < MOST_BYTES
    subject.report(lines=2 * MOST_BYTES // 1000)
    del subject.watch.handles[NAME]
    subject.after(10)
    assert subject.path.stat().st_size < MOST_BYTES
