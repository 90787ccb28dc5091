"""The work of a process: equal for equal work, whoever wrote it how; declared files and outputs."""

import hashlib
import json
import random
import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.config.experiment_file import Experiment, load_config
from holdfast.errors import ConfigError
from holdfast.provenance.digests import Digests

STATES = Path("/somewhere/states")


def experiment(cwd: Path = Path("/somewhere"), /, **config: Any) -> Experiment:
    return Experiment.from_config({"command": ["train", "{lr}", "{model}"], **config}, cwd)


def identities(made: Experiment) -> tuple[str, ...]:
    return made.identities(STATES, Digests().sha256)


def reference(
    made: Experiment, index: int, contents: Mapping[str, bytes] | None = None, cwd: str = ".."
) -> str:
    """The identity as `holdfast guide storage` defines it, by somebody who has read only that."""
    first = index - index % made.rank_count
    work: dict[str, Any] = {
        "format": 1,
        "command": list(made.argv(index)),
        "params": made.params[index],
        "env": made.environment(index),
        "cwd": cwd,
    }
    if made.matrix is None:
        work |= {"count": made.num_processes, "index": first}
    if made.identity.index:
        work["index"] = first
    if made.ranks is not None:
        work["ranks"] = {
            "count": made.ranks.count,
            "independent": made.ranks.independent,
            "rank": index % made.ranks.count,
        }
    if contents is not None:
        work["files"] = {path: hashlib.sha256(data).hexdigest() for path, data in contents.items()}
    text = json.dumps(work, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


values = st.lists(
    st.sampled_from([1, 1.0, True, "1", "é", 2, -0.5, False]), min_size=1, max_size=4
).map(lambda found: list({(type(each), each): each for each in found}.values()))
matrices = st.fixed_dictionaries({"lr": values, "model": values})


@given(
    matrices,
    st.booleans(),
    st.sampled_from([None, 2, {"count": 3, "independent": True}]),
    st.sampled_from([{}, {"LR": "{lr}"}, {"N": "{index} of {count}"}]),
)
def test_the_identity_is_what_the_guide_says(
    matrix: dict[str, Any], by_index: bool, ranks: Any, env: dict[str, str]
) -> None:
    """Computed by a foreign reader of that page, it is the same."""
    made = experiment(matrix=matrix, identity={"index": by_index}, ranks=ranks, env=env)
    assert list(identities(made)) == [reference(made, i) for i in range(made.num_processes)]


PATTERNS = {"{lr}.csv": r"{lr}\.csv", "*.csv": r".*\.csv", "./train.py": r"train\.py"}


@given(
    st.sets(st.sampled_from(["a b.csv", "é.csv", "3.csv", "x.py"])),
    st.lists(st.sampled_from(sorted(PATTERNS)), min_size=1, max_size=4),
)
def test_declared_files_are_hashed_as_the_guide_says(names: set[str], listed: list[str]) -> None:
    """Those that the patterns of a process match, in whatever order and how often these stand."""
    names |= {"1.csv", "2.csv", "train.py"}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            (Path(folder) / name).write_text(name * 2, encoding="utf-8")
        made = experiment(
            Path(folder), matrix={"lr": [1, 2], "model": ["m"]}, identity={"files": listed}
        )
        found = made.identities(Path(folder), Digests().sha256)
    for index, lr in enumerate(("1", "2")):
        meant = [PATTERNS[each].replace("{lr}", lr) for each in listed]
        contents = {
            name: (name * 2).encode()
            for name in names
            if any(re.fullmatch(each, name) for each in meant)
        }
        assert found[index] == reference(made, index, contents, ".")


@given(matrices, st.randoms())
def test_what_is_reordered_is_the_same_work(matrix: dict[str, Any], draw: random.Random) -> None:
    """Keys and values in any order: the same identities, elsewhere."""
    other = {key: draw.sample(matrix[key], len(matrix[key])) for key in ("model", "lr")}
    assert Counter(identities(experiment(matrix=matrix))) == Counter(
        identities(experiment(matrix=other))
    )


@given(matrices, values)
def test_what_grows_keeps_what_it_was(matrix: dict[str, Any], more: list[Any]) -> None:
    """Values are added: every former identity is still there."""
    known = {(type(each), each) for each in matrix["lr"]}
    new = [each for each in more if (type(each), each) not in known]
    grown = {**matrix, "lr": [*matrix["lr"], *new]}
    before, after = (Counter(identities(experiment(matrix=each))) for each in (matrix, grown))
    assert before <= after


def test_values_that_look_alike_are_different_work() -> None:
    """1, 1.0, true and "1", as they are for the hash of a configuration."""
    made = experiment(matrix={"lr": [1, 1.0, True, "1"], "model": ["a"]}, command=["t", "{model}"])
    assert len(set(identities(made))) == 4


def test_where_index_and_count_belong() -> None:
    """Always without a matrix; where the command names them; where the file says so."""
    plain = Experiment.from_config({"command": ["t"], "processes": 2}, "/somewhere")
    more = Experiment.from_config({"command": ["t"], "processes": 3}, "/somewhere")
    assert len({*identities(plain), *identities(more)}) == 5
    matrix = {"lr": [1, 2], "model": ["a"]}
    turned = {"lr": [2, 1], "model": ["a"]}
    assert set(identities(experiment(matrix=matrix))) == set(identities(experiment(matrix=turned)))
    for by in ({"identity": {"index": True}}, {"env": {"I": "{index}"}}):
        one, other = experiment(matrix=matrix, **by), experiment(matrix=turned, **by)
        assert not set(identities(one)) & set(identities(other))


def test_a_declared_file_is_part_of_the_work(tmp_path: Path) -> None:
    """Exactly of the processes that declare it, and by its content."""
    for name in ("a.csv", "b.csv", "train.py"):
        (tmp_path / name).write_text(name)
    made = experiment(
        tmp_path,
        matrix={"lr": ["a", "b"], "model": ["m"]},
        identity={"files": ["{lr}.csv", "train.py"]},
    )
    assert made.declared(0) == ("a.csv", "train.py")
    before = identities(made)
    (tmp_path / "a.csv").write_text("A.csv")
    after = identities(made)
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, True]
    (tmp_path / "a.csv").write_text("a.csv")
    assert identities(made) == before


