"""What Slurm's commands print, as 22.05 prints it, and what is made of that."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.attempts.names import AttemptName
from holdfast.engine_options import EngineOptions
from holdfast.engines.contract import ALIVE, TERMINAL
from holdfast.engines.slurm import batch, parsing
from holdfast.engines.slurm.batch import Asked, Marks, marks
from holdfast.engines.slurm.limits import Limits
from holdfast.engines.slurm.wording import kind_of, word_of
from holdfast.errors import EngineRefusedError

NAME = AttemptName("exp_1", "3", 1)

#: Of one array: three that ended, two that run, one that is being ended, two that were, the rest.
QUEUE = """\
1|0|COMPLETED|None|1795716509|1795716509|1795716512|1:00|n1|n1|0|hf-abcdefghijkl-w0123456789ab|holdfast:abcdefghijkl:w0123456789ab
1|1|FAILED|NonZeroExitCode|1795716509|1795716509|1795716509|1:00|n1|n1|0|hf-abcdefghijkl-w0123456789ab|holdfast:abcdefghijkl:w0123456789ab
1|2|FAILED|JobLaunchFailure|1795716509|1795716509|1795716509|1:00|n1|n1|0|hf-abcdefghijkl-w0123456789ab|holdfast:abcdefghijkl:w0123456789ab
1|3|RUNNING|None|1795716509|1795716510|1795716570|1:00|n2|n2|0|hf-abcdefghijkl-w0123456789ab|holdfast:abcdefghijkl:w0123456789ab
1|4|COMPLETING|None|1795716509|1795716510|1795716570|1:00|n2|n2|0|hf-abcdefghijkl-w0123456789ab|holdfast:abcdefghijkl:w0123456789ab
1|5|TIMEOUT|TimeLimit|1795716509|1795716510|1795716603|1:00|n2|n2|0|hf-abcdefghijkl-w0123456789ab|holdfast:abcdefghijkl:w0123456789ab
1|7|CANCELLED|None|1795716509|1795716509|1795716511|1:00|n2|n2|0|hf-abcdefghijkl-w0123456789ab|holdfast:abcdefghijkl:w0123456789ab
1|12-14,16-20|PENDING|Resources|1795716509|1795716780|1795716840|1:00|n/a||0|hf-abcdefghijkl-w0123456789ab|holdfast:abcdefghijkl:w0123456789ab
"""

PENDING = (
    "9|{tasks}|{state}|{reason}|1795716509|N/A|N/A|UNLIMITED|n/a||0|hf-abcdefghijkl-w0123456789ab|"
)


def at(second: int) -> datetime:
    return datetime.fromtimestamp(1795716500 + second, UTC)


def test_every_line_of_an_array_is_read() -> None:
    """Elements that wait are one line."""
    jobs = parsing.jobs(QUEUE)
    assert [list(job) for job in jobs] == [
        [0], [1], [2], [3], [4], [5], [7], [12, 13, 14, 16, 17, 18, 19, 20],
    ]  # fmt: skip
    assert [kind_of(job) for job in jobs] == [
        "completed", "failed", "failed", "running", "completing", "timeout", "cancelled", "queued",
    ]  # fmt: skip
    assert {job.number for job in jobs} == {1}
    assert marks(jobs[0].name, "") == Marks("abcdefghijkl", "w0123456789ab")


def test_words_say_where_and_since_when() -> None:
    """Queued since it was submitted, running since it began, over since it was being ended."""
    words = [word_of(NAME, job) for job in parsing.jobs(QUEUE)]
    assert [(word.host, word.at) for word in words] == [
        ("n1", at(12)), ("n1", at(9)), ("n1", at(9)), ("n2", at(10)), ("n2", at(10)),
        # At its limit, not when the last of it was killed.
        ("n2", at(70)), ("n2", at(11)), (None, at(9)),
    ]  # fmt: skip
    assert words[1].text == "FAILED (NonZeroExitCode)"


@pytest.mark.parametrize(
    ("state", "reason", "kind"),
    [
        ("PENDING", "Priority", "queued"),
        ("PENDING", "JobHeldUser", "held"),
        ("PENDING", "PartitionConfig", "held"),
        ("PENDING", "launch failed requeued held", "held"),
        ("PENDING", "launch_failed_requeued_held", "held"),
        ("PENDING", "BadConstraints", "held"),
        ("REQUEUE_HOLD", "None", "held"),
        ("CONFIGURING", "None", "queued"),
        ("SUSPENDED", "None", "running"),
        ("CANCELLED by 1000", "None", "cancelled"),
        ("PREEMPTED", "None", "preempted"),
        ("NODE_FAIL", "None", "node_fail"),
        ("OUT_OF_MEMORY", "OutOfMemory", "out_of_memory"),
        ("DEADLINE", "DeadLine", "cancelled"),
        ("A_STATE_OF_TOMORROW", "None", "unknown"),
    ],
)
def test_states_are_words(state: str, reason: str, kind: str) -> None:
    """What a later Slurm says is unknown, and decides nothing."""
    (job,) = parsing.jobs(PENDING.format(tasks="5", state=state, reason=reason))
    assert kind_of(job) == kind
    assert kind in ALIVE | TERMINAL | {"unknown"}


def test_no_end_is_dated_by_a_guess() -> None:
    """When a preempted job was told to end, its partition's grace period hides."""
    line = QUEUE.splitlines()[0].replace("COMPLETED", "PREEMPTED")
    (job,) = parsing.jobs(line)
    assert word_of(NAME, job).at is None
    assert word_of(NAME, job, told_s=5).at == at(7)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("7", [7]),
        ("0-3", [0, 1, 2, 3]),
        ("0-9:3", [0, 3, 6, 9]),
        ("1,3-4%2", [1, 3, 4]),
        ("0,6,8-10,111-119...", [0, 6, 8, 9, 10]),  # cut: `119` may be the beginning of `1190`
        ("0-2,...", [0, 1, 2]),
    ],
)
def test_ranges_are_expanded(text: str, numbers: list[int]) -> None:
    """As `squeue` writes them without `-r`."""
    assert [n for low, high in parsing.ranges(text) for n in range(low, high + 1)] == numbers


