"""What there is of each kind of slot: as it is listed, or the GPUs that the driver lists.

Owns what a GPU is called: by the driver's index or its UUID, it is one and the same slot.
"""

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from holdfast.attempts.environment import CUDA_VISIBLE_DEVICES, GPU, SESSION
from holdfast.errors import ConfigError, ConfigProblem
from holdfast.slots import places
from holdfast.slots.places import Place

__all__ = ["pool"]

_WITHIN_S: Final = 20.0
_QUERY: Final = ("--query-gpu=index,uuid", "--format=csv,noheader")


class _Gpu(NamedTuple):
    number: str
    uuid: str

    def is_called(self, name: str) -> bool:
        # CUDA takes the beginning of a UUID for it.
        return name == self.number or (name.startswith("GPU-") and self.uuid.startswith(name))


class _Unknown(Exception):  # noqa: N818 (told as a ConfigError by who knows the file)
    """Why the driver lists nothing."""


def pool(
    declared: Mapping[str, Sequence[str] | None], needs: Mapping[str, int], title: str
) -> dict[str, list[Place]]:
    """The slots of each kind that is needed.

    Args:
        declared: Their names by kind; None for what the driver lists.
        needs: How many of each an attempt needs.
        title: The experiment's file, to be named.

    Raises:
        ConfigError: There are not so many, or not those that are listed, or some are held by an
            attempt that waits for this run.
    """
    problems: list[ConfigProblem] = []
    found: dict[str, list[Place]] = {}
    for kind, need in needs.items():
        where = f"slots.{kind}"
        try:
            names = declared[kind]
            found[kind] = list(_gpus(names)) if kind == GPU else _named(kind, names or ())
        except _Unknown as err:
            problems.append(ConfigProblem(where, *err.args))
            continue
        ours = _marks()
        holders = {slot: places.holder(slot) for slot in found[kind]} if ours else {}
        around = {slot: each for slot, each in holders.items() if each and each.mark in ours}
        found[kind] = [slot for slot in found[kind] if slot not in around]
        if len(found[kind]) < need:
            listed = ", ".join(slot.name for slot in found[kind]) or "none"
            what = f"a process needs {need}, and there are {len(found[kind])}: {listed}"
            for slot, each in around.items():
                what += f"; {slot} is held by {each.experiment_id} {each.attempt}, which"
                what += " this run is part of and would wait for"
            problems.append(ConfigProblem(where, what))
    if problems:
        raise ConfigError(title, problems)
    return found


def _marks() -> set[str]:
    """The attempts that this process is part of."""
    return set(filter(None, os.environ.get(SESSION, "").split(":")))


def _named(kind: str, names: Sequence[str]) -> list[Place]:
    return [places.place(kind, name) for name in names]


def _gpus(names: Sequence[str] | None) -> Iterator[Place]:
    """Those of *names*, or all that the driver lists, as far as this process may use them.

    A lock is named by the driver's index wherever that is known.
    """
    visible = _visible()
    if names is None:
        there = _listed()
        if visible is not None:
            there = [gpu for gpu in there if any(map(gpu.is_called, visible))]
        if not there:
            said = "" if visible is None else f" that {_said()} leaves"
            raise _Unknown(f"the driver lists no GPU{said}", "list them, or take [needs] out")
        for gpu in there:
            yield places.place(GPU, gpu.number)
        return
    known = _known([*names, *(visible or ())])
    seen: dict[str, str] = {}
    for name in names:
        own = _canonical(name, known)
        if visible is not None and own not in {_canonical(each, known) for each in visible}:
            some = f'list some of {", ".join(visible)}, or say "auto"'
            hint = some if visible else "it leaves none: unset it, or take [needs] out"
            raise _Unknown(f"{name} is not among those that {_said()} leaves", hint)
        if own in seen:
            raise _Unknown(f"{seen[own]} and {name} are the same GPU", "list it once")
        seen[own] = name
        yield Place(GPU, name, places.place(GPU, own).path)


def _visible() -> list[str] | None:
    """What `CUDA_VISIBLE_DEVICES` names; None if it is not set."""
    told = os.environ.get(CUDA_VISIBLE_DEVICES)
    if told is None:
        return None
    found = []
    for word in told.split(","):
        name = word.strip()
        # As CUDA does: what comes behind one that is none is not there either.
        if not (name.isdigit() or name.startswith(("GPU-", "MIG-"))):
            break
        found.append(str(int(name)) if name.isdigit() else name)
    return found


def _said() -> str:
    return f"{CUDA_VISIBLE_DEVICES}={os.environ.get(CUDA_VISIBLE_DEVICES, '')}"


def _known(names: Sequence[str]) -> list[_Gpu]:
    """What the driver lists, if *names* need it to be compared."""
    if not any(name.startswith("GPU-") for name in names):
        return []
    try:
        return _listed()
    except _Unknown:
        return []  # each name is its own


def _canonical(name: str, known: Sequence[_Gpu]) -> str:
    return next((gpu.number for gpu in known if gpu.is_called(name)), name)


@functools.cache
def _listed() -> list[_Gpu]:
    """What the driver lists; asked once. Raises _Unknown."""
    import shutil
    import subprocess

    program = shutil.which("nvidia-smi")
    if program is None:
        what = "auto: nvidia-smi is not on PATH, so that nobody can say which GPUs there are"
        raise _Unknown(what, 'list them: gpu = ["0", "1"]')
    try:
        ended = subprocess.run(
            [Path(program).absolute(), *_QUERY],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_WITHIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired as err:
        what = f"auto: nvidia-smi did not answer within {_WITHIN_S:.0f} s"
        raise _Unknown(what, "look at the driver, or list the GPUs") from err
    except OSError as err:
        raise _Unknown(f"auto: nvidia-smi cannot be run: {err.strerror}", "list the GPUs") from err
    rows = [line.split(",") for line in ended.stdout.decode("utf-8", "replace").splitlines()]
    cells = [[cell.strip() for cell in row] for row in rows]
    found = [_Gpu(*row) for row in cells if len(row) == 2 and row[0].isdigit()]
    if ended.returncode or not found:
        words = (ended.stdout or ended.stderr).decode("utf-8", "replace").split("\n")[0].strip()
        said = f": {words[:200]}" if words else ""
        what = f"auto: nvidia-smi lists no GPU (exit code {ended.returncode}){said}"
        raise _Unknown(what, "look at the driver, or list the GPUs")
    return found
