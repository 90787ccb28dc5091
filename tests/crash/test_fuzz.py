"""Whatever a file holds: a state, a clear error that names it, or nothing; never anything else."""

import json
import warnings
import zlib
from pathlib import Path

import pytest

from holdfast.config.experiment_file import load_config
from holdfast.errors import HoldfastError, UnreadableStateWarning
from holdfast.store.manager import StateManager

from .effects import Tree
from .fuzzing import Fuzzed, fuzz

_TOML = [
    b'name = "x"\ncommand = ["python", "a.py", "--codec", "{codec}"]\n[matrix]\n'
    b'codec = ["zlib", "bz2"]\nlevel = [1, 6]\nexclude = [{codec = "bz2", level = 1}]\n'
    b'include = [{codec = "lzma", level = 9}]\n[env]\nA = "1"\n[limits]\njobs = 2\n'
    b'timeout = "2h"\ngrace = "30s"\nfail_fast = true\n[retry]\nmax_attempts = 3\nbackoff = "1s"\n'
    b'[aggregate]\ncommand = ["python", "b.py"]\n',
    b'command = ["true"]\nprocesses = 4\n',
]


def _views(tmp_path: Path) -> tuple[Path, list[bytes], list[bytes]]:
    """A directory with one experiment; its view as a corpus; its journal as another."""
    manager = StateManager(tmp_path / "states")
    manager.create("exp", num_processes=3, config={"a": [1, {"b": None}]}, name="näme")
    with manager.claim("exp") as claim:
        claim.record("start")
        claim.record("start", 0)
        claim.record("fail", 0, exit_code=3, error_message="no")
        claim.record("start", 1)
        claim.record("complete", 1, exit_code=0)
    views = [(tmp_path / "states" / "exp.json").read_bytes()]
    views.append(
        json.dumps({"experiment_id": "exp", "total_runs": 4, "status": "running"}).encode()
    )
    journals = [next((tmp_path / "states" / "exp" / "journal").iterdir()).read_bytes()]
    return tmp_path / "states", views, journals


def _told(fuzzed: Fuzzed) -> None:
    print(f"{fuzzed.inputs:,} inputs, {fuzzed.lines} lines reached, {fuzzed.kept} kept")
    assert not fuzzed.problems, "\n".join(fuzzed.problems[:3])


def _fuzz_views(tmp_path: Path, inputs: int) -> Fuzzed:
    _, views, _ = _views(tmp_path)
    lonely = tmp_path / "lonely"
    lonely.mkdir()
    manager = StateManager(lonely)

    def read(data: bytes) -> None:
        (lonely / "exp.json").write_bytes(data)
        before = Tree.scan(lonely).digest
        try:
            manager.load("exp")
        finally:
            manager.list_experiments()
            manager.unreadable()
            assert Tree.scan(lonely).digest == before, "reading changed a file"

    return fuzz(read, views, HoldfastError, inputs)


def _fuzz_journals(tmp_path: Path, inputs: int, *, checksums: bool) -> Fuzzed:
    states, _, journals = _views(tmp_path)
    path = next((states / "exp" / "journal").iterdir())
    manager = StateManager(states)

    def read(data: bytes) -> None:
        if checksums:
            # With checksums made right, what is behind them is reached.
            data = b"".join(
                b"%08x %s\n" % (zlib.crc32(line[9:]), line[9:]) for line in data.splitlines()
            )
        path.write_bytes(data)
        before = Tree.scan(states).digest
        try:
            manager.load("exp")
            manager.history("exp")
        finally:
            manager.list_experiments()
            assert Tree.scan(states).digest == before, "reading changed a file"

    return fuzz(read, journals, HoldfastError, inputs)


def _fuzz_experiment_files(tmp_path: Path, inputs: int) -> Fuzzed:
    path = tmp_path / "experiment.toml"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        load_config(path)

    return fuzz(read, _TOML, HoldfastError, inputs)


def _all(tmp_path: Path, inputs: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreadableStateWarning)
        for number, run in enumerate(
            (
                lambda path: _fuzz_views(path, inputs),
                lambda path: _fuzz_journals(path, inputs, checksums=False),
                lambda path: _fuzz_journals(path, inputs, checksums=True),
                lambda path: _fuzz_experiment_files(path, inputs),
            )
        ):
            folder = tmp_path / str(number)
            folder.mkdir()
            _told(run(folder))


def test_no_input_meets_anything_but_a_clear_error(tmp_path: Path) -> None:
    """Views, journals (with wrong and with right checksums) and experiment files, mutated."""
    _all(tmp_path, 400)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_long_fuzzing(tmp_path: Path) -> None:
    """Very many of them."""
    _all(tmp_path, 60_000)
