"""What an engine's word means for an attempt, beside its exit record: one table.

Pure: no clock, no file, no engine. `holdfast.orchestration.hearing` asks it of every word while a
run goes on, `holdfast.orchestration.takeover` of what somebody left.

| word | exit record there | none |
|---|---|---|
| queued, held, running | it counts | the attempt goes on |
| completing | waits for the end | waits for the end |
| completed, failed, gone | it counts | over |
| timeout, cancelled, preempted | proves nothing of an end that came by it | over |
| out_of_memory | it counts; signal 9 was for want of memory | over: a failure |
| node_fail | it counts | over if the node has booted since, else doubtful |
| unknown | it counts | nothing, ever |
"""

from datetime import datetime, timedelta
from typing import Final, Literal

import attrs

from holdfast.attempts.records import ExitRecord
from holdfast.engines.contract import ALIVE, LOCAL, EngineWord
from holdfast.status import ENGINE_ENDS, Reason

__all__ = ["LOST", "Meaning", "meaning"]

#: How much later an engine may say that it began to end an attempt than that was felt there: the
#: clocks of two machines.
_LATE: Final = timedelta(seconds=5)
#: A failure so long before was the attempt's own, whatever the clocks of two machines say.
_LONG_BEFORE: Final = timedelta(seconds=60)
_KILL: Final = 9


@attrs.frozen(kw_only=True)
class Meaning:
    """What follows from a word.

    Attributes:
        kind: `goes_on`: it is queued, held, or runs. `ending`: its command has ended, its outcome
            is about to come. `counts`: its exit record does. `over`: it has ended and left none;
            on a shared file system, that can take a while to be seen. `doubtful`: nothing proves
            that it ended. `nothing`: the word says nothing.
        engine_end: The word for an end that the engine brought about, which proves nothing then.
        reason: What it is lost for, or fails of, if not as its exit record says.
        fails: Whether that is a failure of its own.
        proof: Why what cannot be seen from here is over, too.
        words: Who says so, where it does not end as its record says; of one that is doubtful, what
            it is blocked by and what would unblock it.
    """

    kind: Literal["goes_on", "ending", "counts", "over", "doubtful", "nothing"]
    engine_end: str | None = None
    reason: Reason | None = None
    fails: bool = False
    proof: str | None = None
    words: str = ""


#: Of an attempt of which only files tell.
LOST: Final = Meaning(kind="over")
_GOES_ON: Final = Meaning(kind="goes_on")
_ENDING: Final = Meaning(kind="ending")
_COUNTS: Final = Meaning(kind="counts")
_NOTHING: Final = Meaning(kind="nothing")


def meaning(
    word: EngineWord, record: ExitRecord | None, began: datetime | None, *, engine: str
) -> Meaning:
    """What *word* means for an attempt.

    Args:
        record: Its exit record; None if none can be seen.
        began: When its command began, as far as anybody knows.
        engine: Who says so.
    """
    if word.kind == "completing":
        return _ENDING
    if record is not None:
        return _beside(word, record, engine)
    if word.kind in ALIVE:
        return _GOES_ON
    if word.kind == "unknown":
        return _NOTHING
    # What is known here of a local attempt is all that there is to know.
    proof = None if engine == LOCAL else f"{engine} says that it is over{_told(word)}"
    if word.kind == "node_fail" and not _booted_since(word, began):
        return Meaning(kind="doubtful", words=_in_doubt(word, began, engine))
    if word.kind == "out_of_memory":
        return Meaning(kind="over", reason=Reason.OUT_OF_MEMORY, fails=True, proof=proof)
    return Meaning(kind="over", reason=ENGINE_ENDS.get(word.kind), proof=proof)


def _beside(word: EngineWord, record: ExitRecord, engine: str) -> Meaning:
    words = f"{engine} says so{_told(word)}"
    if word.kind == "out_of_memory" and record.signal == _KILL:
        return Meaning(kind="counts", reason=Reason.OUT_OF_MEMORY, words=words)
    if word.kind not in ENGINE_ENDS or _explains_itself(record) or _came_before(record, word.at):
        return _COUNTS
    reason = ENGINE_ENDS[word.kind]
    return Meaning(kind="counts", engine_end=word.kind, reason=reason, words=words)


def _explains_itself(record: ExitRecord) -> bool:
    """Whether its shim knows why it ended: our limit, our request, a failed launch."""
    ours = record.stop_requested is not None or record.timed_out or record.out_of_memory
    return ours or record.error is not None


def _came_before(record: ExitRecord, ending_since: datetime | None) -> bool:
    """Whether the attempt was over before the engine began to end it."""
    if record.ended_at is None or ending_since is None:
        return False
    clean = record.exit_code == 0 and record.signal is None
    return record.ended_at < ending_since - (_LATE if clean else _LONG_BEFORE)


def _booted_since(word: EngineWord, began: datetime | None) -> bool:
    return word.booted_at is not None and began is not None and word.booted_at > began


def _in_doubt(word: EngineWord, began: datetime | None, engine: str) -> str:
    text = f" ({word.text})" if word.text else ""
    if word.host is None:
        # Dask and pools know workers, and of no node when it was booted.
        return (
            f"its worker or node failed{text}, and nothing proves that it is over: once you are "
            f"sure that nothing of it runs, resume with --force"
        )
    since = "" if began is None else f" since {began:%Y-%m-%d %H:%M:%S}Z"
    return (
        f"node {word.host} failed{text}, and nothing proves that it was restarted{since}: to go "
        f"on, have {engine} report a boot after that, or, if the node is off, resume with --force"
    )


def _told(word: EngineWord) -> str:
    said = word.kind if not word.text or word.text == word.kind else f"{word.kind}: {word.text}"
    where = "" if word.host is None else f" on {word.host}"
    return f" ({said}{where})"
