"""`--log-json`: what is said on stderr, as lines of JSON for programs."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from holdfast.reading import text

if TYPE_CHECKING:
    from holdfast.lifecycle.changes import Change
    from holdfast.lifecycle.records import ExperimentState

__all__ = ["Transitions", "about", "begin", "is_on", "log_json_option", "of_end"]

SCHEMA: Final = "holdfast.log/1"
_OPTION: Final = "--log-json"

_C = TypeVar("_C", bound=Callable[..., Any])


def log_json_option(command: _C) -> _C:
    """The option; `begin` has seen it before anything was parsed."""
    about = "Write JSON lines to stderr instead of words: transitions, warnings, the outcome."
    return click.option(
        _OPTION,
        is_flag=True,
        expose_value=False,
        help=about,
    )(command)


_about: str | None = None


def begin(args: Sequence[str]) -> None:
    """Have everything said as *args* want it: of a wrong option, too."""
    about(None)
    ours = args[: args.index("--")] if "--" in args else args
    text.tell_by(_line if _OPTION in ours else None)


def about(experiment_id: str | None) -> None:
    """What is said from here on is about this experiment, where it says nothing else."""
    global _about
    _about = experiment_id


def is_on() -> bool:
    """Whether this command was told so."""
    return text.is_told()


def _line(level: str, words: str, facts: Mapping[str, Any]) -> str:
    import json  # what most commands never need

    line = {
        "schema": SCHEMA,
        "at": datetime.now(UTC).isoformat(),
        "level": level,
        "event": "note" if level == "info" else level,
        "experiment_id": _about,
        "index": None,
        "words": words,
    }
    return json.dumps({**line, **facts})


_LEVELS: Final = {"fail": "error", "requeue": "warning", "interrupt": "warning"}


class Transitions:
    """Says every transition of an experiment as it is recorded, or as it is seen by others."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._state: ExperimentState | None = None

    def step(self, state: "ExperimentState", changes: "Sequence[Change]") -> None:
        """*changes* were recorded."""
        for each in changes:
            facts: dict[str, Any] = {
                "level": _LEVELS.get(each.event, "info"),
                "at": each.at.isoformat(),
                "event": each.event,
                "from": each.source,
                "to": each.target,
                "reason": each.reason,
                "evidence": each.evidence,
            }
            if each.process is not None:
                facts["attempt"] = state.processes[each.process].attempt
            words = f"{each.event}: {each.source} → {each.target}"
            if each.source == each.target and each.evidence:
                words = f"{each.event}: {each.evidence}"
            self._say(state, each.process, words, facts)

    def look(self, state: "ExperimentState") -> None:
        """This is how it stands now; what was between two looks is not known."""
        before, self._state = self._state, state
        if before is None:
            return
        for index in state.processes.changed_since(before.processes):
            old, new = before.processes[index], state.processes[index]
            if (old.status, old.attempt) != (new.status, new.attempt):
                self._seen(state, index, old.status, new.status, new.reason)
        if before.status is not state.status:
            self._seen(state, None, before.status, state.status, state.reason)

    def _seen(
        self, state: "ExperimentState", index: int | None, old: str, new: str, reason: Any
    ) -> None:
        facts: dict[str, Any] = {"event": "seen", "from": old, "to": new, "reason": reason}
        if index is not None:
            facts["attempt"] = state.processes[index].attempt
        self._say(state, index, f"{old} → {new}", facts)

    @staticmethod
    def _say(
        state: "ExperimentState", index: int | None, words: str, facts: dict[str, Any]
    ) -> None:
        who = "experiment" if index is None else f"process {index}"
        about = {"experiment_id": state.experiment_id, "index": index}
        text.say(f"{who}: {words}", facts={**about, **facts})


def of_end(state: "ExperimentState", code: int) -> dict[str, Any]:
    """The facts of an end that is told with exit code *code*."""
    return {
        "event": "outcome",
        "level": "error" if code else "info",
        "experiment_id": state.experiment_id,
        "status": state.status,
        "reason": state.reason,
        "completed": state.processes_completed,
        "failed": state.processes_failed,
        "total": state.num_processes,
        "exit_code": int(code),
    }
