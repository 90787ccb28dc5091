"""What Slurm's commands say, and what follows from it: they are scripts here."""

from pathlib import Path

import pytest

from holdfast.engines.slurm.client import Client, LimitReached
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
