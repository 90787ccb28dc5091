"""What an engine's word means, beside an exit record and without one: the whole table."""

from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest

from holdfast.attempts.names import AttemptName
from holdfast.attempts.records import ExitRecord
from holdfast.engines.contract import ALIVE, TERMINAL, EngineWord, WordKind
from holdfast.orchestration.words import meaning
from holdfast.status import Reason

NAME = AttemptName("exp_a", "0", 1)
AT = datetime(2024, 1, 15, 12, 0, tzinfo=UTC)


def later(seconds: float) -> datetime:
    return AT + timedelta(seconds=seconds)


#: Outcomes, each ended so many seconds after (or before) the engine's own time.
RECORDS = {
    "none": None,
    "success": ExitRecord(exit_code=0, ended_at=later(0)),
    "success before": ExitRecord(exit_code=0, ended_at=later(-6)),
    "success, no time": ExitRecord(exit_code=0),
    "failure": ExitRecord(exit_code=1, ended_at=later(-2)),
    "failure long before": ExitRecord(exit_code=1, ended_at=later(-3600)),
    "killed": ExitRecord(signal=9, ended_at=later(0)),
    "terminated": ExitRecord(signal=15, ended_at=later(0)),
    "our timeout": ExitRecord(exit_code=0, timed_out=True, ended_at=later(0)),
    "our request": ExitRecord(exit_code=0, stop_requested=Reason.USER, ended_at=later(0)),
    "no launch": ExitRecord(error="no such file", ended_at=later(0)),
    "the kernel": ExitRecord(signal=9, out_of_memory=True, ended_at=later(0)),
}
#: What the engine's own end takes the proof from; of all the others, the record counts.
ENDED_WITH = {
    "success", "success, no time", "failure", "killed", "terminated",
}  # fmt: skip
BY_ENGINE = {
    "timeout": Reason.TIME_LIMIT,
    "preempted": Reason.PREEMPTED,
    "cancelled": Reason.PREEMPTED,
}


def expected(kind: str, record: str) -> tuple[str, str | None, Reason | None, bool]:
    """The table once more, row by row: kind, end by the engine, reason, whether it is charged."""
    if kind == "completing":
        return "ending", None, None, False
    if record != "none":
        if kind in BY_ENGINE and record in ENDED_WITH:
            return "counts", kind, BY_ENGINE[kind], False
        if kind == "out_of_memory" and record in ("killed", "the kernel"):
            return "counts", None, Reason.OUT_OF_MEMORY, False
        return "counts", None, None, False
    if kind in ("queued", "held", "running"):
        return "goes_on", None, None, False
    if kind == "unknown":
        return "nothing", None, None, False
    if kind == "node_fail":
        return "doubtful", None, None, False
    if kind == "out_of_memory":
        return "over", None, Reason.OUT_OF_MEMORY, True
    return "over", None, BY_ENGINE.get(kind), False


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("kind", get_args(WordKind))
@pytest.mark.parametrize("engine", ["slurm", "local"])
def test_the_whole_table(kind: WordKind, record: str, engine: str) -> None:
    """Every word beside every outcome means one thing."""
    found = meaning(EngineWord(NAME, kind, at=AT), RECORDS[record], later(-100), engine=engine)
    assert (found.kind, found.engine_end, found.reason, found.fails) == expected(kind, record)
    # The word of who runs it decides what is too far away; that of this machine adds nothing.
    assert (found.proof is not None) == (found.kind == "over" and engine != "local")


def test_every_word_is_of_one_kind() -> None:
    """Alive, over, or nothing at all."""
    assert {*ALIVE, *TERMINAL, "unknown"} == set(get_args(WordKind))
    assert not ALIVE & TERMINAL


@pytest.mark.parametrize(
    ("ended_s", "proven"),
    [(-3600, True), (-6, True), (-5, False), (-1, False), (0, False), (30, False)],
)
@pytest.mark.parametrize("kind", BY_ENGINE)
def test_a_success_counts_only_if_it_came_before_the_end_began(
    kind: WordKind, ended_s: float, proven: bool
) -> None:
    """A script that goes on past its killed child exits 0 as well."""
    record = ExitRecord(exit_code=0, ended_at=later(ended_s))
    found = meaning(EngineWord(NAME, kind, at=AT), record, None, engine="slurm")
    assert (found.engine_end is None) == proven
    untimed = meaning(EngineWord(NAME, kind), record, None, engine="slurm")
    assert untimed.engine_end == kind


@pytest.mark.parametrize("booted_s", [None, -200, -100, 1, 500])
@pytest.mark.parametrize("began_s", [None, -100, 0])
def test_a_failed_node_proves_a_death_only_by_a_later_boot(
    booted_s: float | None, began_s: float | None
) -> None:
    """Else its processes may live behind a partition, and write on."""
    booted = None if booted_s is None else later(booted_s)
    began = None if began_s is None else later(began_s)
    word = EngineWord(NAME, "node_fail", host="n1", at=AT, booted_at=booted)
    found = meaning(word, None, began, engine="slurm")
    proven = booted is not None and began is not None and booted > began
    assert found.kind == ("over" if proven else "doubtful")
    if not proven:
        assert "n1" in found.words
        assert "--force" in found.words
        assert "slurm report a boot" in found.words


def test_who_knows_no_nodes_is_not_asked_when_one_was_booted() -> None:
    """Of a Dask worker that died, only people can know whether its host is off."""
    found = meaning(EngineWord(NAME, "node_fail", "its task failed"), None, AT, engine="dask")
    assert found.kind == "doubtful"
    assert "boot" not in found.words
    assert "its task failed" in found.words
    assert "--force" in found.words
