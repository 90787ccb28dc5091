"""What ends a wait from another thread or a signal handler, where no lock may be taken: a pipe."""

import contextlib
import os
import select

__all__ = ["Bell"]


class Bell:
    """Rung from anywhere; whoever waits hears it at once, whoever comes later too."""

    def __init__(self) -> None:
        self._hear, self._ring = os.pipe()
        os.set_blocking(self._hear, False)
        os.set_blocking(self._ring, False)

    def ring(self) -> None:
        """End the current or the next `wait`."""
        with contextlib.suppress(OSError):
            os.write(self._ring, b"\0")

    def wait(self, timeout_s: float) -> bool:
        """Wait until it rings; whether it did. It is silent again afterwards."""
        poller = select.poll()
        poller.register(self._hear, select.POLLIN)
        if not poller.poll(max(0, int(timeout_s * 1000) + 1)):
            return False
        with contextlib.suppress(BlockingIOError):
            os.read(self._hear, 65536)
        return True

    def close(self) -> None:
        """Nothing waits any more."""
        ring, self._ring = self._ring, -1
        os.close(ring)
        os.close(self._hear)
