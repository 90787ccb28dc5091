"""Pages of Markdown: their code blocks, run one after the other, and what they refer to."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from holdfast.config.experiment_file import load_config

__all__ = ["SERVED", "Block", "blocks", "prose", "run_blocks", "section", "without"]

#: What a block may be: run, loaded, parsed, compared with what the block before it printed, or (a
#: diagram) made by the code.
LANGUAGES: Final = {"sh", "python", "toml", "json", "text", "mermaid"}

_BLOCK: Final = re.compile(r"^```(\w*)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


#: Sections whose blocks need servers, by page, each with the marker of the tests that have them.
SERVED: Final = {
    "engines": {"Slurm in five minutes": "slurm", "torchrun over nodes": "slurm", "Dask": "dask"}
}


def section(page: str, heading: str) -> str:
    """That part of *page*, with its heading."""
    start = page.index(f"\n## {heading}\n") + 1
    return page[start : page.find("\n## ", start) + 1 or None]


def without(page: str, headings: Iterable[str]) -> str:
    """*page* without those sections."""
    for heading in headings:
        page = page.replace(section(page, heading), "")
    return page


class Block(NamedTuple):
    """One fenced block; *name* is that of the file that it is."""

    language: str
    name: str | None
    text: str
    #: Whether nothing but blank lines stands between it and the block before.
    follows: bool


def blocks(page: str) -> list[Block]:
    """The blocks of *page*, in their order."""
    found, end = [], 0
    for each in _BLOCK.finditer(page):
        follows = end > 0 and not page[end : each.start()].strip()
        found.append(Block(each[1], each[2], each[3], follows))
        end = each.end()
    return found


def prose(page: str) -> str:
    """*page* without its blocks."""
    return _BLOCK.sub("", page)


def run_blocks(page: str, folder: Path, skip: Sequence[str] = ()) -> None:
    """Do in *folder* what the blocks of *page* say, as a reader would who types them all.

    A block with a file's name is written to that file. A `text` block right behind one that was
    run is what that printed, with `…` for what varies.

    Args:
        skip: Blocks that contain one of these are not for this test.
    """
    printed: str | None = None
    for block in blocks(page):
        assert block.language in LANGUAGES, f"a block without a known language:\n{block.text}"
        if any(text in block.text for text in skip):
            continue
        if block.language == "text":
            if block.follows and printed is not None:
                _compare(block.text, printed)
        elif block.name is not None:
            (folder / block.name).write_text(block.text)
        elif block.language in ("sh", "python"):
            printed = _run(block, folder)
        elif block.language == "toml":
            (folder / "block.toml").write_text(block.text)
        elif block.language == "json":
            json.loads(block.text)
        if block.language == "toml":
            load_config(folder / (block.name or "block.toml"))


def _run(block: Block, folder: Path) -> str:
    shell = ["bash", "-euo", "pipefail", "-c"]
    argv = [sys.executable, "-c"] if block.language == "python" else shell
    run = subprocess.run(
        [*argv, block.text],
        cwd=folder,
        env={**os.environ, "PATH": f"{_commands(folder)}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert run.returncode == 0, f"{block.text}\nexits with {run.returncode}:\n{run.stdout}"
    return run.stdout


def _commands(folder: Path) -> Path:
    """Where `holdfast` and `python` are those of this test, under the names that pages use."""
    found = folder / ".venv" / "bin"
    if not found.exists():
        found.mkdir(parents=True)
        python = shlex.quote(sys.executable)
        for name, words in (
            ("python", python),
            ("holdfast", f"{python} -m holdfast"),
            ("dask", f"{python} -m dask"),
        ):
            (found / name).write_text(f'#!/bin/sh\nexec {words} "$@"\n')
            (found / name).chmod(0o755)
    return found


def _compare(said: str, printed: str) -> None:
    pattern = ".*?".join(re.escape(part) for part in said.strip().split("…"))
    assert re.search(pattern, printed, re.DOTALL), f"said:\n{said}\nprinted:\n{printed}"
