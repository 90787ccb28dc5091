"""What every acceptance test may ask for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shell import Shell


@pytest.fixture
def sh(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    shell.let_go()
    for process in shell.started:
        if process.poll() is None:
            process.kill()
        process.communicate()
