"""A run as the notebook shows it whose cell it blocks: drawn again and again in one place.

Looks at records in memory and at what processes report; its own thread draws, at most twice a
second, and less often where drawing takes long. Nothing of it stops, fails or slows a run.
"""

import contextlib
import contextvars
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from holdfast.lifecycle.records import ExperimentState, ProcessTable
from holdfast.reading import glyphs, grouping, progress, reasons, shown, text
from holdfast.reading.evidence import Params, parameters, params_words
from holdfast.reading.reasons import Failure
from holdfast.status import ProcessStatus

__all__ = ["following", "in_notebook"]

_EVERY_S: Final = 0.5
#: At most this part of a core, as long as a picture is not older than that.
_SHARE: Final = 0.05
_LONGEST_S: Final = 10.0
_MOST_RUNNING: Final = 8
_MOST_LOGS: Final = 200
#: How long the run waits in the end for a picture that is being drawn.
_PATIENCE_S: Final = 2.0

Look = Callable[[], ExperimentState]
Bundle = dict[str, str]


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook, and not a terminal or a script."""
    # Of one that is being imported, or is kept from it, there may be less than all.
    asked = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return asked is not None and hasattr(asked(), "kernel")


def following(look: Look, folder: Path, *, whole: bool = True) -> AbstractContextManager[object]:
    """Show how the experiment of *look* stands as long as the context lasts; outside of notebooks
    it does nothing.

    Args:
        look: Gives the newest state, from any thread.
        folder: The experiment's.
        whole: Whether all of it is to be run; else nothing is said of its end.
    """
    if not in_notebook():
        return nullcontext()
    return _shown(_Picture(look, folder, whole=whole))


@contextlib.contextmanager
def _shown(picture: "_Picture") -> Iterator[None]:
    name = f"holdfast-{token_hex(8)}"
    over, begun = threading.Event(), threading.Event()

    def draw() -> float:
        began = time.thread_time()
        # A kernel that shuts down, a closed socket, a state that is odd: never the run's concern.
        with contextlib.suppress(Exception):
            _publish(picture.bundle(), name, first=not begun.is_set())
            begun.set()
        return time.thread_time() - began

    def go_on() -> None:
        draw()  # what it costs to load for the first time is no measure
        wait_s = _EVERY_S
        while not over.wait(wait_s):
            wait_s = min(max(_EVERY_S, draw() / _SHARE), _LONGEST_S)

    # In the context of the cell: there the kernel finds to which cell an output belongs.
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(go_on,), name=name, daemon=True)
    with contextlib.suppress(RuntimeError):  # no more threads: the last picture is all there is
        thread.start()
    try:
        yield
    finally:
        over.set()
        if thread.ident is not None:
            thread.join(_PATIENCE_S)
        if not thread.is_alive():
            draw()


def _publish(bundle: Bundle, name: str, *, first: bool) -> None:
    from IPython.display import display

    display(bundle, raw=True, display_id=name, update=not first)


class _Picture:
    """What is drawn; remembers what it has looked up before."""

    def __init__(self, look: Look, folder: Path, *, whole: bool) -> None:
        self._look = look
        self._folder = folder
        self._whole = whole
        self._began = datetime.now(UTC)
        self._looks = progress.Looks()
        self._estimate = progress.Estimate()
        self._before: ProcessTable | None = None
        self._params: Params = None
        self._asked = False
        self._why: dict[tuple[int, int], Failure] = {}

    def bundle(self) -> Bundle:
        """How the experiment stands now, by MIME type."""
        state, now = self._look(), datetime.now(UTC)
        self._count(state)
        head = self._head(state, now)
        groups = grouping.groups(self._failures(state))
        running = list(self._running(state, now))
        html = f"<div>{escape(head)}{shown.bar(state)}{shown.failures(groups)}"
        if running:
            html += shown.table(("process", "attempt", "for", *progress.HEADER, "", ""), running)
            left = state.processes_running - len(running)
            html += f"<div>… and {left:,} more running</div>" if left else ""
        return {"text/plain": head, "text/html": f"{html}</div>"}

    def _count(self, state: ExperimentState) -> None:
        """Take in what completed since the last look, for the estimate; once, the parameters."""
        table = state.processes
        changed = range(len(table)) if self._before is None else table.changed_since(self._before)
        for index in changed:
            if table[index].status is ProcessStatus.COMPLETED and table[index].origin is None:
                self._estimate.ended(table[index])
        self._before = table
        if not self._asked:
            # Of ten thousand processes they take a while, which the run is not to wait for.
            self._params, self._asked = parameters(state), True

    def _head(self, state: ExperimentState, now: datetime) -> str:
        """`● running sweep: 12 of 60 completed, 3 running, for 1m 20s, 4m to go`."""
        name = text.short(state.name or state.experiment_id, 60)
        words = f"{glyphs.glyph(state.status, signs=True)} {state.status} {name}: "
        words += shown.counts(state)
        words += f", for {text.duration((now - self._began).total_seconds())}"
        if not self._whole or not state.processes_running:
            return words
        standing = self._looks.at(state, self._folder, now)
        left_s = self._estimate.left_s(state, now, standing)
        return words if left_s is None else f"{words}, about {text.duration(left_s)} to go"

    def _failures(self, state: ExperimentState) -> dict[int, Failure]:
        found = {}
        for number, index in enumerate(state.processes.indices(ProcessStatus.FAILED)):
            key = index, state.processes[index].attempt
            if key not in self._why:
                look = number < _MOST_LOGS
                self._why[key] = reasons.failure(self._folder, state, index, look=look)
            found[index] = self._why[key]
        return found

    def _running(self, state: ExperimentState, now: datetime) -> Iterator[tuple[Any, ...]]:
        standing = self._looks.at(state, self._folder, now)
        for index in state.processes.indices(ProcessStatus.RUNNING)[:_MOST_RUNNING]:
            process = state.processes[index]
            since = process.started_at
            ran = "" if since is None else text.duration((now - since).total_seconds())
            words = process.phase if process.waits else ""
            if index in standing:
                words = progress.said(standing[index].progress)
            own = params_words(self._params, index)
            row = progress.cells(standing.get(index))
            yield index, process.attempt, ran, *row, own, words or ""
