"""Draws what things cost against the number of processes and of experiments.

    python tests/benchmarks/curves.py

writes `diagrams/cost-curves.svg`. With 100,000 experiments it takes some minutes; an argument
takes fewer: `curves.py 10000`.
"""

import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from xml.sax.saxutils import escape

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]

from holdfast import StateManager  # noqa: E402
from holdfast.store.catalog import index  # noqa: E402
from holdfast.store.claim import Claim  # noqa: E402
from many import populate  # noqa: E402

TARGET = Path(__file__).parents[2] / "diagrams" / "cost-curves.svg"
ROUNDS = 7
Curves = Mapping[str, list[tuple[int, float]]]


def seconds(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The least of *rounds*: what it costs when nobody else uses the machine."""
    took = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return min(took)


def by_processes(folder: Path) -> Curves:
    """What one experiment costs, by its number of processes."""
    manager = StateManager(folder / "processes")
    raw = os.open(folder / "raw", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    curves: dict[str, list[tuple[int, float]]] = {
        "create + first claim": [],
        "load": [],
        "durable transition": [],
        "append + fdatasync": [],
    }

    def append() -> None:
        os.write(raw, b"x" * 170)
        os.fdatasync(raw)

    for processes in (1, 10, 100, 1000, 10_000):
        names = (f"p{processes}_{number}" for number in range(1000))

        def create(processes: int, names: Iterator[str]) -> None:
            name = next(names)
            manager.create(name, num_processes=processes)
            manager.claim(name).release()

        def back_and_forth(claim: Claim) -> None:
            for _ in range(20):
                claim.record("start", 0)
                claim.record("requeue", 0, proven_dead=True)

        took = seconds(partial(create, processes, names))
        curves["create + first claim"].append((processes, took))
        name = f"p{processes}_0"
        with manager.claim(name) as claim:
            claim.record("start")
            took = seconds(partial(back_and_forth, claim)) / 40
            curves["durable transition"].append((processes, took))
        fresh = partial(manager.load, f"p{processes}_1")
        curves["load"].append((processes, seconds(fresh)))
        curves["append + fdatasync"].append((processes, seconds(append, 40)))
    os.close(raw)
    return curves


def find_changed(manager: StateManager) -> None:
    (manager.state_dir / "stray").touch()
    (manager.state_dir / "stray").unlink()
    manager.find_incomplete()


def find_anew(manager: StateManager) -> None:
    for path in (manager.state_dir / ".index").glob("*"):
        path.unlink()
    manager.find_incomplete()


def scan(state_dir: Path) -> None:
    with os.scandir(state_dir) as entries:
        for _ in entries:
            pass


def by_experiments(folder: Path, largest: int) -> Curves:
    """What finding costs, by the number of experiments, of which one in a hundred is incomplete."""
    curves: dict[str, list[tuple[int, float]]] = {
        "no index": [],
        "directory changed": [],
        "index current": [],
        "scandir": [],
    }
    # Small directories have no index; here they show what they would gain.
    vars(index).update(SMALLEST=1, RACY_NS=50_000_000)
    total = 100
    while total <= largest:
        state_dir = folder / f"experiments{total}"
        populate(state_dir, total - total // 100, total // 100)
        manager = StateManager(state_dir)

        find = manager.find_incomplete
        rounds = 3 if total >= 10_000 else ROUNDS
        curves["no index"].append((total, seconds(partial(find_anew, manager), rounds)))
        curves["directory changed"].append((total, seconds(partial(find_changed, manager), rounds)))
        time.sleep(0.2)  # until the last change is past doubt
        find()
        curves["index current"].append((total, seconds(find, rounds)))
        curves["scandir"].append((total, seconds(partial(scan, state_dir), rounds)))
        total *= 10
    return curves


COLOURS = ("#b5482f", "#2f6db5", "#3d8b4f", "#8a8a8a")


def plot(curves: Curves, title: str, axis: str, left: float) -> list[str]:
    """One plot with both axes logarithmic, as SVG elements."""
    width, height, top = 340.0, 250.0, 60.0
    points = [point for curve in curves.values() for point in curve]
    low, high = (math.log10(pick(x for x, _ in points)) for pick in (min, max))
    floor = math.floor(math.log10(min(y for _, y in points)))
    ceiling = math.ceil(math.log10(max(y for _, y in points)))

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + width * (math.log10(x) - low) / (high - low),
            top + height * (ceiling - math.log10(y)) / (ceiling - floor),
        )

    parts = [f'<text x="{left}" y="{top - 24}" class="title">{escape(title)}</text>']
    for power in range(floor, ceiling + 1):
        _, y = place(10**low, 10.0**power)
        unit = {-6: "1 µs", -5: "10 µs", -4: "100 µs", -3: "1 ms", -2: "10 ms", -1: "100 ms"}
        label = unit.get(power, f"{10**power:g} s" if power >= 0 else f"1e{power} s")
        parts.append(f'<path class="grid" d="M{left} {y:.1f}h{width}"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for power in range(round(low), round(high) + 1):
        x, _ = place(10.0**power, 10.0**floor)
        parts.append(
            f'<text x="{x:.1f}" y="{top + height + 18}" text-anchor="middle">{10**power:,}</text>'
        )
    parts.append(
        f'<text x="{left + width / 2}" y="{top + height + 38}" text-anchor="middle">{axis}</text>'
    )
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in curve))
        parts.append(f'<polyline points="{line}" stroke="{colour}"/>')
        x = left + (number % 2) * 180
        y = top + height + 62 + number // 2 * 20
        parts.append(f'<path d="M{x} {y - 4}h22" stroke="{colour}" stroke-width="2.5"/>')
        parts.append(f'<text x="{x + 28}" y="{y}">{escape(name)}</text>')
    return parts


def draw(processes: Curves, experiments: Curves) -> str:
    """Both plots side by side."""
    style = (
        "text{font:12px sans-serif;fill:#555} .title{font-size:14px;font-weight:bold} "
        ".grid{stroke:#8884;stroke-width:1} polyline{fill:none;stroke-width:2.5}"
    )
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 420" role="img">',
        "<title>What holdfast costs by number of processes and experiments</title>",
        f"<style>{style}</style>",
        *plot(processes, "One experiment", "processes", 80),
        *plot(experiments, "find_incomplete", "experiments, 1 % incomplete", 520),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def main() -> None:
    """Measure and write the picture."""
    largest = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    # Not on a file system in memory, where a sync costs nothing.
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".curves-") as folder:
        processes = by_processes(Path(folder))
        experiments = by_experiments(Path(folder), largest)
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(draw(processes, experiments))
    for name, curve in [*processes.items(), *experiments.items()]:
        print(f"{name:22}" + "".join(f"{x:>9,}: {y * 1e3:8.2f} ms" for x, y in curve))


if __name__ == "__main__":
    main()
