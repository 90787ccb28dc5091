"""What others have done, taken over: against copying and syncing the results alone."""

import json
import os
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

from holdfast import LocalEngine, Orchestrator, StateManager
from holdfast.attempts.records import Attempt
from holdfast.cli.failures import code_of
from holdfast.results import acceptance
from instant import InstantEngine

Contest = Callable[..., float]
REUSED = 1_000


def test_reuse(tmp_path: Path, contest: Contest) -> None:
    """A whole run that reuses 1,000 results of 300 bytes, aggregation included."""
    manager = StateManager(tmp_path / "states")
    whole = {"command": ["true", "{n}"], "matrix": {"n": list(range(REUSED))}}

    def begin(attempt: Attempt) -> None:
        if attempt.name.index is not None:
            acceptance.prepare(attempt.folder)
            result = {"n": attempt.name.index, "more": "x" * 270}
            acceptance.path_of(attempt.folder, attempt.name).write_text(json.dumps(result))

    Orchestrator(manager, InstantEngine(begin=begin)).run(whole, experiment_id="ancestor")
    results = sorted((manager.folder("ancestor") / "results").iterdir())
    assert len(results) == REUSED
    numbers = count()
    made: list[str] = []

    def ours() -> None:
        made.append(f"e{next(numbers)}")
        # Another order: another experiment, of the same work.
        turned = [*range(1, REUSED), 0]
        config = {**whole, "matrix": {"n": turned}}
        with LocalEngine() as engine:
            outcome = Orchestrator(manager, engine).run(config, experiment_id=made[-1])
        assert outcome.reused == REUSED
        assert code_of(outcome) == 0

    def copied() -> None:
        folder = tmp_path / "copies"
        folder.mkdir()
        for path in results:
            with (folder / path.name).open("xb") as file:
                file.write(path.read_bytes())
                file.flush()
                os.fsync(file.fileno())

    def forget() -> None:
        # Else every round has one more candidate.
        shutil.rmtree(tmp_path / "copies", ignore_errors=True)
        while made:
            manager.delete(made.pop())

    contest("1,000 reused, copying and syncing", 2, ours, copied, rounds=5, reset=forget)
