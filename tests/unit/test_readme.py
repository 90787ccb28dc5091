"""What README and guide say is so: proofs exist, references lead somewhere, examples run."""

import ast
import functools
import re
from pathlib import Path

import click
import pytest

import guide_parts
import holdfast
from holdfast.cli.app import app
from holdfast.demo import FOLDER, write_demo
from holdfast.guide import TOPICS, page
from pages import blocks, prose, run_blocks

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {"README.md": README, **{f"src/holdfast/guide/{topic}.md": page(topic) for topic in TOPICS}}


#: What the design promises, by the event after which it holds, each with the guide's heading.
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
    """For every promise of the guide: its proofs, each a name and the file that it is in."""
    told = page("promises").split("\n## What survives what\n")[1].split("\n## ")[0]
    found = {}
    for section in told.split("\n### ")[1:]:
        after, _, rest = section.partition("\n")
        promise, _, proofs = rest.partition("\n- ")
        assert promise.strip(), f"nothing is promised after: {after}"
        files = re.split(r"`(tests/[^`]+\.py)`:", proofs)[1:]
        found[after.lower()] = [
            (name, path)
            for path, names in zip(files[::2], files[1::2], strict=True)
            for name in re.findall(r"`(\w+)`", names)
        ]
    assert len(found) == told.count("\n### "), "two promises are of the same event"
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
    assert {after.lower() for after in PROMISED.values()} <= promises().keys()


def test_every_promise_of_the_readme_is_proved_in_the_guide():
    """Its short table says nothing that the guide does not."""
    table = README.split("\n## Promises\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (?!after|--)(.*?) \|", table, re.MULTILINE)
    assert len(rows) > 9
    assert {after.lower() for after in rows} <= promises().keys()


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


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name):
    """No relative link is dead."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", PAGES[name]):
        assert ((ROOT / name).parent / target).exists(), f"{target} is not there"


@functools.cache
def names_of_tests() -> frozenset[str]:
    return frozenset(name for path in ROOT.glob("tests/**/test_*.py") for name in names_in(path))


@pytest.mark.parametrize("name", PAGES)
def test_every_file_and_test_that_is_named_is_there(name):
    """Whoever looks one up finds it."""
    spans = spans_of(prose(PAGES[name]))
    for path in (each for each in spans if re.fullmatch(r"(src|tests|diagrams)/[\w./-]+", each)):
        assert (ROOT / path).exists(), f"{path} is not there"
    named = {each for each in spans if re.fullmatch(r"test_\w+", each)}
    assert named <= names_of_tests()


@pytest.mark.parametrize("name", PAGES)
def test_every_command_option_and_topic_that_is_named_exists(name):
    """As it is typed there, in prose or in a block."""
    shell = [block.text for block in blocks(PAGES[name]) if block.language == "sh"]
    typed = [*spans_of(prose(PAGES[name])), *(line for text in shell for line in text.splitlines())]
    called = [
        found for line in typed for found in re.findall(r"\bholdfast (?!\.)([^;&|<>]*)", line)
    ]
    for words in (each.split(" -- ")[0].split() for each in called):
        check_command(words)
    known = {
        option for command in guide_parts.commands().values() for option in options_of(command)
    }
    for span in spans_of(prose(PAGES[name])):
        if found := re.fullmatch(r"(--?[a-z][a-z-]*)( .*)?", span):
            assert found[1] in known | options_of(app) | FOREIGN, f"{span} is no option"


#: Options of other programs, which pages name.
FOREIGN = {
    "--flag",
    "--joblog",
    "--nthreads",
    "--resources",
    "--wrap",
    "--constraint",
    "--ntasks-per-node",
}


def check_command(words: list[str]) -> None:
    """The command in *words* exists, and so does each of its options."""
    if words and words[0].startswith("-"):
        assert words[0] in options_of(app), f"holdfast {words[0]} is no option"
        return
    if not words or not words[0].islower():
        return
    command = guide_parts.commands().get(words[0])
    assert command is not None, f"there is no command holdfast {words[0]}"
    for word in words[1:]:
        if re.match("--?[a-z]", word):
            assert word.split("=")[0] in options_of(command), f"holdfast {words[0]} has no {word}"
    if words[0] == "guide" and len(words) > 1 and words[1].islower():
        assert words[1] in TOPICS, f"there is no topic {words[1]}"


def options_of(command: click.Command) -> set[str]:
    """Every option that it takes, as it is typed."""
    options = (each for each in command.params if isinstance(each, click.Option))
    return {"-h", "--help", *(name for each in options for name in each.opts)}


def spans_of(text: str) -> list[str]:
    """Whatever stands in code in *text*."""
    return [" ".join(each.split()) for each in re.findall(r"`([^`]+)`", text)]


def names_in(path: Path) -> set[str]:
    """Every test of *path*, whether each run runs it or not."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_variable_is_told_and_no_other():
    """What the code calls `HOLDFAST_…` is in the guide, and nothing else is."""
    # Those of slots are called as their kinds are.
    used = r"\bHOLDFAST_(?!SLOT_)[A-Z][A-Z_]*[A-Z]\b"
    source = Path(holdfast.__file__).parent.rglob("*.py")
    known = {name for path in source for name in re.findall(used, path.read_text(encoding="utf-8"))}
    assert set(re.findall(used, page("experiment-file"))) == known
    assert {name for text in PAGES.values() for name in re.findall(used, text)} <= known


def test_what_docstrings_cite_is_there():
    """`guide: storage, *Finding*` names a topic, and a part of it."""
    for path in Path(holdfast.__file__).parent.rglob("*.py"):
        text = " ".join(path.read_text(encoding="utf-8").split())
        assert "DESIGN" not in text, f"{path} cites what is not in the repository"
        for topic, part in re.findall(r"\(guide: ([\w-]+)(?:, \*([^*]+)\*)?\)", text):
            assert topic in TOPICS, f"{path} cites {topic}"
            assert re.search(rf"^(#+ |\*\*){part}", page(topic), re.MULTILINE), f"{path}: {part}"


def test_the_readme_is_short():
    """Whoever meets holdfast reads it to the end; the rest is in the guide."""
    assert len(README.splitlines()) <= 160
    assert all(f"src/holdfast/guide/{topic}.md" in README for topic in TOPICS)


def test_the_first_two_commands_are_what_ci_runs():
    """`.ci/run` finds the commands by how they start."""
    commands = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert [command.rsplit("/", 1)[1] for command in commands] == ["holdfast demo", "pytest -n 2"]


@pytest.mark.timeout(600)
def test_every_block_of_the_readme_does_what_it_says(tmp_path):
    """File, program, ten lines of Python and a demo that is killed, copied out of the README."""
    (ten_lines,) = [each.text for each in blocks(README) if "Orchestrator(" in each.text]
    assert len(ten_lines.splitlines()) <= 11
    write_demo(tmp_path / FOLDER)
    # These two make environments of their own; `.ci/run` runs them.
    run_blocks(README, tmp_path, skip=["python3 -m venv"])
