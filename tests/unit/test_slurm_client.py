"""What Slurm's commands say, and what follows from it: they are scripts here."""

import fcntl
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from holdfast.attempts.names import AttemptName
from holdfast.engine_options import EngineOptions
from holdfast.engines import waves
from holdfast.engines.contract import Handle
from holdfast.engines.slurm.asking import Answer, Asking
from holdfast.engines.slurm.batch import Marks
from holdfast.engines.slurm.client import Client, LimitReached
from holdfast.engines.slurm.controller import Controller
from holdfast.engines.slurm.engine import SlurmEngine
from holdfast.engines.slurm.examining import examine
from holdfast.engines.slurm.folders import Folder
from holdfast.engines.slurm.looking import Looking
from holdfast.engines.slurm.sending import Sent
from holdfast.errors import EngineRefusedError

MARKS = Marks("abcdefghijkl", "w0123456789ab")
POLICY = (
    "sbatch: error: {limit}\n"
    "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy "
    "(job submit limit, user's size and/or time limits)\n"
)


def says(directory: Path, command: str, words: str, status: int = 1) -> None:
    """Have *command* say *words* and end."""
    directory.mkdir(exist_ok=True)
    script = directory / command
    script.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{words}\nEND\nexit {status}\n")
    script.chmod(0o755)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Finds its commands in `bin`."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return Client()


@pytest.mark.parametrize(
    "limit",
    [
        "QOSMaxSubmitJobPerUserLimit",
        "AssocMaxSubmitJobLimit",
        "AssocGrpSubmitJobsLimit",
        "QOSGrpSubmitJobsLimit",
        "QOSMaxJobsPerUserLimit",
    ],
)
def test_a_limit_on_the_number_of_jobs_is_waited_out(
    client: Client, tmp_path: Path, limit: str
) -> None:
    """Some end, and there is room again."""
    says(tmp_path / "bin", "sbatch", POLICY.format(limit=limit))
    with pytest.raises(LimitReached, match=limit):
        client.submit((), "#!/bin/sh\n")


@pytest.mark.parametrize(
    "limit",
    [
        "QOSMaxWallDurationPerJobLimit",
        "AssocMaxCpuPerJobLimit",
        "QOSMinGRES",
        "AssocGrpCPUMinutesLimit",
    ],
)
def test_a_limit_on_what_a_job_asks_for_is_a_refusal(
    client: Client, tmp_path: Path, limit: str
) -> None:
    """The sentence after it is the same, but nobody's end makes room for such a job."""
    says(tmp_path / "bin", "sbatch", POLICY.format(limit=limit))
    with pytest.raises(EngineRefusedError, match=limit):
        client.submit((), "#!/bin/sh\n")
    with pytest.raises(EngineRefusedError, match=limit):
        client.could((), "#!/bin/sh\n")


UP = "Slurmctld(primary) at host is UP"


def test_nodes_that_are_drained_refuse_nothing(client: Client, tmp_path: Path) -> None:
    """A test says the same of what there never will be; a submission tells them apart."""
    words = "allocation failure: Requested node configuration is not available"
    says(tmp_path / "bin", "sbatch", f"{words}")
    assert words in client.could([], "#!/bin/sh\n")
    with pytest.raises(EngineRefusedError, match="Requested node configuration"):
        client.submit([], "#!/bin/sh\n")


def prints(directory: Path, command: str, words: str) -> None:
    """Have *command* print *words*, and count how often it is asked."""
    directory.mkdir(exist_ok=True)
    script = directory / command
    script.write_text(
        f"#!/bin/sh\necho >> {directory}/{command}.asked\ncat <<'END'\n{words}\nEND\n"
    )
    script.chmod(0o755)


def looking_at(client: Client, now: float) -> Looking:
    """A look at what a cluster says at *now*."""
    return Looking(client, lambda: now, Controller(client, lambda: now, lambda: now))


def asked(directory: Path, command: str) -> int:
    """How often *command* was asked."""
    try:
        return len((directory / f"{command}.asked").read_text().splitlines())
    except FileNotFoundError:
        return 0


