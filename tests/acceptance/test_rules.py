"""`[[retry.rule]]` with real processes: each way in which an attempt ends has its own answer."""

import json
import os
import re
from datetime import datetime, timedelta
from typing import Any

import pytest

from processes import hear, memory_group
from shell import Shell
from waiting import until

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
elif how == "oom":
    with open(sys.argv[1], "w") as file:
        file.write(str(os.getpid()))
    hog = []
    while True:
        hog.append(bytearray(1 << 20))
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
    return [found[0] for each in words if (found := re.search("rule [0-9][^;]*", each))]


def process(sh: Shell) -> dict[str, Any]:
    return sh.json("show", "@last")["processes"][0]  # type: ignore[index, no-any-return]


def test_what_came_to_its_timeout_gets_more_time(sh: Shell) -> None:
    """The limit of its next attempt is in its record, and what it is run with."""
    rule = {"when": "timeout", "max_attempts": 3, "backoff": 0, "set": {"limits.timeout": "x50"}}
    # In the end more than it needs to complete, however slow the machine is.
    write(sh, ["hang", "hang"], [rule], timeout="20ms")
    sh("run", "rules.toml")
    assert told(sh) == [
        "rule 1 (timeout): failure 1 of 3, limits.timeout 0.02s → 1s",
        "rule 1 (timeout): failure 2 of 3, limits.timeout 1s → 50s",
    ]
    found = process(sh)
    assert found["attempt"] == 3
    assert found["limits"] == {"timeout_s": {"from": 0.02, "to": 50.0}}


@pytest.mark.parametrize(
    ("ends", "rules", "expected"),
    [
        (
            ["3", "75", "75", "3"],
            [{"when": "exit", "codes": [75], "max_attempts": 9, "backoff": 0}],
            ["rule 1 (exit): failure 2 of 9", "rule 1 (exit): failure 3 of 9"],
        ),
        (
            ["segv", "segv"],
            [
                {"when": "timeout"},
                {"when": ["perhaps_memory", "signal"], "max_attempts": 2, "backoff": 0},
            ],
            ["rule 2 (signal): failure 1 of 2", "rule 2 (signal): failure 2 of 2"],
        ),
        (
            ["3", "segv", "3", "3"],
            [
                {"when": "exit", "max_attempts": 2, "backoff": 0},
                {"when": "signal", "max_attempts": 5},
            ],
            [
                "rule 1 (exit): failure 1 of 2",
                "rule 2 (signal): failure 2 of 5",
                "rule 1 (exit): failure 3 (of at most 2)",
            ],
        ),
    ],
)
def test_a_failure_is_tried_again_as_its_rule_says(
    sh: Shell, ends: list[str], rules: list[dict[str, Any]], expected: list[str]
) -> None:
    """Each has a budget of its own, of which all failures of the process take."""
    write(sh, ends, rules, timeout="1h")
    retry = "[retry]\nmax_attempts = 2\nbackoff = 0\n"
    text = (sh.path / "rules.toml").read_text()
    (sh.path / "rules.toml").write_text(text.replace("[[retry.rule]]", f"{retry}[[retry.rule]]", 1))
    sh("run", "rules.toml", code=3)
    found = [re.sub(", not before .*", "", words) for words in told(sh)]
    assert found == expected
    assert process(sh)["status"] == "failed"


@pytest.mark.parametrize(
    ("end", "more"), [("lost", {}), ("preempted", {}), ("silent", {"stall": "500ms"})]
)
def test_an_interruption_is_tried_again_as_its_rule_says(
    sh: Shell, end: str, more: dict[str, str]
) -> None:
    """It takes nothing of the failures' budget, and has its own."""
    when = {"silent": "stall"}.get(end, end)
    rules = [
        {"when": when, "max_attempts": 3, "backoff": "100ms", "set": {"limits.timeout": "x2"}},
        {"when": "exit", "max_attempts": 2, "backoff": 0},
    ]
    write(sh, [end, "3", end], rules, timeout="1h", on_stall="restart", **more)
    sh("run", "rules.toml")
    found = [re.sub(", not before .*", "", words) for words in told(sh)]
    assert found == [
        f"rule 1 ({when}): interruption 1 of 3, limits.timeout 1h → 2h",
        "rule 2 (exit): failure 1 of 2",
        f"rule 1 ({when}): interruption 2 of 3, limits.timeout 2h → 4h",
    ]
    record = process(sh)
    assert (record["failures"], record["interruptions"], record["attempt"]) == (1, 2, 4)
    row = sh.json("show", "@last")["aggregate"]["rows"][0]  # type: ignore[index]
    began = datetime.fromisoformat(record["started_at"]).timestamp()
    assert 3.9 * 3600 < float(row["result"]["stop_at"]) - began < 4 * 3600


def test_what_ran_out_of_memory_is_tried_again_as_its_rule_says(sh: Shell) -> None:
    """Proven by the kernel, it is told from one that somebody killed."""
    group = memory_group()
    if group is None or not os.access("/dev/kmsg", os.R_OK):
        pytest.skip("needs a writable memory cgroup, and the kernel's log")
    path, procs = group
    try:
        rules = [
            {"when": "signal", "max_attempts": 1},
            {"when": "out_of_memory", "max_attempts": 2, "backoff": 0},
        ]
        write(sh, ["oom"], rules)
        text = (sh.path / "rules.toml").read_text()
        (sh.path / "rules.toml").write_text(text.replace('"work.py"', f'"work.py", "{procs}"'))
        sh("run", "rules.toml")
        assert told(sh) == ["rule 2 (out_of_memory): failure 1 of 2"]
    finally:
        until(lambda: not path.exists() or not procs.read_text())
        path.rmdir()


