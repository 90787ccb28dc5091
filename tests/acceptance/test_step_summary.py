"""Where GITHUB_STEP_SUMMARY names a file, whoever waits for an end writes there how it was."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

import experiments
from holdfast.cli import summary
from holdfast.cli.where import Where
from holdfast.store.manager import StateManager

PROGRAM = [sys.executable, "-c", "import sys; from holdfast.cli import main; sys.exit(main())"]


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page of a job, which other steps write, too."""
    monkeypatch.chdir(tmp_path)
    found = tmp_path / "page.md"
    found.write_text("# Build\n\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(found))
    return found


def holdfast(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*PROGRAM, *words], capture_output=True, text=True)


def parsed(text: str) -> list[Any]:
    """The tokens of the page as GitHub's Markdown has them."""
    return MarkdownIt("commonmark").enable("table").parse(text)


def tables(text: str) -> list[list[str]]:
    """The cells of each table, in order."""
    found: list[list[str]] = []
    inside = False
    for token in parsed(text):
        if token.type == "table_open":
            found.append([])
        elif token.type in ("th_open", "td_open"):
            inside = True
        elif inside and token.type == "inline":
            found[-1].append("".join(each.content for each in token.children))
            inside = False
    return found


def test_every_command_that_waits_for_an_end_appends_to_it(page):
    """Verdict, counts, failures by their reason with the end of a log, results."""
    page.with_name("e.toml").write_text(
        'command = ["sh", "-c", "echo no data for {x} >&2; test {x} = 1 && '
        'echo \'{{\\"score\\": 7}}\' > $HOLDFAST_RESULT"]\n'
        "matrix = { x = [1, 2, 3] }\n"
    )
    assert holdfast("run", "e.toml").returncode == 3
    whole = page.read_text()
    assert whole.startswith("# Build\n\n## e: ✗ failed")
    counts, failures, results = tables(whole)
    assert counts[:3] == ["completed", "failed", "processes"]
    assert counts[5:8] == ["1", "2", "3"]
    assert failures[5] == "2"
    assert "no data for 2" in whole
    assert results == ["process", "x", "score", "0", "1", "7"]
    assert "holdfast resume exp_" in whole or "resume exp_" in whole
    for words in (("wait", "@last"), ("retry", "@last"), ("resume", "@last")):
        before = page.read_text()
        assert holdfast(*words).returncode == 3
        added = page.read_text().removeprefix(before)
        assert added.startswith("## e: ✗ failed"), words


def test_a_page_that_cannot_be_written_is_one_warning(page, monkeypatch):
    """The run is what counts: its exit code stays."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page.parent))
    done = holdfast("run", "--procs", "1", "--", "true")
    assert done.returncode == 0
    assert done.stderr.count("warning: no summary in") == 1


def test_a_pipe_that_nobody_reads_is_not_waited_for(page, monkeypatch):
    """The experiment is over, and so is the command."""
    pipe = page.with_name("pipe")
    os.mkfifo(pipe)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pipe))
    ran = holdfast("run", "--", "true")
    assert ran.returncode == 0
    assert ran.stderr.count("no summary") == 1


def test_nothing_is_written_where_nobody_asked(page, monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    assert holdfast("run", "--procs", "1", "--", "true").returncode == 0
    assert page.read_text() == "# Build\n\n"


def test_what_is_stored_is_text_and_nothing_else(page, tmp_path):
    """Names, parameters, results, errors and logs of markup: no tag, link, image or heading."""
    manager = StateManager(tmp_path / "states")
    state = experiments.hostile(manager)
    summary.append(Where(str(tmp_path / "states")), state, f"{state.name}: {state.error_message}")
    added = page.read_text().removeprefix("# Build\n\n")
    tokens = parsed(added)
    headings = [each for each in tokens if each.type == "heading_open"]
    assert len(headings) <= 3
    for token in tokens:
        if token.type == "html_block":
            plain = re.sub(r"</?(details|summary)>", "", token.content)
            assert not re.search(r"[<>]", plain), token.content
        for each in token.children or ():
            assert each.type in ("text", "code_inline", "text_special", "softbreak"), each
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", added)
    assert len(added.encode()) < 900_000


def test_a_page_stays_below_its_limit(page, tmp_path):
    """What other steps wrote counts; what has no room is left out, and nothing is cut in two."""
    manager = StateManager(tmp_path / "states")
    state = experiments.sweep(manager, 60, failures=20, groups=20)
    where = Where(str(tmp_path / "states"))
    page.write_text("x" * 899_000 + "\n")
    summary.append(where, state, "the end")
    assert "More is left out" in page.read_text()
    assert page.stat().st_size <= 900_000
    page.write_text("x" * 900_000 + "\n")
    summary.append(where, state, "the end")
    assert page.stat().st_size == 900_001
