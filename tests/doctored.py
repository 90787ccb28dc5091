"""Directories that somebody has edited, and what the doctor finds there about the experiments."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from holdfast.doctor import Finding, examine
from holdfast.lifecycle.events import Change
from holdfast.store.encoding import change_to_text
from holdfast.store.lines import encode
from holdfast.store.manager import StateManager

__all__ = ["NOW", "append", "edit", "symptoms"]

#: When everything happens that is written by hand.
NOW = datetime(2024, 1, 15, 12, 0, tzinfo=UTC)


def symptoms(state_dir: Path, **options: Any) -> list[Finding]:
    """What is found about the experiments; the machine's own disk is not the test's business."""
    about_the_disk = {"locks", "durability", "clock"}
    found = examine(state_dir, **options)
    assert all(each.repair for each in found), "each says what to do"
    return [each for each in found if each.kind not in about_the_disk]


def edit(path: Path, **fields: Any) -> None:
    """Set *fields* in a JSON object."""
    path.write_text(json.dumps(json.loads(path.read_bytes()) | fields))


def append(manager: StateManager, experiment_id: str, *changes: Change, **line: Any) -> None:
    """Write a line that no store would, with a right checksum and revision."""
    state = manager.load(experiment_id)
    journal = manager.folder(experiment_id) / "journal" / f"{state.epoch:08d}.jsonl"
    payload = {
        "kind": "changes",
        "revision": state.revision + 1,
        "at": NOW.isoformat(),
        "changes": [json.loads(change_to_text(change, NOW)) for change in changes],
        **line,
    }
    with journal.open("ab") as file:
        file.write(encode(payload))
