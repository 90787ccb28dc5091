"""The command line: data to stdout, messages to stderr, errors to exit codes.

Owns what a user types and sees, and nothing of what it does. Every module here is imported when
its command is used; `--version` needs none of them.
"""

import sys

__all__ = ["main"]

#: What a shell reports of a program that SIGINT ended.
_INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run the command in *argv*; the exit code.

    Without *argv* it is the whole program, with the process's own arguments.

    Raises:
        KeyboardInterrupt: The whole program was interrupted. Python then ends as it always does,
            and dies of SIGINT at the very last; where the signal does not end it (as PID 1), it
            exits with 130. A shell that runs us in a loop ends the loop only if we died of it.
    """
    code = _run(sys.argv[1:] if argv is None else argv)
    if argv is None and code == _INTERRUPTED:
        # Everything was said: no traceback.
        sys.excepthook = lambda *_: None
        raise KeyboardInterrupt
    return code


def _run(args: list[str]) -> int:
    if args == ["--version"]:
        # Scripts ask for it all the time; importing click costs more than all the rest.
        from holdfast import __version__

        sys.stdout.write(f"holdfast {__version__}\n")
        return 0
    try:
        from holdfast.cli.failures import guarded

        return guarded(args)
    except KeyboardInterrupt:
        # In the tenth of a second in which modules are loaded.
        return _INTERRUPTED
