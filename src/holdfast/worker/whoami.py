"""Which process of which experiment this is, told from the environment alone.

Owns the order in which launchers' variables count, what is another attempt's and therefore ignored,
and the names of the files that a process or rank may write. Nothing here writes anything.
"""

import os

from holdfast.attempts import environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RANKS_ADVICE", "Who", "incarnation", "rank_told", "who_am_i"]

#: Where launchers say which rank it is, and how many there are; the first that is there counts.
#: SLURM_PROCID comes last: under `mpirun` in a batch job it is 0 in every rank.
_LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMIX_RANK", "PMIX_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
)

RANKS_ADVICE = "`ranks = N` of the experiment has to be the number that the launcher starts"

_HOST_CHARACTERS = 40


class Who:
    """One process of an experiment, or none.

    Attributes:
        index: The process of the experiment; outside, the rank.
        rank: Which of *world_size* ranks it is.
        inside: Whether it is part of an experiment.
        writes: Whether files are its to write: not those of undeclared ranks but the first.
        independent: Whether it completes by itself, whatever becomes of its launcher.
        ranks: Indices of all ranks that restart together, itself among them.
        launcher: The index of the first rank; None for a process without declared ranks.
        incarnation: What its files are called by.
        wrapped: Whether `holdfast rank` runs it and speaks for it, too.
        helps: Whether a program that is in its block has started it, and says how it all ends.
        reports: Folder of its own files; None where there is none.
        result: Where its result goes; None where nowhere.
        checkpoints: The folder that has a folder of checkpoints for each of *ranks*, or None.
        own_checkpoints: Its own of these.
        params: Its parameters as JSON, and *params_file*, a file with them.
        stop_at: The time, in seconds since 1970, from which on it should stop.
        completed: Whether it has completed in an attempt before.
        over: Whether it has, or has failed for good: this attempt is not about it.
        wrong: Why it must not work, although it knows which rank it is; None if it may.
    """

    index = rank = 0
    world_size = attempt = 1
    inside = completed = over = independent = wrapped = helps = False
    writes = True
    ranks: "tuple[int, ...] | range" = ()
    launcher: "int | None" = None
    incarnation = ""
    reports: "str | None" = None
    result: "str | None" = None
    checkpoints: "str | None" = None
    own_checkpoints: "str | None" = None
    params: "str | None" = None
    params_file: "str | None" = None
    stop_at: "float | None" = None
    wrong: "str | None" = None

    def file(self, suffix: str) -> "str | None":
        """The file of that kind among the reports."""
        if self.reports is None:
            return None
        return f"{self.reports}/{self.index}.{self.incarnation}.{suffix}"

    def requests(self) -> "tuple[str, ...]":
        """The files that ask the attempt to stop, one of which may be there."""
        attempt = self._attempt()
        return () if attempt is None else (f"{attempt}.stop", f"{attempt}.kill")

    def warning(self) -> "str | None":
        """The file by which a node passes on that a batch system is about to stop the attempt."""
        attempt = self._attempt()
        return None if attempt is None else f"{attempt}.warn"

    def _attempt(self) -> "str | None":
        """What the files beside those of the reports are called."""
        if self.reports is None or not self.reports.endswith(".reports"):
            return None
        return self.reports.removesuffix(".reports")


def who_am_i(env: "Mapping[str, str]") -> Who:
    """Who the process with the environment *env* is.

    Raises:
        WorkerError: A launcher's rank that does not say which, or one beyond the declared number.
    """
    who = Who()
    launcher = _number(env.get(environment.LAUNCHER))
    index = _number(env.get(environment.INDEX))
    if launcher is not None and _is_own(env, f"launcher-{launcher}"):
        _be_rank(who, env, launcher, index)
    elif index is not None and _is_own(env, str(index)):
        _be_process(who, env, index)
    else:
        who.rank, who.world_size = rank_told(env) or (0, 1)
        who.index = who.rank
    return who


def rank_told(env: "Mapping[str, str]") -> "tuple[int, int] | None":
    """The rank that a launcher gave, and of how many; None if none did."""
    return _whole(_told(env, _LAUNCHERS))


def _whole(told: "tuple[int, int | None] | None") -> "tuple[int, int] | None":
    return None if told is None else (told[0], max(told[1] or 1, told[0] + 1))


def _told(
    env: "Mapping[str, str]", launchers: "tuple[tuple[str, str], ...]"
) -> "tuple[int, int | None] | None":
    for rank_name, size_name in launchers:
        if rank_name == "SLURM_PROCID" and "SLURM_STEP_ID" not in env:
            continue  # a batch script is no rank
        rank = _number(env.get(rank_name))
        if rank is not None:
            return rank, _number(env.get(size_name))
    return None


