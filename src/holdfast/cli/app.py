"""The commands and where they live; the options that all of them share.

A command's module is imported when it is run or asked for its own help, never to list it.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from holdfast import __version__
from holdfast.attempts import environment
from holdfast.cli.failures import EXIT_CODES
from holdfast.cli.loading import quietly
from holdfast.cli.where import Where
from holdfast.encoding import spoken
from holdfast.reading import text

__all__ = [
    "app",
    "complete_file",
    "complete_file_or_id",
    "complete_id",
    "experiment_argument",
    "experiments_argument",
    "force_option",
    "in_state_dir",
    "json_option",
    "some_experiments_argument",
    "tag_option",
]


#: What other programs call it.
_ALIASES: Final = {
    "clean": "cleanup",
    "continue": "resume",
    "cancel": "stop",
    "delete": "rm",
    "help": "--help",
    "info": "show",
    "kill": "stop",
    "list": "ls",
    "log": "logs",
    "ps": "ls",
    "remove": "rm",
    "restart": "resume",
    "start": "run",
    "status": "show",
    "tags": "tag",
    "top": "watch",
    "version": "--version",
}

#: `{group: {command: (module, attribute, one line of help)}}` in the order of the help.
_GROUPS: Final = {
    "Run": {
        "run": ("run", "run", "Run an experiment file, or go on where it stopped."),
        "resume": ("resume", "resume", "Go on with an experiment, as it was configured."),
        "retry": ("resume", "retry", "Try the failed processes of an experiment again, no others."),
        "stop": ("control", "stop", "Stop experiments, whoever runs them and wherever."),
        "wait": ("waiting", "wait", "Wait until experiments are over; exit as `run` would have."),
        "aggregate": ("maintain", "aggregate", "Aggregate results without running any process."),
        "explain": ("explain", "explain", "Say what a run would do with each process, and why."),
        "drill": (
            "drill",
            "drill",
            "Kill a copy of an experiment again and again: does it survive?",
        ),
    },
    "Look": {
        "ls": ("listing", "ls", "List the experiments."),
        "show": (
            "show",
            "show",
            "Show one experiment: what failed and why, what runs, what to do.",
        ),
        "watch": ("watching", "watch", "Show how experiments go, whoever runs them."),
        "logs": ("logs", "logs", "Print what processes wrote to stdout and stderr."),
        "export": (
            "export",
            "export",
            "Print everything about each process, as CSV or JSON lines.",
        ),
        "report": ("report", "report", "Make one page of it all: what happened, why, plots."),
        "diff": ("diff", "diff", "Say what differs between two experiments: code, results, all."),
        "slots": ("slots", "slots", "List what only one process can use (GPUs), and who does."),
    },
    "Keep in order": {
        "tag": ("annotating", "tag", "Tag experiments, or print their tags."),
        "note": ("annotating", "note", "Write a note about an experiment, or print it."),
        "rm": ("removal", "rm", "Delete experiments with their results and logs."),
        "cleanup": ("maintain", "cleanup", "Mark experiments whose owner is dead as interrupted."),
        "doctor": ("doctor", "doctor", "Look for damage and leftovers; mend what loses nothing."),
    },
    "From within a process": {
        "progress": (
            "ranks",
            "progress",
            "Report how far a process is; run by the process itself.",
        ),
        "result": ("ranks", "result", "Deliver the result of a process, checked and on the disk."),
        "rank": (
            "ranks",
            "rank",
            "Run a command as one rank of a launcher (mpirun, srun, a script).",
        ),
    },
    "Learn": {
        "demo": ("run", "demo", "Run a real little experiment, and leave its files to play with."),
        "guide": ("guide", "guide", "Read the guide: tutorial, reference, recipes, file formats."),
        "diagram": ("maintain", "diagram", "Print a state machine as a diagram."),
        "completion": (
            "completion",
            "completion",
            "Make bash, zsh or fish complete what is typed.",
        ),
    },
}
_COMMANDS: Final = {name: each for group in _GROUPS.values() for name, each in group.items()}


_C = TypeVar("_C", bound=Callable[..., Any])


def _set_where(context: click.Context, _: click.Parameter, value: str | None) -> None:
    found = context.ensure_object(Where)
    if value is not None:
        found.option = value


_state_dir_option = click.option(
    "-C",
    "--state-dir",
    metavar="DIR",
    expose_value=False,
    callback=_set_where,
    type=click.Path(file_okay=False),
    help=f"Where the experiments are; else ${environment.STATE_DIR}, else what is here or above.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout.")
force_option = click.option(
    "--force",
    is_flag=True,
    help="Go on although the last owner cannot be proven dead. Make sure yourself that it is.",
)


def in_state_dir(command: Callable[..., int]) -> Callable[..., int]:
    """A command with `-C`, which may stand before it, too, and the `Where` as first argument."""
    return _state_dir_option(click.make_pass_decorator(Where)(command))


def complete_id(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """For what names an experiment."""
    from holdfast.cli.completion import experiments

    return experiments(_where(context), incomplete)


def _complete_tag(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    from holdfast.cli.completion import tags

    return tags(_where(context), incomplete)


def complete_file(*_: object) -> list[Any]:
    """For what is a path: the shell knows best."""
    from click.shell_completion import CompletionItem

    return [CompletionItem("", type="file")]


def complete_file_or_id(
    context: click.Context, param: click.Parameter, incomplete: str
) -> list[Any]:
    """For what may be either."""
    return [*complete_id(context, param, incomplete), *complete_file()]


def experiment_argument(command: _C) -> _C:
    """`ID`: an id, a unique prefix of one, a unique name, or `@last`."""
    return click.argument("query", metavar="ID", shell_complete=complete_id)(command)


def _checked_tags(_: click.Context, __: click.Parameter, words: tuple[str, ...]) -> list[str]:
    if not words:
        return []
    from holdfast.store.annotations import checked_tag

    try:
        return [checked_tag(spoken(each)) for each in words]
    except ValueError as err:
        raise click.BadParameter(str(err)) from None


def tag_option(*names: str, about: str) -> Callable[[_C], _C]:
    """An option that is a tag, and may be repeated."""
    return click.option(
        *names,
        metavar="TAG",
        multiple=True,
        callback=_checked_tags,
        shell_complete=_complete_tag,
        help=f"{about}; may be repeated.",
    )


def experiments_argument(command: _C) -> _C:
    """One ID or more, as `queries`."""
    many = click.argument(
        "queries", metavar="ID...", nargs=-1, required=True, shell_complete=complete_id
    )
    return many(command)


def some_experiments_argument(command: _C) -> _C:
    """Any number of IDs, as `queries`."""
    return click.argument("queries", metavar="[ID]...", nargs=-1, shell_complete=complete_id)(
        command
    )


def _where(context: click.Context) -> Where:
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
            if not close:
                import difflib  # only a mistake needs it

                close = difflib.get_close_matches(args[0], _COMMANDS, n=1)
            hint = f"; did you mean `{_where(ctx).command(*close)}`?" if close else ""
            ctx.fail(f"no command {args[0]!r}{hint}")
        if args:
            _where(ctx).verb = args[0]
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        # Not click's own, which would import every command for its line of help.
        names = [CompletionItem(each) for each in _COMMANDS if each.startswith(incomplete)]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, _COMMANDS))
        for title, group in _GROUPS.items():
            with formatter.section(title):
                # One column for all groups.
                rows = [(name.ljust(width), about) for name, (_, _, about) in group.items()]
                formatter.write_dl(rows)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:  # as when a shell completes
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
ID is an experiment's id, any unique beginning of it, its name if no other has it, or @last,
the newest one; ID/INDEX is one process of it (resume, retry, stop, show, logs, export).

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
@_state_dir_option
def app() -> None:
    """Crash-proof experiments: run, kill at any instant, resume, aggregate."""
