"""`[engine]`: what a file may ask of what runs it, and what rules and `--engine` change of that."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from holdfast.config import engine
from holdfast.config.experiment_file import Experiment
from holdfast.config.limiting import changed
from holdfast.engine_options import EngineOptions
from holdfast.errors import ConfigError
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.orchestration.rules import Rules, limits_of
from holdfast.reading.waiting import limits_words
from holdfast.status import ProcessStatus, Reason

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def experiment(table: Any, **config: Any) -> Experiment:
    return Experiment.from_config({"command": ["true"], "engine": table, **config})


def test_every_key_becomes_what_an_engine_is_asked_for() -> None:
    """In units that no engine need parse again."""
    found = experiment(
        {
            "name": "slurm", "partition": "gpu,gpu-long", "account": "lab", "time": "4h", "cpus": 4,
            "memory": "1.5G", "gpus": 1, "per_job": 8, "extra": ["--qos=high", "-x", "--exclusive"],
            "python": "/opt/py/bin/python", "grace": "1m",
        }
    ).engine  # fmt: skip
    assert found == EngineOptions(
        name="slurm", partition="gpu,gpu-long", account="lab", time_s=14_400, cpus=4,
        memory_bytes=3 << 29, gpus=1, per_job=8, extra=("--qos=high", "-x", "--exclusive"),
        python="/opt/py/bin/python", grace_s=60,
    )  # fmt: skip
    found = experiment({"name": "dask", "address": "tcp://h:1", "resources": {"GPU": 1}}).engine
    assert found == EngineOptions(name="dask", address="tcp://h:1", resources={"GPU": 1.0})
    assert Experiment.from_config({"command": ["true"]}).engine == EngineOptions()


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (
            "slurm",
            "engine: expected a table, found the text 'slurm' (write engine.name = \"slurm\"",
        ),
        (
            {"name": "slrum"},
            "engine.name: must be local, slurm or dask, found 'slrum' (did you mean",
        ),
        ({"name": 3}, "engine.name: must be local, slurm or dask, found 3"),
        ({"partiton": "x"}, "engine.partiton: unknown key (did you mean partition?)"),
        ({"mem": "4G"}, "engine.mem: unknown key (did you mean engine.memory?)"),
        ({"timeout": "4h"}, "engine.timeout: unknown key (did you mean engine.time?)"),
        ({"qos": "x"}, 'engine.qos: unknown key (write extra = ["--'),
        ({"partition": "-p"}, "engine.partition: expected one word, found '-p'"),
        ({"account": "a b"}, "engine.account: expected one word, found 'a b'"),
        ({"account": 3}, "engine.account: expected text, found the number 3"),
        ({"time": "4x"}, "engine.time: expected a duration"),
        ({"time": 0}, "engine.time: must be more than 0"),
        ({"cpus": 0}, "engine.cpus: must be 1 or more, found 0"),
        ({"gpus": "a100:2"}, "engine.gpus: expected an integer, found the text 'a100:2'"),
        ({"memory": 4096}, 'engine.memory: expected a size such as "4G" or "500M", found the'),
        ({"memory": "4096"}, '(write "4096G" or "4096M")'),
        ({"memory": "-4G"}, "engine.memory: expected a size"),
        ({"extra": "--qos=high -x"}, '(write ["--qos=high", "-x"])'),
        ({"extra": ["--qos high"]}, '(write "--qos=high")'),
        ({"extra": ["qos"]}, "entry 1: expected one option of sbatch in one word, found 'qos'"),
        ({"extra": ["--time=3"]}, "entry 1: --time has a key of its own (write engine.time)"),
        ({"extra": ["-pgpu"]}, "entry 1: -p has a key of its own (write engine.partition)"),
        ({"extra": ["-x", "--requeue"]}, "engine.extra: entry 2: --requeue is holdfast's own"),
        ({"extra": ["--arr=0-3"]}, "engine.extra: entry 1: --arr is holdfast's own"),
        ({"extra": ["--export=NONE"]}, "engine.extra: entry 1: --export is holdfast's own"),
        ({"extra": ["-Jname"]}, "engine.extra: entry 1: -J is holdfast's own"),
        ({"address": "host:8786"}, '(write "tcp://host:8786")'),
        ({"resources": {"GPU": 0}}, "engine.resources.GPU: expected a number above 0"),
        ({"nodes": 2, "per_job": 4}, "engine.per_job: 4 commands cannot share a job of 2 nodes"),
        (
            {"name": "dask", "partition": "x"},
            "engine.partition: is for slurm only, and the engine is dask",
        ),
        ({"name": "local", "grace": "1m"}, "engine.grace: is for slurm and dask only, and the"),
    ],
)
def test_a_mistake_is_told_with_what_was_meant(table: Any, told: str) -> None:
    """Before anything is submitted, where it would be told by a scheduler, hours later."""
    with pytest.raises(ConfigError) as caught:
        experiment(table)
    assert told in str(caught.value)


def test_all_mistakes_are_told_at_once() -> None:
    """Whoever mends a file does it once."""
    with pytest.raises(ConfigError) as caught:
        experiment({"name": "slurm", "cpus": 0, "tme": "1h", "address": "tcp://h:1"})
    assert len(caught.value.problems) == 2  # what belongs to no engine waits until these are mended


def test_a_key_outside_its_table_is_told_where_it_belongs() -> None:
    with pytest.raises(ConfigError, match=r"unknown key \(did you mean engine.partition\?"):
        Experiment.from_config({"command": ["true"], "partition": "gpu"})


def test_a_file_may_say_what_counts_once_an_engine_is_named() -> None:
    """One file runs here and there, by `--engine`; what other engines have does not matter then."""
    options = experiment({"partition": "gpu", "time": "4h", "address": "tcp://h:1"}).engine
    assert options.name == "local"
    there = engine.named(options, "slurm")
    assert (there.name, there.partition, there.time_s) == ("slurm", "gpu", 14_400)
    assert engine.named(options, None) == options


def test_an_engine_is_no_part_of_the_work(tmp_path: Path) -> None:
    """What ran here is not run again there."""
    plain = Experiment.from_config({"command": ["true"]})
    there = experiment({"name": "slurm", "time": "4h"})
    assert plain.config_hash(tmp_path) == there.config_hash(tmp_path)
    assert there.differs_in(plain.to_config()) == ["engine"]
    again = Experiment.from_stored(there.to_config())
    assert (again.engine, again.limits) == (there.engine, there.limits)


def test_what_is_stored_for_one_engine_is_read_for_another() -> None:
    """`run --engine local` of a file of Slurm is stored with both."""
    config = {"command": ["true"], "engine": {"name": "local", "partition": "gpu"}}
    assert Experiment.from_stored(config).engine.partition == "gpu"
    assert engine.of(config) == EngineOptions(partition="gpu")
    assert engine.of({"engine": {"name": "somewhere"}}) == EngineOptions()


def ruled(*rules: Any, **table: Any) -> Experiment:
    return experiment({"name": "slurm", **table}, retry={"rule": list(rules)})


def ended(reason: Reason, **more: Any) -> ExperimentState:
    process = ProcessProgress(
        status=ProcessStatus.PENDING, attempt=1, interruptions=1, reason=reason, **more
    )
    return ExperimentState(experiment_id="e", num_processes=1, process_progress={0: process})


def test_a_rule_gives_the_next_attempt_more_time_and_memory() -> None:
    """A job that reached its limit is tried again with twice as much, and the history says so."""
    made = ruled(
        {"when": "time_limit", "set": {"engine.time": "x2", "engine.memory": "8G"}},
        *(), time="4h", memory="6G",
    )  # fmt: skip
    rules = Rules(limits=made.limits, retry=made.retry)
    first = rules.after(ended(Reason.TIME_LIMIT), 0, NOW, 1)
    assert first.limits == {
        "time_s": {"from": 14_400, "to": 28_800},
        "memory_bytes": {"from": 6 << 30, "to": 8 << 30},
    }
    assert str(first) == (
        "rule 1 (time_limit): interruption 1, engine.time 4h → 8h, engine.memory 6G → 8G"
    )
    then = ended(Reason.TIME_LIMIT, limits=first.limits)
    assert limits_of(made.limits, then.processes[0]).time_s == 28_800
    assert rules.after(then, 0, NOW, 2).limits["time_s"]["to"] == 57_600
    state = ExperimentState(experiment_id="e", config=made.to_config(), num_processes=1)
    words = limits_words(state, then.processes[0])
    assert words == "engine.time 4h → 8h, engine.memory 6G → 8G"


def test_a_time_that_was_configured_otherwise_since_counts() -> None:
    """As for every limit that a rule has set."""
    made = ruled({"when": "time_limit", "set": {"engine.time": "x2"}}, time="9h")
    process = ProcessProgress(limits={"time_s": {"from": 14_400, "to": 28_800}})
    assert limits_of(made.limits, process).time_s == 9 * 3600


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"engine.time": "x2"}, "there is no engine.time that x2 could be a multiple of"),
        ({"engine.memory": 5}, "expected a size"),
        ({"engine.memory": "2x"}, "expected a size or a multiple, found '2x' (write \"x2\")"),
        ({"engine.time": 0}, "must be more than 0"),
        ({"engine.tme": "1h"}, "no rule can set this (did you mean engine.time?)"),
    ],
)
def test_a_mistake_in_what_a_rule_sets_is_told(setting: Any, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ruled({"when": "time_limit", "set": setting})
    assert told in str(caught.value)


def test_what_is_asked_can_change_of_an_experiment_that_goes_on() -> None:
    """More memory for what is left, recorded and told; the rest of the table stays."""
    before = experiment({"name": "slurm", "time": "4h", "partition": "debug"})
    after, new = changed(before, {}, "e", {"time": "8h", "memory": "32G", "partition": "debug"})
    assert new is not None
    assert new.words == "engine.time 4h → 8h; engine.memory none → 32G"
    assert new.facts == {"engine": {"time": "8h", "memory": "32G"}}
    assert (after.engine.time_s, after.limits.time_s) == (28_800, 28_800)
    assert after.source["engine"] == {
        "name": "slurm", "time": "8h", "partition": "debug", "memory": "32G"
    }  # fmt: skip
    assert "keeps what it was started with" in new.told(recorded=True, running=3)
    lifted, new = changed(after, {}, "e", {"time": None})
    assert (lifted.engine.time_s, new and new.words) == (None, "engine.time 8h → none")
    assert changed(after, {}, "e", {"time": "480m"}) == (after, None)
    with pytest.raises(ConfigError, match=r"engine.tme: unknown key"):
        changed(before, {}, "e", {"tme": "8h"})


@pytest.mark.parametrize("text", ["1K", "500M", "1.5G", "4G", "2T"])
def test_a_written_size_is_read_as_it_was(text: str) -> None:
    assert engine.size_written(engine.size(text)) == text
