"""The names of experiments: which file name an id gets, and the ids we make ourselves.

Owns the rule that turns any id into a *stem*, the name of its view (`<stem>.json`) and folder
(`<stem>/`). The true id stays inside the view.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from holdfast.errors import InvalidIdError

__all__ = ["candidates", "is_slug", "new_id", "sanitize_experiment_id"]

_KEPT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NOT_IN_SLUG: Final = re.compile(r"[^A-Za-z0-9_]+")
_LONGEST_SLUG: Final = 60
# 64 bits: 100,000 slugged names in one directory collide with a chance of 1 in 3 billion.
_HASH_DIGITS: Final = 16
_SLUG: Final = re.compile(r"-[0-9a-f]{16}\Z")

# What we write beside the views. The folder of an id `exp.json` would take the place of the view
# of `exp`, and a view must be the only thing in the directory that ends in `.json`.
_OUR_SUFFIXES: Final = (".json", ".jsonl", ".lock", ".tmp", ".live", ".exit", ".out", ".err")

# Windows gives these to devices whatever the extension and case; a state directory may be
# copied there, or lie on a share that it serves.
_DEVICES: Final = frozenset(
    ("con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10)))
)

# Names that were made in one second and are still told apart by a number that a human can read.
_NUMBERED: Final = 9


def sanitize_experiment_id(experiment_id: str) -> str:
    """The stem under which *experiment_id* is filed; safe on every common file system.

    An id of up to 100 letters, digits, `.`, `_` and `-` that starts with a letter or digit is
    its own stem. Everything else (`a/b`, `../x`, `größe`, `nul`, `run.json`, `v1.`) becomes a
    readable slug, `-`, and 16 hex digits of the SHA-256 of the true id, so that two ids never
    share a file: `a/b` and `a_b` do not, nor do `A/b` and `a/b` where case does not count.

    A stem is its own stem. The price is that somebody who names an experiment exactly like the
    stem of another one meets it; the store sees that the id inside differs and refuses. The same
    holds for ids that differ in case only (`Run`, `run`) on a file system that ignores case: they
    are kept unchanged, and the second one is refused as existing.

    Raises:
        InvalidIdError: Empty, with a NUL character, or not encodable (a lone surrogate).
        TypeError: Not a string.
    """
    if not isinstance(experiment_id, str):
        raise TypeError(f"an experiment id is a string, not {type(experiment_id).__name__}")
    if _is_safe(experiment_id):
        return experiment_id
    if not experiment_id:
        raise InvalidIdError(experiment_id, "it is empty")
    if "\0" in experiment_id:
        raise InvalidIdError(experiment_id, "it contains a NUL character")
    try:
        encoded = experiment_id.encode()
    except UnicodeEncodeError as err:
        why = f"character {err.start} is a lone surrogate, which UTF-8 cannot hold"
        raise InvalidIdError(experiment_id, why) from err

    import hashlib  # loads OpenSSL; almost every id is kept and never gets here

    slug = _NOT_IN_SLUG.sub("-", experiment_id[: 4 * _LONGEST_SLUG])[:_LONGEST_SLUG].strip("-_")
    digest = hashlib.sha256(encoded).hexdigest()[:_HASH_DIGITS]
    return f"{slug or 'experiment'}-{digest}"


def is_slug(stem: str) -> bool:
    """Whether *stem* looks as if it was made from an id, and so may be none itself."""
    return _SLUG.search(stem) is not None


def _is_safe(name: str) -> bool:
    if _KEPT.fullmatch(name) is None:
        return False
    low = name.lower()
    return not (
        # Windows drops a trailing dot, so `v1.` and `v1` would be one file there.
        low.endswith(".") or low.endswith(_OUR_SUFFIXES) or low.partition(".")[0] in _DEVICES
    )


def new_id(now: datetime) -> str:
    """The id of an experiment made at *now* (aware; told in UTC): `exp_20240115_123456`."""
    return f"exp_{now.astimezone(UTC):%Y%m%d_%H%M%S}"


def candidates(now: datetime) -> Iterator[str]:
    """Ids for an experiment made at *now*, in the order to try them until one is free. Endless.

    `exp_20240115_123456`, then `…_2` to `…_9`, then random suffixes: when thousands are created
    in one second, each finds a free one after ten attempts instead of thousands.
    """
    first = new_id(now)
    yield first
    for number in range(2, _NUMBERED + 1):
        yield f"{first}_{number}"

    import secrets  # pulls in hmac and random; only a busy second needs it

    while True:
        yield f"{first}_{secrets.token_hex(4)}"