@pytest.mark.parametrize("text", ["?", "x", "3-1", "-5", "0-99999999999", "1-5:0"])
def test_a_line_that_makes_no_sense_is_passed_over(text: str) -> None:
    """A later Slurm may write others."""
    assert parsing.jobs(PENDING.format(tasks=text, state="PENDING", reason="None")) == []


@given(st.sets(st.integers(0, 100_000), min_size=1))
def test_elements_are_written_as_they_are_read(numbers: set[int]) -> None:
    """In one piece, and in pieces that fit on a command line."""
    ascending = sorted(numbers)
    for parts in ([parsing.tasks(ascending)], list(parsing.chunks(ascending, 50))):
        read = [
            n for part in parts for low, high in parsing.ranges(part) for n in range(low, high + 1)
        ]
        assert read == ascending


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1:00", 60), ("02:03:04", 7384), ("1-02:03:04", 93784), ("UNLIMITED", None), ("N/A", None)],
)
def test_time_limits_are_seconds(text: str, seconds: float | None) -> None:
    """None for none."""
    assert parsing.duration(text) == seconds


def test_a_comment_may_hold_anything() -> None:
    """It comes last; a site may have put its own into it."""
    line = QUEUE.splitlines()[0].rpartition("|")[0].replace("hf-abcdefghijkl-w0123456789ab", "site")
    (job,) = parsing.jobs(f"{line}|a|b;holdfast:abcdefghijkl:w0123456789ab;|")
    assert job.comment == "a|b;holdfast:abcdefghijkl:w0123456789ab;|"
    assert marks(job.name, job.comment) == Marks("abcdefghijkl", "w0123456789ab")
    assert marks("site", "") is None


def test_what_the_accounting_keeps_is_read_as_the_queue_is() -> None:
    """Elements that were cancelled while they waited are one line there, too."""
    said = """\
12_3|OUT_OF_MEMORY|1795716509|1795716510|1795716540|60|n1|hf-abcdefghijkl-w0123456789ab|
12_4|CANCELLED by 1000|1795716509|1795716510|1795716540|UNLIMITED|n2|hf-abcdefghijkl-w0123456789ab|
12_[5-9%2]|CANCELLED by 1000|1795716509|None|1795716540|60|None assigned|hf-abcdefghijkl-w0123456789ab|
no line of it
"""  # noqa: E501
    jobs = parsing.accounted(said, 0)
    assert [list(job) for job in jobs] == [[3], [4], [5, 6, 7, 8, 9]]
    assert [kind_of(job) for job in jobs] == ["out_of_memory", "cancelled", "cancelled"]
    assert [job.limit_s for job in jobs] == [3600, None, 3600]
    assert word_of(NAME, jobs[0]).host == "n1"
    assert word_of(NAME, jobs[0]).at == at(40)
    assert marks(jobs[0].name, jobs[0].comment) == Marks("abcdefghijkl", "w0123456789ab")


@pytest.mark.parametrize(
    ("said", "down"),
    [
        ("Slurmctld(primary) at vm is UP\n", False),
        ("Slurmctld(primary) at vm is DOWN\n", True),
        ("Slurmctld(primary) at a is DOWN\nSlurmctld(backup) at b is UP\n", False),
        ("Slurmctld(primary/backup) at a/b are DOWN/UP\n", False),
        ("Slurmctld(primary/backup) at a/b are DOWN/DOWN\n", True),
        ("", True),
    ],
)
def test_a_controller_is_up_or_down(said: str, down: bool) -> None:
    """One of two will do."""
    assert bool(parsing.down(said)) is down