GOOD = {
    "asked_at": 1000.0, "tried_at": 1000.0, "pause_s": 60.0, "questions": 20.0,
    "problem": "", "since": 1000.0, "lines": "",
}  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        "[" * 100_000,
        json.dumps({**GOOD, "lines": None}),
        json.dumps({**GOOD, "tried_at": float("nan")}),
        json.dumps({**GOOD, "tried_at": float("inf")}),
        json.dumps({**GOOD, "asked_at": 2000.0}),
        json.dumps({**GOOD, "pause_s": 1e9}),
        json.dumps({**GOOD, "problem": "down", "since": 1e300}),
        json.dumps({**GOOD, "problem": "down", "since": float("-inf")}),
        json.dumps({**GOOD, "questions": -1e9}),
        json.dumps({**GOOD, "questions": 10**400}),
    ],
    ids=lambda content: content[:12],
)
def test_an_answer_that_was_tampered_with_is_asked_for_anew(
    client: Client, tmp_path: Path, content: str
) -> None:
    """It neither ends who reads it nor keeps anybody from asking."""
    prints(tmp_path / "bin", "scontrol", UP)
    prints(tmp_path / "bin", "squeue", "")
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "poll.json").write_text(content)
    asking = Asking(client, shared, lambda: 1001.0)
    assert asking.refresh()
    assert asking.answer.asked_at == 1001.0


def test_an_answer_is_shared(client: Client, tmp_path: Path) -> None:
    """Who comes second asks nobody."""
    prints(tmp_path / "bin", "scontrol", UP)
    prints(tmp_path / "bin", "squeue", "")
    assert Asking(client, tmp_path / "shared", lambda: 1000.0).refresh()
    assert Asking(client, tmp_path / "shared", lambda: 1001.0).refresh()
    assert asked(tmp_path / "bin", "squeue") == 1


@pytest.mark.parametrize("others_clock", [1000.5, 1045.0])
def test_what_is_to_be_cancelled_is_asked_for_unless_the_answer_is_of_this_moment(
    client: Client, tmp_path: Path, others_clock: float
) -> None:
    """Another host's clock may be ahead of ours, by which its old answer looks new."""
    prints(tmp_path / "bin", "scontrol", UP)
    prints(tmp_path / "bin", "squeue", "")
    assert Asking(client, tmp_path / "shared", lambda: others_clock).refresh()
    Asking(client, tmp_path / "shared", lambda: 1001.0).now()
    assert asked(tmp_path / "bin", "squeue") == (1 if others_clock < 1001 else 2)


def test_what_was_just_submitted_is_asked_for(client: Client, tmp_path: Path) -> None:
    """An answer from before it, however new, does not name it."""
    prints(tmp_path / "bin", "scontrol", UP)
    prints(tmp_path / "bin", "squeue", "")
    now = 1000.0
    asking = Asking(client, None, lambda: now)
    asking.now()
    now = 1000.2
    asking.hurry()
    asking.now()
    assert asked(tmp_path / "bin", "squeue") == 2


def test_nobody_waits_for_one_who_fell_asleep_while_he_asked(
    client: Client, tmp_path: Path
) -> None:
    """All orchestrators of a user would be as deaf as that one."""
    prints(tmp_path / "bin", "scontrol", UP)
    prints(tmp_path / "bin", "squeue", "")
    now, shared = 1000.0, tmp_path / "shared"
    asking = Asking(client, shared, lambda: now)
    assert asking.refresh()
    with open(shared / "lock", "w") as asleep:
        fcntl.flock(asleep, fcntl.LOCK_EX)
        now += 70.0
        assert not asking.refresh()
        now += 60.0
        assert asking.refresh()
    assert asking.answer.asked_at == now


