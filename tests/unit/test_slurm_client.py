"""What Slurm's commands say, and what follows from it: they are scripts here."""

import json
from pathlib import Path

import pytest

from holdfast.attempts.names import AttemptName
from holdfast.engines import waves
from holdfast.engines.contract import Handle
from holdfast.engines.slurm.asking import Asking
from holdfast.engines.slurm.batch import Marks
from holdfast.engines.slurm.client import Client, LimitReached
from holdfast.engines.slurm.engine import SlurmEngine
from holdfast.engines.slurm.folders import Folder
from holdfast.engines.slurm.looking import Looking
from holdfast.engines.slurm.sending import Sent
from holdfast.errors import EngineRefusedError

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


def prints(directory: Path, command: str, words: str) -> None:
    """Have *command* print *words*, and count how often it is asked."""
    directory.mkdir(exist_ok=True)
    script = directory / command
    script.write_text(
        f"#!/bin/sh\necho >> {directory}/{command}.asked\ncat <<'END'\n{words}\nEND\n"
    )
    script.chmod(0o755)


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
        marks=Marks("abcdefghijkl", "w0123456789ab"),
        folder=tmp_path,
        made_at=900.0,
        tasks=tuple((name,) for name in names),
        number=7,
        sent_at=900.0,
    )
    looking, folder = Looking(client, lambda: 1000.0), Folder(tmp_path, lambda: 0.0)
    before = client.calls
    words = [
        looking.word(Handle(name=name, folder=tmp_path), sent, task, folder, answer, None)
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
