"""Which Python a command runs, as far as files tell without running anything."""

import functools
import os
import platform
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from holdfast.provenance.files import regular

__all__ = ["python_version"]

_NAME: Final = re.compile(r"python(?:(\d(?:\.\d+)?)t?)?")
_SHEBANG: Final = re.compile(rb"#!\s*(\S+)(?:[ \t]+(\S+))?")
_CONFIGURED: Final = re.compile(r"^version(?:_info)?\s*=\s*(\d+\.\d+(?:\.\d+)?)", re.MULTILINE)
_OF_CONDA: Final = re.compile(r"python-(\d+\.\d+\.\d+)-[^-]+\.json")


def python_version(
    argv: Sequence[str],
    cwd: str | os.PathLike[str],
    *,
    path: str | None = None,
    ours: bool = False,
) -> str | None:
    """The version of the Python that *argv* runs, or that its script names after `#!`.

    Ours if it is the file that runs us; what a venv's `pyvenv.cfg` or conda's list of packages
    says; else the digits of its name (`python3.12`); None if none of these tells, or it is none.

    Args:
        argv: The command.
        cwd: Where it runs.
        path: PATH as the command finds it; by default as we do.
        ours: holdfast's own interpreter is run for it, whatever PATH says.
    """
    if ours:
        return platform.python_version()
    if not argv:
        return None
    program = _found(argv[0], cwd, path)
    if program is None:
        # Where no `python` is to be had, the local engine runs ours.
        return platform.python_version() if argv[0] == "python" else None
    if _NAME.fullmatch(os.path.basename(program)) is None:
        program = _interpreter_of(program, cwd, path)
    return None if program is None else _version(program)


def _found(word: str, cwd: str | os.PathLike[str], path: str | None) -> str | None:
    try:
        if "/" in word:
            found = os.path.join(os.fspath(cwd), word)
            return found if os.path.isfile(found) else None
        return shutil.which(word, path=path)
    except (OSError, ValueError):
        return None


def _interpreter_of(script: str, cwd: str | os.PathLike[str], path: str | None) -> str | None:
    """The Python that the first line of *script* names."""
    try:
        fd = regular(script)
        if fd is None:
            return None
        try:
            line = os.pread(fd, 256, 0).partition(b"\n")[0]
        finally:
            os.close(fd)
    except (OSError, ValueError):
        return None
    named = _SHEBANG.match(line)
    if named is None:
        return None
    word = os.fsdecode(named[1])
    if os.path.basename(word) == "env" and named[2] is not None:
        word = os.fsdecode(named[2])
    program = _found(word, cwd, path)
    return program if program and _NAME.fullmatch(os.path.basename(program)) else None


@functools.lru_cache(maxsize=64)
def _version(program: str) -> str | None:
    real = os.path.realpath(program)
    # A venv of our own interpreter is no other version.
    if sys.executable and real == os.path.realpath(sys.executable):
        return platform.python_version()
    above = Path(os.path.normpath(program)).parent.parent
    try:
        configured = _CONFIGURED.search((above / "pyvenv.cfg").read_text("utf-8", "replace"))
        if configured is not None:
            return configured[1]
    except OSError:
        pass
    for each in sorted(above.glob("conda-meta/python-*.json")):
        if (listed := _OF_CONDA.fullmatch(each.name)) is not None:
            return listed[1]
    for name in (program, real):
        versioned = _NAME.fullmatch(os.path.basename(name))
        if versioned is not None and versioned[1] is not None and "." in versioned[1]:
            return versioned[1]
    return None
