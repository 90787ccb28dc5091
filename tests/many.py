"""Directories with many experiments, made without the syncs that would take minutes."""

import json
import os
from pathlib import Path

from holdfast import StateManager
from holdfast.store.lines import decode, encode

__all__ = ["Template", "finish", "populate"]


def finish(manager: StateManager, experiment_id: str, processes: int = 2, **given: object) -> None:
    """Take a new experiment to its end."""
    manager.create(experiment_id, num_processes=processes, **given)  # type: ignore[arg-type]
    with manager.claim(experiment_id) as claim:
        claim.record("start")
        for index in range(processes):
            claim.record("start", index)
            claim.record("complete", index, exit_code=0)
        claim.record("complete")
        claim.record("aggregate")


def interrupt(manager: StateManager, experiment_id: str, processes: int = 2) -> None:
    """Leave a new experiment interrupted with half of its processes done."""
    manager.create(experiment_id, num_processes=processes)
    with manager.claim(experiment_id) as claim:
        claim.record("start")
        for index in range(processes // 2):
            claim.record("start", index)
            claim.record("complete", index, exit_code=0)
        claim.record("interrupt", reason="user")


class Template:
    """An experiment that was really made, to be stored again under other names."""

    def __init__(self, manager: StateManager, experiment_id: str) -> None:
        self.view = json.loads((manager.state_dir / f"{experiment_id}.json").read_text())
        journals = sorted((manager.folder(experiment_id) / "journal").iterdir())
        self.journals = {
            path.name: [decode(line) for line in path.read_bytes().splitlines()]
            for path in journals
        }

    def store(self, state_dir: Path, experiment_id: str, config_hash: str | None = None) -> None:
        """Write it as *experiment_id*, view last, as a real one would end."""
        own = {"experiment_id": experiment_id, "config_hash": config_hash}
        journal = state_dir / experiment_id / "journal"
        journal.mkdir(parents=True, exist_ok=True)
        for name, lines in self.journals.items():
            with (journal / name).open("wb") as file:
                for line in lines:
                    assert line is not None
                    if "state" in line:
                        line = line | {"state": line["state"] | own}
                    file.write(encode(line))
        text = ",\n".join(
            f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in (self.view | own).items()
        )
        temporary = state_dir / f".tmp-{experiment_id}"
        temporary.write_text("{\n" + text + "\n}\n")
        temporary.rename(state_dir / f"{experiment_id}.json")


def populate(state_dir: Path, finished: int, incomplete: int, processes: int = 2) -> None:
    """Make `fin_000000` …, each with a hash of its own, and `inc_000000` … in *state_dir*."""
    manager = StateManager(state_dir.with_name(state_dir.name + ".templates"))
    if not manager.state_dir.exists():
        finish(manager, "fin", processes)
        interrupt(manager, "inc", processes)
    over, open_ = Template(manager, "fin"), Template(manager, "inc")
    os.makedirs(state_dir, exist_ok=True)
    for number in range(finished):
        over.store(state_dir, f"fin_{number:06d}", f"{number:064x}")
    for number in range(incomplete):
        open_.store(state_dir, f"inc_{number:06d}", f"{10**9 + number:064x}")
