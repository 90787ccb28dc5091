"""Measure one codec at one level: how small, and how fast.

The input is real: Python source files of the running interpreter's standard library, in a fixed
order, a fixed number of bytes. Every number is the best of several rounds, since whatever else
the machine does can only make a round slower.

holdfast runs this file once for every combination in experiment.toml. It needs nothing but the
standard library and knows holdfast by one variable only: HOLDFAST_RESULT, the file to write the
result to. Without it the result is printed: `python3 measure.py --codec zlib --level 6`.
"""

import argparse
import importlib
import json
import os
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

CORPUS_BYTES = 3_000_000
ROUNDS = 3

#: How each module names its level.
LEVEL_OPTION = {"zlib": "level", "bz2": "compresslevel", "lzma": "preset"}


def read_corpus() -> bytes:
    """The beginning of the standard library's source, files in the order of their names."""
    library = Path(sysconfig.get_paths()["stdlib"])
    corpus = bytearray()
    for path in sorted(library.glob("**/*.py")):
        parts = path.relative_to(library).parts
        # What a distribution adds, or leaves out, would make other input of it.
        if {"site-packages", "dist-packages", "test", "tests", "idlelib"} & set(parts):
            continue
        corpus += path.read_bytes()
        if len(corpus) >= CORPUS_BYTES:
            return bytes(corpus[:CORPUS_BYTES])
    if not corpus:
        sys.exit(f"no Python source files in {library}: this interpreter comes without them")
    return bytes(corpus)


def seconds(work: Callable[[], bytes]) -> tuple[float, bytes]:
    """The shortest of several rounds of *work*, and what it returns."""
    best = float("inf")
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        output = work()
        best = min(best, time.perf_counter() - begin)
    return best, output


def measure(codec: str, level: int) -> dict[str, float]:
    """Compress and decompress the corpus; the speeds are in MB of source per second."""
    try:
        module = importlib.import_module(codec)
    except ModuleNotFoundError:
        sys.exit(f"this Python was built without {codec}: take it out of experiment.toml")
    corpus = read_corpus()
    option = {LEVEL_OPTION[codec]: level}
    compress_s, packed = seconds(lambda: module.compress(corpus, **option))
    decompress_s, unpacked = seconds(lambda: module.decompress(packed))
    # Speed is worth nothing if what comes out is not what went in.
    if unpacked != corpus:
        sys.exit(f"{codec} at level {level} does not give back what it was given")
    megabytes = len(corpus) / 1e6
    return {
        "ratio": round(len(corpus) / len(packed), 3),
        "compress_mb_per_s": round(megabytes / compress_s, 2),
        "decompress_mb_per_s": round(megabytes / decompress_s, 2),
        "corpus_bytes": len(corpus),
    }


def main() -> None:
    """Measure what the command line asks for, and leave the result where holdfast wants it."""
    parser = argparse.ArgumentParser(description="Measure one codec at one level.")
    parser.add_argument("--codec", choices=LEVEL_OPTION, required=True)
    parser.add_argument("--level", type=int, required=True)
    arguments = parser.parse_args()
    result = measure(arguments.codec, arguments.level)
    text = json.dumps(result, indent=1) + "\n"
    sys.stdout.write(text)
    if "HOLDFAST_RESULT" in os.environ:
        Path(os.environ["HOLDFAST_RESULT"]).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
