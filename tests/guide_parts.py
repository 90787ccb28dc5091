"""The parts of the guide that follow from the code: `python tests/guide_parts.py` writes them anew.

They stand in the pages as text, so that a page can be read anywhere, the package knows nothing of
how they are made, and a change of the code shows in a diff of what users read.
"""

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, get_args

import attrs
import click

import holdfast
from holdfast import diagrams
from holdfast.cli import app as cli
from holdfast.cli.failures import EXIT_CODES
from holdfast.cli.where import Where
from holdfast.config import declaration, engine, rules
from holdfast.config.matrix import Matrix
from holdfast.lifecycle.edges import edges
from holdfast.lifecycle.machines import MACHINES
from holdfast.status import Entity

__all__ = ["FOLDER", "written"]

FOLDER: Final = Path(__file__).parents[1] / "src" / "holdfast" / "guide"
WIDTH: Final = 79


def written(topic: str, text: str) -> str:
    """The page *text* of *topic* with its parts as the code is now."""
    for heading, made in SECTIONS.get(topic, {}).items():
        before, rest = text.split(f"\n## {heading}\n", 1)
        after = re.search(r"^## ", rest, re.MULTILINE)
        behind = "" if after is None else f"\n{rest[after.start() :]}"
        text = f"{before}\n## {heading}\n\n{made().strip()}\n{behind}"
    if topic == "machines":
        text = re.sub(r"(?<=^### )(\w+): (\w+)\n\n```text\n.*?```", _arrows, text, flags=_WHOLE)
    return text


_WHOLE: Final = re.MULTILINE | re.DOTALL


# -- the experiment file --------------------------------------------------------------------------

_ENGINES: Final = " or ".join(f'`"{each}"`' for each in get_args(declaration.EngineName))

_VALUES: Final[dict[Any, str]] = {
    str: "text",
    bool: "`true` or `false`",
    dict[str, str]: "a table of texts",
    Matrix: "a table of lists",
    declaration.Argv: "a list of texts",
    declaration.Patterns: "a list of paths",
    declaration.Slots: "a table of lists",
    declaration.Needs: "a table of integers",
    declaration.Count: "an integer from 1",
    declaration.Seconds: "a duration",
    declaration.SomeSeconds: "a duration",
    declaration.OnStall: '`"tell"` or `"restart"`',
    declaration.EngineName: _ENGINES,
    rules.Rules: "a list of tables",
    rules.Causes: "a text or a list of texts",
    rules.Codes: "a list of integers",
    rules.Settings: "a table",
    int: "an integer from 1",
    float: "a duration",
}


def _keys() -> str:
    lines = _wrapped(
        'A duration is a text such as `"2h"`, `"1h30m"`, `"30s"` or `"500ms"`, or a number of '
        "seconds.\0At the top of the file:\0"
    )
    about = _attributes(declaration.Written)
    for key, kind in declaration.Written.__annotations__.items():
        lines += _item(key, _VALUES.get(kind, "a table"), about[key], "")
    for section, record in declaration.Written.__annotations__.items():
        if attrs.has(record) and record is not Matrix:
            lines += _table(f"[{section}]", record)
        if record is declaration.Retry:
            lines += _table("[[retry.rule]]", rules.Rule)
    return "\n".join(lines)


def _table(title: str, record: type) -> list[str]:
    lines = ["", f"### {title}", "", *_wrapped(_summary(record)), ""]
    about = _attributes(record)
    if record is declaration.EngineOptions:
        defaults = {field.name: field.default for field in attrs.fields(record)}
        for key, (name, kind, *_) in engine.KEYS.items():
            of = declaration.Seconds if name.endswith("_s") else declaration.EngineName
            lines += _item(key, kind, about[name], _default(defaults[name], of))
        return lines
    for field in attrs.fields(record):
        key = {**declaration.KEYS, "settings": "set"}.get(field.name, field.name)
        kind = field.type
        if kind not in _VALUES:
            kind = next(each for each in get_args(kind) if each is not type(None))
        default = _default(field.default, kind)
        lines += _item(key, _VALUES[kind], about[field.name], default)
    return lines


def _default(value: Any, kind: Any) -> str:
    if value in (None, attrs.NOTHING, (), {}):
        return ""
    if kind in (declaration.OnStall, declaration.EngineName) and isinstance(value, str):
        return f'; default `"{value}"`'
    if kind is declaration.Seconds:
        return f'; default `"{value:g}s"`'
    return f"; default `{str(value).lower()}`"


def _item(key: str, value: str, about: str, default: str) -> list[str]:
    about = re.sub(r"[;,] None for ", "; without it, ", about)
    return _wrapped(f"- `{key}` ({value}{default}): {about}", "  ")


def _attributes(record: type) -> dict[str, str]:
    """What the docstring of *record* says of each of its attributes."""
    _, _, listed = inspect.cleandoc(record.__doc__ or "").partition("Attributes:\n")
    found = re.findall(r"^    (\w+): (.*?)(?=^    \w|\Z)", listed, _WHOLE)
    return {name: " ".join(about.split()) for name, about in found}


