"""What the README says is so: its proofs exist, its links lead somewhere, its examples run."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text under a heading of the second level."""
    return re.split(r"^## ", README.split(f"\n## {title}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def block(language: str, containing: str) -> str:
    """The one fenced block of *language* that contains a text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    (found,) = [text for text in blocks if containing in text]
    return found


#: What the design promises (§7), by the event after which it holds, each with README's row for it.
PROMISED = {
    "a returned call": "a returned call",
    "any exception": "any exception",
    "SIGKILL of the orchestrator at any instant": "SIGKILL of the orchestrator at any instant",
    "Ctrl-C / SIGTERM": "Ctrl-C, SIGTERM",
    "two orchestrators on one experiment": "two orchestrators on one experiment",
    "two runs of one file at once": "several runs of one file at once",
    "a paused owner that wakes up late": "a paused owner that wakes up late",
    "disk full, read-only, EIO": "a full or failing disk",
    "a corrupt or newer file": "a corrupt or newer file",
}


def promises() -> dict[str, list[tuple[str, str]]]:
    """For every row of the promise table: its proofs, each a name and the file that it is in."""
    rows = re.findall(r"^\| (?!after|--)(.*) \|$", section("Promises"), re.MULTILINE)
    found = {}
    for row in rows:
        after, promise, proofs = row.split(" | ")
        assert promise.strip(), f"nothing is promised after: {after}"
        found[after] = re.findall(r"\[`([^]`]+)`\]\((tests/[^)#]+\.py)\)", proofs)
    assert len(found) == len(rows), "two rows are of the same event"
    return found


def proofs_in(path: Path) -> set[str]:
    """The tests of *path* that a plain `pytest` runs, if it can run them on this machine at all."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    marks = [
        ast.unparse(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and "pytestmark" in map(ast.unparse, node.targets)
    ]
    return {
        node.name
        for node in tree.body
        # pytest collects what is at the level of the module; a function within another never runs.
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        if not {"long", "skip", "xfail"}
        & set(re.findall(r"pytest\.mark\.(\w+)", "\n".join(marks + decorators_of(node))))
    }


def decorators_of(node: ast.FunctionDef) -> list[str]:
    return [ast.unparse(each) for each in node.decorator_list]


def test_every_promise_of_the_design_is_made():
    """None of the nine may leave the table: what it says less, nobody would miss."""
    assert len(PROMISED) == len(set(PROMISED.values())) == 9
    assert set(PROMISED.values()) <= set(promises())


def test_every_promise_links_to_tests_that_exist():
    """Each row names tests of the linked file that every run of the suite goes through."""
    for after, proofs in promises().items():
        assert proofs, f"no proof is linked for: {after}"
        for name, path in proofs:
            assert (ROOT / path).is_file(), f"{path} is not there"
            assert name in proofs_in(ROOT / path), f"{path} has no {name} that every run runs"


SOME_TESTS = """
def test_plain(): ...
@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
def test_if_root(): ...
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_long(): ...
@pytest.mark.skip(reason="broken")
def test_skipped(): ...
@pytest.mark.xfail
def test_failing(): ...
def helper():
    def test_within(): ...
class TestNothing: ...
"""


def test_only_what_every_run_runs_is_a_proof(tmp_path):
    """Not the long forms, not what is skipped, not what pytest does not collect."""
    (tmp_path / "some.py").write_text(SOME_TESTS)
    assert proofs_in(tmp_path / "some.py") == {"test_plain", "test_if_root"}
    (tmp_path / "long.py").write_text("pytestmark = pytest.mark.long\ndef test_plain(): ...\n")
    assert proofs_in(tmp_path / "long.py") == set()


def test_every_link_leads_somewhere():
    """No relative link of the README is dead."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", README):
        assert (ROOT / target).exists(), f"{target} is not there"


def test_the_first_two_commands_are_what_ci_runs():
    """`.ci/run` finds the commands by how they start."""
    commands = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert [command.rsplit("/", 1)[1] for command in commands] == ["holdfast demo", "pytest -n 2"]


@pytest.mark.timeout(120)
def test_the_examples_run(tmp_path):
    """File, program and ten lines of Python, copied out of the README, do what it says."""
    (tmp_path / "experiment.toml").write_text(block("toml", "codec-shootout"))
    (tmp_path / "measure.py").write_text(block("python", "HOLDFAST_RESULT"))
    ten_lines = block("python", "Orchestrator")
    assert len(ten_lines.splitlines()) <= 11
    run = subprocess.run(
        [sys.executable, "-c", ten_lines],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "is aggregated, 8 completed" in run.stdout
    assert "experiment None aggregate aggregated" in run.stdout
