"""`[[retry.rule]]` with real processes: each way in which an attempt ends has its own answer."""

import json
import os
import re
from typing import Any

import pytest

from shell import Shell

#: Each attempt of process 0 ends as its parameter says, one word for each.
WORKER = """
import json, os, signal, sys, time
ends = json.loads(os.environ["ENDS"])
attempt = int(os.environ["HOLDFAST_ATTEMPT"])
how = ends[attempt - 1] if attempt <= len(ends) else "done"
with open(os.environ["HOLDFAST_RESULT"], "w") as file:
    json.dump({"stop_at": os.environ.get("HOLDFAST_STOP_AT")}, file)
if how == "hang":
    time.sleep(600)
elif how == "silent":
    with open(os.environ["HOLDFAST_PROGRESS"], "a") as file:
        file.write('{"step": 1}\\n')
    time.sleep(600)
elif how == "lost":
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)
elif how == "preempted":
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(600)
elif how == "segv":
    os.kill(os.getpid(), signal.SIGSEGV)
elif how != "done":
    sys.exit(int(how))
"""


def write(sh: Shell, ends: list[str], rules: list[dict[str, Any]], **limits: Any) -> None:
    (sh.path / "work.py").write_text(WORKER)
    lines = [
        'command = ["python", "work.py"]',
        f"env = {{ENDS = {json.dumps(json.dumps(ends))}}}",
        "[limits]",
        'grace = "5s"',
        *(f"{name} = {json.dumps(value)}" for name, value in limits.items()),
    ]
    for rule in rules:
        lines.append("[[retry.rule]]")
        for key, value in rule.items():
            table = ", ".join(f'"{k}" = {json.dumps(v)}' for k, v in rule.get("set", {}).items())
            lines.append(f"{key} = {{{table}}}" if key == "set" else f"{key} = {json.dumps(value)}")
    (sh.path / "rules.toml").write_text("\n".join(lines))


def told(sh: Shell) -> list[str]:
    """What the history says that rules decided."""
    history = sh.json("show", "--history", "@last")["history"]
    words = [each["evidence"] or "" for each in history]  # type: ignore[index]
    return [found[0] for each in words if (found := re.search("rule [0-9].*", each))]


def process(sh: Shell) -> dict[str, Any]:
    return sh.json("show", "@last")["processes"][0]  # type: ignore[index, no-any-return]


def test_what_came_to_its_timeout_gets_twice_the_time(sh: Shell) -> None:
    """The limit of its next attempt is in its record, and what it is run with."""
    rule = {"when": "timeout", "max_attempts": 3, "backoff": 0, "set": {"limits.timeout": "x2"}}
    write(sh, ["hang", "hang"], [rule], timeout="300ms")
    sh("run", "rules.toml")
    assert told(sh) == [
        "rule 1 (timeout): failure 1 of 3, limits.timeout 0.3s → 0.6s",
        "rule 1 (timeout): failure 2 of 3, limits.timeout 0.6s → 1.2s",
    ]
    found = process(sh)
    assert found["attempt"] == 3
    assert found["limits"] == {"timeout_s": {"from": 0.3, "to": 1.2}}
