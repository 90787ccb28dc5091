"""Where the experiments of a command are, and what to type to run the next one there."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from holdfast.attempts import environment
from holdfast.errors import HoldfastError
from holdfast.reading import text

if TYPE_CHECKING:
    from holdfast.config.experiment_file import Experiment
    from holdfast.store.manager import StateManager

__all__ = ["Where", "quoted"]

#: Commands that make the state directory if it is not there, or tell what would be made.
_MAKERS: Final = frozenset({"run", "demo", "explain"})


class Where:
    """The state directory that a command works on, and how to name it in a next command.

    Attributes:
        option: The directory as it was given with `-C`; None if it was not.
        verb: The command that runs; None before that is known.
        fresh: Whether it makes a new experiment whatever there is.
        settings: What `--set` changes of the file, as it was typed.
        found: The directory that was found, once it was looked for.
    """

    def __init__(
        self, option: str | None = None, verb: str | None = None, fresh: bool = False
    ) -> None:
        self.option = option
        self.verb = verb
        self.fresh = fresh
        self.settings: tuple[str, ...] = ()
        self.found: Path | None = None

    @property
    def _said(self) -> str | None:
        """The directory that the user named."""
        return self.option or os.environ.get(environment.STATE_DIR) or None

    @property
    def state_dir(self) -> Path:
        """`-C`, else `HOLDFAST_STATE_DIR`, else what was found; else `.experiment_state` here.

        Raises:
            UntrustedPlaceError: Others can write into what is found.
            click.UsageError: What the user named is no directory that there is or can be.
        """
        if self._said is not None:
            said = Path(self._said)
            if not said.is_dir() and (self.verb not in _MAKERS or said.exists()):
                raise click.UsageError(self._no_directory(said))
            return said
        if self.found is None:
            from holdfast.cli import homes

            self._use(homes.above())
        assert self.found is not None
        return self.found

    def _no_directory(self, said: Path) -> str:
        where = text.one_line(said if said.is_absolute() else f"{said} in {Path.cwd()}")
        named = "-C" if self.option else environment.STATE_DIR
        if said.exists():
            return f"{where}, which {named} names, is no directory; -C DIR names another"
        return f"there is no directory {where}, which {named} names"

    def settle(self, experiment: "Experiment") -> None:
        """Find the directory for a run of *experiment*, and tell of the same work elsewhere.

        Raises:
            UntrustedPlaceError: Others can write into what is found.
        """
        from holdfast.cli import homes

        if self._said is None:
            found, held = homes.for_work(experiment)
            self._use(found)
        else:
            held = homes.holds(self.state_dir, experiment)
        if self.fresh or held:
            return
        for place, state in homes.twins(self.state_dir, experiment):
            which = f"{text.one_line(state.experiment_id)} ({state.status})"
            if place == self.state_dir:
                told = f"{which} is the same work of another place, {text.one_line(state.cwd)}"
            else:
                told = f"{which} in {text.one_line(place)} is the same work"
            text.say(f"{told}; this makes a new experiment in {text.one_line(self.state_dir)}")

    def _use(self, found: Path) -> None:
        from holdfast.store.place import STATE_DIR

        if self.found is None and found != STATE_DIR:
            text.say(f"the experiments are in {text.one_line(found)}")
        self.found = found

    def manager(self) -> "StateManager":
        """The store there."""
        from holdfast.store.manager import StateManager

        return StateManager(self.state_dir)

    def command(self, *words: str) -> str:
        """What to type, in this directory and shell, to run holdfast with *words*."""
        where = [] if self.option is None else ["-C", self.option]
        if self._said is None and self.found is not None and not self._is_found_again(self.found):
            where = ["-C", str(self.found)]
        if words[0] == "run":  # the file alone would be other work
            words = ("run", *(f"--set={each}" for each in self.settings), *words[1:])
        return " ".join([_program(), *map(quoted, [*where, *words])])

    @staticmethod
    def _is_found_again(found: Path) -> bool:
        """Whether a command that names no place finds the same."""
        from holdfast.cli import homes

        try:
            return homes.above() == found
        except HoldfastError:
            return False


def quoted(word: str) -> str:
    """*word* for a shell to read; harmless to the terminal that shows it."""
    if word.isprintable():
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in escaped) + "'"


def _program() -> str:
    """How this program was started: `holdfast` may not be on PATH."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{shlex.quote(Path(sys.executable).name)} -m holdfast"
    # As `shutil.which`, which takes 2 ms to import.
    there = (Path(folder, called.name) for folder in os.get_exec_path())
    # Not `Path.is_file`, which raises where a folder of PATH may not be searched.
    runs = (p for p in there if os.path.isfile(p) and os.access(p, os.X_OK))  # noqa: PTH113
    found = next(runs, None)
    if found is not None and found.resolve() == called.resolve():
        return shlex.quote(called.name)
    return shlex.quote(sys.argv[0])  # as it was typed: `Path` would take the `./` away
