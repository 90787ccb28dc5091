"""The workers of a cluster: whether they can run what is asked for, and see what is here."""

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from holdfast.engines.dask import tasks
from holdfast.engines.dask.link import Link
from holdfast.errors import EngineError, EngineRefusedError

__all__ = ["Workers"]

_NAME: Final = "dask"
#: How often somebody looks whether there is a worker for what waits: while there is, and is not.
_FIT_EVERY_S: Final = 10.0
_SHORT_EVERY_S: Final = 1.0


class Workers:
    """What is asked of the workers before attempts are theirs, and while some wait.

    Args:
        resources: What each attempt holds of its worker.
    """

    def __init__(self, link: Link, resources: Mapping[str, float]) -> None:
        self._link = link
        self._resources = dict(resources)
        self._probed: set[Path] = set()
        self._short = ""
        self._short_at = -_FIT_EVERY_S
        self._connected: frozenset[str] | None = None

    def probe(self, folder: Path) -> str:
        """Find out, once, whether the workers see what is written here.

        Returns:
            What people should know if they do not; else empty.

        Raises:
            EngineRefusedError: They have no holdfast, or another.
            EngineError: They cannot be asked.
        """
        if self._link.own or folder in self._probed:
            return ""
        nearest = next(each for each in (folder, *folder.parents) if each.is_dir())
        answers = self._look(nearest)
        blind = sorted(self._blind(answers))
        if answers:
            self._probed.add(folder)
        if not blind:
            return ""
        some = f"{len(blind)} of {len(answers)} workers do not see {nearest}"
        return (
            f"{some}: exit records, logs and results come back when an attempt has ended, other "
            f"files do not, and an attempt may run twice if a worker dies"
        )

    def _look(self, directory: Path) -> Mapping[str, Any]:
        """Have every worker look for a file that is made in *directory* meanwhile."""
        made = directory / f".{os.urandom(8).hex()}.tmp"
        try:
            made.touch(exist_ok=False)
            try:
                return self._link.run(tasks.look, str(made))
            finally:
                made.unlink()
        except OSError as err:
            raise EngineError(_NAME, f"{directory} cannot be written to: {err.strerror}") from err

    @staticmethod
    def _blind(answers: Mapping[str, Any]) -> Iterator[str]:
        for worker, answer in answers.items():
            if isinstance(answer, ImportError):
                raise EngineRefusedError(_NAME, f"worker {worker}: {answer}")
            if isinstance(answer, BaseException):
                continue  # it is dying, or does not answer: its tasks will tell
            found, seen = answer
            if found != tasks.version():
                words = f"worker {worker} has holdfast {found}, and this is {tasks.version()}"
                raise EngineRefusedError(_NAME, words)
            if not seen:
                yield worker

    def shortage(self) -> str:
        """Why nothing that waits can begin; empty if it can, as far as is known.

        Raises:
            EngineError: The scheduler cannot be reached.
        """
        now = time.monotonic()
        if now - self._short_at >= (_SHORT_EVERY_S if self._short else _FIT_EVERY_S):
            self._short_at = now
            workers = self._link.workers()
            self._connected = frozenset(workers)
            fit = any(
                all(each.get(kind, 0) >= count for kind, count in self._resources.items())
                for each in workers.values()
            )
            wanted = ", ".join(f"{kind}={count:g}" for kind, count in self._resources.items())
            none = f"no worker has {wanted}" if workers else "no worker is connected"
            self._short = "" if fit else none
        return self._short

    def is_gone(self, worker: str, heard_at: float) -> bool:
        """Whether a worker is gone that was heard of then, by the monotonic clock."""
        listed_later = self._connected is not None and heard_at < self._short_at
        return listed_later and worker not in (self._connected or ())

    def examine(self) -> Iterator[tuple[str, str]]:
        """Yield how the cluster is, as `ok`, `warning` or `problem`, and what."""
        try:
            self._link.client()
            which = "of this program" if self._link.own else f"at {self._link.address}"
            yield "ok", f"the scheduler {which} answers"
            short = self.shortage()
            if short:
                yield "warning", short
            here = Path.cwd()
            answers = self._look(here)
            blind = sorted(self._blind(answers))
        except EngineError as err:
            yield "problem", err.problem
            return
        if answers:
            count = "1 worker has" if len(answers) == 1 else f"{len(answers):,} workers have"
            yield "ok", f"{count} holdfast {tasks.version()}"
        for worker, answer in answers.items():
            if isinstance(answer, BaseException):
                yield "warning", f"worker {worker} does not answer: {answer}"
        for worker in blind:
            yield "warning", f"worker {worker} does not see {here}"