def incarnation(env: "Mapping[str, str]", pid: int) -> str:
    """`<restart>-<pid>-<start time>-<host>`: what no other process of any attempt is called."""
    host = os.uname().nodename[:_HOST_CHARACTERS]
    safe = "".join(c if c.isascii() and c.isalnum() else "_" for c in host) or "_"
    return f"{restart(env)}-{pid}-{start_ticks()}-{safe}"


def restart(env: "Mapping[str, str]") -> int:
    """How often torchelastic has restarted the ranks within this attempt."""
    return _number(env.get("TORCHELASTIC_RESTART_COUNT")) or 0


def start_ticks() -> int:
    """When this process began, as its kernel counts; 0 where that is not known."""
    try:
        with open("/proc/self/stat", "rb") as file:
            told = file.read()
        return int(told[told.rindex(b")") + 2 :].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _is_own(env: "Mapping[str, str]", unit: str) -> bool:
    """Whether the variables are of the attempt that this process is part of.

    An attempt that runs another experiment hands its variables down, but the innermost mark is the
    other's.
    """
    marks = env.get(environment.SESSION)
    if marks is None:
        return True
    own = marks.rpartition(":")[2].split(".")
    return own[-2:] == [unit, env.get(environment.ATTEMPT)]


def _be_process(who: Who, env: "Mapping[str, str]", index: int) -> None:
    who.inside = True
    who.index, who.ranks = index, (index,)
    # SLURM_PROCID does not count: it may be that of the step in which all of holdfast runs.
    who.rank, who.world_size = _whole(_told(env, _LAUNCHERS[:-1])) or (0, 1)
    who.writes = who.rank == 0
    _be_of(who, env)
    who.incarnation = _incarnation(who, env)
    who.result = env.get(environment.RESULT) or None
    who.own_checkpoints = env.get(environment.CHECKPOINT_DIR) or None


def _be_rank(who: Who, env: "Mapping[str, str]", launcher: int, index: "int | None") -> None:
    told = _told(env, _LAUNCHERS)
    count = _number(env.get(environment.RANKS)) or 1
    wrapper = env.get(environment.INCARNATION)
    # Only `holdfast rank` gives a rank its index, and then its own incarnation with it.
    if index is not None and wrapper and launcher <= index < launcher + count:
        rank = index - launcher
    elif told is not None:
        rank = told[0]
    else:
        raise _error(
            f"the launcher does not say which of the {count} ranks this is: none of "
            f"{', '.join(name for name, _ in _LAUNCHERS)} is set",
            "a launcher such as torchrun or mpirun sets one; by hand: "
            "holdfast rank --rank R -- COMMAND",
        )
    if rank >= count:
        raise _error(
            f"this is rank {rank}, but only {count} ranks are declared (0 to {count - 1})",
            RANKS_ADVICE,
        )
    if told is not None and told[1] not in (None, count):
        who.wrong = f"the launcher started {told[1]} ranks, but {count} are declared"
    who.inside, who.launcher = True, launcher
    who.index, who.rank, who.world_size = launcher + rank, rank, count
    _be_of(who, env)
    who.wrapped = wrapper is not None and wrapper.split("-")[1:2] == [str(os.getppid())]
    who.incarnation = _incarnation(who, env)
    done = env.get(environment.COMPLETED)
    who.independent = done is not None
    who.ranks = (who.index,) if who.independent else range(launcher, launcher + count)
    who.completed = str(who.index) in (done or "").split(",")
    who.over = str(who.index) in env.get(environment.OVER, "").split(",")
    shared = env.get(environment.RESULT)
    if shared:
        who.result = f"{os.path.dirname(shared)}/{who.index}.{who.attempt}.{who.incarnation}.json"
    who.checkpoints = env.get(environment.CHECKPOINTS) or None
    if who.checkpoints is not None:
        who.own_checkpoints = os.path.join(who.checkpoints, str(who.index))


def _incarnation(who: Who, env: "Mapping[str, str]") -> str:
    """Its own, or that of who speaks for it: the result that counts is called by it."""
    own, given = incarnation(env, os.getpid()), env.get(environment.INCARNATION)
    return given if given and (who.wrapped or who.helps) else own


def _be_of(who: Who, env: "Mapping[str, str]") -> None:
    """What an attempt is told, whoever runs in it."""
    who.helps = env.get(environment.SPEAKER) not in (None, str(os.getpid()))
    who.attempt = _number(env.get(environment.ATTEMPT)) or 1
    who.reports = env.get(environment.REPORTS) or None
    who.params = env.get(environment.PARAMS) or None
    who.params_file = env.get(environment.PARAMS_FILE) or None
    try:
        who.stop_at = float(env[environment.STOP_AT])
    except (KeyError, ValueError):
        who.stop_at = None


def _number(text: "str | None") -> "int | None":
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else None


def _error(problem: str, advice: str) -> Exception:
    from holdfast.errors import WorkerError  # three times what all the rest here costs

    return WorkerError(problem, advice)
