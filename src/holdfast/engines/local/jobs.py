"""Jobs: attempts as the starter and a node are sent them.

JSON, whose strings carry bytes as Latin-1: the locale there may differ, so that what the operating
system gets is encoded here, once. What only the host knows on which it runs comes last.
"""

import os
import sys

from holdfast.encoding import to_bytes
from holdfast.engines.local.interpreter import stands_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from holdfast.attempts.records import Attempt

__all__ = ["job_of", "settled", "text_of"]


def job_of(attempt: "Attempt") -> "dict[str, Any]":
    """*attempt*, without what differs between hosts."""
    return {
        "name": str(attempt.name),
        "argv": [text_of(word) for word in attempt.argv],
        "env": {text_of(name): text_of(value) for name, value in attempt.env.items()},
        "cwd": None if attempt.cwd is None else text_of(os.path.abspath(attempt.cwd)),
        "timeout_s": attempt.timeout_s,
        "grace_s": attempt.grace_s,
    }


def settled(job: "dict[str, Any]", experiment: str, attempts: str) -> "dict[str, Any]":
    """*job* with what it lacks on this host: directories and the interpreter.

    Args:
        attempts: The directory of the attempts of its experiment.
    """
    cwd = job["cwd"] or text_of(os.getcwd())
    return {
        **job,
        "experiment": experiment,
        "dir": text_of(os.path.abspath(attempts)),
        "cwd": cwd,
        "python": text_of(sys.executable),
        "stands_in": job["argv"][0].startswith("python3") and _stands_in(job, cwd),
    }


def _stands_in(job: "dict[str, Any]", cwd: str) -> bool:
    env = {_decoded(name): _decoded(value) for name, value in job["env"].items()}
    return stands_in(job["argv"][0], _decoded(cwd), env)


def text_of(word: str) -> str:
    """*word* as JSON that carries the bytes which the operating system gets."""
    return word if word.isascii() else to_bytes(word).decode("latin-1")


def _decoded(text: str) -> str:
    return text if text.isascii() else os.fsdecode(text.encode("latin-1"))
