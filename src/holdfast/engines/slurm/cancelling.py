"""Stops attempts: what runs by its files, what waits by taking it out of the queue."""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from holdfast.attempts.files import request, requested, revoke
from holdfast.attempts.names import AttemptName
from holdfast.engines.contract import Handle
from holdfast.engines.slurm.asking import Answer, Asking
from holdfast.engines.slurm.client import Client
from holdfast.engines.slurm.folders import Folder
from holdfast.engines.slurm.looking import Looking
from holdfast.engines.slurm.parsing import chunks
from holdfast.engines.slurm.sending import Sent
from holdfast.engines.slurm.wording import WAITS, kind_of
from holdfast.errors import DiskError, EngineError
from holdfast.status import Reason

__all__ = ["cancel"]

_Place = tuple[Handle, Sent, int]
#: After which a shim that was asked to kill has not heard it.
_DEAF_S: Final = 10.0


def cancel(
    found: Sequence[_Place],
    folder_of: Callable[[Path], Folder],
    asking: Asking | None,
    client: Client,
    looking: Looking,
    *,
    force: bool,
) -> dict[AttemptName, str]:
    """See `SlurmEngine.cancel`; *found*: attempts with the wave and the task that they are in."""
    unreached: dict[AttemptName, str] = {}
    waiting: list[_Place] = []
    deaf: list[_Place] = []
    for place in found:
        handle = place[0]
        folder = folder_of(handle.folder)
        name = str(handle.name)
        if name in folder.ended:
            continue
        begun = folder.live(handle.name)
        if begun is not None and begun.revoked:
            continue
        why = _ask(handle, force=force)
        if begun is None:
            waiting.append(place)
        elif force:
            now = time.monotonic()
            if now - looking.killed.setdefault(handle.name, now) > _DEAF_S:
                deaf.append(place)
        if why:
            unreached[handle.name] = why
    if not waiting and not deaf:
        return unreached
    try:
        if asking is None:
            raise EngineError("slurm", "its controller has not answered yet")
        answer = asking.now()
        lost = _out_of_queue(waiting, deaf, folder_of, answer, client, looking)
    except EngineError as err:
        return unreached | {place[0].name: err.problem for place in (*waiting, *deaf)}
    return unreached | lost


def _ask(handle: Handle, *, force: bool) -> str:
    """Make the request, if the caller could not; why it cannot be made."""
    if requested(handle.folder, handle.name, force=force) is not None:
        return ""
    try:
        request(handle.folder, handle.name, "kill" if force else "stop", Reason.USER)
    except DiskError as err:
        return str(err)
    return ""


def _out_of_queue(
    waiting: Sequence[_Place],
    deaf: Sequence[_Place],
    folder_of: Callable[[Path], Folder],
    answer: Answer,
    client: Client,
    looking: Looking,
) -> dict[AttemptName, str]:
    leaving = {handle.name for handle, _, _ in (*waiting, *deaf)}
    elements: dict[int, list[int]] = {}
    taken: list[tuple[Sent, int]] = []
    lost: dict[AttemptName, str] = {}
    for handle, sent, task in (*waiting, *deaf):
        folder = folder_of(handle.folder)
        stays = [
            name
            for name in sent.tasks[task]
            if name not in leaving and str(name) not in folder.ended and not _revoked(folder, name)
        ]
        job = looking.element(answer, sent, task)
        if folder.live(handle.name) is not None:
            # Asked more than once: its shim does not hear, and Slurm ends the job that it is in.
            if job is not None and not stays and task not in elements.get(job.number, ()):
                elements.setdefault(job.number, []).append(task)
        elif stays:
            # The others of its job go on: its node passes it over.
            if job is None or kind_of(job) in WAITS:
                with contextlib.suppress(DiskError):
                    revoke(handle.folder, handle.name)
        elif sent.keeps(task) and not sent.doubt:
            sent.left.remove(task)
            taken.append((sent, task))
        elif job is None:
            lost[handle.name] = "Slurm does not name a job of its own at this moment"
        elif kind_of(job) in WAITS and task not in elements.get(job.number, ()):
            elements.setdefault(job.number, []).append(task)
            taken.append((sent, task))
    for number, some in elements.items():
        _scancel(number, sorted(some), answer, client)
    looking.cancelled.update((sent.marks, task) for sent, task in taken)
    return lost


def _revoked(folder: Folder, name: AttemptName) -> bool:
    begun = folder.live(name)
    return begun is not None and begun.revoked


def _scancel(number: int, some: Sequence[int], answer: Answer, client: Client) -> None:
    """Take elements out of the queue.

    Without filters by name or state: Slurm 22.05 cancels the whole array that an element is of, if
    it is given any. Whose the number is, an answer of this moment says.
    """
    array = any(job.array for jobs in answer.jobs.values() for job in jobs if job.number == number)
    if not array:
        client.cancel([str(number)])
        return
    for part in chunks(list(some)):
        client.cancel([f"{number}_[{part}]"])
