"""Whatever a file holds: a state, a clear error that names it, or nothing; never anything else."""

import contextlib
import json
import math
import shutil
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.config.experiment_file import load_config
from holdfast.errors import (
    AlreadyOwnedError,
    HoldfastError,
    UnknownLivenessError,
    UnreadableStateWarning,
)
from holdfast.lifecycle.records import ExperimentState
from holdfast.store.manager import StateManager

from .bench import digest
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
    # Mostly what takes any value, so that a value which is none is not refused for its place.
    config = {"a": 1, "b": [1, 2.5, None, "x"], "c": {"d": True, "e": [0, [7]]}}
    views.append(json.dumps({"experiment_id": "exp", "config": config, "extra": config}).encode())
    views += [views[-1].replace(b"2.5", number) for number in (b"NaN", b"-1e999")]
    journals = [next((tmp_path / "states" / "exp" / "journal").iterdir()).read_bytes()]
    return tmp_path / "states", views, journals


def _told(fuzzed: Fuzzed) -> None:
    print(
        f"{fuzzed.inputs:,} inputs, {fuzzed.accepted:,} accepted, {fuzzed.lines} lines reached, "
        f"{fuzzed.kept} kept"
    )
    assert not fuzzed.problems, "\n".join(fuzzed.problems[:3])
    assert 0 < fuzzed.accepted < fuzzed.inputs


def _fuzz_views(tmp_path: Path, inputs: int) -> Fuzzed:
    _, views, _ = _views(tmp_path)
    lonely = tmp_path / "lonely"
    lonely.mkdir()
    manager = StateManager(lonely)

    def read(data: bytes) -> None:
        (lonely / "exp.json").write_bytes(data)
        before = Tree.scan(lonely).digest
        try:
            with _naming("exp.json"):
                state = manager.load("exp")
        finally:
            manager.list_experiments()
            manager.unreadable()
            assert Tree.scan(lonely).digest == before, "reading changed a file"
        _means_one_thing(data)
        _is_claimed(lonely, state, tmp_path / "trial")

    return fuzz(read, views, HoldfastError, inputs)


@contextlib.contextmanager
def _naming(*names: str) -> Iterator[None]:
    """Of the errors that are let through, demand that they say which file is meant."""
    try:
        yield
    except HoldfastError as err:
        if not any(name in str(err) for name in names):
            raise AssertionError(f"{type(err).__name__} names none of {names}: {err}") from err
        raise


def _means_one_thing(data: bytes) -> None:
    """What was accepted as JSON is JSON for the strictest of other readers, too."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), f"a key twice: {[key for key, _ in pairs]}"
        return dict(pairs)

    def never(token: str) -> None:
        raise AssertionError(f"{token} is no JSON")

    def finite(token: str) -> float:
        assert math.isfinite(float(token)), f"{token} is none for others"
        return float(token)

    try:
        json.loads(
            data.decode("utf-8"), object_pairs_hook=once, parse_constant=never, parse_float=finite
        )
    except ValueError as err:
        raise AssertionError(f"accepted, but no JSON: {err}") from err


def _is_claimed(states: Path, state: ExperimentState, trial: Path) -> None:
    """In a copy of *states*, at *trial*: a claim says why not, or has what was loaded."""
    shutil.copytree(states, trial)
    try:
        journals = {path: path.read_bytes() for path in trial.rglob("journal/*")}
        manager = StateManager(trial)
        claim = None
        for force in (False, True):
            before = Tree.scan(trial).digest
            try:
                claim = manager.claim("exp", force=force)
                break
            except (AlreadyOwnedError, UnknownLivenessError):
                assert Tree.scan(trial).digest == before, "a refused claim changed a file"
        if claim is None:
            return
        with claim:
            assert digest(claim.state) == digest(state), "a claim found another state"
        assert digest(manager.load("exp")) == digest(state), "a claim left another state"
        assert manager.list_experiments() == ["exp"]
        _means_one_thing((trial / "exp.json").read_bytes())
        for path, content in journals.items():
            assert path.read_bytes() == content, "a claim wrote into another's journal"
    finally:
        shutil.rmtree(trial)


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
            # Where the journal tells of another id, it is the file name that is at fault.
            with _naming(path.name, "exp.json: is of experiment"):
                state = manager.load("exp")
                manager.history("exp")
        finally:
            manager.list_experiments()
            assert Tree.scan(states).digest == before, "reading changed a file"
        _is_claimed(states, state, tmp_path / "trial")

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


def test_no_input_meets_anything_but_a_clear_error(fast_dir: Path) -> None:
    """Views, journals (with wrong and with right checksums) and experiment files, mutated."""
    _all(fast_dir, 400)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_long_fuzzing(fast_dir: Path) -> None:
    """Very many of them."""
    _all(fast_dir, 60_000)
