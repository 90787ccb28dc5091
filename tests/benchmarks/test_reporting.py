"""What it takes to make the page of a report: beside reading the state and each result once."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import experiments
from holdfast.report import rendering
from holdfast.report.document import document
from holdfast.store.manager import StateManager

pytest.importorskip("jinja2")

Contest = Callable[..., float]
AIM_S = 1.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StateManager]:
    where = Path("/dev/shm") if os.path.isdir("/dev/shm") else tmp_path_factory.mktemp("store")
    manager = StateManager(where / f"reported-{os.getpid()}")
    story = {"failures": 50, "groups": 10, "retries": 60, "interruptions": 30, "curves": 100}
    experiments.sweep(manager, 1000, **story)
    yield manager
    shutil.rmtree(manager.state_dir)


def test_a_page_of_a_thousand_processes(contest: Contest, store: StateManager):
    """Against parsing the journal and every result, which nobody can do without."""
    folder = store.folder("sweep")

    def made() -> bytes:
        return rendering.page(document(store, ["sweep"], datetime.now(UTC)))

    def read() -> None:
        for path in (folder / "journal").iterdir():
            for line in path.read_bytes().splitlines():
                json.loads(line[line.index(b"{") :])
        for path in (folder / "results").iterdir():
            json.loads(path.read_bytes())

    def show(ours_s: float, limit_s: float) -> tuple[str, str, bool]:
        return (
            f"{ours_s:.2f} s, {ours_s / limit_s:.1f} × reading",
            f"≤ {AIM_S:g} s",
            ours_s <= AIM_S,
        )

    contest("a report of 1,000 processes", AIM_S, made, read, show=show)
