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


def names_of_tests(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name.lower().startswith("test")
    }


def test_every_promise_links_to_tests_that_exist():
    """Each row of the promise table names its tests, and each is a test of the linked file."""
    rows = re.findall(r"^\| (?!after|--)(.*) \|$", section("Promises"), re.MULTILINE)
    assert rows
    for row in rows:
        proofs = re.findall(r"\[([^]]+)\]\((tests/[^)#]+\.py)\)", row.split(" | ")[-1])
        assert proofs, f"no proof is linked for: {row}"
        for name, path in proofs:
            assert (ROOT / path).is_file(), f"{path} is not there"
            assert name.strip("`") in names_of_tests(ROOT / path), f"{path} has no {name}"


def test_every_link_leads_somewhere():
    """No relative link of the README is dead."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", README):
        assert (ROOT / target).exists(), f"{target} is not there"


def test_the_first_two_commands_are_what_ci_runs():
    """`.ci/run` finds the commands by how they start."""
    commands = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert [command.rsplit("/", 1)[1] for command in commands] == ["holdfast demo", "pytest"]


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
