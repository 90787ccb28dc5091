"""What the installed script and `python -m holdfast` import: Ctrl-C ends them quietly from here on.

Nothing comes before that but Python itself: its start, `site`, what pip's script imports, and
`holdfast/__init__.py`, which imports nothing and may be anybody's. There, Ctrl-C shows a traceback.
"""

import _signal as signal  # type: ignore[import-not-found]  # `signal` makes enums, for 4 ms

#: Another handler is another's affair, as in `quietly`.
_QUIET = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _QUIET:
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    except ValueError:
        _QUIET = False  # not the main thread, which no signal interrupts

from holdfast import cli  # noqa: E402

__all__ = ["main"]


def main() -> int:
    """The whole program; see `holdfast.cli.main`."""
    return cli.main(quiet=_QUIET)
