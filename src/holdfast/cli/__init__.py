"""The command line: data to stdout, messages to stderr, errors to exit codes.

Owns what a user types and sees, and nothing of what it does. Every module here is imported when
its command is used; `--version` needs none of them.
"""

import _signal as signal  # type: ignore[import-not-found]  # `signal` makes enums, for 4 ms
import gc
import sys

__all__ = ["main", "quietly"]

#: What a shell reports of a program that SIGINT ended.
_INTERRUPTED = 130
#: New objects after which to look for garbage. What a command loads and lists is none of it; after
#: every 700, as Python would, looking takes a tenth of a short command and a quarter of a long
#: listing.
_COLLECT_AFTER = 1_000_000


class quietly:  # noqa: N801 (read as a word of the `with`; `contextlib` would have to be imported)
    """Context for loading modules, in which Ctrl-C ends the program at once, without a word.

    Python would raise inside its own machinery, which prints what it cannot raise. Nothing is open
    yet that would have to be closed. *begun*: Ctrl-C does so already, and raises again afterwards.
    """

    def __init__(self, begun: bool = False) -> None:
        self._before = signal.default_int_handler if begun else None

    def __enter__(self) -> None:
        # Another handler is another's affair: that of who runs us as a library, or `nohup`'s.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            try:
                self._before = signal.signal(signal.SIGINT, signal.SIG_DFL)
            except ValueError:
                return  # not the main thread, which no signal interrupts

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


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
    if code == _INTERRUPTED:
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
