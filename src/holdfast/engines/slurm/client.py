"""Runs Slurm's commands: each with a timeout, none where the controller is known to be down.

Owns what their errors mean. What they print is read in `parsing`.
"""

import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Final

from holdfast.engines.slurm import parsing
from holdfast.engines.slurm.parsing import ACCOUNTED, FORMAT, Job, Node
from holdfast.errors import EngineError, EngineRefusedError

__all__ = ["SLURM", "Client", "LimitReached", "NobodyKnows"]

#: What this engine is called.
SLURM: Final = "slurm"

#: A controller that is down answers `ping` at once; all others wait for it some ten seconds.
_PING_S: Final = 5.0
#: A busy one takes its time, and a submission that is cut short may have been accepted.
_ASK_S: Final = 20.0
_SUBMIT_S: Final = 30.0
_STEP_S: Final = 0.5
#: Instead of the status of an `sbatch` that has not ended: it waits for room, or says nothing.
_WAITS: Final = 1001
_SILENT: Final = 1002

#: What passes. Whatever else `sbatch` says will be said again.
_PASSES: Final = re.compile(
    r"unable to contact slurm controller|socket timed out|temporar|zero bytes|connection refused"
    r"|connection reset|transport endpoint|authentication|munge|standby mode|fetch_config"
    r"|communication|message receive|send failure|try again|unexpected message",
    re.IGNORECASE,
)
#: Of these, the controller may have the job even so.
_MAY_BE_DONE: Final = re.compile(r"timed out|zero bytes|message receive|reset", re.IGNORECASE)
#: That there are too many of the user's jobs, or of all users', until some have ended.
_LIMIT: Final = re.compile(
    r"Max(?:Submit|Job)|job submit limit|sleeping and retrying|MaxJobCount|too many jobs",
    re.IGNORECASE,
)
#: Which limit of an account or a QOS it is, ahead of a sentence that is the same for all of them.
#: What a test says of nodes that are drained or down, too: a job waits for these.
_TEST_ONLY: Final = re.compile("Requested node configuration is not available|Required node")
_WHOSE_LIMIT: Final = re.compile(r"\b(?:Assoc|QOS)[A-Z]\w*")
_PASSING_LIMIT: Final = re.compile(r"Submit|MaxJobs|GrpJobs")
#: That this host has no configuration of Slurm.
_NO_CLUSTER: Final = re.compile(r"configuration source|cannot stat file|process configuration file")
#: What changes the meaning of what we ask, or is of the job that we may be ourselves.
_NOT_OURS: Final = re.compile(
    r"(?:SQUEUE|SCANCEL|SINFO|SCONTROL)_.*|SBATCH_(?:WAIT|ARRAY_INX|CLUSTERS|TEST_ONLY|DEBUG|EXPORT)"
    r"|SLURM_(?!CONF$|CONF_SERVER$).*"
)


class LimitReached(Exception):  # noqa: N818
    """There is no room for so many jobs now; in Slurm's own words."""


class NobodyKnows(Exception):  # noqa: N818
    """Whether the controller has taken the job."""


