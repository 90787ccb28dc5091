"""How much is tried, and what it showed: the two ends of every experiment of the laboratory."""

import attrs

__all__ = ["LONG", "SHORT", "Figures", "Scale"]


@attrs.frozen
class Scale:
    """How much is tried.

    Attributes:
        lives: Random workloads beside the written ones.
        limit: Combinations per cut up to which all are taken.
        live: The share of the states in which life goes on.
        kills: Deaths per workload after which a successor's power is cut; None is every operation.
        faults: Disturbances per workload from inside; None is every one.
        injections: Disturbances per workload by the kernel; None is every one.
        schedules: Interleavings per setting.
        cuts: Power cuts per real file system.
        transitions: Acknowledged under the hammer.
        sweeps: Sweeps in each order, with the orchestrator and without.
        batch_jobs: Jobs of a batch system that are swept in each order.
        experiments: Experiments in chaos, and *sizes*, how many processes each has.
        events: What is done to each of them.
        work_s: About how long one of them takes if left alone.
        jobs: Processes that share the work.
    """

    lives: int = 1
    limit: int = 24
    live: float = 0.12
    kills: int | None = 2
    faults: int | None = 90
    injections: int | None = 8
    schedules: int = 50
    cuts: int = 3
    transitions: int = 20_000
    sweeps: int = 4
    batch_jobs: int = 34
    experiments: int = 2
    sizes: tuple[int, int] = (20, 40)
    events: int = 10
    work_s: float = 3.0
    jobs: int = 1


SHORT = Scale()
LONG = Scale(
    lives=20, limit=200, live=1.0, kills=None, faults=None, injections=None, schedules=1500,
    cuts=100, transitions=1_000_000, sweeps=1000, batch_jobs=1000, experiments=50, sizes=(40, 200),
    events=21, work_s=8.0, jobs=2,
)  # fmt: skip


@attrs.define
class Figures:
    """What an experiment of the laboratory showed, in one line and in numbers."""

    title: str
    text: str = ""
    losses: int = 0
    problems: list[str] = attrs.field(factory=list)
    numbers: dict[str, int] = attrs.field(factory=dict)

    def __str__(self) -> str:
        return f"{self.title:<34} {self.text}, losses {self.losses}"
