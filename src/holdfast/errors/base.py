"""The base of every error, with its facts as fields, and every warning."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, dataclass_transform

__all__ = [
    "AttemptWarning",
    "ConfigWarning",
    "DiskWarning",
    "EngineWarning",
    "HoldfastError",
    "NoLocksWarning",
    "ObserverWarning",
    "SlotWarning",
    "Spell",
    "UnreadableStateWarning",
    "flat",
    "printable",
]

#: From the words of a command to what is to be typed.
Spell = Callable[..., str]


def printable(text: object) -> str:
    """*text* without characters that could drive a terminal: names come from files of others."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in str(text))


def flat(fact: object) -> str:
    """*fact* in one line: a line feed may be part of a file's name."""
    return printable(fact).replace("\n", "\\n")


def _spelt(*words: str) -> str:
    return shlex.join(["holdfast", *words])


# Not by attrs, which takes a millisecond for each class, at the start of every command.
@dataclass_transform()
class HoldfastError(Exception):
    """Base of every error of this package. Its facts are attributes."""

    __module__ = "holdfast.errors"

    _fields: ClassVar[tuple[str, ...]] = ()
    #: The message, with the facts' names in braces.
    _says: ClassVar[str] = ""
    #: What to do about it, where that is always the same.
    _next: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        own = [name for name in cls.__annotations__ if name not in cls._fields]
        cls._fields = (*cls._fields, *own)
        # Ours are `holdfast.errors.…` in tracebacks and pickles, whichever file they are in.
        if cls.__module__.startswith("holdfast.errors."):
            cls.__module__ = "holdfast.errors"

    def __init__(self, *values: Any, **facts: Any) -> None:
        cls = type(self)
        if not cls._fields:
            super().__init__(*values)
            return
        given = {**dict(zip(cls._fields, values, strict=False)), **facts}
        if len(given) != len(values) + len(facts) or not given.keys() <= set(cls._fields):
            raise TypeError(f"{cls.__name__} takes {', '.join(cls._fields)}")
        for name in cls._fields:
            if name not in given and not hasattr(cls, name):
                raise TypeError(f"{cls.__name__} needs {name}")
            setattr(self, name, given[name] if name in given else getattr(cls, name))
        # Pickled and unpickled as any exception is.
        super().__init__(*(getattr(self, name) for name in cls._fields))

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._fields)
        return f"{type(self).__name__}({facts})"

    def __str__(self) -> str:
        return self.told()

    def told(self, command: Spell = _spelt, again: str | None = None) -> str:
        """The message and its next step.

        Args:
            command: Spells the commands in it: the program may have another name, or need `-C`.
            again: What goes on once the cause is mended, where only the caller knows what it was
                asked to do: "repeat `rm`".
        """
        step = self._step(command, again)
        return printable(self._message() + (f"\n  {step}" if step else ""))

    def _message(self) -> str:
        facts = {name: getattr(self, name) for name in self._fields}
        for name, fact in facts.items():
            if isinstance(fact, Path) or name in ("experiment_id", "path"):
                facts[name] = flat(fact)
        return self._says.format_map(facts) or type(self).__name__

    def _step(self, command: Spell, again: str | None) -> str:
        return self._next


class UnreadableStateWarning(UserWarning):
    """A listing went on past a file that it could not read; `manager.unreadable()` names it."""


class NoLocksWarning(UserWarning):
    """The file system has no locks: epochs and the owner's own traces protect, and nothing else."""


class ConfigWarning(UserWarning):
    """An experiment file may not mean what it says; it is run as it is written."""


class DiskWarning(UserWarning):
    """The disk of a running experiment is full or fails: attempts that end wait to record it."""


class EngineWarning(UserWarning):
    """An engine cannot be reached at this moment: it is asked again, and nothing is lost."""


class AttemptWarning(UserWarning):
    """An attempt cannot be judged or does not end: it is left as it is, and the others go on."""


class SlotWarning(UserWarning):
    """Processes wait for slots that somebody else holds; they start as soon as they are free."""


class ObserverWarning(UserWarning):
    """An observer raised, missed steps or does not return; what it watches goes on."""