def test_a_job_of_another_time_is_neither_ours_nor_gone(client: Client, tmp_path: Path) -> None:
    """The clock of who submitted it may be ahead, and it runs."""
    line = f"7|0|RUNNING|None|1000|1000|N/A|1:00|n1|n1|{os.getuid()}|{MARKS.name}|{MARKS.comment}"
    prints(tmp_path / "bin", "scontrol", UP)
    prints(tmp_path / "bin", "squeue", line)
    answer = Asking(client, None, lambda: 5000.0).now()
    name = AttemptName("exp_1", "0", 1)
    handle, folder = Handle(name=name, folder=tmp_path), Folder(tmp_path, lambda: 0.0)
    for made_at, kind in ((1059.0, "running"), (1061.0, "unknown")):
        for number in (None, 7):
            sent = Sent(
                marks=MARKS, folder=tmp_path, made_at=made_at, tasks=((name,),), number=number
            )
            looking = looking_at(client, 5000.0)
            assert looking.word(handle, sent, 0, folder, answer).kind == kind


def test_of_two_jobs_with_one_task_the_one_that_goes_on_stands_for_it(
    client: Client, tmp_path: Path
) -> None:
    """The other found it taken, ended at once, and proves nothing."""
    rest = f"{os.getuid()}|{MARKS.name}|{MARKS.comment}"
    lines = [
        f"8|0|FAILED|NonZeroExitCode|1000|1001|1002|1:00|n1|n1|{rest}",
        f"7|0|RUNNING|None|1000|1000|N/A|1:00|n2|n2|{rest}",
        f"9|0|PENDING|None|1000|N/A|N/A|1:00|n/a||{rest}",
    ]
    prints(tmp_path / "bin", "scontrol", UP)
    for some in (lines, lines[::-1]):
        prints(tmp_path / "bin", "squeue", "\n".join(some))
        answer = Asking(client, None, lambda: 5000.0).now()
        sent = Sent(marks=MARKS, folder=tmp_path, made_at=1000.0, tasks=())
        found = looking_at(client, 5000.0).element(answer, sent, 0)
        assert found is not None
        assert found.number == 7


def test_of_a_wave_that_is_not_named_one_number_is_asked_for(
    client: Client, tmp_path: Path
) -> None:
    """Not one for each of its attempts, also if nobody answers."""
    prints(tmp_path / "bin", "scontrol", UP)
    prints(tmp_path / "bin", "squeue", "")
    asking = Asking(client, None, lambda: 1000.0)
    answer = asking.now()
    says(tmp_path / "bin", "scontrol", "slurm_load_jobs error: Socket timed out")
    names = [AttemptName("exp_1", str(index), 1) for index in range(100)]
    sent = Sent(
        marks=MARKS,
        folder=tmp_path,
        made_at=900.0,
        tasks=tuple((name,) for name in names),
        number=7,
        sent_at=900.0,
    )
    looking, folder = looking_at(client, 1000.0), Folder(tmp_path, lambda: 0.0)
    before = client.calls
    words = [
        looking.word(Handle(name=name, folder=tmp_path), sent, task, folder, answer)
        for task, name in enumerate(names)
    ]
    assert {word.kind for word in words} == {"unknown"}
    assert client.calls - before == 1


