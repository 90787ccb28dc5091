"""Puts together what is known of an attempt: its files, the controller's answer, what we asked for.

Nothing here decides what becomes of it. Where Slurm has lost a job or cannot be asked, the word is
`unknown`, until it is proven that nothing of it runs or can begin.
"""

import contextlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

import attrs

from holdfast.attempts.names import AttemptName
from holdfast.engines import waves
from holdfast.engines.contract import TERMINAL, EngineWord, Handle
from holdfast.engines.slurm.asking import Answer
from holdfast.engines.slurm.batch import Marks, last_words, marks
from holdfast.engines.slurm.client import Client
from holdfast.engines.slurm.controller import Controller
from holdfast.engines.slurm.folders import Begun, Folder
from holdfast.engines.slurm.parsing import Job, Node
from holdfast.engines.slurm.sending import KNOWN_WITHIN_S, Sent, refused
from holdfast.engines.slurm.wording import WAITS, kind_of, word_of
from holdfast.errors import EngineError, StateReadError

__all__ = ["Looking"]

_RECORDED: Final = "its outcome is recorded"
_TAKEN_OUT: Final = "it was taken out of the queue"
#: By which the clock of whoever submits may be ahead of the controller's.
_SKEW_S: Final = 60.0
#: How near its time limit an exit proves nothing before Slurm has said how the job ended.
_NEAR_LIMIT_S: Final = 90.0
#: After a controller lost its memory: how long until its nodes have told it what they run, or have
#: ended what it does not know.
_NODES_BACK_S: Final = 120.0
_NODE_HOLDS_S: Final = 30.0


@attrs.frozen
class _Number:
    """Whose a number is by now, that was a job's of ours: nobody's, or a stranger's."""

    stranger: bool
    seen_at: float


