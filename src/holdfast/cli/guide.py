"""`holdfast guide`: a page of the guide, rendered on a terminal, plain Markdown anywhere else."""

import re
import sys
from typing import Final

import click

from holdfast.guide import TOPICS, notebook, page
from holdfast.reading import text

__all__ = ["guide"]

#: A link to another page or into the repository: it leads nowhere from a terminal.
_RELATIVE: Final = re.compile(r"\[([^]]+)\]\((?!\w+:)[^)]*\)")

#: Beyond this, lines are hard to read.
_WIDEST: Final = 100


@click.command()
@click.option("--list", "listed", is_flag=True, help="Only list the topics.")
@click.option("--ipynb", is_flag=True, help="Print it as a notebook, its Python in cells.")
@click.argument("topic", metavar="[TOPIC]", required=False)
def guide(topic: str | None, listed: bool, ipynb: bool) -> int:
    """Show a page of the guide, which came with this version; without TOPIC, what there is.

    On a terminal it is rendered; through a pipe (`holdfast guide storage | less`) it is Markdown.
    """
    if topic is None or listed:
        text.emit(text.table(("topic", "what it says"), list(TOPICS.items())))
        return 0
    if topic not in TOPICS:
        raise click.UsageError(_unknown(topic))
    found = notebook(topic) if ipynb else page(topic)
    if not ipynb and text.is_terminal(sys.stdout):
        _render(found)
    else:
        text.emit([found.rstrip("\n")])
    return 0


def _unknown(topic: str) -> str:
    import difflib  # only a mistake needs it

    close = [each for each in TOPICS if topic.lower() in each]
    close = close or difflib.get_close_matches(topic.lower(), TOPICS, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"no topic {topic!r}{hint}\n  topics: {', '.join(TOPICS)}"


def _render(markdown: str) -> None:
    from rich.console import Console
    from rich.markdown import Markdown

    with text.delivering():
        width = min(text.terminal_width(sys.stdout) or 80, _WIDEST)
        Console(width=width).print(Markdown(_RELATIVE.sub(r"\1", markdown), hyperlinks=False))