def test_what_is_lost_too_often_is_left_for_another_run(sh: Shell) -> None:
    """The experiment is interrupted, says why, and a resume gives it one attempt more."""
    write(sh, ["lost"] * 3, [{"when": "lost", "max_attempts": 2, "backoff": 0}])
    _, err = sh("run", "rules.toml", code=3)
    assert "interrupted again and again: process 0" in err
    assert told(sh)[-1] == "rule 1 (lost): interruption 2 of 2"
    _, err = sh("resume", "@last", code=3)
    assert told(sh)[-1] == "rule 1 (lost): interruption 3 (of at most 2)"
    sh("resume", "@last")


def test_a_pause_outlives_the_run_that_began_it(sh: Shell) -> None:
    """Killed before the next attempt, holdfast goes on waiting for the very same moment."""
    rule = {"when": ["exit", "lost"], "max_attempts": 9, "backoff": "1h"}
    write(sh, ["3"], [rule])
    run = sh.start("run", "rules.toml")
    hear(run.stderr, "will be tried again, by rule 1 (exit): failure 1 of 9, not before")
    run.kill()
    run.wait()
    due = process(sh)["not_before"]
    plan, _ = sh("run", "-n", "rules.toml", env={"COLUMNS": "200"})
    moment = datetime.fromisoformat(due)
    assert f"failed: exit code 3; not before {moment:%Y-%m-%d %H:%M:%S}Z" in plan
    plan, _ = sh("resume", "-n", "@last", "--only", "0", env={"COLUMNS": "200"})
    assert "failed: exit code 3\n" in plan  # what is named does not wait
    resumed = sh.start("resume", "@last")
    hear(resumed.stderr, "resuming")
    page, _ = sh("show", "@last", env={"COLUMNS": "200"})
    assert re.search(
        rf"waiting for the next attempt\n.*\n +0 +{moment:%Y-%m-%d %H:%M:%S}Z .* failure 1: exit",
        page,
    )
    resumed.terminate()
    assert resumed.wait() == 143
    assert process(sh)["not_before"] == due
    # With other rules in the file, that counts; and what failed is told as before.
    text = (sh.path / "rules.toml").read_text()
    (sh.path / "rules.toml").write_text(text.replace('backoff = "1h"', "backoff = 0"))
    sh("run", "rules.toml")
    assert process(sh)["attempt"] == 2


DEADLINE = """
command = ["python", "work.py"]
processes = 3
env = {{ENDS = '["hang"]'}}
[limits]
jobs = 2
grace = "1s"
deadline = "{deadline}"
"""


def test_a_deadline_ends_all_and_a_resume_starts_nothing(sh: Shell) -> None:
    """What ran is stopped, and goes on with more time."""
    (sh.path / "work.py").write_text(WORKER)
    # Far more than two processes need to begin.
    (sh.path / "d.toml").write_text(DEADLINE.format(deadline="7500ms"))
    _, err = sh("run", "d.toml", code=3)
    assert "limits.deadline has passed: stopping 2 processes" in err
    found: dict[str, Any] = sh.json("show", "@last")  # type: ignore[assignment]
    experiment = found["experiment"]
    assert (experiment["status"], experiment["reason"]) == ("interrupted", "deadline")
    began = datetime.fromisoformat(experiment["started_at"])
    due = began + timedelta(seconds=7.5)
    words = f"its deadline is {due:%Y-%m-%d %H:%M:%S}Z (limits.deadline = 7.5s, from the first"
    assert experiment["error_message"].startswith(words)
    assert words in err
    reasons = [(each["status"], each.get("reason")) for each in found["processes"]]
    assert reasons == [("pending", "deadline"), ("pending", "deadline"), ("pending", None)]
    assert re.search(r"resume --set limits.deadline=[0-9]", found["next_command"])
    for command in (("run", "-n", "d.toml"), ("explain", "@last")):
        out, err = sh(*command, code=3)
        assert out.count("blocked") == out.count("its deadline has passed; ") == 3
        assert "nothing would be started, of 3 processes: its deadline is" in err
    _, err = sh("resume", "-n", "--set", "limits.deadline=1h", "@last")
    assert "3 of 3 processes would be run" in err
    _, err = sh("resume", "@last", code=3)
    assert words in err
    assert [each["attempt"] for each in sh.json("show", "@last")["processes"][:2]] == [1, 1]  # type: ignore[index]
    (sh.path / "d.toml").write_text(DEADLINE.format(deadline="1h"))
    (sh.path / "work.py").write_text(WORKER.replace("600", "0"))
    sh("run", "d.toml", code=0)
    rows = sh.json("show", "@last")["aggregate"]["rows"]  # type: ignore[index]
    assert [row["attempts"] for row in rows] == [2, 2, 1]
    # A grace period before the end of it all, since there is no timeout.
    stop_at = {round(float(row["result"]["stop_at"]) - began.timestamp()) for row in rows}
    assert stop_at == {3599}


def test_the_earlier_of_timeout_and_deadline_is_when_to_stop(sh: Shell) -> None:
    """A program has one moment to look at."""
    for name, timeout, deadline, expected in (("a", 100, 1000, 90), ("b", 1000, 100, 90)):
        write(sh, ["done"], [], timeout=timeout, deadline=deadline, grace="10s")
        text = (sh.path / "rules.toml").read_text().replace('grace = "5s"\n', "")
        (sh.path / "rules.toml").write_text(f'name = "{name}"\n{text}')
        sh("run", "--fresh", "rules.toml")
        found: dict[str, Any] = sh.json("show", "@last")  # type: ignore[assignment]
        began = datetime.fromisoformat(found["processes"][0]["started_at"]).timestamp()
        stop_at = float(found["aggregate"]["rows"][0]["result"]["stop_at"])
        assert expected - 5 < stop_at - began < expected + 1
