"""Hooks: the user's own commands, told of an end once it is durable, and what became of them.

They change nothing: neither the state nor the outcome, and no error of theirs ends anything. Each
is run once for an end at the most; one that is killed with us is not run again.
"""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from holdfast.attempts import environment
from holdfast.attempts.reports import said_last
from holdfast.config.durations import written
from holdfast.config.experiment_file import Experiment
from holdfast.config.hooks import filled
from holdfast.engines.local import once
from holdfast.errors import HoldfastError, flat
from holdfast.orchestration.outcomes import Outcome
from holdfast.results.going_on import GoingOn
from holdfast.status import SETTLED, ProcessStatus
from holdfast.store.attempted import attempt_of, blamed

__all__ = ["Hook", "begun", "due", "run", "told"]

SCHEMA: Final = "holdfast.hook/1"
#: Nobody waits longer for a hook: the run is over.
TIMEOUT_S: Final = 60.0
#: Failed processes of which the reasons are told.
_MOST_FAILED: Final = 100
_LONGEST: Final = 2000


@attrs.frozen(kw_only=True)
class Hook:
    """One command that is to be told."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    given: bytes = attrs.field(repr=False)
    cwd: str


def due(outcome: Outcome, experiment: Experiment, state_dir: str) -> Iterator[Hook]:
    """The hooks that are told of *outcome*, in their order.

    Nobody is told of an end that was asked for (Ctrl-C, SIGTERM, `stop`, processes that were held
    back), nor of attempts that are left to an engine, which is no end.
    """
    state = outcome.state
    if outcome.left or outcome.signal or outcome.stopped or outcome.idle or outcome.already_done:
        return
    bad = outcome.failed or bool(outcome.blocked)
    good = state.status in SETTLED
    if not (bad or good):
        return
    argvs = {"on_failure": experiment.hooks.on_failure if bad else None}
    argvs["on_finish"] = experiment.hooks.on_finish
    if not any(argvs.values()):
        return
    facts = _facts(outcome, state_dir)
    known = {
        **{key: str(facts[key] or "") for key in ("name", "status", "reason", "message")},
        **{key: str(facts[key]) for key in ("completed", "failed", "total")},
        "id": state.experiment_id,
        "elapsed": written(round(facts["elapsed_s"] or 0.0)),
    }
    known = {key: flat(each)[:_LONGEST] for key, each in known.items()}
    for name, argv in argvs.items():
        if argv is not None:
            env = {
                environment.EXPERIMENT_ID: known["id"],
                environment.STATE_DIR: state_dir,
                "HOLDFAST_HOOK": name,
                **{variable: known[key] for variable, key in _IN_ENVIRONMENT.items()},
            }
            plain = {"schema": SCHEMA, "hook": name, **facts}
            yield Hook(
                name=name,
                argv=[word.replace("\0", "") for word in filled(argv, known)],
                env=env,
                given=json.dumps(plain).encode() + b"\n",
                cwd=str(experiment.cwd),
            )


_IN_ENVIRONMENT: Final = {
    "HOLDFAST_NAME": "name",
    "HOLDFAST_STATUS": "status",
    "HOLDFAST_REASON": "reason",
    "HOLDFAST_MESSAGE": "message",
    "HOLDFAST_ELAPSED": "elapsed",
}


def _facts(outcome: Outcome, state_dir: str) -> dict[str, Any]:
    state = outcome.state
    began, ended = state.started_at, state.finished_at or state.last_updated
    failed = state.processes.indices(ProcessStatus.FAILED)
    elapsed = None if began is None or ended is None else (ended - began).total_seconds()
    folder = Path(state_dir, state.experiment_id)

    def log_of(index: int) -> Path | None:
        return said_last(folder, attempt_of(state, index), blamed(state, index))

    return {
        "id": state.experiment_id,
        "name": state.name or state.experiment_id,
        "status": str(state.status),
        "reason": None if state.reason is None else str(state.reason),
        "message": outcome.message,
        "error_message": state.error_message,
        "completed": state.processes_completed,
        "failed": state.processes_failed,
        "total": state.num_processes,
        "elapsed_s": elapsed,
        "started_at": None if began is None else began.isoformat(),
        "finished_at": None if ended is None else ended.isoformat(),
        "file": state.config_path,
        "cwd": state.cwd,
        "state_dir": state_dir,
        "failures": [
            {
                "index": index,
                "attempt": (process := state.processes[index]).attempt,
                "exit_code": process.exit_code,
                "signal": process.signal,
                "reason": None if process.reason is None else str(process.reason),
                "error_message": process.error_message,
                "log": None if (log := log_of(index)) is None else str(log),
            }
            for index in failed[:_MOST_FAILED]
        ],
    }


def begun(hook: Hook) -> str:
    """What the history says before it is run; its words may hold secrets, and are left out."""
    return f"{hook.name} begins: {shlex.quote(hook.argv[0])}"


def run(hook: Hook, going_on: GoingOn) -> once.End:
    """Have *hook* told; raises nothing."""
    try:
        return once.run(
            hook.argv,
            cwd=hook.cwd,
            env=hook.env,
            given=hook.given,
            timeout_s=TIMEOUT_S,
            going_on=going_on,
        )
    except (HoldfastError, OSError, ValueError) as err:
        return once.End(error=str(err))


def told(hook: Hook, end: once.End) -> str:
    """How it fared."""
    if end.error:
        return f"{hook.name} could not be run: {flat(end.error)}"
    if end.ok:
        return f"{hook.name} ended after {end.lasted_s:.1f} s: exit code 0"
    how = end.cut
    if not how:
        assert end.code is not None
        how = f"exit code {end.code}" if end.code >= 0 else f"signal {-end.code}"
    words = f": {flat(end.words)[:200]}" if end.words else ""
    return f"{hook.name} failed after {end.lasted_s:.1f} s: {how}{words}"
