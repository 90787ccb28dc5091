"""Limits that are changed of an experiment that goes on, and what is asked of its engine: checked,
merged, and told.

They are the only parts of a configuration that can change: they belong neither to the work nor to
its hash.
"""

import json
from collections.abc import Mapping
from typing import Any

import attrs

from holdfast.config import declaration, engine
from holdfast.config.declaration import KEYS, Limits, LimitsTable
from holdfast.config.experiment_file import Experiment
from holdfast.config.values import problems_of
from holdfast.engine_options import EngineOptions
from holdfast.errors import ConfigError, ConfigProblem

__all__ = ["NewLimits", "changed"]


@attrs.frozen(kw_only=True)
class NewLimits:
    """What differs from the limits so far.

    Attributes:
        values: In the shape of the file, by their keys; None lifts a limit.
        options: The same of `[engine]`.
        words: Both for people: `limits.timeout 1h → 4h`.
    """

    values: Mapping[str, Any]
    options: Mapping[str, Any] = attrs.field(factory=dict)
    words: str

    @property
    def facts(self) -> dict[str, Mapping[str, Any]]:
        """What is recorded, by table."""
        tables = {"limits": self.values, "engine": self.options}
        return {name: table for name, table in tables.items() if table}

    def told(self, *, recorded: bool, running: int) -> str:
        """What to say before anything starts.

        Args:
            recorded: Whether later runs have them, too.
            running: How many processes run on from before.
        """
        told = self.words if recorded else f"{self.words} (only now: no process is left to run)"
        timed = not self.values.keys().isdisjoint(("timeout", "grace"))
        if running and (timed or self.options):
            told += "; what runs already keeps what it was started with"
        return told


def changed(
    experiment: Experiment,
    given: Mapping[str, Any],
    title: str,
    options: Mapping[str, Any] | None = None,
) -> tuple[Experiment, NewLimits | None]:
    """*experiment* with the limits that are *given*, and what of them is new; None if nothing is.

    Args:
        given: In the shape of the file's table.
        title: What an error calls them.
        options: What changes of `[engine]`, in that shape, too.

    Raises:
        ConfigError: They cannot be used; with all problems.
    """
    for table, each in (("limits", given), ("engine", options or {})):
        if not isinstance(each, Mapping):
            problem = ConfigProblem(table, f"expected a mapping, got {each!r:.80}")
            raise ConfigError(title, [problem])
    before = experiment.source.get("limits") or {}
    limits, problems = declaration.check_limits({**before, **given})
    if limits is None:
        raise ConfigError(title, problems)
    words, values = [], {}
    for field in attrs.fields(LimitsTable):
        key = KEYS.get(field.name, field.name)
        was, now = getattr(experiment.limits, field.name), getattr(limits, field.name)
        if key in given and was != now:
            values[key] = given[key]
            words.append(f"limits.{key} {_told(before.get(key), was)} → {_told(given[key], now)}")
    asked, changes = _asked(experiment, options or {}, title)
    words += changes.values()
    if not words:
        return experiment, None
    source = dict(experiment.source)
    if values:
        source["limits"] = {**before, **values}
    new = {key: (options or {})[key] for key in changes}
    if new:
        source["engine"] = {**(source.get("engine") or {}), **new}
    found = attrs.evolve(experiment, limits=Limits.of(limits, asked), engine=asked, source=source)
    return found, NewLimits(values=values, options=new, words="; ".join(words))


def _asked(
    experiment: Experiment, given: Mapping[str, Any], title: str
) -> tuple[EngineOptions, dict[str, str]]:
    """What is asked of its engine with what is *given*, and what of that is new, in words."""
    before = experiment.source.get("engine") or {}
    table = {**before, **given}
    try:
        found = engine.structure(table)
    except ValueError as err:
        raise ConfigError(title, problems_of("engine", err)) from None
    if given and (problems := list(engine.problems(table, found))):
        raise ConfigError(title, problems)
    words = {}
    for key in given:
        name = engine.KEYS[key].name
        if getattr(found, name) != getattr(experiment.engine, name):
            was, now = (_raw(each.get(key)) for each in (before, given))
            words[key] = f"engine.{key} {was} → {now}"
    return found, words


def _raw(value: Any) -> str:
    """As it may be written."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def _told(written: Any, value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not isinstance(written, str):
        return f"{value:g}s"
    return str(value if written is None else written)
