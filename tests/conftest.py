"""What every test may ask for: a state directory, clocks that obey, and the hypothesis profiles."""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import foreign
import slurm_mini
from holdfast.store.manager import StateManager

# No deadline: a shared machine stalls for longer than any example takes.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", max_examples=50, **_COMMON)
# The same examples every time, so that a failure in CI is one that everybody sees.
settings.register_profile("ci", max_examples=200, derandomize=True, print_blob=True, **_COMMON)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# What is written to be read has signs that a machine without a locale lacks; `test_looking` and
# `test_glyphs` have those locales.
os.environ["LC_ALL"] = "C.UTF-8"

# Ignored in what a script starts with `&`, and so by everything that a test starts to interrupt it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

START = datetime(2024, 1, 15, 12, 34, 56, tzinfo=UTC)


class TickingClock:
    """A clock that moves only when it is told to, or by a fixed step at every look."""

    def __init__(self, now: datetime = START, step_s: float = 0.0) -> None:
        self.now = now
        self.step = timedelta(seconds=step_s)

    def __call__(self) -> datetime:
        now = self.now
        self.now += self.step
        return now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """Where this test's experiments live; not there yet, as on a newcomer's first run."""
    return tmp_path / ".experiment_state"


@pytest.fixture
def manager(state_dir: Path) -> StateManager:
    """The store of `state_dir`, with nothing in it yet."""
    return StateManager(state_dir)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory where there is one: what a sync costs is not what is asked here."""
    where = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=where) as path:
        yield Path(path)


@pytest.fixture
def fixed_clock() -> Callable[[], datetime]:
    """A clock that always shows 2024-01-15 12:34:56 UTC."""
    return TickingClock()


@pytest.fixture
def clock() -> TickingClock:
    """A clock that moves one second at every look, and further by `advance`."""
    return TickingClock(step_s=1.0)


@pytest.fixture(autouse=True)
def _own_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # A developer's own settings, or a run of the suite inside a holdfast process, must not leak in.
    for name in [name for name in os.environ if name.startswith("HOLDFAST_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    # Slots are the user's, on all of the machine: not those of who runs the tests.
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))


@pytest.fixture
def fast_dir(tmp_path: Path) -> Iterator[Path]:
    """A directory where fsync costs nothing, for tests that go through every single operation."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="holdfast-test-", dir=memory) as path:
        yield Path(path)


@pytest.fixture(autouse=True)
def _read_by_a_stranger(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test leaves behind, `holdfast guide storage` is enough to read it."""
    yield
    left = request.node.funcargs.get("tmp_path")
    for top in () if left is None else foreign.state_directories(left):
        assert not foreign.disagreements(top)


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[slurm_mini.Cluster]:
    """A Slurm cluster of this test process, with room for many small jobs."""
    lacking = slurm_mini.missing()
    if lacking and os.environ.get("CI"):
        pytest.fail(lacking)
    elif lacking:
        pytest.skip(lacking)
    with slurm_mini.a_cluster(cpus=64) as cluster:
        yield cluster


@pytest.fixture
def slurm(
    slurm_cluster: slurm_mini.Cluster,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[slurm_mini.Cluster]:
    """That cluster, up, found by everything that the test starts; its jobs end with the test."""
    monkeypatch.setenv("SLURM_CONF", str(slurm_cluster.conf))
    # A user of its own: how often the controller is asked is limited for each.
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
    slurm_cluster.start()
    yield slurm_cluster
    slurm_cluster.start()
    assert slurm_cluster.cancel_all()
