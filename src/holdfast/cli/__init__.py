"""The command line: data to stdout, messages to stderr, errors to exit codes.

Owns what a user types and sees, and nothing of what it does. Every module here is imported when
its command is used; `--version` needs none of them.
"""

import gc
import sys

from holdfast.cli.loading import quietly

__all__ = ["main"]

#: What a shell reports of a program that SIGINT ended.
_INTERRUPTED = 130
#: New objects after which to look for garbage. What a command loads and lists is none of it; after
#: every 700, as Python would, looking takes a tenth of a short command and a quarter of a long
#: listing.
_COLLECT_AFTER = 1_000_000


def main(argv: list[str] | None = None, *, quiet: bool = False) -> int:
    """Run the command in *argv*; the exit code.

    Without *argv* it is the whole program, with the process's own arguments. *quiet*: Ctrl-C ends
    the program without a word, until all is loaded.

    Raises:
        KeyboardInterrupt: The whole program was interrupted. Python then ends as it always does,
            and dies of SIGINT at the very last; where the signal does not end it (as PID 1), it
            exits with 130. A shell that runs us in a loop ends the loop only if we died of it.
    """
    if argv is not None:
        return _run(argv)
    gc.set_threshold(_COLLECT_AFTER)
    code = _run(sys.argv[1:], quiet=quiet)
    # A second Ctrl-C while the interpreter ends has nothing left to say either.
    quietly().__enter__()
    # As it ends, the interpreter would look at every object once more.
    gc.freeze()
    # Not `ON_REQUEST`: nobody wants the loop to end that runs one experiment after the other.
    if code == _INTERRUPTED and type(code) is int:
        # Everything was said: no traceback.
        sys.excepthook = lambda *_: None
        raise KeyboardInterrupt
    return code


def _run(args: list[str], *, quiet: bool = False) -> int:
    if args == ["--version"]:
        # Scripts ask for it all the time; importing click costs more than all the rest.
        from holdfast import __version__

        sys.stdout.write(f"holdfast {__version__}\n")
        return 0
    try:
        with quietly(quiet):
            from holdfast.cli.program import guarded

        return guarded(args)
    except KeyboardInterrupt:
        # In the instants between.
        return _INTERRUPTED
