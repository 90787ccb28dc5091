"""The entry point of a node: runs one task of a wave there, and ends when the task has.

A scheduler's job is `python -m holdfast.engines.node FOLDER WAVE TASK`, or this file by its path,
with any Python: nothing but the standard library is needed. Its exit status says what became of the
commands, and `.exit` beside each attempt decides.
"""

import contextlib
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_USAGE = "usage: node.py FOLDER WAVE TASK [--keep-going]"


def main(argv: "Sequence[str] | None" = None) -> int:
    """Run one task, and return one of the exit statuses of `tasks` once nothing of it is left.

    For a process of its own, of which nothing else is used afterwards: it hears no signal but for
    its commands, and has neither standard streams nor its working directory any more.

    Args:
        argv: `FOLDER WAVE TASK`, and `--keep-going` for a status that says nothing of commands that
            failed.
    """
    # Before anything else: an older one, which a node may have, cannot even read the rest.
    if sys.version_info < (3, 11):  # noqa: UP036
        return _complain(f"{sys.executable} is older than Python 3.11")
    import _signal  # type: ignore[import-not-found]

    # Now, and the rest is loaded later: what a batch system sends to all must not end who answers
    # for the others.
    _signal.pthread_sigmask(_signal.SIG_SETMASK, _signal.valid_signals())
    words = list(sys.argv[1:] if argv is None else argv)
    keep_going = "--keep-going" in words
    places = [word for word in words if word != "--keep-going"]
    if len(places) != 3 or not (places[2].isascii() and places[2].isdigit()):
        return _complain(_USAGE)
    if not __package__:
        _be_of_the_package()
    from holdfast.engines import running, tasks

    status = running.Task(places[0], places[1], int(places[2])).run()
    return tasks.SUCCEEDED if keep_going and status == tasks.FAILED else status


def _be_of_the_package() -> None:
    """Run by its path, have the package that this file is of, and nothing that lies beside it."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [place for place in sys.path if place != here]
    sys.path.insert(0, os.path.dirname(os.path.dirname(here)))
    import holdfast.engines  # noqa: F401

    del sys.path[0]


def _complain(text: str) -> int:
    with contextlib.suppress(OSError):  # a scheduler may give it no streams at all
        os.write(2, os.fsencode(f"holdfast node: {text}\n"))
    return os.EX_SOFTWARE


if __name__ == "__main__":
    try:
        _status = main()
    except Exception:
        import traceback

        _status = _complain(traceback.format_exc())
    # What an interpreter does at its end lets signals end it.
    os._exit(_status)