def test_a_declared_file_that_is_missing_is_an_error_of_all_patterns(tmp_path: Path) -> None:
    """Before anything starts, with the folder that it was looked for in."""
    made = experiment(
        tmp_path,
        matrix={"lr": [1], "model": ["m"]},
        identity={"files": ["gone.py", "data/*.csv"]},
    )
    with pytest.raises(ConfigError) as caught:
        identities(made)
    text = str(caught.value)
    assert "gone.py is not there" in text
    assert "data/*.csv matches no file" in text
    (tmp_path / "gone.py").mkdir()
    with pytest.raises(ConfigError, match=r"gone\.py cannot be read"):
        experiment(
            tmp_path, matrix={"lr": [1], "model": ["m"]}, identity={"files": ["gone.py"]}
        ).identities(STATES, Digests().sha256)


def test_all_that_is_missing_is_told_at_once(tmp_path: Path) -> None:
    """Of every process, with the name that was meant; of thousands, the first ones."""
    (tmp_path / "train.py").touch()
    (tmp_path / "data").mkdir()
    many = experiment(
        tmp_path,
        matrix={"lr": [1, 2], "model": ["a"]},
        identity={"files": ["{lr}.csv", "trian.py", "data", "data/*"]},
    )
    with pytest.raises(ConfigError) as caught:
        identities(many)
    told = [str(each) for each in caught.value.problems]
    assert len(told) == 5, told
    for part in ("process 0: 1.csv is not", "process 1: 2.csv is not", "did you mean train.py?"):
        assert any(part in each for each in told), part
    assert any("data cannot be read" in each and "name its files: data/*" in each for each in told)
    assert any("data/* matches no file" in each for each in told)
    many = experiment(
        tmp_path,
        matrix={"lr": list(range(1000)), "model": ["a"]},
        identity={"files": ["{lr}.csv"]},
    )
    with pytest.raises(ConfigError, match="and 980 more") as caught:
        identities(many)
    assert len(caught.value.problems) == 21


