"""Prints the laboratory's figures: `python -m tests.crash`; the exit code is 1 after any loss."""

import argparse
import sys
import time
from pathlib import Path

# From a checkout, with or without an installation.
_ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(_ROOT / each) for each in ("src", "", "tests")]

from .campaigns import EXPERIMENTS, LONG, SHORT  # noqa: E402


def main() -> int:
    """Run everything and print a line for each experiment as it ends."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--long", action="store_true", help="the long form, two hours on two cores")
    parser.add_argument(
        "experiment", nargs="*", help=f"only these; by default all: {', '.join(EXPERIMENTS)}"
    )
    words = parser.parse_args()
    unknown = set(words.experiment) - set(EXPERIMENTS)
    if unknown:
        parser.error(
            f"no experiment {', '.join(sorted(unknown))}; there are {', '.join(EXPERIMENTS)}"
        )
    losses = 0
    began = time.monotonic()
    for name in words.experiment or EXPERIMENTS:
        figures = EXPERIMENTS[name](LONG if words.long else SHORT)
        print(figures, flush=True)
        for problem in figures.problems:
            print("   ", problem, flush=True)
        losses += figures.losses
    print(f"{'in all':<34} {time.monotonic() - began:.0f} s, losses {losses}")
    return 1 if losses else 0


if __name__ == "__main__":
    raise SystemExit(main())
