"""The command line: data to stdout, messages to stderr, errors to exit codes.

Owns what a user types and sees, and nothing of what it does. Every module here is imported when
its command is used; `--version` needs none of them.
"""

import sys

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run the command in *argv* (default: the process's own arguments); the exit code."""
    args = sys.argv[1:] if argv is None else argv
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
        return 130