class Looking:
    """What becomes of attempts.

    Attributes:
        wants_answer: Whether some word waits for a new answer.
        cancelled: Tasks that we took out of the queue.
        killed: When attempts that run were first asked to end at once.
    """

    def __init__(self, client: Client, clock: Callable[[], float], controller: Controller) -> None:
        self._client = client
        self._controller = controller
        self._clock = clock
        self._answer: Answer | None = None
        self._elements: dict[Marks, Mapping[int, Job]] = {}
        self._numbers: dict[Marks, _Number] = {}
        self._number_asked: dict[Marks, Answer] = {}
        self._accounts: dict[Marks, tuple[Answer | None, Mapping[int, Job]]] = {}
        self._nodes: dict[str, tuple[float, Node | None]] = {}
        self.wants_answer = False
        self.cancelled: set[tuple[Marks, int]] = set()
        self.killed: dict[AttemptName, float] = {}

    def element(self, answer: Answer | None, sent: Sent, task: int) -> Job | None:
        """The line of *answer* that is about a task; None if there is none, or it is a stranger's.

        Of a task that was submitted twice, because the first answer was lost, the one that runs.
        """
        if answer is None:
            return None
        if answer is not self._answer:
            self._answer = answer
            self._elements.clear()
        found = self._elements.get(sent.marks)
        if found is None:
            earliest = sent.made_at - _SKEW_S
            mine: dict[int, Job] = {}
            for job in answer.jobs.get(sent.marks, ()):
                if job.submitted_at is not None and job.submitted_at.timestamp() >= earliest:
                    for each in job:
                        if each not in mine or _stands(job) > _stands(mine[each]):
                            mine[each] = job
            found = self._elements[sent.marks] = mine
        return found.get(task)

    def word(
        self,
        handle: Handle,
        sent: Sent,
        task: int,
        folder: Folder,
        answer: Answer | None,
    ) -> EngineWord:
        """The word for an attempt that is one of a task."""
        name = handle.name
        limits = self._controller.limits
        told_s = None if limits is None else limits.told_s
        job = self.element(answer, sent, task)
        if str(name) in folder.ended:
            return self._ended(name, job, told_s)
        begun = folder.live(name) if str(name) in folder.begun else None
        if begun is not None and begun.revoked:
            return EngineWord(name, "gone", "it was revoked before it began")
        if answer is None or answer.problem:
            return EngineWord(name, "unknown", self._silence(answer), passes=True)
        if job is None:
            return self._missing(handle, sent, task, begun, answer)
        if (sent.marks, task) in self.cancelled and begun is None and kind_of(job) in WAITS:
            # It has left the queue since the controller was asked.
            return EngineWord(name, "cancelled", _TAKEN_OUT)
        better = _better(handle, job, task, begun)
        word = word_of(name, job, better, told_s=told_s)
        if word.kind in WAITS and begun is not None:
            # It has begun since the controller was asked.
            return attrs.evolve(word, kind="running", host=_host(begun), at=None)
        if word.kind == "failed" and begun is None:
            # Its script failed before our entry point ran: only its log has the reason.
            said = last_words(handle.folder, sent.marks, task)
            return attrs.evolve(word, text=f"{word.text}: {said}") if said else word
        if word.kind == "node_fail":
            return self._node_failed(word, job.host or str(handle.data.get("node", "")))
        if word.kind in TERMINAL and begun is not None:
            return self._unless_cut_off(word, handle, sent, task, begun, answer)
        return word

    def _unless_cut_off(
        self,
        word: EngineWord,
        handle: Handle,
        sent: Sent,
        task: int,
        begun: Begun,
        answer: Answer,
    ) -> EngineWord:
        """*word*, unless its node has not confirmed it: of a node that is down, a controller takes
        a job that is completing for over, and what runs there may live.
        """
        node = self._node_of(handle, sent, task, _host(begun), since=answer.asked_at)
        if node is None:
            text = f"{word.text}, and nobody knows its node at this moment"
            return attrs.evolve(word, kind="unknown", text=text)
        if node.answers:
            return word
        text = f"{word.text}, and its node {node.name} is {node.state}"
        return attrs.evolve(word, kind="node_fail", text=text, booted_at=node.booted_at)

    def _ended(self, name: AttemptName, job: Job | None, told_s: float | None) -> EngineWord:
        if job is not None:
            word = word_of(name, job, told_s=told_s)
            if word.kind in ("timeout", "cancelled", "preempted"):
                return word
            if word.kind in ("running", "completing") and (text := self._awaited(job)):
                self.wants_answer = True
                return attrs.evolve(word, kind="completing", text=text)
        return EngineWord(name, "gone", _RECORDED)

    def _awaited(self, job: Job) -> str:
        """Why a recorded outcome has to wait for the end of its job; empty if it need not."""
        if job.is_wide:
            # `srun` can die before its ranks on the other nodes, which end with the job.
            return "its outcome is recorded, and not yet that its nodes are free of it"
        if self._near_limit(job):
            return "its outcome is recorded, and how its job ends is not"
        return ""

    def _near_limit(self, job: Job) -> bool:
        if job.ends_at is None or job.limit_s is None:
            return False
        left_s = job.ends_at.timestamp() - self._clock()
        return left_s <= min(_NEAR_LIMIT_S, job.limit_s / 4)

    def _silence(self, answer: Answer | None) -> str:
        if answer is None or not answer.problem:
            return self._controller.problem or "Slurm has not been asked yet"
        since = datetime.fromtimestamp(answer.since, UTC)
        return f"Slurm does not answer since {since:%H:%M:%S} UTC: {answer.problem}"

    def _missing(
        self, handle: Handle, sent: Sent, task: int, begun: Begun | None, answer: Answer
    ) -> EngineWord:
        """The word for one that the controller does not name."""
        name, now = handle.name, self._clock()
        if sent.refused:
            return EngineWord(name, "gone", refused(sent))
        if (sent.marks, task) in self.cancelled and begun is None:
            return EngineWord(name, "cancelled", _TAKEN_OUT)
        if sent.keeps(task):
            if sent.doubt:
                text = f"it may have been submitted: {sent.doubt}"
                return EngineWord(name, "unknown", text, passes=True)
            return EngineWord(name, "queued", sent.waits or "it is being submitted")
        if answer.asked_at <= sent.sent_at and begun is not None:
            self.wants_answer = True
            return EngineWord(name, "running", "it has begun", host=_host(begun))
        if any(task in job for job in answer.jobs.get(sent.marks, ())):
            text = "a job with its marks is older than it: are the clocks of two hosts apart?"
            return EngineWord(name, "unknown", text)
        if sent.number is None:
            if answer.asked_at < sent.made_at + KNOWN_WITHIN_S:
                self.wants_answer = True
                return EngineWord(name, "unknown", "it may be on its way to Slurm", passes=True)
            if begun is None:
                return EngineWord(name, "gone", "it was never submitted")
        elif answer.asked_at <= sent.sent_at:
            self.wants_answer = True
            return EngineWord(name, "queued", "it was handed to Slurm")
        elif not answer.jobs.get(sent.marks):
            number = self._number(sent, answer)
            if number is None:
                text = f"Slurm does not say at this moment what became of job {sent.number}"
                return EngineWord(name, "unknown", text, passes=True)
            if number.stranger and (begun is not None or now < number.seen_at + _NODES_BACK_S):
                text = f"Slurm lost its job {sent.number}, which is somebody else's now"
                return EngineWord(name, "unknown", text)
        limits = self._controller.limits
        if limits is not None and limits.accounting:
            job = self._accounted(sent, answer).get(task)
            if job is not None and kind_of(job) in TERMINAL:
                word = word_of(name, job, told_s=limits.told_s)
                return self._node_failed(word, job.nodes) if word.kind == "node_fail" else word
        text = "Slurm does not know it any more"
        if begun is not None:
            return self._left(handle, sent, task, text, begun)
        return EngineWord(name, "gone", text)

    def _number(self, sent: Sent, answer: Answer) -> _Number | None:
        """Whose the number of its job is; None if that is not known at this moment."""
        found = self._numbers.get(sent.marks)
        # Once for each answer: a wave can have ten thousand attempts.
        again = self._number_asked.get(sent.marks) is not answer
        if found is None and sent.number is not None and again:
            self._number_asked[sent.marks] = answer
            try:
                job = self._client.job(sent.number)
            except EngineError:
                return None
            if job is not None and marks(*_signs(job)) == sent.marks:
                self.wants_answer = True  # the answer is older
                return None
            found = self._numbers[sent.marks] = _Number(job is not None, self._clock())
        return found

    def _accounted(self, sent: Sent, answer: Answer) -> Mapping[int, Job]:
        """What the accounting says of its tasks; asked once for each answer."""
        asked, found = self._accounts.get(sent.marks, (None, {}))
        if asked is not answer and sent.number is not None:
            earliest = sent.made_at - _SKEW_S
            found = {
                task: job
                for job in self._client.accounted(sent.number)
                if job.submitted_at is not None
                and job.submitted_at.timestamp() >= earliest
                and marks(job.name, job.comment) == sent.marks
                for task in job
            }
            self._accounts[sent.marks] = (answer, found)
        return found

    def _left(self, handle: Handle, sent: Sent, task: int, text: str, begun: Begun) -> EngineWord:
        """One that began and that Slurm has forgotten: over, if its node is there to know.

        A failed node, too, is forgotten after a while, and what it runs may live on.
        """
        name, host = handle.name, _host(begun)
        node = self._node_of(handle, sent, task, host)
        if node is None:
            return EngineWord(name, "unknown", f"{text}, and nobody knows its node", host=host)
        if node.answers:
            return EngineWord(name, "gone", text, host=host)
        text = f"{text}, and its node {node.name} is {node.state}"
        return EngineWord(name, "node_fail", text, host=host, booted_at=node.booted_at)

    def _node_of(
        self,
        handle: Handle,
        sent: Sent,
        task: int,
        host: str | None,
        since: float = float("-inf"),
    ) -> Node | None:
        """The node that an attempt ran on; None if nobody knows it.

        Args:
            since: What was said of it before counts no more.
        """
        said = None
        with contextlib.suppress(StateReadError):
            said = waves.node_of(handle.folder, sent.marks.wave, task)
        told = said or {}
        names = [handle.data.get("node"), told.get("node"), told.get("host"), host]
        for name in dict.fromkeys(each for each in names if isinstance(each, str) and each):
            for form in dict.fromkeys((name, name.partition(".")[0])):
                if (found := self._node(form, since)) is not None:
                    return found
        return None

    def _node_failed(self, word: EngineWord, where: str | None) -> EngineWord:
        node = self._node(where) if where else None
        if node is None:
            return word
        text = f"{word.text}: node {node.name} is {node.state}"
        return attrs.evolve(word, text=text, booted_at=node.booted_at)

    def _node(self, name: str, since: float = float("-inf")) -> Node | None:
        """What the controller says of it; asked twice a minute at most, or anew *since* then."""
        at, found = self._nodes.get(name, (float("-inf"), None))
        if at < since or self._clock() >= at + _NODE_HOLDS_S:
            try:
                found = self._client.node(name)
            except EngineError:
                found = None
            self._nodes[name] = (self._clock(), found)
        return found


def _stands(job: Job) -> int:
    """Which of two jobs with one task stands for it: one that ended may have been the second."""
    kind = kind_of(job)
    return 0 if kind in TERMINAL else 1 if kind in WAITS else 2


def _signs(job: Mapping[str, str]) -> tuple[str, str]:
    """The name and the comment that `scontrol show job` shows."""
    return job.get("JobName", ""), job.get("Comment", "")


def _host(begun: Begun | None) -> str | None:
    return None if begun is None or begun.live.identity is None else begun.live.identity.host


def _better(handle: Handle, job: Job, task: int, begun: Begun | None) -> Handle | None:
    """The handle with what is known by now; None if it knows it all."""
    data = {**handle.data, "job": f"{job.number}_{task}" if job.array else str(job.number)}
    if job.host is not None:
        data["node"] = job.host
    identity = handle.identity
    if begun is not None and begun.live.identity is not None:
        identity = begun.live.identity
    if data == dict(handle.data) and identity == handle.identity:
        return None
    return attrs.evolve(handle, data=data, identity=identity)
