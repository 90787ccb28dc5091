"""Words of an experiment file: placeholders in `[env]`, words that go, what only a shell reads."""

import hashlib
import json
import warnings
from itertools import permutations
from pathlib import Path

import pytest

from holdfast.config.experiment_file import Experiment, load_config
from holdfast.errors import ConfigError, ConfigWarning

STATES = Path("/work/.experiment_state")


def made(**config):
    return Experiment.from_config({"command": ["p"], **config}, "/work")


def test_placeholders_work_in_env_as_in_the_command():
    """Filled in for each process; the aggregation gets what is the same for all."""
    experiment = made(
        matrix={"gpu": [0, 1]},
        env={"CUDA_VISIBLE_DEVICES": "{gpu}", "RUN": "{index}/{count}", "J": '{{"a": 1}}', "N": 3},
    )
    assert experiment.environment(1) == {
        "CUDA_VISIBLE_DEVICES": "1",
        "RUN": "1/2",
        "J": '{"a": 1}',
        "N": "3",
    }
    assert experiment.environment() == {"J": '{"a": 1}', "N": "3"}


def test_unknown_placeholders_in_env_are_errors():
    """With what may have been meant."""
    with pytest.raises(ConfigError) as caught:
        made(matrix={"gpu": [0]}, env={"A": "{gpus}", "B": '{"a": 1}', "C": "}"})
    assert [str(problem) for problem in caught.value.problems] == [
        "env.A: unknown placeholder {gpus} (did you mean {gpu}?)",
        'env.B: unknown placeholder {"a": 1} (write {{ and }} for braces)',
        "env.C: single '}' (write '}}' for a brace)",
    ]


def test_a_word_goes_where_its_key_is_false_or_absent():
    """`{key?}` is the value, `{key?text}` the text; zero and empty text are values."""
    experiment = made(
        command=["p", "--amp={amp?}", "{amp?--fast}", "{seed?--seed}", "{seed?}", "{n?}"],
        matrix={"amp": [True, False], "n": [0], "include": [{"amp": False, "seed": 7}]},
        env={"AMP": "{amp?1}"},
    )
    assert experiment.argv(0) == ("p", "--amp=true", "--fast", "0")
    assert experiment.argv(1) == ("p", "--seed", "7", "0")
    assert [experiment.environment(i) for i in (0, 1)] == [{"AMP": "1"}, {}]


def test_a_word_that_goes_is_checked_too():
    """A key that no process has, and a program that may be missing, are mistakes."""
    with pytest.raises(ConfigError, match=r"unknown placeholder \{ampp\} \(did you mean \{amp\}"):
        made(command=["p", "{ampp?}"], matrix={"amp": [True]})
    with pytest.raises(ConfigError, match="the program cannot be left out"):
        made(command=["{amp?p}"], matrix={"amp": [True]})
    with pytest.raises(ConfigError, match=r"process 0 has no \{seed\} .*or write \{seed\?\}"):
        made(command=["p", "{seed}"], matrix={"a": [1, 2], "include": [{"a": 2, "seed": 1}]})


def test_lists_and_tables_are_values():
    """They reach a process as they are, in a command as JSON; twice the same is told."""
    options = [{"lr": 0.1, "betas": [0.9, 0.99]}, {"lr": 0.01, "betas": []}]
    experiment = made(command=["p", "{opt}"], matrix={"opt": options})
    assert [each["opt"] for each in experiment.params] == options
    assert json.loads(experiment.argv(0)[1]) == options[0]
    with pytest.raises(ConfigError, match="is there twice"):
        made(matrix={"opt": [{"a": 1, "b": 2}, {"b": 2, "a": 1}]})
    made(matrix={"opt": [[1], [1.0], [True], ["1"]]})
    left = made(matrix={"opt": options, "n": [1, 2], "exclude": [{"opt": options[0], "n": 1}]})
    assert left.num_processes == 3
    deep = 1
    for _ in range(20):
        deep = [deep]
    with pytest.raises(ConfigError, match="nested more than 16 levels"):
        made(matrix={"opt": [deep]})


# -- identity -------------------------------------------------------------------------------------

MATRIX = {"b": [1, 2], "a": ["u", "v", "w"], "c": [True, False]}


def _as_0_1_hashed(experiment, params):
    work = {"command": ["p"], "params": params, "env": dict(experiment.env), "cwd": ".."}
    text = json.dumps(work, sort_keys=True, separators=(",", ":")).encode("ascii")
    return hashlib.sha256(text).hexdigest()


def test_the_order_of_keys_in_a_matrix_is_no_other_work():
    """One hash for all orders; the order of values and of entries still tells."""
    orders = [{key: MATRIX[key] for key in keys} for keys in permutations(MATRIX)]
    hashes = {made(matrix=each).config_hash(STATES) for each in orders}
    assert len(hashes) == 1
    other = made(matrix={**MATRIX, "b": [2, 1]})
    assert other.config_hash(STATES) not in hashes


def test_what_0_1_stored_is_found_whatever_the_order_of_keys_was():
    """0.1 hashed the parameters in the order of the file."""
    now = made(matrix=MATRIX).config_hashes(STATES)
    assert len(now) == 6
    for keys in permutations(MATRIX):
        then = made(matrix={key: MATRIX[key] for key in keys})
        assert _as_0_1_hashed(then, list(map(dict, then.params))) in now
        assert then.is_of(_as_0_1_hashed(then, list(map(dict, then.params))), STATES)


