"""Experiments to be drilled: good ones, and bad ones that look as good until they are killed."""

from pathlib import Path
from typing import Final

__all__ = ["BAD", "CHECKPOINTS", "GANG", "written"]

_RESULT = 'open(os.environ["HOLDFAST_RESULT"], "w").write(json.dumps({"value": value}))\n'
_BEGIN = 'import json, os, sys, time\nindex = int(os.environ["HOLDFAST_INDEX"])\n'

#: Goes on from a checkpoint that is replaced whole, and leaves a model and a time.
CHECKPOINTS: Final = {
    "train.py": """
import json, os, time
saved = os.path.join(os.environ["HOLDFAST_CHECKPOINT_DIR"], "state.json")
state = json.load(open(saved)) if os.path.exists(saved) else {"step": 0, "weight": 0.0}
while state["step"] < 6:
    state = {"step": state["step"] + 1, "weight": state["weight"] * 0.9 + 1}
    time.sleep(0.02)
    with open(saved + ".new", "w") as file:
        json.dump(state, file)
    os.replace(saved + ".new", saved)
name = f"model.{os.environ['HOLDFAST_INDEX']}.bin"
with open(name + ".draft", "wb") as file:
    file.write(repr(state).encode() * 100)
os.replace(name + ".draft", name)
result = {"weight": state["weight"], "ended": time.time()}
open(os.environ["HOLDFAST_RESULT"], "w").write(json.dumps(result))
""",
    "e.toml": """
command = ["{python}", "-I", "-S", "train.py"]
processes = 2
outputs = {{files = ["model.{{index}}.bin"]}}
""",
}

#: As torchrun does: one command starts all ranks, and ends all if one ends badly.
GANG: Final = {
    "launch.py": """
import os, subprocess, sys, time
count = int(sys.argv[1])
ranks = [
    subprocess.Popen(sys.argv[2:], env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(count)})
    for rank in range(count)
]
while any(rank.poll() is None for rank in ranks):
    if any(rank.returncode for rank in ranks):
        for rank in ranks:
            rank.kill()
        sys.exit(1)
    time.sleep(0.01)
sys.exit(max(rank.returncode != 0 for rank in ranks))
""",
    "rank.py": """
import os, time
import holdfast
rank = int(os.environ["RANK"])
with holdfast.process() as process:
    total = 0
    for step in range(4):
        time.sleep(0.03)
        total += step * (rank + 1)
    process.result({"total": total, "ended": time.time()})
""",
    "e.toml": """
command = ["{python}", "-I", "-S", "launch.py", "2", "{python}", "rank.py"]
ranks = 2
""",
}

_FOUR = """
command = ["{python}", "-I", "-S", "work.py"]
processes = 4
"""

#: What each does wrong.
BAD: Final = {
    "appends again what it has appended": {
        "work.py": _BEGIN
        + """
time.sleep(0.05)
with open("results.csv", "a") as file:
    file.write(f"{index},{index ** 2}\\n")
time.sleep(0.1)
value = index
"""
        + _RESULT,
        "e.toml": _FOUR,
    },
    "makes another file at every attempt": {
        "work.py": _BEGIN
        + """
import uuid
os.makedirs("sent", exist_ok=True)
time.sleep(0.05)
open(f"sent/{uuid.uuid4()}.eml", "w").close()
time.sleep(0.1)
value = index
"""
        + _RESULT,
        "e.toml": _FOUR,
    },
    "goes on from a torn checkpoint": {
        "work.py": _BEGIN
        + """
saved = os.path.join(os.environ["HOLDFAST_CHECKPOINT_DIR"], "state.json")
steps = json.load(open(saved)) if os.path.exists(saved) else []
for step in range(len(steps), 5):
    steps.append(step)
    with open(saved, "w") as file:
        for part in (json.dumps(steps)[:2], json.dumps(steps)[2:]):
            file.write(part)
            file.flush()
            time.sleep(0.02)
value = steps
"""
        + _RESULT,
        "e.toml": _FOUR,
    },
    "writes its checkpoint in place, in an instant": {
        "work.py": _BEGIN
        + """
saved = os.path.join(os.environ["HOLDFAST_CHECKPOINT_DIR"], "state.json")
value = json.load(open(saved)) if os.path.exists(saved) else 0
while value < 10:
    time.sleep(0.02)
    value += 1
    with open(saved, "w") as file:
        json.dump(value, file)
"""
        + _RESULT,
        "e.toml": _FOUR,
    },
    "says that it is done before it has a result": {
        "work.py": _BEGIN
        + """
if os.path.exists(f"done.{index}"):
    sys.exit()
time.sleep(0.05)
open(f"done.{index}", "w").close()
time.sleep(0.1)
value = index
"""
        + _RESULT,
        "e.toml": _FOUR,
    },
    "leaves a child that is part of nothing": {
        "work.py": _BEGIN
        + """
import subprocess
if os.environ["HOLDFAST_ATTEMPT"] != "1":
    subprocess.Popen(
        ["sleep", "1000"], env={**os.environ, "HOLDFAST_SESSION": ""}, start_new_session=True
    )
time.sleep(0.15)
value = index
"""
        + _RESULT,
        "e.toml": _FOUR,
    },
}


def written(folder: Path, files: dict[str, str], python: str) -> Path:
    """Write *files* into *folder*; the experiment file."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        if name == "e.toml":
            text = text.format(python=python)
        (folder / name).write_text(text)
    return folder / "e.toml"
