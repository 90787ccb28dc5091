"""The guide: what people read, as the Markdown files beside this one; it travels with the package.

Owns which topics there are. Showing one is the command line's. What the code declares (keys,
commands, exit codes, transitions, public names) stands in the pages as text, so that they can be
read anywhere, and a test holds it against the code.
"""

from typing import Final

__all__ = ["TOPICS", "page"]

#: `{topic: what it is about}`, in the order to read them in.
TOPICS: Final = {
    "tutorial": "from a first command to your own experiment, killed and resumed",
    "experiment-file": "every key of experiment.toml; retry rules, slots, outputs",
    "views": "seeing it: terminal, report page, notebook, hooks",
    "commands": "every command with its options, and the exit codes",
    "machines": "the two state machines, state by state",
    "python": "the same from Python: run, read, record, observe",
    "ranks": "inside a process: progress, checkpoints; torchrun, mpirun",
    "engines": "beyond one machine: Slurm, Dask, pools of your own",
    "recipes": "short answers: retries, drills, stopping, tags, batch systems",
    "promises": "what survives what, with its test, and what is not promised",
    "costs": "what each step costs, against the machine's limit",
    "decisions": "why it is as it is",
    "storage": "the files, byte by byte, for readers in other languages",
}


def page(topic: str) -> str:
    """The Markdown of *topic*. Raises KeyError."""
    if topic not in TOPICS:
        raise KeyError(topic)
    from importlib.resources import files  # 4 ms, which a list of topics never needs

    return files(__name__).joinpath(f"{topic}.md").read_text(encoding="utf-8")
