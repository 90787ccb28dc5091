"""The two machines, declared with python-statemachine: the one place that says what may happen.

`decisions` decides by what is declared here, and the diagrams are drawn from it. The names of
guards are those of the functions in `guards`; what an event changes is in `effects`.
"""

from typing import Any, Final

from statemachine.states import States

from holdfast.lifecycle.machine import RecordMachine
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.status import Entity, ExperimentStatus, ProcessStatus

__all__ = ["ENDINGS", "MACHINES", "ExperimentMachine", "ProcessMachine"]


class ExperimentMachine(RecordMachine[ExperimentState]):
    """What may happen to an experiment."""

    entity = "experiment"

    _ = States.from_enum(
        ExperimentStatus,
        initial=ExperimentStatus.INITIALISED,
        final=ExperimentStatus.AGGREGATED,
        use_enum_instance=True,
    )

    start = _.INITIALISED.to(_.RUNNING)
    complete = _.RUNNING.to(_.COMPLETED, cond="all_processes_completed")
    aggregate = _.COMPLETED.to(_.AGGREGATED, cond="can_aggregate")
    fail = _.INITIALISED.to(_.FAILED) | _.RUNNING.to(_.FAILED) | _.COMPLETED.to(_.FAILED)
    interrupt = _.INITIALISED.to(_.INTERRUPTED) | _.RUNNING.to(_.INTERRUPTED)
    retry = _.FAILED.to(_.RUNNING)
    resume = _.INTERRUPTED.to(_.RUNNING)


#: First everywhere: whatever else an event lacks, this is what the user has to know.
_ALWAYS: Final = ("experiment_is_open", "gang_moves_together")


class ProcessMachine(RecordMachine[ProcessProgress]):
    """What may happen to one process of an experiment."""

    entity = "process"

    _ = States.from_enum(ProcessStatus, initial=ProcessStatus.PENDING, use_enum_instance=True)

    start = _.PENDING.to(_.RUNNING, cond=_ALWAYS)
    phase = _.RUNNING.to(_.RUNNING, cond=[*_ALWAYS, "phase_goes_on"])
    complete = _.RUNNING.to(_.COMPLETED, cond=[*_ALWAYS, "exited_cleanly"])
    fail = _.RUNNING.to(_.FAILED, cond=_ALWAYS)
    reuse = _.PENDING.to(_.COMPLETED, cond=[*_ALWAYS, "same_work_proven"])
    requeue = (
        _.FAILED.to(_.PENDING, cond=[*_ALWAYS, "attempts_left"])
        | _.FAILED.to(_.PENDING, cond=[*_ALWAYS, "requested_by_user"])
        | _.RUNNING.to(_.PENDING, cond=[*_ALWAYS, "was_interrupted"])
        | _.RUNNING.to(_.PENDING, cond=[*_ALWAYS, "has_stalled"])
        | _.RUNNING.to(_.PENDING, cond=[*_ALWAYS, "is_orphaned"])
        | _.COMPLETED.to(_.PENDING, cond=[*_ALWAYS, "result_lost"])
    )


MACHINES: Final[dict[Entity, type[RecordMachine[Any]]]] = {
    "experiment": ExperimentMachine,
    "process": ProcessMachine,
}

#: What an attempt that ended becomes: the first of these events whose guards pass. Completed before
#: requeued before failed, so that only what nothing excuses is charged to the process.
ENDINGS: Final = ("complete", "requeue", "fail")