def test_a_matrix_of_many_keys_is_found_in_the_order_of_the_file():
    """All orders of ten keys would take minutes."""
    many = made(matrix={key: [1, 2] for key in "jihgfedcba"})
    hashes = many.config_hashes(STATES)
    assert hashes == (many.config_hash(STATES), _as_0_1_hashed(many, list(map(dict, many.params))))


def test_processes_keep_the_order_that_was_stored():
    """A moved key gives no process the parameters of another."""
    stored, now = made(matrix={"b": [1, 2], "a": [3, 4]}), made(matrix={"a": [3, 4], "b": [1, 2]})
    assert now.params != stored.params
    again = now.numbered_as(stored.to_config())
    assert again.params == stored.params
    assert again.config_hash(STATES) == stored.config_hash(STATES)


def test_braces_that_0_1_took_for_text_stay_text():
    """In an experiment that it stored; the hash of plain text is what it was."""
    config = {"command": ["p"], "env": {"J": '{"a": 1}', "K": "{x}"}}
    stored = Experiment.from_stored(config, "/work")
    assert stored.environment(0) == config["env"]
    plain = made(env={"J": '{{"a": 1}}', "K": "{{x}}"})
    assert plain.config_hash(STATES) == stored.config_hash(STATES)
    assert _as_0_1_hashed(made(env={"A": "b"}), [{}]) == made(env={"A": "b"}).config_hash(STATES)
    filled = made(matrix={"x": [1]}, env={"K": "{x}"})
    as_text = made(matrix={"x": [1]}, env={"K": "{{x}}"})
    assert filled.config_hash(STATES) != as_text.config_hash(STATES)
    again = Experiment.from_stored(json.loads(json.dumps(filled.to_config())), "/work")
    assert again.environment(0) == {"K": "1"}


# -- no shell -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (["echo", "$HOME"], "$HOME"),
        (["echo", "a${{X}}b"], "${X}"),
        (["p", ">", "out"], ">"),
        (["p", "2>&1"], "2>&1"),
        (["p", ">>log.txt"], ">>log.txt"),
        (["p", "|", "tee"], "|"),
        (["p", "&&", "q"], "&&"),
    ],
)
def test_what_only_a_shell_reads_is_told(command, named):
    """Once, with the command that has a shell."""
    with pytest.warns(ConfigWarning) as caught:
        made(command=command)
    [warning] = caught
    assert named in str(warning.message)
    assert "there is no shell" in str(warning.message)
    assert '["sh", "-c", "' in str(warning.message)


@pytest.mark.parametrize(
    "command",
    [
        ["sh", "-c", "echo $HOME > x | y"],
        ["env", "bash", "-lc", "echo $X"],
        ["ssh", "host", "echo $X"],
        ["awk", "{{print $NF}}"],
        ["p", "costs 5$", "a->b", ">=", "=>", "x|y", "--re=^a$"],
    ],
)
def test_what_is_no_mistake_is_not_told(command):
    """A shell is there, or a program that has such signs itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made(command=command)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"command": ["p", "--lr=${lr}"]}, "command: word 2: ${lr} becomes $ and the value"),
        ({"command": ["sh", "-c", "p ${lr}"]}, "command: word 3: ${lr} becomes $ and the value"),
        ({"command": ["p"], "env": {"X": "${lr}"}}, "env.X: ${lr} becomes $ and the value"),
    ],
)
def test_a_placeholder_written_as_a_variable_is_told(words, told):
    """Other tools write `${lr}`; here the dollar sign would stay."""
    with pytest.warns(ConfigWarning) as caught:
        made(**words, matrix={"lr": [0.1]})
    [warning] = caught
    assert f"{told} (the value alone is {{lr}})" in str(warning.message)


def test_a_column_of_awk_may_be_a_placeholder():
    """`$2` is what it is meant to get."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made(command=["sh", "-c", "awk '{{print ${n}}}' data"], matrix={"n": [2]})


def test_an_unknown_variable_in_braces_is_told_how_a_variable_is_written():
    """`{HOME}` alone would be a placeholder that nobody meant."""
    with pytest.raises(ConfigError, match=r"a shell's variable is written \$\{\{HOME\}\}"):
        made(command=["p", "${HOME}/data"])


def test_the_line_for_a_shell_keeps_words_together():
    """It is meant to be copied."""
    with pytest.warns(ConfigWarning) as caught:
        made(command=["p", "$X y", "a b", ">", "out"])
    assert r"""["sh", "-c", "p \"$X y\" 'a b' > out"]""" in str(caught[0].message)


def test_variables_in_env_are_told_by_name(tmp_path):
    """Nobody expands PATH there; a file is named."""
    path = tmp_path / "e.toml"
    path.write_text('command = ["p"]\n[env]\nTOOLS = "$HOME/bin:$PATH"\nPRICE = "5$"')
    with pytest.warns(ConfigWarning, match=r"e.toml: env.TOOLS: \$HOME stays.*no shell") as caught:
        load_config(path)
    assert len(caught) == 1