class Client:
    """Slurm's commands.

    Attributes:
        calls: How many were run.
    """

    def __init__(self) -> None:
        self.calls = 0

    def ping(self) -> None:
        """Ask whether anybody is there.

        Raises:
            EngineError: Nobody is.
        """
        _, out, err = self._run(["scontrol", "ping"], _PING_S)
        if _NO_CLUSTER.search(err):
            raise EngineRefusedError(SLURM, f"{_one_line(err)}: is SLURM_CONF right?")
        if words := parsing.down(out):
            raise EngineError(SLURM, _one_line(err) or words)

    def queue(self) -> str:
        """Every job of this user that the controller knows, also what has ended lately; `FORMAT`.

        Raises:
            EngineError: It does not answer.
        """
        # Without `-r`: elements that wait are one line, however many they are. With `-a`, for jobs
        # in partitions that are hidden.
        words = ["squeue", "-h", "-a", "-t", "all", "-u", str(os.getuid()), "-o", FORMAT]
        return self._answer(words)

    def config(self) -> dict[str, str]:
        """The configuration. Raises EngineError."""
        return parsing.config(self._answer(["scontrol", "show", "config"]))

    def preemption_grace_s(self, config: Mapping[str, str]) -> float | None:
        """How long before it ends a preempted job may have been told to, in any partition; None
        where that is said elsewhere, or there is no preemption. Raises EngineError.
        """
        if config.get("PreemptType") != "preempt/partition_prio":
            return None
        found = re.findall(r"\bGraceTime=(\d+)", self._answer(["scontrol", "show", "partition"]))
        return max(map(float, found), default=None)

    def job(self, number: int) -> Mapping[str, str] | None:
        """What the controller knows of a job; None if it knows none of that number.

        Raises:
            EngineError: It does not answer.
        """
        status, out, err = self._run(["scontrol", "show", "job", str(number)], _ASK_S)
        found = parsing.fields(out)
        if status == 0 and "JobId" in found:
            return found
        if "Invalid job id" in err:
            return None
        raise EngineError(SLURM, _one_line(err) or "scontrol does not show a job")

    def accounted(self, number: int) -> list[Job]:
        """What the accounting keeps of a job and of those with its number before it; nothing if
        it does not answer: it is never needed.
        """
        words = ["sacct", "-n", "-P", "-X", "-D", "-j", str(number), f"--format={ACCOUNTED}"]
        try:
            return parsing.accounted(self._answer(words), os.getuid())
        except EngineError:
            return []

    def node(self, name: str) -> Node | None:
        """What the controller knows of a node; None if it knows none. Raises EngineError."""
        status, out, err = self._run(["scontrol", "show", "node", name], _ASK_S)
        if status == 0:
            return parsing.node(out)
        if "not found" in f"{out}{err}":
            return None
        raise EngineError(SLURM, _one_line(err))

    def submit(self, options: Sequence[str], script: str) -> int:
        """Submit *script*; the number of the job.

        Raises:
            EngineRefusedError: It will never be taken.
            LimitReached: Not before others have ended.
            NobodyKnows: The answer was lost.
            EngineError: It was not taken this time.
        """
        words = ["sbatch", "--parsable", *options]
        status, out, err = self._run(words, _SUBMIT_S, script)
        if status == _WAITS:
            raise LimitReached(_one_line(err))
        if status == _SILENT:
            raise NobodyKnows(f"sbatch does not answer within {_SUBMIT_S:.0f} s")
        number = re.match(r"\s*(\d+)(?:;|\s|$)", out)
        if status == 0 and number is not None:
            return int(number[1])
        said_both = _one_line(err or out) or f"sbatch ended with {status}"
        if status == 0 or _MAY_BE_DONE.search(said_both):
            raise NobodyKnows(said_both)
        _refuse(said_both)
        return 0

    def could(self, options: Sequence[str], script: str) -> str:
        """What Slurm says when it is asked whether it would take *script*.

        Raises:
            EngineRefusedError: Never.
            LimitReached: Not now.
            EngineError: It does not answer.
        """
        status, out, err = self._run(["sbatch", "--test-only", *options], _SUBMIT_S, script)
        if status == _SILENT:
            raise EngineError(SLURM, f"sbatch does not answer within {_SUBMIT_S:.0f} s")
        said = _one_line(err or out)
        if status != 0 and not _TEST_ONLY.search(said):
            _refuse(said or f"sbatch ended with {status}")
        return said

    def cancel(self, words: Sequence[str]) -> None:
        """`scancel` *words*; that there is no such job any more is fine.

        Raises:
            EngineError: The controller does not answer.
        """
        status, _, err = self._run(["scancel", *words], _ASK_S)
        if status != 0 and not re.search(r"Invalid job id|already complet", err, re.IGNORECASE):
            raise EngineError(SLURM, _one_line(err) or f"scancel ended with {status}")

    def version(self) -> str:
        """Of the commands. Raises EngineError."""
        return self._answer(["sbatch", "--version"]).strip()

    def _answer(self, words: Sequence[str]) -> str:
        status, out, err = self._run(words, _ASK_S)
        if status != 0:
            raise EngineError(SLURM, _one_line(err) or f"{words[0]} ended with {status}")
        return out

    def _run(
        self, words: Sequence[str], timeout_s: float, given: str | None = None
    ) -> tuple[int, str, str]:
        self.calls += 1
        env = {name: value for name, value in os.environ.items() if not _NOT_OURS.fullmatch(name)}
        if words[0] != "sbatch":  # whose environment is that of its jobs
            # Seconds since 1970, and lists of elements that are whole.
            env |= {"SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE if given is not None else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=env,
                process_group=0,  # a terminal's Ctrl-C must not cut a submission short
            )
        except FileNotFoundError as err:
            problem = f"there is no {words[0]} on PATH: is this a host that submits to Slurm?"
            raise EngineRefusedError(SLURM, problem) from err
        except OSError as err:
            raise EngineError(SLURM, f"cannot run {words[0]}: {err}") from err
        with process:
            return _heard(process, words[0], timeout_s, given)


def _heard(
    process: "subprocess.Popen[str]", name: str, timeout_s: float, given: str | None
) -> tuple[int, str, str]:
    """Status, output and errors of a command, which is ended when it takes too long."""
    deadline = time.monotonic() + timeout_s
    try:
        while True:
            try:
                out, err = process.communicate(given, timeout=_STEP_S)
                return process.returncode, out, err
            except subprocess.TimeoutExpired as expired:
                given = None  # has been sent
                text = bytes(expired.stderr or b"").decode(errors="replace")
                # It would go on trying for minutes, with everybody waiting for it.
                if name == "sbatch" and _LIMIT.search(text):
                    return _WAITS, "", text
                if time.monotonic() < deadline:
                    continue
                if name == "sbatch":
                    return _SILENT, "", text
                said = _one_line(text)
                if _NO_CLUSTER.search(text):
                    raise EngineRefusedError(SLURM, f"{said}: is SLURM_CONF right?") from expired
                problem = f"{name} does not answer within {timeout_s:.0f} s"
                raise EngineError(SLURM, f"{problem}: {said}" if said else problem) from expired
    finally:
        process.kill()


def _refuse(said: str) -> None:
    named = _WHOSE_LIMIT.search(said)
    # `QOSMaxWallDurationPerJobLimit` goes on being refused, whatever has ended.
    if _PASSING_LIMIT.search(named[0]) if named else _LIMIT.search(said):
        raise LimitReached(said)
    if _PASSES.search(said):
        raise EngineError(SLURM, said)
    raise EngineRefusedError(SLURM, said)


def _one_line(text: str) -> str:
    lines = [re.sub(r"^s\w+: (?:error|fatal): ", "", line.strip()) for line in text.splitlines()]
    return "; ".join(line for line in lines if line)