CONFIG = """\
Configuration data as of 2026-11-26T18:06:31
ClusterName             = mini
KillWait                = 3 sec
MaxArraySize            = 1001
MaxJobCount             = 20000
MinJobAge               = 300 sec
ProctrackType           = proctrack/linuxproc
SchedulerParameters     = sched_interval=1,max_array_tasks=500
SLURM_VERSION           = 22.05.8

Slurmctld(primary) at vm is UP
"""


def test_limits_are_read_from_the_configuration() -> None:
    """What is not there has Slurm's own defaults."""
    limits = Limits.of(parsing.config(CONFIG))
    assert (limits.cluster, limits.version, limits.most_tasks) == ("mini", "22.05.8", 500)
    assert (limits.kill_wait_s, limits.remembers_s, limits.most_jobs) == (3, 300, 20000)
    assert Limits.of({}) == Limits()


@pytest.mark.parametrize(("kill_wait_s", "grace_s"), [(30, 28), (3, 1), (1, 1), (120, 30)])
def test_a_grace_period_ends_before_slurm_kills(kill_wait_s: float, grace_s: float) -> None:
    """A shim needs a moment to publish what it saw."""
    assert Limits(kill_wait_s=kill_wait_s).grace_s(30) == grace_s


NODE = """\
NodeName=n1 Arch=x86_64 CoresPerSocket=4 
   CPUAlloc=3 CPUEfctv=4 CPUTot=4 CPULoad=1.00
   NodeAddr=127.0.0.1 NodeHostName=localhost Version=22.05.8
   OS=Linux 6.18.44 #1 SMP PREEMPT_DYNAMIC @0 
   State={state} ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A
   BootTime=1795655276 SlurmdStartTime=1795716390
"""  # noqa: W291


@pytest.mark.parametrize(
    ("state", "answers"),
    [("MIXED", True), ("IDLE+DRAIN", True), ("DOWN*", False), ("IDLE*", False), ("DOWN", False)],
)
def test_a_node_answers_or_not(state: str, answers: bool) -> None:
    """Only of one that does is anything known."""
    node = parsing.node(NODE.format(state=state))
    assert node is not None
    assert (node.name, node.answers) == ("n1", answers)
    assert node.booted_at == datetime.fromtimestamp(1795655276, UTC)


def test_what_is_asked_of_a_job_is_what_its_commands_need() -> None:
    """Of a job with several, so many times as much; rules go before what is said of all."""
    wanted = EngineOptions(
        name="slurm", partition="gpu", account="lab", time_s=5400, cpus=2, gpus=1, nodes=2,
        memory_bytes=3 << 30, extra=("--qos=long",),
    )  # fmt: skip
    words = batch.options(
        wanted,
        Asked.of(wanted, {"memory_bytes": 1 << 30}),
        folder=Path("/f"),
        grace_s=28,
        commands=4,
    )
    assert words == [
        "--qos=long", "--partition=gpu", "--account=lab", "--nodes=2", "--ntasks-per-node=1",
        "--time=0-01:30:00", "--cpus-per-task=8", "--mem=4194304K", "--gres=gpu:4", "--no-requeue",
        "--signal=B:USR1@30", "--export=ALL", "--chdir=/f",
    ]  # fmt: skip


def test_a_short_job_is_warned_near_its_end() -> None:
    """In its last quarter at the earliest."""
    wanted = EngineOptions(name="slurm", time_s=60)
    words = batch.options(wanted, Asked.of(wanted, {}), folder=Path("/f"), grace_s=28)
    assert "--signal=B:USR1@15" in words


@pytest.mark.parametrize(
    "word", ["--wait", "--array=0-3", "-a0-3", "-Jname", "--requeue", "--wrap=x"]
)
def test_options_that_are_ours_are_refused(word: str) -> None:
    """With these, jobs would not be found again, or run twice."""
    wanted = EngineOptions(name="slurm", extra=(word,))
    with pytest.raises(EngineRefusedError, match="for holdfast to say"):
        batch.options(wanted, Asked.of(wanted, {}), folder=Path("/f"), grace_s=28)


def test_names_in_paths_are_not_patterns() -> None:
    """Slurm replaces `%j` and the like in where its log goes."""
    words = batch.marked((), Marks("abcdefghijkl", "w0123456789ab"), Path("/a%j\\b"), "0-9")
    assert "--output=/a%%j\\\\b/waves/%x.%a.log" in words
