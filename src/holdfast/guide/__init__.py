"""The guide: what people read, as the Markdown files beside this one; it travels with the package.

Owns which topics there are. Showing one is the command line's. What the code declares (keys,
commands, exit codes, transitions, public names) stands in the pages as text, so that they can be
read anywhere, and a test holds it against the code.
"""

from typing import Final

__all__ = ["TOPICS", "page"]

#: `{topic: what it is about}`, in the order to read them in.
TOPICS: Final = {
    "tutorial": "from the first command to an experiment of your own, killed and resumed",
    "experiment-file": "every key of experiment.toml, and what a process finds and leaves",
    "commands": "every command with its options, and the exit codes",
    "machines": "the two state machines, state by state",
    "python": "the same from Python: run, read, record, observe",
    "ranks": "inside a process: progress, checkpoints, stops; torchrun, mpirun, other languages",
    "recipes": "short answers: retries, checkpoints, batch systems, disk space, other tools",
    "promises": "what survives what, the test that proves it, and what is not promised",
    "costs": "what a transition, a listing, a process costs, against the machine's limit",
    "decisions": "why it is as it is",
    "storage": "the files, byte by byte: enough to write a reader in another language",
}


def page(topic: str) -> str:
    """The Markdown of *topic*. Raises KeyError."""
    if topic not in TOPICS:
        raise KeyError(topic)
    from importlib.resources import files  # 4 ms, which a list of topics never needs

    return files(__name__).joinpath(f"{topic}.md").read_text(encoding="utf-8")
