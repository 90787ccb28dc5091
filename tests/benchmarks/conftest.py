"""Every measurement stands beside its physical limit, taken in the same run, round by round.

    pytest tests/benchmarks --benchmark-enable --benchmark-only -q

prints a table of ratios at its end. Ratios are medians over interleaved rounds, so that a machine
that is busy or slow changes both sides. Nothing here is run otherwise.
"""

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest

ROUNDS = 7
_rows: list[tuple[str, str, str, bool]] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("benchmark_enable"):
        config.hook.pytest_deselected(items=[item for item in items if "benchmarks" in item.nodeid])
        items[:] = [item for item in items if "benchmarks" not in item.nodeid]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _rows:
        terminalreporter.section("against the physical limit")
        width = max(len(row[0]) for row in _rows)
        for what, measured, aim, met in _rows:
            mark = "" if met else "   missed"
            terminalreporter.line(f"{what:{width}}  {measured:>22}  aim {aim}{mark}")


def note(what: str, measured: str, aim: str, *, met: bool) -> None:
    """Put a line into the table."""
    _rows.append((what, measured, aim, met))


@pytest.fixture
def contest(benchmark: Any) -> Callable[..., float]:
    """Measures `ours` against `limit` in turn and notes the ratio."""

    def run(
        what: str,
        aim: float,
        ours: Callable[[], object],
        limit: Callable[[], object],
        *,
        rounds: int = ROUNDS,
        per: int = 1,
        reset: Callable[[], object] = lambda: None,
        show: Callable[[float, float], tuple[str, str, bool]] | None = None,
    ) -> float:
        limits: list[float] = []

        def before() -> None:
            reset()
            gc.collect()
            started = time.perf_counter()
            limit()
            limits.append(time.perf_counter() - started)

        benchmark.pedantic(ours, setup=before, rounds=rounds, warmup_rounds=1)
        measured = list(benchmark.stats.stats.data)
        ratio = statistics.median(
            mine / other for mine, other in zip(measured, limits[-len(measured) :], strict=True)
        )
        mine, other = statistics.median(measured), statistics.median(limits)
        if show is None:
            text = f"{ratio:.2f} × ({_time(mine / per)})"
            note(what, text, f"≤ {aim:g} ×", met=ratio <= aim)
        else:
            text, goal, met = show(mine, other)
            note(what, text, goal, met=met)
        return ratio

    return run


def _time(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