def test_waves_are_read_once_for_all_that_none_of_them_names(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand attempts are recorded, killed before their wave was written."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    says(tmp_path / "bin", "scontrol", "Unable to contact slurm controller")
    folder = tmp_path / "exp_1"
    folder.mkdir()
    waves.token(folder)
    read, real = list[Path](), waves.waves

    def counted(path: Path) -> list[waves.Wave]:
        read.append(path)
        return real(path)

    monkeypatch.setattr(waves, "waves", counted)
    handles = [
        Handle(name=AttemptName("exp_1", str(index), 1), folder=folder) for index in range(50)
    ]
    with SlurmEngine() as engine:
        assert {word.kind for word in engine.poll(handles)} == {"gone"}
    assert len(read) == 1


#: Ways of a node, and what a doctor says of them.
NODES = {
    "the file is there": ("", "ok", "runs holdfast from"),
    "an old Python": ("import sys; sys.version_info = (3, 9)", "problem", "older than 3.11"),
    "a package": (
        "import os; os.path.exists = lambda _: False\n"
        "import sys, types; sys.modules['holdfast'] = types.SimpleNamespace(__version__='9')",
        "warning", "has holdfast 9 of its own",
    ),
    "neither": (
        "import os; os.path.exists = lambda _: False\nimport sys; sys.modules['holdfast'] = None",
        "problem", "has no holdfast",
    ),
}  # fmt: skip


@pytest.mark.parametrize("ways", NODES)
def test_a_doctor_says_whether_a_node_can_run_what_a_job_begins_with(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ways: str
) -> None:
    """The probe runs in the very Python that a job would: here, as a node that has such ways."""
    ahead, level, words = NODES[ways]
    python = tmp_path / "python"
    python.write_text(
        f"#!/bin/sh\n( cat <<'END'\n{ahead}\nEND\ncat \"$1\" ) > ahead.py\n"
        f'exec {sys.executable} ahead.py "$2"\n'
    )
    python.chmod(0o755)
    prints(tmp_path / "bin", "scontrol", UP)
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text(
        '#!/bin/sh\nfor word; do case "$word" in --chdir=*) cd "${word#*=}";; '
        "--version) echo slurm; exit;; esac; done\ncat > job; sh job; echo 7\n"
    )
    sbatch.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    wanted = EngineOptions(name="slurm", python=str(python))
    said = list(examine(client, wanted, lambda: datetime.now(UTC)))
    assert [each for each, text in said if words in text] == [level], said


Asked = tuple[Handle, Sent, int, Folder, Answer]


def one_attempt(client: Client, path: Path, line: str, suffix: str, file: str = "") -> Asked:
    """What `Looking.word` is asked with: *line* of `squeue`, and the one file of the attempt."""
    prints(path / "bin", "scontrol", UP)
    rest = f"{os.getuid()}|{MARKS.name}|{MARKS.comment}"
    prints(path / "bin", "squeue", f"7|0|{line}|{rest}")
    answer = Asking(client, None, lambda: 5000.0).now()
    name = AttemptName("exp_1", "0", 1)
    (path / "attempts").mkdir()
    (path / "attempts" / f"{name}.{suffix}").write_text(file)
    folder = Folder(path, lambda: 0.0)
    folder.refresh(at_once=True)
    sent = Sent(marks=MARKS, folder=path, made_at=1000.0, tasks=((name,),), number=7)
    return Handle(name=name, folder=path), sent, 0, folder, answer


@pytest.mark.parametrize(
    ("state", "kind"), [("IDLE", "cancelled"), ("DOWN*", "node_fail"), ("", "unknown")]
)
def test_of_a_node_that_is_down_no_end_is_believed(
    client: Client, tmp_path: Path, state: str, kind: str
) -> None:
    """Its controller takes what was completing there for over, and it may only be cut off."""
    line = "CANCELLED|None|1000|1000|1002|1:00|n1|n1"
    live = '{"host": "n1", "pid": 5, "attempt": "0.1"}'
    question = one_attempt(client, tmp_path, line, "live", live)
    if state:
        said = f"NodeName=n1 CoresPerSocket=4\n   State={state} Weight=1\n"
        prints(tmp_path / "bin", "scontrol", f"{said}   BootTime=1970-01-01T00:00:01")
    else:
        says(tmp_path / "bin", "scontrol", "Unable to contact slurm controller")
    assert looking_at(client, 5000.0).word(*question).kind == kind


@pytest.mark.parametrize(
    ("nodes", "state", "kind"),
    [
        ("n[1-2]", "RUNNING", "completing"),
        ("n1,m1", "COMPLETING", "completing"),
        ("n[1-2]", "COMPLETED", "gone"),
        ("n1", "RUNNING", "gone"),
    ],
)
def test_a_recorded_end_waits_for_a_job_that_has_other_nodes(
    client: Client, tmp_path: Path, nodes: str, state: str, kind: str
) -> None:
    """Its shim knows of one node; ranks on the others may live as long as the job does."""
    line = f"{state}|None|1000|1000|N/A|UNLIMITED|n1|{nodes}"
    question, looking = one_attempt(client, tmp_path, line, "exit"), looking_at(client, 5000.0)
    assert looking.word(*question).kind == kind
    assert looking.wants_answer == (kind == "completing")
