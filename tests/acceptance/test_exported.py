"""`holdfast export` into files, and as Parquet."""

import csv
import io
import json
import os
from datetime import datetime

import polars as pl
import pyarrow.parquet as pq
import pytest

from experiments import hostile
from holdfast.store.manager import StateManager
from shell import Shell, Terminal
from waiting import PATIENCE_S


def test_parquet_is_a_file_of_fixed_types(sh: Shell):
    """Other tools read it without being told what is what."""
    sh("run", "e.toml")
    assert sh("export", "@last", "--parquet", "-O", "squares.parquet") == ("", "")
    read = pq.read_table(sh.path / "squares.parquet")
    assert read.schema.metadata[b"schema"] == b"holdfast.export/1"
    assert read.schema.metadata[b"experiment_id"].decode() == sh.only_id()
    frame = pl.read_parquet(sh.path / "squares.parquet")
    assert frame["result.square"].to_list() == [0, 1, 4]
    assert frame.schema["completed_at"] == pl.Datetime("us", "UTC")
    assert frame["params.level"].to_list() == [1, 2, 3]
    assert frame.equals(StateManager(sh.states).to_polars(sh.only_id()))


def test_parquet_goes_through_a_pipe(sh: Shell):
    """Byte by byte what the file holds."""
    sh("run", "e.toml")
    done = sh.shell("holdfast export @last/1 --parquet | cat > piped.parquet")
    assert (done.returncode, done.stderr) == (0, "")
    assert pl.read_parquet(sh.path / "piped.parquet")["index"].to_list() == [1]


def test_parquet_is_not_for_a_terminal(sh: Shell):
    """It says what to type instead."""
    sh("run", "e.toml")
    terminal = Terminal(sh, "export", "@last", "--parquet")
    assert terminal.exit_code() == 2
    assert "-O FILE writes a file" in terminal.seen
    assert "PAR1" not in terminal.seen


def test_without_pyarrow_it_says_what_to_install(sh: Shell):
    """In one line, without a traceback, and other forms need nothing."""
    sh("run", "e.toml")
    (sh.path / "none").mkdir()
    (sh.path / "none" / "pyarrow.py").write_text("raise ModuleNotFoundError(name='pyarrow')")
    env = {"PYTHONPATH": f"{sh.path / 'none'}{os.pathsep}{sh.env['PYTHONPATH']}"}
    process = sh.start("export", "@last", "--parquet", "-O", "x.parquet", env=env)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    assert "pyarrow is not installed" in err
    assert "pip install 'holdfast[parquet]'" in err
    assert "Traceback" not in out + err
    assert not (sh.path / "x.parquet").exists()
    assert "result.square" in sh("export", "@last")[0]


@pytest.mark.parametrize("form", ["--csv", "--jsonl"])
def test_a_file_holds_what_is_printed(sh: Shell, form: str):
    """In the same bytes, in place of what was there before."""
    sh("run", "e.toml")
    (sh.path / "out").write_text("old")
    printed = sh("export", "@last", form)[0]
    assert sh("export", "@last", form, "-O", "out") == ("", "")
    assert (sh.path / "out").read_text() == printed
    assert sh("export", "@last", form, "-O", "-")[0] == printed
    assert sorted(path.name for path in sh.path.glob(".out*")) == []


def test_times_are_bare_words_of_iso_8601(sh: Shell):
    """In CSV as in what `show` prints of the same processes."""
    sh("run", "e.toml")
    exported = sh("export", "@last")[0]
    for row in csv.DictReader(io.StringIO(exported)):
        began = datetime.fromisoformat(row["started_at"])
        assert began <= datetime.fromisoformat(row["completed_at"])
    assert sh("show", "@last", "-o", "csv")[0] == exported


def test_a_file_that_cannot_be_written_leaves_the_old_one(sh: Shell):
    """A directory that is not there, or one in its place: told in words."""
    sh("run", "e.toml")
    assert "no/out.csv" in sh("export", "@last", "-O", "no/out.csv", code=1)[1]
    assert "is a directory" in sh("export", "@last", "-O", ".", code=2)[1]


def test_hostile_values_are_values_in_every_form(sh: Shell):
    """Each process is in each of them, and each parses."""
    state = hostile(StateManager(sh.states))
    query = state.experiment_id
    sh("export", query, "--parquet", "-O", "h.parquet")
    assert len(pl.read_parquet(io.BytesIO((sh.path / "h.parquet").read_bytes()))) == 18
    sh("export", query, "--jsonl", "-O", "h.jsonl")
    lines = (sh.path / "h.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == list(range(18))
