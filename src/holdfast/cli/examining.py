"""`holdfast doctor --engine`: whether an engine can be used from here, before anything is run."""

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from holdfast.config import engine as config
from holdfast.engine_options import EngineName, EngineOptions
from holdfast.engines.contract import Engine
from holdfast.engines.making import make
from holdfast.errors import EngineError
from holdfast.reading import forms, text
from holdfast.reading.engines import TITLES

__all__ = ["examine_engine"]

_STYLES: Final[dict[str, text.Style]] = {"ok": "green", "warning": "yellow", "problem": "red"}
_WIDTH: Final = max(map(len, _STYLES))


def examine_engine(name: EngineName, file: Path | None, *, as_json: bool) -> int:
    """Examine an engine, as `[engine]` of *file* has it, and tell what was found; the exit code."""
    options = EngineOptions(name=name)
    if file is not None:
        from holdfast.config.experiment_file import load_config

        options = config.named(load_config(file).engine, name)
    found = []
    for level, words in _examined(options):
        found.append({"level": level, "words": words})
        if not as_json:
            label = text.paint(level.ljust(_WIDTH), _STYLES[level], text.coloured(sys.stdout))
            text.emit([f"{label}  {text.one_line(words)}"])
            text.flush()  # some of it takes seconds
    problems = sum(each["level"] == "problem" for each in found)
    if as_json:
        forms.print_json("holdfast.engine/1", {"engine": name, "findings": found})
    elif problems:
        text.say(f"{TITLES[name]} cannot be used like that: {text.count(problems, 'problem')}")
    else:
        text.say(f"{TITLES[name]} can be used")
    return 1 if problems else 0


def _examined(options: EngineOptions) -> Iterator[tuple[str, str]]:
    try:
        with closing(make(options)) as engine:
            yield from _findings(engine)
    except EngineError as err:
        yield "problem", err.problem


def _findings(engine: Engine) -> Iterator[tuple[str, str]]:
    examine = getattr(engine, "examine", None)
    if examine is not None:
        yield from examine()
        return
    notes = engine.check(())
    yield "ok", "reachable"
    for words in notes:
        yield "warning", words