def test_a_file_is_loaded_before_what_it_declares_is_there(tmp_path: Path) -> None:
    """Only who asks for identities needs it; it may be made in between."""
    (tmp_path / "experiment.toml").write_text(
        'command = ["t"]\n[identity]\nfiles = ["made.csv"]\n', encoding="utf-8"
    )
    made = load_config(tmp_path / "experiment.toml")
    with pytest.raises(ConfigError, match=r"made\.csv is not there"):
        made.declared(0)
    (tmp_path / "made.csv").touch()
    assert made.declared(0) == ("made.csv",)


def test_a_declared_file_is_read_once_for_all_processes(tmp_path: Path) -> None:
    """Whichever patterns match it."""
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).touch()
    asked: list[Path] = []

    def sha256(path: Path) -> str:
        asked.append(path)
        return "0" * 64

    made = experiment(
        tmp_path,
        matrix={"lr": ["a", "b"], "model": list(range(50))},
        identity={"files": ["{lr}.csv", "*.csv", "./a.csv"]},
    )
    made.identities(STATES, sha256)
    assert sorted(asked) == [tmp_path / "a.csv", tmp_path / "b.csv"]


def test_a_wildcard_means_neither_the_file_itself_nor_what_holdfast_writes(tmp_path: Path) -> None:
    """Else every identity would change with the state of its experiment. By name, they count."""
    states = tmp_path / "states"
    (states / "exp_1").mkdir(parents=True)
    (states / "exp_1" / "state.toml").touch()
    (tmp_path / "other.toml").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for listed, found in (
        ('["*", "**/*.toml"]', ("other.toml",)),
        ('["experiment.toml", "states/exp_1/state.toml"]', None),
    ):
        text = f'command = ["t"]\n[identity]\nfiles = {listed}\n'
        (tmp_path / "experiment.toml").write_text(text, encoding="utf-8")
        made = load_config(tmp_path / "experiment.toml")
        expected = found or ("experiment.toml", "states/exp_1/state.toml")
        assert made.declared(0, states) == expected
        assert len(made.identities(states, Digests().sha256)) == 1


def test_outputs_do_not_lie_in_the_state_directory(tmp_path: Path) -> None:
    """Holdfast would take them for its own, or remove them."""
    made = experiment(
        tmp_path,
        matrix={"lr": [1, 2], "model": ["m"]},
        outputs={"files": ["states[[]1]/{lr}", "states/{lr}"]},
    )
    for states in ("states", "states[1]"):
        with pytest.raises(ConfigError, match=r"/1 lies in the state directory"):
            made.identities(tmp_path / states, Digests().sha256)
    assert len(made.identities(tmp_path / "elsewhere", Digests().sha256)) == 2


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("model.pt", "{model} in it tells these apart, {index} all processes"),
        ("{lr}.pt", "{model} in it tells these apart"),
        ("{lr}-{model}.pt/../x", "must lie below"),
        ("*{lr}*{model}*", "{index} in it tells these apart"),
        ("*{lr}*{model}*{index}*", "give each a folder of its own"),
    ],
)
def test_a_conflict_comes_with_the_placeholder_that_is_missing(pattern: str, hint: str) -> None:
    """One that differs between the two that are named, and is not there yet."""
    with pytest.raises(ConfigError) as caught:
        experiment(matrix={"lr": [1, 2], "model": ["a", "b"]}, outputs={"files": [pattern]})
    assert hint in str(caught.value)


