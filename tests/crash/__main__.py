"""Prints the laboratory's figures: `python -m tests.crash [--long]`, exit code 1 after any loss."""

import argparse
import sys
import time
from pathlib import Path

# From a checkout, with or without an installation.
sys.path[:0] = [str(Path(__file__).parents[2] / "src"), str(Path(__file__).parents[2])]

from .campaigns import LONG, SHORT, everything  # noqa: E402


def main() -> int:
    """Run everything and print a line for each experiment as it ends."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--long", action="store_true", help="the long form, which takes hours")
    scale = LONG if parser.parse_args().long else SHORT
    losses = 0
    began = time.monotonic()
    for figures in everything(scale):
        print(figures, flush=True)
        for problem in figures.problems[:5]:
            print("   ", problem)
        losses += figures.losses
    print(f"{'in all':<34} {time.monotonic() - began:.0f} s, losses {losses}")
    return 1 if losses else 0


if __name__ == "__main__":
    raise SystemExit(main())
