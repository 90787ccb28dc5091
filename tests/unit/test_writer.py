"""The writer of a journal is a machine, too: what is not declared does not happen."""

import itertools
from datetime import UTC, datetime
from pathlib import Path

import pytest

from holdfast.errors import ClaimClosedError
from holdfast.store import lines
from holdfast.store.manager import StateManager
from holdfast.store.writer import MOVES, JournalWriter, WriterStatus


@pytest.fixture
def writer(state_dir: Path) -> JournalWriter:
    """The writer of a claim of its own, which nobody else uses."""
    manager = StateManager(state_dir)
    manager.create("exp_a", num_processes=1)
    with manager.claim("exp_a") as claim:
        yield claim._writer


ENDS = set(WriterStatus) - {WriterStatus.OPEN, WriterStatus.WRITING}


def test_nothing_leaves_an_end() -> None:
    """Poisoned, superseded, deleted or released: a writer stays so."""
    assert not ENDS & {source for sources, _ in MOVES.values() for source in sources}


def test_every_status_can_be_reached() -> None:
    """No status is declared that no event leads to."""
    assert {target for _, target in MOVES.values()} == set(WriterStatus)


@pytest.mark.parametrize(("status", "event"), list(itertools.product(WriterStatus, MOVES)))
def test_a_writer_moves_as_declared_only(
    writer: JournalWriter, status: WriterStatus, event: str
) -> None:
    """An event from anywhere else is a mistake of ours, and moves nothing."""
    sources, target = MOVES[event]
    writer.status = status
    try:
        if status in sources:
            writer._move(event)
            assert writer.status is target
        else:
            with pytest.raises(AssertionError, match=event):
                writer._move(event)
            assert writer.status is status
    finally:
        writer.status = WriterStatus.OPEN


@pytest.mark.parametrize("status", sorted(ENDS | {WriterStatus.WRITING}))
def test_only_an_open_writer_writes(writer: JournalWriter, status: WriterStatus) -> None:
    """Whatever it is, it says why not, and not a byte is written."""
    path = writer.held[0].path
    before = path.read_bytes()
    writer.status = status
    try:
        with pytest.raises(ClaimClosedError, match=r"\w"):
            writer.check()
        with pytest.raises(AssertionError):
            writer.delete(lines.deleted(1, datetime.now(UTC)))
    finally:
        writer.status = WriterStatus.OPEN
    assert path.read_bytes() == before