def test_one_process_may_match_its_own_files_twice() -> None:
    """Only what two would write is a conflict."""
    experiment(matrix={"lr": [1], "model": ["a"]}, outputs={"files": ["*.pt", "model.pt"]})
    experiment(matrix={"lr": [1, 2], "model": ["a"]}, outputs={"files": ["{lr}/*.pt", "{lr}/m.pt"]})
    counted = experiment(
        matrix={"lr": [1, 2], "model": [1]}, outputs={"files": ["{count}-{index}"]}
    )
    assert counted.outputs(1) == ("2-1",)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"identity": {"files": "train.py"}}, r"expected a list of paths.*write \['train.py'\]"),
        ({"identity": {"fils": []}}, "did you mean files"),
        ({"identity": {"files": ["{nope}"]}}, "unknown placeholder {nope}"),
        ({"identity": {"index": 1}}, "identity.index"),
        ({"outputs": {"files": [""]}}, "entry 1: is empty"),
        ({"outputs": {"files": ["/m-{lr}-{model}"]}}, "below the experiment's folder"),
        ({"outputs": {"files": ["../m-{lr}-{model}"]}}, "below the experiment's folder"),
        ({"outputs": {"files": ["model.pt"]}}, "processes 0 and 1 would both write model.pt"),
        ({"outputs": {"files": ["m-{lr}.pt"]}}, "processes 0 and 1 would both write m-1.pt"),
        (
            {"outputs": {"files": ["{lr}-{model}/a.png", "*-a/*.png"]}},
            "processes 0 and 1 would both write",
        ),
        ({"store": {"link": "yes"}}, "store.link"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(config: dict[str, Any], problem: str) -> None:
    """What, where, and what to write instead."""
    with pytest.raises(ConfigError, match=problem):
        experiment(matrix={"lr": [1, 2], "model": ["a", "b"]}, **config)


def test_outputs_of_many_processes_are_told_apart() -> None:
    """A value that holds wildcards matches itself; the ranks of a launcher share theirs."""
    made = experiment(
        matrix={"lr": ["a*", "ab"], "model": ["m"]}, outputs={"files": ["{lr}.pt", "{lr}/*.png"]}
    )
    assert made.outputs(0) == ("a[*].pt", "a[*]/*.png")
    many = list(range(100))
    for pattern in ("m-{lr}-{model}.pt", "{lr}-{model}/*.png", "*-{lr}-{model}.pt"):
        experiment(matrix={"lr": many, "model": many}, outputs={"files": [pattern]})
    ranks = experiment(
        matrix={"lr": [1, 2], "model": [1]}, ranks=2, outputs={"files": ["{index}.pt"]}
    )
    assert [ranks.outputs(index) for index in range(4)] == [("0.pt",)] * 2 + [("2.pt",)] * 2


@pytest.mark.parametrize(
    ("config", "stored"),
    [
        (
            {
                "command": ["train", "{lr}", "{model}"],
                "matrix": {"model": ["a", "b"], "lr": [1, 1.0, True]},
                "env": {"A": "{lr}", "B": "x"},
            },
            "ff3f7cf1fc7b402a9e0de96a5683f0b18e0b21be9fedb6568a86e84b58bdb2d0",
        ),
        (
            {"command": ["t"], "processes": 3},
            "f4c9e388dcc36b0c9f046b7c6d6418d3867140382f910dccec0e294f158672e4",
        ),
        (
            {
                "command": ["t", "{index}"],
                "processes": 2,
                "ranks": {"count": 2, "independent": True},
                "limits": {"jobs": 2},
            },
            "f61f7edd3b6f41b755d308f29ed6876d864fbe9108069094a9c19031023a20bb",
        ),
    ],
)
def test_a_hash_that_was_stored_is_still_that_of_its_file(
    config: dict[str, Any], stored: str
) -> None:
    """Made before there were these tables."""
    assert Experiment.from_config(config, "/somewhere").config_hash(STATES) == stored


def test_the_new_tables_do_not_change_what_was_stored() -> None:
    """The hash of a file without them is what it was; outputs alone belong to the work."""
    matrix = {"lr": [1], "model": ["a"]}
    plain = experiment(matrix=matrix)
    assert plain.config_hash(STATES) == (
        experiment(matrix=matrix, identity={"index": True}, store={"link": True})
    ).config_hash(STATES)
    assert plain.config_hash(STATES) != (
        experiment(matrix=matrix, outputs={"files": ["m"]}).config_hash(STATES)
    )
