"""What is submitted: the options of a job, and its script, which runs one task of a wave."""

import math
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

from holdfast.engine_options import EngineOptions, is_own
from holdfast.engines import tasks
from holdfast.engines.slurm.client import SLURM
from holdfast.errors import EngineRefusedError, printable

__all__ = ["NODE", "Asked", "Marks", "last_words", "marks", "options", "script"]

_NAME: Final = re.compile(r"hf-([a-z2-7]{12})-(w[0-9a-f]{12})")
_COMMENT: Final = re.compile(r"holdfast:([a-z2-7]{12}):(w[0-9a-f]{12})\b")
#: What a job runs, if its node sees it.
NODE: Final = str(Path(tasks.__file__).with_name("node.py"))
#: How long before its time limit a job is warned, where its grace period is shorter.
_WARNED_S: Final = 30.0
_LONGEST_WARNING_S: Final = 65535
#: How much of what a job said is repeated, in bytes.
_LONGEST_LINE: Final = 300


@attrs.frozen
class Marks:
    """By what a job is known as ours: in its name and, where a site rewrites one, its comment."""

    token: str
    wave: str

    @property
    def name(self) -> str:
        """What the job is called."""
        return f"hf-{self.token}-{self.wave}"

    @property
    def comment(self) -> str:
        """Its comment."""
        return f"holdfast:{self.token}:{self.wave}"


def marks(name: str, comment: str) -> Marks | None:
    """The marks that a job carries; None if it is none of holdfast's."""
    found = _NAME.fullmatch(name) or _COMMENT.search(comment)
    return None if found is None else Marks(found[1], found[2])


@attrs.frozen(kw_only=True)
class Asked:
    """What one command is to have: what the experiment says, or rules for this attempt."""

    time_s: float | None = None
    cpus: int | None = None
    memory_bytes: int | None = None
    gpus: int | None = None

    @classmethod
    def of(cls, wanted: EngineOptions, rules: Mapping[str, float]) -> "Asked":
        """What an attempt is to have for which rules have set *rules*."""
        memory = rules.get("memory_bytes", wanted.memory_bytes)
        return cls(
            time_s=rules.get("time_s", wanted.time_s),
            cpus=wanted.cpus,
            memory_bytes=None if memory is None else int(memory),
            gpus=wanted.gpus,
        )

    @property
    def requested(self) -> Mapping[str, float]:
        """What a handle keeps of it."""
        return attrs.asdict(self, filter=lambda _, value: value is not None)


def options(
    wanted: EngineOptions, asked: Asked, *, folder: Path, grace_s: float, commands: int = 1
) -> list[str]:
    """The options of `sbatch` that all jobs of a wave have.

    Args:
        commands: How many share a job.

    Raises:
        EngineRefusedError: `extra` says what is ours to say.
    """
    words = list(wanted.extra)
    for word in words:
        if is_own(word):
            raise EngineRefusedError(SLURM, f"extra: {word} is for holdfast to say")
    if wanted.partition is not None:
        words.append(f"--partition={wanted.partition}")
    if wanted.account is not None:
        words.append(f"--account={wanted.account}")
    if wanted.nodes is not None:
        words.append(f"--nodes={wanted.nodes}")
        if not any(word.startswith(("-n", "--ntasks")) for word in wanted.extra):
            words.append("--ntasks-per-node=1")
    if asked.time_s is not None:
        words.append(f"--time={_duration(asked.time_s)}")
    if asked.cpus is not None:
        words.append(f"--cpus-per-task={asked.cpus * commands}")
    if asked.memory_bytes is not None:
        words.append(f"--mem={math.ceil(asked.memory_bytes * commands / 1024)}K")
    if asked.gpus:
        words.append(f"--gres=gpu:{asked.gpus * commands}")
    warned_s = max(grace_s, _WARNED_S)
    if asked.time_s is not None:
        warned_s = min(warned_s, asked.time_s / 4)
    warned_s = min(max(math.ceil(warned_s), 1), _LONGEST_WARNING_S)
    return [
        *words,
        "--no-requeue",
        f"--signal=B:USR1@{warned_s}",  # to our entry point only, which passes it on as it must be
        "--export=ALL",
        f"--chdir={folder}",
    ]


def marked(words: Sequence[str], mark: Marks, folder: Path, elements: str | None) -> list[str]:
    """*words* and what makes it the job of that wave; *elements*: of its array, `0-99`."""
    logs = str(folder / tasks.WAVES).replace("\\", "\\\\").replace("%", "%%")
    array = [] if elements is None else [f"--array={elements}"]
    which = "0" if elements is None else "%a"
    return [
        *words,
        *array,
        f"--job-name={mark.name}",
        f"--comment={mark.comment}",
        f"--output={logs}/%x.{which}.log",
        "--open-mode=append",
    ]


def last_words(folder: Path, mark: Marks, task: int) -> str:
    """The last line of what a job itself said; empty if it said nothing that can be read here."""
    try:
        with (folder / tasks.WAVES / f"{mark.name}.{task}.log").open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LONGEST_LINE))
            lines = log.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    line = next((line.strip() for line in reversed(lines) if line.strip()), "")
    # Without the spool directory of a node, which is another one for each job.
    return printable(re.sub(r"^/\S*/(?=slurm_script: )", "", line))


def script(wanted: EngineOptions, folder: Path, wave: str) -> str:
    """What runs on the node.

    By its file, for which holdfast need not be installed there, or by its name.
    """
    python = shlex.quote(wanted.python or sys.executable)
    task = f'{shlex.quote(str(folder))} {wave} "${{SLURM_ARRAY_TASK_ID:-0}}"'
    return (
        "#!/bin/sh\n"
        # Heard by the node once it has begun, and not what ends it before that.
        "trap '' USR1\n"
        # Else the job would be part of the attempt that has submitted it, and end with it.
        "unset HOLDFAST_SESSION\n"
        f"node={shlex.quote(NODE)}\n"
        f'[ -e "$node" ] && exec {python} "$node" {task}\n'
        f"exec {python} -P -m holdfast.engines.node {task}\n"
    )


def _duration(seconds: float) -> str:
    """As `sbatch` has it, which knows whole minutes only."""
    minutes = max(math.ceil(seconds / 60), 1)
    return f"{minutes // 1440}-{minutes % 1440 // 60:02}:{minutes % 60:02}:00"
