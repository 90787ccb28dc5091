"""What two undisturbed lives agree in, and where one that was killed differs from them."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, Literal

import attrs

from holdfast.drill.looks import Look, Trace, shape
from holdfast.encoding import portable

__all__ = ["Agreement", "Difference", "agreement", "differences", "per_attempt"]

Kind = Literal["lost", "repeated", "different", "left alive", "never ends"]

#: What is compared of a file: all of it, its lines in any order, how many these are, and so on.
Level = Literal["bytes", "lines", "count", "there"]

#: Characters of a value that a line has room for.
_SHOWN: Final = 30


@attrs.frozen(kw_only=True)
class Difference:
    """One thing in which a life that was killed is not as undisturbed ones are.

    Attributes:
        about: A process, a file, a value.
        says: What is the matter, as a clause.
        processes: Those that it is about; none where that is not known.
        path: The file that it is about.
        kills: Numbers of the kills that may have done it.
    """

    kind: Kind
    about: str
    says: str
    processes: frozenset[int] = frozenset()
    path: str | None = None
    kills: tuple[int, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """The same for the same difference in another life."""
        return self.kind, self.about


@attrs.frozen(kw_only=True)
class Agreement:
    """What undisturbed lives agree in, which is what is compared.

    Attributes:
        first: One of them.
        keys: Of results, by dotted name.
        levels: By path, how far the files are the same.
        shapes: How many files there are of names that differ in numbers only.
        unequal_keys: In which results differ although nothing was killed.
        unequal_files: Those that differ so.
    """

    first: Look
    keys: frozenset[str]
    levels: Mapping[str, Level]
    shapes: Mapping[str, int]
    unequal_keys: tuple[str, ...]
    unequal_files: tuple[str, ...]


def agreement(one: Look, two: Look) -> Agreement:
    """What *one* and *two* agree in."""
    everywhere = {key for _, key in (*one.values, *two.values)}
    unequal = {
        key
        for index, key in (*one.values, *two.values)
        if _lacks(one, index, key) or _lacks(two, index, key)
        or not _same(one.values[index, key], two.values[index, key])
    }  # fmt: skip
    levels: dict[str, Level] = {}
    for path in one.files.keys() & two.files.keys():
        levels[path] = _level(one.files[path], two.files[path])
    shapes, others = _shapes(one.files), _shapes(two.files)
    odd = (path for path in one.files.keys() | two.files.keys() if levels.get(path) != "bytes")
    return Agreement(
        first=one,
        keys=frozenset(everywhere - unequal),
        levels=levels,
        shapes={name: count for name, count in shapes.items() if others.get(name) == count},
        unequal_keys=tuple(sorted(unequal)),
        unequal_files=tuple(sorted(odd)),
    )


def _lacks(look: Look, index: int | str, key: str) -> bool:
    return (index, key) not in look.values


def _same(one: Any, two: Any) -> bool:
    return type(one) is type(two) and bool(one == two)


def _level(one: Trace, two: Trace) -> Level:
    if one.sha256 == two.sha256:
        return "bytes"
    if one.sorted is not None and one.sorted == two.sorted:
        return "lines"
    return "count" if one.lines is not None and one.lines == two.lines else "there"


def _shapes(files: Collection[str]) -> Counter[str]:
    return Counter(shape(path) for path in files)


def differences(agreed: Agreement, found: Look, keys: Collection[str]) -> Iterator[Difference]:
    """Where *found* is not as was *agreed*, the weightiest first.

    Args:
        keys: Of results, that are to be equal.
    """
    first = agreed.first
    if found.state is None:
        yield Difference(kind="lost", about="the experiment", says="is not there any more")
        return
    for index in sorted(first.done - found.done):
        process = found.state.processes[index]
        why = process.error_message or (process.reason or "not run")
        yield Difference(
            kind="lost",
            about=f"process {index}",
            says=f"is {process.status}, undisturbed it is completed: {why}",
            processes=frozenset((index,)),
        )
    for index, times in sorted(found.completions.items()):
        if times > first.completions.get(index, 0):
            yield Difference(
                kind="repeated",
                about=f"process {index}",
                says=f"was completed {times} times, undisturbed {first.completions.get(index, 0)}",
                processes=frozenset((index,)),
            )
    if found.problem is not None:
        yield Difference(kind="lost", about="the results", says=found.problem)
    yield from _values(first, found, keys)
    yield from _files(agreed, found)


def _values(first: Look, found: Look, keys: Collection[str]) -> Iterator[Difference]:
    numbers = _attempt_numbers(first)
    for (index, key), value in first.values.items():
        if key not in keys or (isinstance(index, int) and index not in found.done):
            continue
        about = f"{key} of {'the aggregate' if isinstance(index, str) else f'process {index}'}"
        processes = frozenset((index,)) if isinstance(index, int) else frozenset()
        if _lacks(found, index, key):
            says = f"is missing, undisturbed it is {_shown(value)}"
            yield Difference(kind="lost", about=about, says=says, processes=processes)
        elif key in numbers and found.values[index, key] == found.attempts.get(index):
            continue
        elif not _same(value, now := found.values[index, key]):
            says = f"is {_shown(now)}, undisturbed {_shown(value)}"
            yield Difference(kind="different", about=about, says=says, processes=processes)


def _attempt_numbers(look: Look) -> frozenset[str]:
    """Keys under which results say by which attempt they were made: a rerun is no difference."""
    others = {
        key for (index, key), value in look.values.items() if value != look.attempts.get(index)
    }
    return frozenset(key for _, key in look.values) - others


def _shown(value: Any) -> str:
    found = repr(value)
    return found if len(found) <= _SHOWN else found[: _SHOWN - 1] + "…"


def _files(agreed: Agreement, found: Look) -> Iterator[Difference]:
    own = per_attempt(agreed.first, found)
    for path, level in sorted(agreed.levels.items()):
        if path in own:
            continue
        told = _file(agreed.first.files[path], found.files.get(path), level)
        if told is not None:
            kind, says = told
            index = agreed.first.outputs.get(portable(path))
            yield Difference(
                kind=kind,
                about=portable(path),
                says=says,
                processes=frozenset() if index is None else frozenset((index,)),
                path=path,
            )
    yield from _kinds(agreed, found, {shape(path) for path in own})


def _kinds(agreed: Agreement, found: Look, apart: Collection[str]) -> Iterator[Difference]:
    """Files of which there are more or fewer than undisturbed, whatever their numbers are."""
    by_shape: dict[str, list[str]] = {}
    for path in sorted(found.files):
        by_shape.setdefault(shape(path), []).append(path)
    missing = {shape(path) for path in agreed.levels if path not in found.files}
    for name, count in sorted(agreed.shapes.items()):
        names = by_shape.get(name, [])
        if "*" not in name or name in apart:
            continue
        if len(names) > count:
            new = [path for path in names if path not in agreed.first.files]
            yield Difference(
                kind="repeated",
                about=portable(name),
                says=f"are {len(names)} files, undisturbed {count}: {', '.join(new[:2])}",
                path=new[0] if len(new) == 1 else None,
            )
        elif len(names) < count and name not in missing:
            says = f"are {len(names)} files, undisturbed {count}"
            yield Difference(kind="lost", about=portable(name), says=says)


def _file(was: Trace, now: Trace | None, level: Level) -> tuple[Kind, str] | None:
    """What is wrong with a file that is *now* so; None if nothing is."""
    if now is None:
        return "lost", "is missing, undisturbed it is there"
    if was.size and not now.size:
        return "lost", f"is empty, undisturbed it has {was.size:,} bytes"
    if was.json and now.json is False:
        return "lost", f"is torn: no JSON; {now.size:,} bytes, undisturbed {was.size:,}"
    if level == "there" or was.sha256 == now.sha256:
        return None
    if was.lines is not None and now.lines is not None and now.lines != was.lines:
        kind: Kind = "repeated" if now.lines > was.lines else "lost"
        return kind, f"has {_lines(now.lines)}, undisturbed {_lines(was.lines)}"
    if level == "count":
        return None
    if level == "lines" and was.sorted == now.sorted:
        return None
    if now.size != was.size:
        return "different", f"has {now.size:,} bytes, undisturbed {was.size:,}"
    return "different", "has another content than undisturbed"


def _lines(count: int) -> str:
    return f"{count:,} line{'' if count == 1 else 's'}"


def per_attempt(first: Look, found: Look) -> frozenset[str]:
    """Files that each attempt makes under its own number: `log.3.2` beside `log.3.1`.

    That there are more of them, and that those of killed attempts are torn, tells of reruns only.
    """
    if found.state is None:
        return frozenset()
    reruns = {(i, each.attempt) for i, each in found.state.processes.items() if each.attempt > 1}
    own: set[str] = set()
    for path in found.files.keys() - first.files.keys():
        for index, last in reruns:
            for attempt in range(2, last + 1):
                again = _renumbered(path, index, attempt)
                if again is not None and again in first.files:
                    own |= {path, again}
    return frozenset(own)


def _renumbered(path: str, index: int, attempt: int) -> str | None:
    """*path* as the first attempt would have named it; None if it has no number of an attempt."""
    found, times = re.subn(rf"(?<![0-9])(0*{index}[^0-9]+)0*{attempt}(?![0-9])", r"\g<1>1", path)
    return found if times else None
