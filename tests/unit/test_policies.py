"""What an engine is asked about beforehand: attempts as they would be submitted."""

from pathlib import Path

import pytest

from holdfast.config.experiment_file import load_config
from holdfast.lifecycle.processes import ProcessProgress
from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration.launching import Launcher
from holdfast.orchestration.policies import samples
from holdfast.status import ProcessStatus

GIB = 1 << 30


@pytest.mark.parametrize(("configured", "given"), [("4G", {"memory_bytes": 8 * GIB}), ("16G", {})])
def test_what_a_rule_has_set_is_asked_for_as_long_as_it_counts(
    tmp_path: Path, configured: str, given: dict[str, float]
) -> None:
    """It counts until that limit itself is changed; then the new one is asked for, as is run."""
    file = tmp_path / "exp.toml"
    file.write_text(f'command = ["true"]\nengine.name = "slurm"\nengine.memory = "{configured}"\n')
    experiment = load_config(file)
    process = ProcessProgress(
        status=ProcessStatus.PENDING,
        attempt=1,
        limits={"memory_bytes": {"from": 4.0 * GIB, "to": 8.0 * GIB}},
    )
    state = ExperimentState(experiment_id="exp_1", num_processes=1, process_progress={0: process})
    launcher = Launcher(
        experiment_id="exp_1",
        experiment=experiment,
        folder=tmp_path,
        state_dir=tmp_path,
        cwd=str(tmp_path),
    )
    (sample,) = samples(launcher, state)
    assert sample.resources == given
