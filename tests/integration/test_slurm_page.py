"""What the guide says of Slurm, typed word for word on a real one."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from holdfast.guide import page
from pages import run_blocks, section
from slurm_mini import Cluster, ports

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

#: What is installed beside the interpreter counts, whether its environment is active or not.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def test_slurm_in_five_minutes(slurm: Cluster, tmp_path: Path) -> None:
    """Tried, submitted and left, collected; killed and resumed, and every command ran once."""
    run_blocks(section(page("engines"), "Slurm in five minutes"), tmp_path)


@pytest.mark.skipif(
    shutil.which("torchrun", path=PATH) is None, reason="needs torch: pip install torch"
)
def test_torchrun_over_nodes(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four ranks of two launchers on two nodes are one gang, each with its own result.

    Where they meet is on this machine, of which another suite may have the port.
    """
    monkeypatch.setenv("PATH", PATH)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    typed = section(page("engines"), "torchrun over nodes")
    with ports(1, 29400) as port:
        run_blocks(typed.replace(":29400 ", f":{port} "), tmp_path)
