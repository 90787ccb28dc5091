"""What waits for its next attempt: until when, why, and which limits rules have set for it."""

from datetime import datetime
from itertools import islice
from pathlib import Path

import attrs

from holdfast.config.rules import SETTABLE, amount, in_force
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.reading import reasons, text
from holdfast.status import ProcessStatus

__all__ = ["MOST", "Wait", "limits_words", "waits"]

#: Processes whose logs are looked into for why they failed: more than a table shows.
MOST = 50


@attrs.frozen
class Wait:
    """Why a process is pending, and how long it stays so at least.

    Attributes:
        why: How its last attempt ended.
    """

    until: datetime
    why: str
    limits: str


def waits(state: ExperimentState, folder: Path, now: datetime) -> dict[int, Wait]:
    """The processes that wait at *now* for their next attempt, the first of them."""
    waiting = (
        (index, process, process.not_before)
        for index, process in enumerate(state.processes.values())
        if process.status is ProcessStatus.PENDING
        and process.not_before is not None
        and process.not_before > now
    )
    return {
        index: Wait(until, _why(folder, state, index, process), limits_words(state, process))
        for index, process, until in islice(waiting, MOST)
    }


def _why(folder: Path, state: ExperimentState, index: int, process: ProcessProgress) -> str:
    ended = str(reasons.failure(folder, state, index))
    if process.completed_at is None:
        reason = text.short(process.reason or "interrupted")
        return reason if process.error_message is None else f"{reason}: {ended}"
    return f"failure {process.failures}: {ended}"


def limits_words(state: ExperimentState, process: ProcessProgress) -> str:
    """`limits.timeout 1h → 2h`; empty where no rule has set any that counts."""
    if not process.limits:
        return ""
    from holdfast.reading.limits import of_state  # loads what reads files of experiments

    keys = {name: key for key, name in SETTABLE.items()}
    return ", ".join(
        f"{text.short(keys.get(name, name))} {amount(name, each['from'])} → "
        f"{amount(name, each['to'])}"
        for name, each in in_force(of_state(state), process.limits).items()
    )
