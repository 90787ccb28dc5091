"""Attempts that no task stands for any more: what their files say of them from here.

A pool broke, a scheduler was restarted, or an orchestrator before us started them: their shims may
run on all the same.
"""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import attrs

from holdfast.attempts.files import request, requested
from holdfast.attempts.names import AttemptName
from holdfast.engines.bell import Bell
from holdfast.engines.contract import EngineWord, Handle
from holdfast.engines.local.engine import LocalEngine
from holdfast.errors import StateWriteError
from holdfast.status import Reason

__all__ = ["Strays"]

#: How often the files of strays are looked at.
_LOOK_EVERY_S: Final = 0.25
#: Of one wait: the system's own is some 24 days.
_LONGEST_WAIT_S: Final = 3600.0


class Strays:
    """What the local engine sees of attempts that it never started.

    Args:
        engine: Whose they were.
    """

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._local = LocalEngine(cgroup=False)
        self._why: dict[AttemptName, str] = {}
        self._running: set[AttemptName] = set()

    def take(self, handle: Handle, why: str) -> None:
        """Remember why no task stands for an attempt any more."""
        self._why[handle.name] = why

    def find(self, experiment_id: str, folder: Path | None) -> Mapping[AttemptName, Handle]:
        """Those whose shims are seen to run."""
        if folder is None:
            return {}
        found = self._local.find(experiment_id, folder)
        return {name: attrs.evolve(each, engine=self._engine) for name, each in found.items()}

    def word(self, handle: Handle) -> EngineWord:
        """What can be said of it: `gone` only where its files decide that, or where nothing can
        begin it any more.
        """
        (word,) = self._local.poll([handle])
        if word.kind == "running":
            self._running.add(handle.name)
        else:
            self._running.discard(handle.name)
        why = self._why.get(handle.name, "")
        text = f"{why}; {word.text}" if why and word.text else why or word.text
        if word.kind == "unknown" and why:
            # On another host, say: nothing that was lost with its task will tell.
            return attrs.evolve(word, kind="node_fail", text=text)
        return attrs.evolve(word, text=text)

    def cancel(self, handles: Sequence[Handle], *, force: bool) -> Mapping[AttemptName, str]:
        """Have their shims look for a request, which is made here if nobody has yet."""
        for handle in handles:
            # Where the disk takes none, a shim on this host is told as a stranger would.
            with contextlib.suppress(StateWriteError):
                what: Literal["stop", "kill"] = "kill" if force else "stop"
                if requested(handle.folder, handle.name, force=force) is None:
                    request(handle.folder, handle.name, what, Reason.USER)
        return self._local.cancel(handles, force=force) if handles else {}

    def wait(self, bell: Bell, timeout_s: float) -> None:
        """Wait for *bell*, and not for long where strays run whose files alone tell."""
        bell.wait(min(timeout_s, _LOOK_EVERY_S if self._running else _LONGEST_WAIT_S))

    def close(self) -> None:
        """Let go of what is watched; it runs on."""
        self._local.close()
