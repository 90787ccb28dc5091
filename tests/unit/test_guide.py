"""The guide comes with the package, is what the code is, and does what it says."""

import os
import pty
import re
import subprocess
import sys

import nbformat
import pytest

import guide_parts
from holdfast.cli import main
from holdfast.guide import TOPICS, page
from pages import SERVED, blocks, run_blocks, without


@pytest.mark.parametrize("topic", TOPICS)
def test_what_follows_from_the_code_is_current(topic):
    """Keys, commands, exit codes, transitions and public names stand there as they are declared."""
    text = page(topic)
    assert guide_parts.written(topic, text) == text, "run: python tests/guide_parts.py"


def test_every_page_is_a_topic():
    """None is left out of the list, and none that is listed is missing from the package."""
    assert all(map(page, TOPICS))
    assert {path.stem for path in guide_parts.FOLDER.glob("*.md")} == set(TOPICS)


# The cells of a notebook share their names: `integration/test_kernel.py` runs them in a kernel.
@pytest.mark.parametrize("topic", sorted(TOPICS.keys() - {"notebook"}))
@pytest.mark.timeout(600)
def test_every_block_does_what_the_page_says(topic, tmp_path):
    """Typed one after the other by a reader, they run, and print what is printed there."""
    run_blocks(without(page(topic), SERVED.get(topic, ())), tmp_path)


@pytest.mark.parametrize("topic", TOPICS)
def test_a_block_that_is_a_file_is_named_before_it(topic):
    """A terminal does not show what stands behind the fence."""
    for block in (each for each in blocks(page(topic)) if each.name is not None):
        before = page(topic).partition(block.text)[0]
        assert f"`{block.name}`" in before, f"nothing says that {block.name} is a file"


@pytest.mark.parametrize("topic", TOPICS)
def test_a_pipe_gets_the_markdown_as_it_is(topic, capsys):
    """What `less` shows and what a forge renders are one text."""
    assert main(["guide", topic]) == 0
    assert capsys.readouterr().out == page(topic)


@pytest.mark.parametrize("topic", TOPICS)
def test_every_page_is_a_notebook_on_request(topic, capsys):
    """Valid, with every block of Python in a cell, and nothing of the page lost."""
    assert main(["guide", topic, "--ipynb"]) == 0
    made = nbformat.reads(capsys.readouterr().out, as_version=4)
    nbformat.validate(made)
    cells = [each.source for each in made.cells if each.cell_type == "code"]
    python = [each for each in blocks(page(topic)) if each.language == "python"]
    assert [each.partition("\n")[2] if each[0] == "%" else each for each in cells] == [
        block.text.rstrip("\n") for block in python
    ]
    words = [each.source for each in made.cells if each.cell_type == "markdown"]
    assert "".join("".join(words).split()) == "".join(_without_python(page(topic)).split())


def _without_python(markdown: str) -> str:
    return re.sub(r"^```python.*?^```\n", "", markdown, flags=re.MULTILINE | re.DOTALL)


def test_topics_are_listed(capsys):
    """With and without `--list`, each with what it is about."""
    for words in (["guide"], ["guide", "--list"]):
        assert main(words) == 0
        listed = capsys.readouterr().out
        assert [line.split()[0] for line in listed.splitlines()[1:]] == list(TOPICS)


@pytest.mark.parametrize(
    ("wrong", "meant"), [("storge", "storage"), ("file", "experiment-file"), ("Costs", "costs")]
)
def test_a_wrong_topic_is_told_what_it_was_meant_to_be(wrong, meant, capsys):
    """A misspelt one, a part of one; and what there is, in any case."""
    assert main(["guide", wrong]) == 2
    told = capsys.readouterr().err
    assert f"did you mean {meant}?" in told
    assert ", ".join(TOPICS) in told


@pytest.mark.parametrize("topic", TOPICS)
def test_a_terminal_gets_it_rendered(topic):
    """In 80 columns: no markup of links and headings is left, and no line is longer."""
    shown = in_terminal("guide", topic)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in shown.splitlines()]
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert not re.search(r"^#+ |\]\(|^```", text, re.MULTILINE)
    assert re.findall(r"^# (.*)", page(topic))[0] in text


def in_terminal(*words: str) -> str:
    """What `holdfast` with *words* shows in a terminal of 80 columns."""
    controller, terminal = pty.openpty()
    os.set_blocking(controller, True)
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    size = "import sys, termios; termios.tcsetwinsize(1, (24, 80)); "
    process = subprocess.Popen(
        [sys.executable, "-c", f"{size}from holdfast.cli import main; sys.exit(main())", *words],
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        env={**environment, "TERM": "xterm"},
    )
    os.close(terminal)
    shown = b""
    try:
        while part := os.read(controller, 1 << 16):
            shown += part
    except OSError:
        pass  # EIO: its last writer is gone
    os.close(controller)
    assert process.wait() == 0
    return shown.decode()
