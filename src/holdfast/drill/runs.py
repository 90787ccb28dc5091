"""`holdfast run` and `resume` as the real programs that users run, one after the other."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs

from holdfast.drill import tree
from holdfast.store.manager import StateManager

__all__ = ["Runs"]


@attrs.define(kw_only=True)
class Runs:
    """What runs the experiment, in the folder where it lies.

    Attributes:
        file: The experiment file.
        state_dir: Where its experiments are.
        log: What the programs say.
        options: What all of them are given.
        settings: What `run` is given besides.
        program: The one that runs; None before the first and after each.
        fd: What is readable once it has ended; None where that cannot be had.
    """

    file: Path
    state_dir: Path
    log: Path
    options: Sequence[str] = ()
    settings: Sequence[str] = ()
    program: "subprocess.Popen[bytes] | None" = None
    fd: int | None = None

    @property
    def has_begun(self) -> bool:
        """Whether there is an experiment to be resumed."""
        return bool(StateManager(self.state_dir).list_experiments())

    def start(self, *, resume: bool = False) -> int:
        """Start one; its pid."""
        words = ["resume", "@last"] if resume else ["run", str(self.file)]
        if not resume:
            # Nobody is to be told of ends that are made here by the dozen.
            words[1:1] = [f"--set={each}" for each in (*self.settings, "hooks={}")]
        with self.log.open("ab") as out:
            self.program = subprocess.Popen(
                # -P: no file of the experiment's stands for a module of ours.
                [
                    *(sys.executable, "-P", "-m", "holdfast", "-C", str(self.state_dir)),
                    # What is killed here has to run here.
                    *(words[0], "--engine=local", *self.options, *words[1:]),
                ],
                cwd=self.file.parent,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # Ctrl-C is for the drill alone
                preexec_fn=tree.bound(),  # there are no threads
            )
        self.fd = None
        with contextlib.suppress(OSError, AttributeError):
            self.fd = os.pidfd_open(self.program.pid)
        return self.program.pid

    @property
    def running(self) -> bool:
        """Whether there is one, as far as was noticed."""
        return self.program is not None

    def ended(self) -> int | None:
        """The exit code of the one that runs, once it has ended; None before."""
        assert self.program is not None
        code = self.program.poll()
        if code is not None:
            self._let_go()
        return code

    def killed(self) -> None:
        """Wait for the end of the one that was killed."""
        if self.program is not None:
            self.program.wait()
            self._let_go()

    def hold(self) -> None:
        """Have the one that runs do nothing, until `release`."""
        if self.program is not None:
            self.program.send_signal(signal.SIGSTOP)

    def release(self) -> None:
        """Let it go on."""
        if self.program is not None:
            self.program.send_signal(signal.SIGCONT)

    def _let_go(self) -> None:
        self.program = None
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def said(self, lines: int = 12) -> list[str]:
        """The last lines of the log."""
        try:
            return self.log.read_text("utf-8", "replace").splitlines()[-lines:]
        except OSError:
            return []
