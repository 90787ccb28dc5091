"""Why a process failed: how it ended, and what its error said. One answer for all that shows it.

Failures of one kind are shown together. Two are of one kind if they ended alike and their errors
read alike once numbers, hexadecimal ids and paths are taken out, which differ from one process to
the next. What is shown is the text of the first.
"""

import contextlib
import re
from pathlib import Path
from typing import Final

import attrs

from holdfast.attempts.files import open_output
from holdfast.attempts.reports import output_of
from holdfast.errors import HoldfastError
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.reading import text
from holdfast.results.aggregation import how_it_ended
from holdfast.status import ProcessStatus, Reason
from holdfast.store.attempted import attempt_of, blamed

__all__ = ["COLOURS", "MOST_READ", "Failure", "error_text", "failure", "failures", "last_bytes"]

#: Logs that are looked into for one listing; of what failed beyond, the exit code alone is shown.
MOST_READ: Final = 2000

#: Why it ended, where nobody stopped it.
_OF_ITSELF: Final = (None, Reason.EXIT, Reason.SIGNAL, Reason.PERHAPS_MEMORY)

#: Bytes at the end of a log in which an error is looked for.
_ERROR_BYTES: Final = 4096
_LONGEST: Final = 160

#: What colours words, and whatever else moves a cursor.
COLOURS: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_TRACEBACK: Final = re.compile(r"(Exception Group )?Traceback \(most recent call last\):")
_VARYING: Final = re.compile(
    r"""[^\s/'"`(){}\[\],;=]*/[^\s'"`(){}\[\],;=]*"""  # a path
    r"""|\b0x[0-9a-fA-F]+\b|\b(?=[a-fA-F-]*[0-9])[0-9a-fA-F-]{8,}\b"""
    r"""|[0-9]+(?:\.[0-9]+)*"""
)


@attrs.frozen
class Failure:
    """How the last attempt of a process ended.

    Attributes:
        how: `exit code 1`.
        error: The line of its stderr that says what was wrong, harmless to a terminal; None if
            there is none, or it was not looked for.
        kind: Equal for failures that are shown together.
        reason: What is recorded as its reason.
        told_by: The process whose log says more; None for its own.
    """

    how: str
    error: str | None
    kind: tuple[object, ...]
    reason: Reason | None = None
    told_by: int | None = None

    def __str__(self) -> str:
        return self.how if self.error is None else f"{self.how}: {self.error}"


def failure(folder: Path, state: ExperimentState, index: int, *, look: bool = True) -> Failure:
    """Why process *index* failed; *look*: into the log of its stderr, too."""
    process = state.processes[index]
    how = text.short(how_it_ended(process), 500)
    error, teller = None, blamed(state, index)
    if look and _ended_by_itself(process) and not _is_told(process):
        path = output_of(folder, attempt_of(state, index), teller, "err")
        with contextlib.suppress(HoldfastError):  # named where the log is shown
            error = error_text(last_bytes(path, _ERROR_BYTES))
    facts = process.reason, process.exit_code, process.signal
    kind = *facts, _alike(how), None if error is None else _alike(error)
    return Failure(how, error, kind, process.reason, None if teller == index else teller)


def failures(folder: Path, state: ExperimentState) -> dict[int, Failure]:
    """Why each failed process of *state* failed; the errors of the first `MOST_READ` of them."""
    indices = state.processes.indices(ProcessStatus.FAILED)
    return {
        index: failure(folder, state, index, look=number < MOST_READ)
        for number, index in enumerate(indices)
    }


def _ended_by_itself(process: ProcessProgress) -> bool:
    """Whether its own last words tell why: not those of what was stopped, or never began."""
    wrong = process.signal is not None or process.exit_code not in (None, 0)
    return wrong and process.reason in _OF_ITSELF


def _is_told(process: ProcessProgress) -> bool:
    """Whether its error says more than how it ended: what it reported itself needs no guess."""
    bare = how_it_ended(attrs.evolve(process, error_message=None))
    return process.error_message is not None and bare not in process.error_message


def _alike(words: str) -> str:
    return _VARYING.sub("#", words)


def last_bytes(path: Path, most: int) -> bytes:
    """The end of a log; empty if there is none, or it cannot be read now.

    Raises StateCorruptError if something else lies in its place.
    """
    try:
        opened = open_output(path)
        if opened is None:
            return b""
        with opened as file:
            file.seek(max(0, file.seek(0, 2) - most))
            return file.read(most)
    except OSError:
        return b""


def error_text(log: bytes) -> str | None:
    """What the end of a *log* says was wrong, in a line; None if it says nothing.

    Of a Python traceback it is the line of the exception, whatever was printed after it; of
    anything else the last line that has a letter in it.
    """
    lines = COLOURS.sub("", log.decode(errors="replace")).splitlines()
    found = _exception(lines)
    if found is None:
        said = (line.strip() for line in reversed(lines))
        # Rust's last line is the same whatever went wrong.
        found = next((line for line in said if _says(line) and not line.startswith("note: ")), None)
    return (
        None if found is None else text.cut(text.one_line(found.strip()[: 2 * _LONGEST]), _LONGEST)
    )


def _exception(lines: list[str]) -> str | None:
    """The exception of the last traceback in *lines*."""
    for at in range(len(lines) - 1, -1, -1):
        header = _TRACEBACK.search(lines[at])
        if header is None:
            continue
        margin = header.start()  # groups draw a frame around theirs
        below = [line[margin:] for line in lines[at + 1 :]]
        for number, line in enumerate(below):
            if line[:1].strip():
                line = line.rstrip()
                more = next(filter(_says, below[number + 1 :]), "") if line.endswith(":") else ""
                return f"{line} {more.strip()}"
        return None
    return None


def _says(line: str) -> bool:
    return any(map(str.isalpha, line))
