"""Rows that ran with different code: which, what differs between them, and how that is told.

Decided by what an aggregate says of its rows and its inputs, so that a table, `show`, an export and
a stored file agree. Two codes are one here unless a file that both name differs: processes that
name a configuration each have records of their own, and yet the same code.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from holdfast.reading import text
from holdfast.results import rows as rows_of

__all__ = ["Marks", "marks", "reused_from"]

_MOST_NAMED: Final = 3
_MOST_COUNTS: Final = 5

#: What one record says: of each file its content, of the rest what it is.
_Facets = Mapping[tuple[str, str], str]


@attrs.frozen(kw_only=True)
class Marks:
    """What tells rows of different code from each other.

    Attributes:
        labels: By the name of a code record, or None for no record, a letter; none at all where
            there is one code.
        sentences: What differs between them.
    """

    labels: Mapping[str | None, str] = attrs.field(factory=dict)
    sentences: Sequence[str] = ()

    def of(self, row: Mapping[str, Any]) -> str:
        """The label of *row*; empty if it has none."""
        return self.labels.get(_name(row), "")


def marks(aggregate: Mapping[str, Any] | None) -> Marks:
    """How the rows of *aggregate*, as it is stored or built, are marked."""
    found = aggregate or {}
    inputs = found.get("inputs")
    codes = inputs.get("code") if isinstance(inputs, Mapping) else None
    if not isinstance(codes, Mapping) or len(codes) < 2:
        return Marks()
    counts = Counter(_name(row) for row in rows_of.outlines(found.get("rows")))
    facets = {name: dict(_facets(codes.get(name))) for name in counts if name is not None}
    contents: dict[tuple[str, str], dict[str, None]] = {}
    for each in facets.values():
        for key, value in each.items():
            contents.setdefault(key, {})[value] = None
    differing = sorted(key for key, values in contents.items() if len(values) > 1)
    files = [key for key in differing if key[0] == "file"]
    kinds: dict[tuple[str | None, ...], str] = {}
    labels: dict[str | None, str] = {}
    for name in counts:
        kind = tuple(facets.get(name, {}).get(key) for key in files) if name else (None,)
        labels[name] = kinds.setdefault(kind, _letter(len(kinds)))
    if len(kinds) < 2:
        labels = {}
    return Marks(labels=labels, sentences=list(_sentences(differing, facets, counts)))


def _name(row: Mapping[str, Any]) -> str | None:
    name = row.get("code")
    return name if isinstance(name, str) else None


def _letter(number: int) -> str:
    """`a` to `z`, then `a1`."""
    more, letter = divmod(number, 26)
    return chr(ord("a") + letter) + (str(more) if more else "")


def _facets(record: Any) -> Iterator[tuple[tuple[str, str], str]]:
    """What a record in an aggregate says, which may be any JSON."""
    if not isinstance(record, Mapping):
        return
    for member in ("files", "declared"):
        files = record.get(member)
        for path, digest in files.items() if isinstance(files, Mapping) else ():
            if isinstance(digest, Mapping):
                said = digest.get("sha256") or f"{digest.get('size')} {digest.get('mtime_ns')}"
                yield ("file", path), str(said)
    git = record.get("git")
    revision = git.get("revision") if isinstance(git, Mapping) else None
    if isinstance(revision, str):
        yield ("git", "the git revision"), revision
    if isinstance(python := record.get("python"), str):
        yield ("python", "the version of Python"), python


def _sentences(
    differing: Sequence[tuple[str, str]],
    facets: Mapping[str, _Facets],
    counts: Counter[str | None],
) -> Iterator[str]:
    """`train.py differs between 20 and 4 of the 24 rows`, files that differ alike together."""
    total = sum(counts.values())
    alike: dict[tuple[int, ...], list[tuple[str, str]]] = {}
    for key in differing:
        numbers: Counter[str] = Counter()
        for name, found in facets.items():
            if key in found:
                numbers[found[key]] += counts[name]
        split = tuple(numbers.values())
        alike.setdefault(split if key[0] == "file" else (*split, -len(alike)), []).append(key)
    for split, keys in alike.items():
        names = [text.short(name, 60) for _, name in keys[:_MOST_NAMED]]
        if len(keys) > _MOST_NAMED:
            names.append(f"{len(keys) - _MOST_NAMED:,} more files")
        listed = ", ".join(names[:-1]) + (" and " if names[1:] else "") + names[-1]
        counted = [f"{number:,}" for number in split if number > 0]
        between = f"{', '.join(counted[:-1])} and {counted[-1]}"
        if len(counted) > _MOST_COUNTS:
            between = f"{len(counted):,} groups"
        verb = "differ" if len(keys) > 1 else "differs"
        yield f"{listed} {verb} between {between} of the {total:,} rows"


def reused_from(row: Mapping[str, Any]) -> str:
    """`exp_a/3`: who did the work of *row*; empty if it was run here."""
    found = row.get("reused")
    if not isinstance(found, Mapping):
        return ""
    return text.short(f"{found.get('experiment_id')}/{found.get('process')}")
