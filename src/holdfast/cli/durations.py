"""Lengths of time as they are typed: `30s`, `2h`."""

import click

from holdfast.config.durations import parse_duration

__all__ = ["duration"]


def duration(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """A callback of click: *value* in seconds. Bare numbers are seconds."""
    if value is None:
        return None
    try:
        return parse_duration(float(value) if value.replace(".", "", 1).isdecimal() else value)
    except ValueError as err:
        raise click.BadParameter(str(err)) from None
