"""A small coverage-guided fuzzer over everything that reads files of others.

It mutates a corpus of real inputs, traces which lines of the package each input reaches, and keeps
the inputs that reached new ones. The readers may refuse an input with one of holdfast's errors and
nothing else: no other exception, no hang, no change of any file. What else must hold, of the error
or of what is made of an accepted input, a reader asserts itself. (Self-made, since a fuzzer with a
compiler in it cannot be installed everywhere; every input is reproducible from its seed.)
"""

import os
import random
import re
import sys
import threading
from collections.abc import Callable, Sequence
from types import CodeType, FrameType
from typing import Any

import attrs

__all__ = ["Fuzzed", "fuzz"]

_TOKENS = (
    b"null", b"true", b"NaN", b"Infinity", b"-0", b"1e999", b"[]", b"{}", b'""', b"\\ud800",
    b"\x00", b"\xff\xfe", b"\n", b'"status":', b'"aggregated"', b'"process_progress":', b"-1",
    b"9" * 400, b"[" * 300, b'{"a":' * 60, b'"schema_version":', b'"2026-01-01T00:00:00"',
    b"../../", b"\xe2\x80\xae", b"'''", b"[matrix]", b"{index}", b"= 1\n", b"include", b"\r",
)  # fmt: skip

#: A value without structure: of a key, or in a list.
_VALUE = re.compile(rb'(?<=[:=\[,])\s*(?:"[^"]*"|[\w.+-]+)')


@attrs.define
class Fuzzed:
    """What came out.

    Attributes:
        accepted: Inputs that were not refused.
        lines: How many lines of the package were reached.
        problems: Inputs that met something else than a clear error, with what they met.
    """

    inputs: int = 0
    accepted: int = 0
    lines: int = 0
    kept: int = 0
    problems: list[str] = attrs.field(factory=list)


class _Coverage:
    """Which lines of the package run. Only frames of its modules are traced line by line."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.seen: set[tuple[CodeType, int]] = set()
        self.new = False

    def _global(self, frame: FrameType, event: str, arg: Any) -> Any:
        return self._local if frame.f_code.co_filename.startswith(self.package) else None

    def _local(self, frame: FrameType, event: str, arg: Any) -> Any:
        line = frame.f_code, frame.f_lineno
        if line not in self.seen:
            self.seen.add(line)
            self.new = True
        return self._local

    def __enter__(self) -> None:
        self.new = False
        self._before = sys.gettrace()
        sys.settrace(self._global)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)


def fuzz(
    read: Callable[[bytes], object],
    corpus: Sequence[bytes],
    allowed: type[Exception],
    inputs: int,
    *,
    seed: int = 0,
) -> Fuzzed:
    """Feed *read* with *inputs* mutations of *corpus*; only *allowed* may be raised."""
    import holdfast

    rng = random.Random(seed)
    kept = list(corpus)
    coverage = _Coverage(os.path.dirname(holdfast.__file__))
    done = Fuzzed()
    for number in range(inputs):
        data = kept[number] if number < len(corpus) else _mutated(rng, kept)
        try:
            with _Deadline(), coverage:
                read(data)
            done.accepted += 1
        except allowed:
            pass
        except Exception as err:
            done.problems.append(f"{type(err).__name__}: {err}: from {data[:2000]!r}")
        if coverage.new and number >= len(corpus):
            kept.append(data)
        done.inputs += 1
    done.lines, done.kept = len(coverage.seen), len(kept)
    return done


class _Deadline:
    """An input that takes a minute ends the program, with a trace: nothing less stops a hang."""

    def __enter__(self) -> None:
        self._timer = threading.Timer(60, _hang)
        self._timer.daemon = True
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def _hang() -> None:
    import faulthandler

    faulthandler.dump_traceback(all_threads=True)
    os._exit(99)


def _mutated(rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(9)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at:at] = rng.choice(_TOKENS)
        elif kind == 2:
            del data[at : at + rng.choice((1, 2, 8, 40))]
        elif kind == 3:
            data[at:at] = data[at : at + rng.choice((4, 30, 200))]
        elif kind == 4:
            other = rng.choice(corpus)
            start = rng.randrange(len(other) + 1)
            data[at:] = other[start : start + 2000]
        elif kind == 5:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 4)))
        elif kind == 6:
            # A key twice, a step twice: it parses, and means two things.
            lines = bytes(data).splitlines(keepends=True)
            number = rng.randrange(len(lines) + 1)
            lines[number:number] = lines[number - 1 : number - 1 + rng.choice((1, 1, 2))]
            data[:] = b"".join(lines)
        elif kind == 7:
            values = [each.span() for each in _VALUE.finditer(data)]
            if values:
                begin, end = rng.choice(values)
                data[begin:end] = rng.choice(_TOKENS)
        else:
            digits = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
            if digits:
                data[rng.choice(digits)] = rng.choice(b"0123456789-.")
    return bytes(data[:100_000])
