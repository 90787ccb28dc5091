"""Finding among many experiments, of which one in a hundred is incomplete.

There are 100,000 of them, or as many as the environment variable EXPERIMENTS says.
"""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast import StateManager
from holdfast.reading.conditions import condition
from holdfast.reading.selection import Selection, select
from holdfast.store.annotations import Annotated
from holdfast.store.catalog.index import RACY_NS
from many import populate, work
from waiting import until

orjson = pytest.importorskip("orjson")

Contest = Callable[..., float]
TOTAL = int(os.environ.get("EXPERIMENTS", "100000"))
FRESH = "import sys; from holdfast.cli import main; sys.exit(main())"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> StateManager:
    state_dir = tmp_path_factory.mktemp("many") / "states"
    populate(state_dir, TOTAL - TOTAL // 100, TOTAL // 100, processes=8)
    return StateManager(state_dir)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> StateManager:
    state_dir = tmp_path_factory.mktemp("few") / "states"
    populate(state_dir, 2000, 0, processes=8)
    return StateManager(state_dir)


@pytest.fixture
def all_finished(many: StateManager) -> Iterator[StateManager]:
    """The same without those that are incomplete, whose loading would hide everything else."""
    aside = many.state_dir.with_name("aside")
    aside.mkdir()
    for path in many.state_dir.glob("inc_*"):
        path.rename(aside / path.name)
    yield many
    for path in aside.iterdir():
        path.rename(many.state_dir / path.name)
    aside.rmdir()


def settle(manager: StateManager) -> None:
    """Wait until the last change is past doubt, and let the index learn of everything."""
    manager.find_incomplete()
    probe = manager.state_dir.parent / "probe"

    def past() -> bool:
        probe.touch()
        return probe.stat().st_mtime_ns - manager.state_dir.stat().st_mtime_ns > RACY_NS

    until(past)
    manager.find_incomplete()


def scan(state_dir: Path, *, stat: bool = False) -> None:
    with os.scandir(state_dir) as entries:
        for entry in entries:
            if stat:
                entry.stat(follow_symlinks=False)


def load_incomplete(manager: StateManager) -> None:
    for number in range(TOTAL // 100):
        manager.load(f"inc_{number:06d}")


QUERIES = {
    "find_incomplete": lambda manager: manager.find_incomplete(),
    "find_by_config_hash, miss": lambda manager: manager.find_by_config_hash("f" * 64),
    "find_by_config_hash, hit": lambda manager: manager.find_by_config_hash(
        f"{TOTAL // 2:064x}", include_finished=True
    ),
}


def test_without_an_index(many: StateManager, contest: Contest) -> None:
    """The first time, or when it was deleted: memory of all, time of 2,000 (below)."""
    code = (
        "import resource, sys; from holdfast import StateManager;"
        "StateManager(sys.argv[1]).find_incomplete();"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )

    def work() -> int:
        out = subprocess.run(
            [sys.executable, "-c", code, str(many.state_dir)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        peak.append(int(out.stdout) // 1024)
        return 0

    peak: list[int] = []

    def show(_: float, __: float) -> tuple[str, str, bool]:
        return f"{peak[0]} MB", "< 200 MB", peak[0] < 200

    # Only the first round, which does not count for time, is without an index.
    contest(f"no index, {TOTAL:,}: peak memory", 0, work, lambda: None, rounds=1, show=show)


def test_loading_every_file(few: StateManager, contest: Contest) -> None:
    """Without an index, against open, read and orjson.loads of every view and journal."""
    index = few.state_dir / ".index"

    def remove_index() -> None:
        if index.exists():
            for path in index.iterdir():
                path.unlink()
            index.rmdir()

    def limit() -> None:
        for number in range(2000):
            stem = f"{few.state_dir}/fin_{number:06d}"
            for name in (f"{stem}.json", f"{stem}/journal/00000001.jsonl"):
                fd = os.open(name, os.O_RDONLY)
                data = os.read(fd, 1 << 20)
                os.close(fd)
                if name.endswith("l"):
                    for line in data.splitlines():
                        orjson.loads(line[9:])
                else:
                    orjson.loads(data)

    contest(
        "no index, each experiment", 4, few.find_incomplete, limit, per=2000, reset=remove_index
    )


@pytest.mark.parametrize("query", QUERIES)
def test_index_current(many: StateManager, tmp_path: Path, contest: Contest, query: str) -> None:
    """Against a bare sqlite query, a listing of the directory, and loading what is incomplete."""
    settle(many)
    connection = sqlite3.connect(tmp_path / "bare")
    connection.execute("CREATE TABLE e (stem, hash, finished)")
    connection.executemany(
        "INSERT INTO e VALUES (?, ?, ?)",
        ((f"e{n}", f"{n:064x}", n % 100 > 0) for n in range(TOTAL)),
    )
    connection.execute("CREATE INDEX h ON e (hash)")
    connection.execute("CREATE INDEX f ON e (finished)")

    def limit() -> None:
        connection.execute("SELECT * FROM e WHERE finished = 0").fetchall()
        connection.execute("SELECT * FROM e WHERE hash = ?", ("f" * 64,)).fetchall()
        scan(many.state_dir)
        load_incomplete(many)

    contest(f"{query}, {TOTAL:,}, index current", 2, lambda: QUERIES[query](many), limit)
    connection.close()


def test_works_of_finished_experiments(
    all_finished: StateManager, tmp_path: Path, contest: Contest
) -> None:
    """30 works, each of one process, two of them of nobody, against a bare sqlite query of each."""
    settle(all_finished)
    finished = TOTAL - TOTAL // 100
    base = tmp_path / "bare"
    connection = sqlite3.connect(base)
    connection.execute("CREATE TABLE w (work, created, id)")
    connection.executemany(
        "INSERT INTO w VALUES (?, ?, ?)",
        (
            (work(name, index), number, name)
            for number, name in enumerate(f"fin_{number:06d}" for number in range(finished))
            for index in range(8)
        ),
    )
    connection.execute("CREATE INDEX w_work ON w (work, created)")
    connection.commit()
    connection.close()
    wanted = {
        work(f"fin_{finished * part // 28:06d}", part % 8): f"fin_{finished * part // 28:06d}"
        for part in range(28)
    }
    asked = [*wanted, "0" * 32, "f" * 32]

    def limit() -> None:
        connection = sqlite3.connect(base)
        for each in asked:
            connection.execute(
                "SELECT id FROM w WHERE work = ? ORDER BY created DESC LIMIT 8", (each,)
            ).fetchall()
        connection.close()

    assert all_finished.doers(asked) == {each: (name,) for each, name in wanted.items()}
    contest(f"doers of 30 works, {TOTAL:,}", 2, lambda: all_finished.doers(asked), limit, rounds=51)


def test_index_after_changes(many: StateManager, contest: Contest) -> None:
    """Files changed behind its back; against scandir and stat, and loading what is incomplete."""
    settle(many)

    def change() -> None:
        (many.state_dir / "stray").touch()
        (many.state_dir / "stray").unlink()

    def limit() -> None:
        scan(many.state_dir, stat=True)
        load_incomplete(many)

    contest(
        f"find_incomplete, {TOTAL:,}, directory changed", 1.5, many.find_incomplete, limit,
        reset=change,
    )  # fmt: skip


def test_ls_in_a_fresh_interpreter(
    many: StateManager, tmp_path: Path, contest: Contest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them printed."""
    settle(many)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path / "compiled"))

    def work() -> None:
        subprocess.run(
            [sys.executable, "-c", FRESH, "-C", str(many.state_dir), "ls"],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def show(mine: float, _: float) -> tuple[str, str, bool]:
        return f"{mine:.2f} s", "≤ 1 s", mine <= 1

    contest(
        f"holdfast ls, {TOTAL:,}, fresh interpreter", 0, work, lambda: None, rounds=5, show=show
    )


def test_completion_in_a_fresh_interpreter(
    many: StateManager, tmp_path: Path, contest: Contest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tab behind `holdfast show `, as each of the shells asks."""
    settle(many)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path / "compiled"))
    monkeypatch.setenv("HOLDFAST_STATE_DIR", str(many.state_dir))

    def work() -> None:
        asked = ["completion", "fish", "--complete", "--", "show", ""]
        subprocess.run([sys.executable, "-c", FRESH, *asked], check=True, stdout=subprocess.DEVNULL)

    def show(mine: float, _: float) -> tuple[str, str, bool]:
        return f"{mine:.2f} s", "≤ 0.3 s", mine <= 0.3

    contest(f"completion, {TOTAL:,}", 0, work, lambda: None, rounds=5, show=show)


def test_ls_with_conditions(many: StateManager, tmp_path: Path, contest: Contest) -> None:
    """By what an aggregate tells, of 1,000, against open, read and orjson.loads of each."""
    finished = min(1000, TOTAL - TOTAL // 100)
    states = many.listing().experiments
    some = [each for each in states if each.experiment_id.startswith("fin_")][:finished]
    rows = [
        {"index": index, "params": {"lr": index / 10}, "result": {"accuracy": index / 8}}
        for index in range(8)
    ]
    aggregate = {"schema": "holdfast.aggregate/1", "rows": rows, "statistics": {}, "value": None}
    for each in some:
        path = many.folder(each.experiment_id) / "aggregate.json"
        path.write_text(json.dumps(aggregate))
    selection = Selection(conditions=[condition("lr > 0.5"), condition("accuracy > 0.9")])

    def limit() -> None:
        for each in some:
            path = many.folder(each.experiment_id) / "aggregate.json"
            orjson.loads(path.read_bytes())

    def work() -> None:
        assert len(select(many, some, Annotated({}, []), selection)) == 0

    contest("ls --where, each experiment", 6, work, limit, per=finished)


@pytest.mark.parametrize(
    ("what", "aim", "code"),
    [
        ("import holdfast", 5, "import holdfast"),
        ("holdfast --version", 5, f"import sys; sys.argv[1:] = ['--version']; {FRESH}"),
        ("holdfast ls, 20 experiments", 7, f"import sys; sys.argv[1:] = ['ls']; {FRESH}"),
    ],
)
def test_starting(
    tmp_path: Path, contest: Contest, monkeypatch: pytest.MonkeyPatch, what: str, aim: float,
    code: str,
) -> None:  # fmt: skip
    """Against an interpreter that does nothing."""
    monkeypatch.chdir(tmp_path)
    populate(tmp_path / ".experiment_state", 10, 10)

    # An installed package is compiled, whatever this environment says about that.
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path / "compiled"))

    def start(code: str) -> None:
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)

    contest(what, aim, lambda: start(code), lambda: start("pass"), rounds=15)
