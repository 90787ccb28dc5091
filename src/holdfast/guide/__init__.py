"""The guide: what people read, as the Markdown files beside this one; it travels with the package.

Owns which topics there are. Showing one is the command line's. What the code declares (keys,
commands, exit codes, transitions, public names) stands in the pages as text, so that they can be
read anywhere, and a test holds it against the code.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

__all__ = ["TOPICS", "notebook", "page"]

#: `{topic: what it is about}`, in the order to read them in.
TOPICS: Final = {
    "tutorial": "from a first command to your own experiment, killed and resumed",
    "experiment-file": "every key of experiment.toml; retry rules, slots, outputs",
    "views": "seeing it: terminal, report page, frames, hooks",
    "commands": "every command with its options, and the exit codes",
    "machines": "the two state machines, state by state",
    "python": "the same from Python: run, read, record, observe",
    "notebook": "in Jupyter: live runs, frames, plots; itself a notebook",
    "ranks": "inside a process: progress, checkpoints; torchrun, mpirun",
    "engines": "beyond one machine: Slurm, Dask, pools of your own",
    "recipes": "short answers: retries, drills, stopping, tags, batch systems",
    "promises": "what survives what, with its test, and what is not promised",
    "costs": "what each step costs, against the machine's limit",
    "decisions": "why it is as it is",
    "storage": "the files, byte by byte, for readers in other languages",
}


def page(topic: str) -> str:
    """The Markdown of *topic*. Raises KeyError."""
    if topic not in TOPICS:
        raise KeyError(topic)
    from importlib.resources import files  # 4 ms, which a list of topics never needs

    return files(__name__).joinpath(f"{topic}.md").read_text(encoding="utf-8")


#: A block of Python, with the name of the file that it is.
_PYTHON: Final = re.compile(r"^```python(?: (\S+))?\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def notebook(topic: str) -> str:
    """The page *topic* as a notebook (nbformat 4.5), its Python in cells. Raises KeyError.

    A block that is a file becomes a cell that writes it.
    """
    python = {"display_name": "Python 3", "language": "python", "name": "python3"}
    made = {
        "cells": [{**cell, "id": f"cell-{at}"} for at, cell in enumerate(_cells(page(topic)))],
        "metadata": {"kernelspec": python},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def _cells(markdown: str) -> Iterator[dict[str, Any]]:
    end = 0
    for block in _PYTHON.finditer(markdown):
        yield from _words(markdown[end : block.start()])
        name, source = block.groups()
        source = f"%%writefile {name}\n{source}" if name else source
        empty: dict[str, Any] = {"execution_count": None, "outputs": [], "metadata": {}}
        yield {"cell_type": "code", "source": source.rstrip("\n"), **empty}
        end = block.end()
    yield from _words(markdown[end:])


def _words(markdown: str) -> Iterator[dict[str, Any]]:
    if markdown.strip():
        yield {"cell_type": "markdown", "source": markdown.strip("\n"), "metadata": {}}
