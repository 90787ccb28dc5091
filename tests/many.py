"""Directories with many experiments, made without the syncs that would take minutes."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from holdfast import StateManager
from holdfast.store.lines import decode, encode

__all__ = ["Template", "finish", "populate", "work"]


def work(experiment_id: str, index: int) -> str:
    """What process *index* of an experiment does here, and nobody else unless told so."""
    return hashlib.md5(f"{experiment_id} {index}".encode()).hexdigest()


def finish(manager: StateManager, experiment_id: str, processes: int = 2, **given: object) -> None:
    """Take a new experiment to its end."""
    manager.create(experiment_id, num_processes=processes, **given)  # type: ignore[arg-type]
    with manager.claim(experiment_id) as claim:
        claim.record("start")
        for index in range(processes):
            claim.record("start", index, work=work(experiment_id, index))
            claim.record("complete", index, exit_code=0)
        claim.record("complete")
        claim.record("aggregate")


def interrupt(manager: StateManager, experiment_id: str, processes: int = 2) -> None:
    """Leave a new experiment interrupted with half of its processes done."""
    manager.create(experiment_id, num_processes=processes)
    with manager.claim(experiment_id) as claim:
        claim.record("start")
        for index in range(processes // 2):
            claim.record("start", index, work=work(experiment_id, index))
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

    def store(
        self,
        state_dir: Path,
        experiment_id: str,
        config_hash: str | None = None,
        *,
        works: Sequence[str] = (),
        **own: object,
    ) -> None:
        """Write it as *experiment_id*, view last, as a real one would end.

        Args:
            state_dir: Where.
            experiment_id: Its name there.
            config_hash: Its hash.
            works: What its first processes did; the others do what nobody else does.
            own: Other fields of the state that it has from its beginning.
        """
        own |= {"experiment_id": experiment_id, "config_hash": config_hash}
        mine = {
            work(self.view["experiment_id"], index): works[index]
            if index < len(works)
            else work(experiment_id, index)
            for index in range(self.view["num_processes"])
        }

        def told(text: str) -> str:
            for old, new in mine.items():
                text = text.replace(old, new)
            return text

        journal = state_dir / experiment_id / "journal"
        journal.mkdir(parents=True, exist_ok=True)
        for name, lines in self.journals.items():
            with (journal / name).open("wb") as file:
                for line in lines:
                    assert line is not None
                    if "state" in line:
                        line = line | {"state": line["state"] | own}
                    file.write(encode(json.loads(told(json.dumps(line)))))
        text = ",\n".join(
            f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in (self.view | own).items()
        )
        temporary = state_dir / f".tmp-{experiment_id}"
        temporary.write_text("{\n" + told(text) + "\n}\n")
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
