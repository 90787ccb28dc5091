"""Loading modules: Ctrl-C in the midst of it leaves no traceback."""

import _signal as signal  # type: ignore[import-not-found]  # `signal` makes enums, for 4 ms

__all__ = ["quietly"]


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
