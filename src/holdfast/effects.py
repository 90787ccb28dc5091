"""What an accepted event of a process changes in its record, beside the status.

`holdfast.machines` says whether it may move, `holdfast.lifecycle` puts both together.
"""

from collections.abc import Callable
from typing import Any, Final

from holdfast.events import Requested
from holdfast.records import ProcessProgress
from holdfast.status import ProcessStatus, Reason

__all__ = ["EFFECTS"]

#: What a new attempt knows nothing of yet.
_OF_AN_ATTEMPT: Final = (
    *("completed_at", "exit_code", "signal", "reason", "error_message"),
    *("host", "identity", "result"),
)


def _started(process: ProcessProgress, event: Requested) -> dict[str, Any]:
    return {
        "attempt": process.attempt + 1,
        "started_at": event.at,
        **dict.fromkeys(_OF_AN_ATTEMPT),
    }


def _completed(process: ProcessProgress, event: Requested) -> dict[str, Any]:
    facts = event.facts
    return {
        "completed_at": event.at,
        "exit_code": facts.get("exit_code"),
        "reason": Reason.EXIT,
        "error_message": None,
        "host": facts.get("host") or process.host,
        "result": facts.get("result"),
        "identity": None,
    }


def _failed(process: ProcessProgress, event: Requested) -> dict[str, Any]:
    facts = event.facts
    return {
        "failures": process.failures + 1,
        "completed_at": event.at,
        "exit_code": facts.get("exit_code"),
        "signal": facts.get("signal"),
        "reason": event.reason,
        "error_message": event.error_message,
        "host": facts.get("host") or process.host,
        "identity": None,
    }


def _requeued(process: ProcessProgress, event: Requested) -> dict[str, Any]:
    if process.status is ProcessStatus.FAILED:
        # Why it failed stays until the next attempt starts, and when: backoff counts from there.
        fields: dict[str, Any] = {"started_at": None}
        if event.facts.get("requested_by_user"):
            fields["failures"] = 0
        return fields
    fields = dict.fromkeys(("started_at", "completed_at", "identity"))
    fields["error_message"] = event.error_message
    if process.status is ProcessStatus.COMPLETED:
        return {**fields, "reason": Reason.RESULT_LOST, "result": None, "exit_code": None}
    return {**fields, "reason": event.reason, "interruptions": process.interruptions + 1}


EFFECTS: Final[dict[str, Callable[[ProcessProgress, Requested], dict[str, Any]]]] = {
    "start": _started,
    "complete": _completed,
    "fail": _failed,
    "requeue": _requeued,
}
