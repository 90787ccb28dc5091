"""Limits that are changed of an experiment that goes on: checked, merged, and told.

They are the only part of a configuration that can change: they belong neither to the work nor to
its hash.
"""

from collections.abc import Mapping
from typing import Any

import attrs

from holdfast.config import declaration
from holdfast.config.declaration import KEYS, Limits, LimitsTable
from holdfast.config.experiment_file import Experiment
from holdfast.errors import ConfigError, ConfigProblem

__all__ = ["NewLimits", "changed"]


@attrs.frozen(kw_only=True)
class NewLimits:
    """What differs from the limits so far.

    Attributes:
        values: In the shape of the file, by their keys; None lifts a limit.
        words: The same for people: `limits.timeout 1h → 4h`.
    """

    values: Mapping[str, Any]
    words: str

    def told(self, *, recorded: bool, running: int) -> str:
        """What to say before anything starts.

        Args:
            recorded: Whether later runs have them, too.
            running: How many processes run on from before.
        """
        told = self.words if recorded else f"{self.words} (only now: no process is left to run)"
        if running and not self.values.keys().isdisjoint(("timeout", "grace")):
            told += "; what runs already keeps what it was started with"
        return told


def changed(
    experiment: Experiment, given: Mapping[str, Any], title: str
) -> tuple[Experiment, NewLimits | None]:
    """*experiment* with the limits that are *given*, and what of them is new; None if nothing is.

    Args:
        given: In the shape of the file's table.
        title: What an error calls them.

    Raises:
        ConfigError: They cannot be used; with all problems.
    """
    if not isinstance(given, Mapping):
        problem = ConfigProblem("limits", f"expected a mapping, got {given!r:.80}")
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
    if not values:
        return experiment, None
    source = {**experiment.source, "limits": {**before, **values}}
    bounds = Limits.of(limits, experiment.engine)
    found = attrs.evolve(experiment, limits=bounds, source=source)
    return found, NewLimits(values=values, words="; ".join(words))


def _told(written: Any, value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not isinstance(written, str):
        return f"{value:g}s"
    return str(value if written is None else written)