# -- the command line -----------------------------------------------------------------------------


def _exit_codes() -> str:
    meanings = [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    return "\n".join(["| code | meaning |", "|---|---|", *meanings])


def commands() -> dict[str, click.Command]:
    """Every command by its name, in the order of the help."""
    context = click.Context(cli.app, obj=Where())
    found = {name: cli.app.get_command(context, name) for name in cli.app.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def _commands() -> str:
    return "\n\n".join(f"### holdfast {name}\n\n{_told(c, name)}" for name, c in commands().items())


def _told(command: click.Command, name: str) -> str:
    arguments = [_argument(each) for each in command.params if isinstance(each, click.Argument)]
    usage = " ".join(["holdfast", name, "[OPTIONS]", *filter(None, arguments)])
    about = inspect.cleandoc(command.help or "").replace("\b\n", "")
    lines = [f"`{usage}`", "", *_wrapped(about.replace("\n\n", "\0").replace("\n", " "))]
    options = [
        each for each in command.params if isinstance(each, click.Option) and not each.hidden
    ]
    said = [each for each in options if each.name != "state_dir"]
    return "\n".join(
        [*lines, *([""] if said else []), *(line for o in said for line in _option(o))]
    )


def _argument(argument: click.Argument) -> str:
    if isinstance(argument.type, click.Choice):
        return f"[{'|'.join(map(str, argument.type.choices))}]"
    return argument.metavar or ""


def _option(option: click.Option) -> list[str]:
    kind = option.type
    value = option.metavar or {"integer range": "N"}.get(kind.name, "")
    if isinstance(kind, click.Choice) and option.metavar is None:
        value = "|".join(map(str, kind.choices))
    words = ", ".join(f"`{name} {value}`" if value else f"`{name}`" for name in option.opts)
    default = f" Default: `{option.default}`." if option.show_default else ""
    return _wrapped(f"- {words}: {option.help}{default}", "  ")


# -- the machines ---------------------------------------------------------------------------------


def _machine(entity: Entity) -> Callable[[], str]:
    return lambda: diagrams.render(entity, "markdown").split("\n", 1)[1]


def _arrows(found: re.Match[str]) -> str:
    """The transitions that lead to a status and from it, drawn in text."""
    name, status = found.groups()
    entity: Entity = "process" if name == "Process" else "experiment"
    declared = edges(MACHINES[entity])
    into = [f"{each.source} --{each.event}-->" for each in declared if each.target == status]
    lines = [*dict.fromkeys(into), f"    {status}"]
    for each in declared:
        if each.source == status:
            guards = [guard for guard in each.guards if guard not in diagrams.everywhere(entity)]
            asked = f"  [{', '.join(guards)}]" if guards else ""
            lines.append(f"        --{each.event}--> {each.target}{asked}")
    return f"{name}: {status}\n\n```text\n" + "\n".join(lines) + "\n```"


# -- Python ---------------------------------------------------------------------------------------


def _names() -> str:
    found = {name: getattr(holdfast, name) for name in holdfast.__all__ if name != "__version__"}
    raised = {name for name, each in found.items() if _is_raised(each)}
    lines = []
    for title, names in (
        ("Classes and functions", found.keys() - raised),
        ("Errors and warnings", raised),
    ):
        lines += [f"### {title}", ""]
        for name in sorted(names):
            lines += _wrapped(f"- `{name}`: {_summary(found[name])}", "  ")
        lines.append("")
    return "\n".join(lines)


def _is_raised(each: Any) -> bool:
    return isinstance(each, type) and issubclass(each, BaseException)


# -- words ----------------------------------------------------------------------------------------


def _summary(thing: Any) -> str:
    """The first paragraph of a docstring."""
    return " ".join(inspect.cleandoc(thing.__doc__ or "").split("\n\n")[0].split())


def _wrapped(text: str, indent: str = "") -> list[str]:
    return list(_lines(text, indent))


def _lines(text: str, indent: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.split("\0")):
        if number:
            yield ""
        # What is typed as one stays in one line.
        kept = re.sub("`[^`]+`", lambda found: found[0].replace(" ", "\1"), paragraph)
        for line in textwrap.wrap(
            kept,
            WIDTH,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        ):
            yield line.replace("\1", " ")


#: By topic and heading: what makes the text under it.
SECTIONS: Final[dict[str, dict[str, Callable[[], str]]]] = {
    "experiment-file": {"Every key": _keys},
    "commands": {"Exit codes": _exit_codes, "Every command": _commands},
    "machines": {
        "The experiment machine": _machine("experiment"),
        "The process machine": _machine("process"),
    },
    "python": {"Every public name": _names},
}

if __name__ == "__main__":
    for path in FOLDER.glob("*.md"):
        path.write_text(written(path.stem, path.read_text(encoding="utf-8")), encoding="utf-8")
