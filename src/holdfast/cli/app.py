"""The commands and where they live; the options that all of them share.

A command's module is imported when it is run or asked for its own help, never to list it.
"""

import difflib
import os
import shlex
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs
import click

from holdfast import __version__
from holdfast.attempts import environment
from holdfast.cli import quietly
from holdfast.cli.failures import EXIT_CODES
from holdfast.errors import HoldfastError
from holdfast.reading import text

if TYPE_CHECKING:
    from holdfast.config.experiment_file import Experiment
    from holdfast.store.manager import StateManager

__all__ = [
    "Where",
    "app",
    "experiment_argument",
    "json_option",
    "quoted",
    "state_dir_option",
    "where_of",
]


#: What other programs call it.
_ALIASES: Final = {
    "clean": "cleanup",
    "continue": "resume",
    "delete": "rm",
    "help": "--help",
    "info": "show",
    "list": "ls",
    "log": "logs",
    "ps": "ls",
    "remove": "rm",
    "restart": "resume",
    "retry": "resume",
    "start": "run",
    "status": "show",
    "version": "--version",
}

#: `{command: (module, attribute, one line of help)}` in the order of the help.
_COMMANDS: Final = {
    "run": ("run", "run", "Run an experiment file, or go on where it stopped."),
    "resume": ("run", "resume", "Go on with an experiment, as it was configured."),
    "ls": ("listing", "ls", "List the experiments."),
    "show": ("show", "show", "Show one experiment: what failed and why, what runs, what to do."),
    "logs": ("logs", "logs", "Print what processes wrote to stdout and stderr."),
    "cleanup": ("maintain", "cleanup", "Mark experiments whose owner is dead as interrupted."),
    "aggregate": ("maintain", "aggregate", "Aggregate results without running any process."),
    "export": ("export", "export", "Print everything about each process, as CSV or JSON lines."),
    "rm": ("maintain", "rm", "Delete experiments with their results and logs."),
    "doctor": ("doctor", "doctor", "Look for damage and leftovers; mend what loses nothing."),
    "diagram": ("maintain", "diagram", "Print a state machine as a diagram."),
    "rank": ("ranks", "rank", "Run a command as one rank of a launcher (mpirun, srun, a script)."),
    "progress": ("ranks", "progress", "Tell how far a process is; typed by the process itself."),
    "result": ("ranks", "result", "Deliver the result of a process, checked and on the disk."),
    "demo": ("run", "demo", "Run a real little experiment, and leave its files to play with."),
    "guide": ("guide", "guide", "Read the guide: tutorial, reference, recipes, file formats."),
}


#: Commands that make the state directory if it is not there; no other does.
_MAKERS: Final = frozenset({"run", "demo"})


@attrs.define
class Where:
    """The state directory that a command works on, and how to name it in a next command.

    Attributes:
        option: The directory as it was given with `-C`; None if it comes from elsewhere.
        verb: The command that runs; None before that is known.
        fresh: Whether it makes a new experiment whatever there is.
        found: The directory that was looked for, once it was.
    """

    option: str | None = None
    verb: str | None = None
    fresh: bool = False
    found: Path | None = None

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
    import shutil

    found = shutil.which(called.name)
    if found is not None and Path(found).resolve() == called.resolve():
        return shlex.quote(called.name)
    return shlex.quote(sys.argv[0])  # as it was typed: `Path` would take the `./` away


_C = TypeVar("_C", bound=Callable[..., Any])


def _set_where(context: click.Context, _: click.Parameter, value: str | None) -> None:
    found = context.ensure_object(Where)
    if value is not None:
        found.option = value


def state_dir_option(command: _C) -> _C:
    """`-C`, which may stand before or after the command."""
    return click.option(
        "-C",
        "--state-dir",
        metavar="DIR",
        expose_value=False,
        callback=_set_where,
        type=click.Path(file_okay=False),
        help=f"Where the experiments are; else ${environment.STATE_DIR}, else what is here or "
        "above.",
    )(command)


def json_option(command: _C) -> _C:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout.")(command)


def _complete_id(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    import warnings

    from holdfast.cli import homes

    warnings.simplefilter("ignore")
    where = where_of(context)
    try:
        where.found = where.found or homes.above()  # a shell that completes wants no messages
        ids = where.manager().list_experiments()
    except (HoldfastError, click.UsageError):
        return []
    return [each for each in ["@last", *ids] if each.startswith(incomplete)]


def experiment_argument(command: _C) -> _C:
    """`ID`: an id, a unique prefix of one, a unique name, or `@last`."""
    return click.argument("query", metavar="ID", shell_complete=_complete_id)(command)


def where_of(context: click.Context) -> Where:
    """The state directory of the running command."""
    found = context.find_object(Where)
    assert found is not None
    return found


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        with quietly():
            found = getattr(import_module(f"holdfast.cli.{module}"), attribute)
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            close = [_ALIASES[args[0]]] if args[0] in _ALIASES else []
            if not close and Path(args[0]).is_file():
                close = ["run", args[0]]
            close = close or difflib.get_close_matches(args[0], _COMMANDS, n=1)
            hint = f"; did you mean `{where_of(ctx).command(*close)}`?" if close else ""
            ctx.fail(f"no command {args[0]!r}{hint}")
        if args:
            where_of(ctx).verb = args[0]
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, _, about) in _COMMANDS.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:
            # Versions of click differ in where this goes and what it exits with.
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            with text.delivering():  # it prints the help, too
                return super().make_context(*args, **kwargs)
        except BrokenPipeError as err:
            raise ClosedPipe from err

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as err:
            # click would end the program itself, with the exit code of an error.
            raise ClosedPipe from err


class ClosedPipe(Exception):  # noqa: N818 (nothing went wrong: the reader has seen enough)
    """Nobody reads stdout any more."""


_EPILOG: Final = """\
\b
ID is an experiment's id, any unique beginning of it, its name if no other has it, or @last,
the newest one; ID/INDEX is one process of it (logs, show, export).
Experiments are where -C or HOLDFAST_STATE_DIR says, else in .experiment_state
here, beside FILE, or above.

Exit codes: """ + "; ".join(
    f"{code} {meaning.partition(';')[0]}" for code, meaning in EXIT_CODES.items()
)


@click.command(
    cls=_Commands,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="holdfast", message="%(prog)s %(version)s")
@state_dir_option
def app() -> None:
    """Crash-proof experiments: run, kill at any instant, resume, aggregate."""
