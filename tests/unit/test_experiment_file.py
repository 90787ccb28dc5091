"""The experiment file: what it means, and everything that can be wrong with it at once."""

import json
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from holdfast.config.durations import parse_duration
from holdfast.config.experiment_file import Aggregation, Experiment, Limits, Retry, load_config
from holdfast.config.matrix import combinations, identity
from holdfast.errors import ConfigError

EXAMPLE = """
name = "codec-shootout"
command = ["python", "measure.py", "--codec", "{codec}", "--level", "{level}"]
[matrix]
codec = ["zlib", "bz2", "lzma"]
level = [1, 6, 9]
exclude = [{codec = "lzma", level = 1}]
[env]
OMP_NUM_THREADS = "1"
[limits]
jobs = 2
timeout = "2h"
grace = "30s"
fail_fast = false
[retry]
max_attempts = 1
backoff = "10s"
max_interruptions = 3
[aggregate]
command = ["python", "combine.py"]
"""


@pytest.fixture
def load(tmp_path):
    """Write a text to a file and load that."""

    def load(text, **overrides):
        path = tmp_path / "experiment.toml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, {key.replace("__", "."): v for key, v in overrides.items()})

    return load


@pytest.fixture
def problems(load):
    """Everything that is said about a text that cannot be used, without the file's name."""

    def problems(text, **overrides):
        with pytest.raises(ConfigError) as caught:
            load(text, **overrides)
        assert str(caught.value).count("\n") >= len(caught.value.problems)
        return [str(problem) for problem in caught.value.problems]

    return problems


# -- what a file means ----------------------------------------------------------------------------


def test_the_example_means_what_it_says(load, tmp_path):
    """Every key of the format, in one file."""
    experiment = load(EXAMPLE)
    assert experiment.name == "codec-shootout"
    assert experiment.num_processes == 8
    assert experiment.params[0] == {"codec": "zlib", "level": 1}
    assert experiment.argv(7) == ("python", "measure.py", "--codec", "lzma", "--level", "9")
    assert experiment.env == {"OMP_NUM_THREADS": "1"}
    assert experiment.limits == Limits(jobs=2, timeout_s=7200.0, grace_s=30.0, fail_fast=False)
    assert experiment.retry == Retry(max_attempts=1, backoff_s=10.0, max_interruptions=3)
    assert experiment.aggregate == Aggregation(command=("python", "combine.py"))
    assert experiment.path == tmp_path / "experiment.toml"
    assert experiment.cwd == tmp_path


def test_a_command_is_all_that_is_needed(load):
    """One process, no limits, one attempt, the built-in table."""
    experiment = load('command = ["true"]')
    assert experiment.params == ({},)
    assert experiment.limits == Limits(jobs=None, timeout_s=None, grace_s=30.0, fail_fast=False)
    assert experiment.retry == Retry(max_attempts=1, backoff_s=10.0, max_interruptions=10)
    assert experiment.aggregate == Aggregation(command=None)
    assert experiment.name is None


def test_processes_are_told_apart_by_their_index(load):
    """Without a matrix, `{index}` and `{count}` are all there is."""
    experiment = load('command = ["sh", "run.sh", "{index}/{count}"]\nprocesses = 3')
    assert [experiment.argv(i)[2] for i in range(3)] == ["0/3", "1/3", "2/3"]
    with pytest.raises(IndexError):
        experiment.argv(3)
    with pytest.raises(IndexError):
        experiment.argv(-1)


def test_doubled_braces_are_braces(load):
    """A command can hold JSON or a shell function without any of it being a placeholder."""
    text = """command = ["jq", '{{"x": {x}, "on": {on}}}', "{{x}}"]\n[matrix]\nx=[1.5]\non=[true]"""
    assert load(text).argv(0) == ("jq", '{"x": 1.5, "on": true}', "{x}")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *((2, 2.0), (0, 0.0), (1.5, 1.5), ("2h", 7200.0), ("30s", 30.0), ("1h30m", 5400.0)),
        *(("500ms", 0.5), ("1.5m", 90.0), (" 1h 30m ", 5400.0), ("1d", 86400.0), ("0s", 0.0)),
    ],
)
def test_durations_are_seconds(text, seconds):
    """Numbers as they are, parts with units added up."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "2",
            "h",
            "2 hours",
            "-1s",
            "30m2h",
            "1m1m",
            "1e3s",
            "2h!",
            "٣s",
            "ms",
            "9" * 400,
        ),
        *("9" * 400 + "s", -1, True, None, [], float("nan"), float("inf"), 10**400, "200000d"),
    ],
)
def test_what_is_no_duration_is_refused(text):
    """A guess at the unit would be wrong by a factor of 60 for somebody."""
    with pytest.raises(ValueError, match=r"."):
        parse_duration(text)


# -- the matrix -----------------------------------------------------------------------------------


def test_the_last_key_varies_fastest():
    """Indices are stable, and follow the order of the file."""
    found = combinations({"a": [1, 2], "b": ["x", "y"]})
    assert [(each["a"], each["b"]) for each in found] == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]


def test_include_extends_and_adds_as_github_does():
    """The example of GitHub's documentation, with its documented outcome."""
    found = combinations(
        {"fruit": ["apple", "pear"], "animal": ["cat", "dog"]},
        include=[
            {"color": "green"},
            {"color": "pink", "animal": "cat"},
            {"fruit": "apple", "shape": "circle"},
            {"fruit": "banana"},
            {"fruit": "banana", "animal": "cat"},
        ],
    )
    assert found == [
        {"fruit": "apple", "animal": "cat", "color": "pink", "shape": "circle"},
        {"fruit": "apple", "animal": "dog", "color": "green", "shape": "circle"},
        {"fruit": "pear", "animal": "cat", "color": "pink"},
        {"fruit": "pear", "animal": "dog", "color": "green"},
        {"fruit": "banana"},
        {"fruit": "banana", "animal": "cat"},
    ]


def test_exclude_removes_partial_matches_before_include_adds():
    """An excluded combination can be brought back by name."""
    axes = {"os": ["linux", "mac"], "node": [14, 16]}
    assert combinations(axes, exclude=[{"os": "mac"}]) == [
        {"os": "linux", "node": 14},
        {"os": "linux", "node": 16},
    ]
    back = [{"os": "mac", "node": 16}]
    assert combinations(axes, include=back, exclude=[{"os": "mac"}])[2:] == back


def test_include_alone_lists_the_processes():
    """Without a list there is nothing to extend: one process per entry."""
    entries = [{"site": "a", "port": 1}, {"site": "b", "port": 2}]
    assert combinations({}, include=entries) == entries


def test_exclude_tells_types_apart():
    """1, 1.0, true and "1" are four values, as on a command line."""
    axes = {"x": [1, 1.5, "1", True]}
    assert combinations(axes, exclude=[{"x": 1}]) == [{"x": 1.5}, {"x": "1"}, {"x": True}]


VALUES = st.sampled_from([0, 1, 2, "a", "b", True, 0.5])
AXES = st.dictionaries(st.sampled_from("abc"), st.lists(VALUES, min_size=1, max_size=3), min_size=1)
ENTRIES = st.lists(st.dictionaries(st.sampled_from("abcde"), VALUES, min_size=1), max_size=4)


@given(AXES, ENTRIES, ENTRIES)
def test_a_matrix_keeps_its_own_values(axes, include, exclude):
    """Whatever `include` does, the product's own values stay; what is excluded is gone."""
    exclude = [entry for entry in exclude if set(entry) <= set(axes)]
    plain = combinations(axes, exclude=exclude)
    found = combinations(axes, include, exclude)
    own = [{key: each[key] for key in axes} for each in found[: len(plain)]]
    assert own == plain
    assert all(each in include for each in found[len(plain) :])


# -- what can be wrong ----------------------------------------------------------------------------


def test_all_mistakes_are_told_at_once(problems):
    """One run of the command, one list to work through."""
    assert problems("""
        nam = "x"
        timeout = 3
        command = "python measure.py"
        [matrix]
        codec = ["zlib", "zlib"]
        level = 1
        empty = []
        index = [1]
        exclude = [{codex = "lzma"}]
        [env]
        DEBUG = true
        HOLDFAST_INDEX = "1"
        [limits]
        job = 2
        timeout = "2"
        grace = -1
        fail_fast = 1
        jobs = 0
        [retry]
        max_attempts = "1"
        max_interruptions = 0
        max_interuptions = 4
        [aggregate]
        comand = ["python", "x"]
        """) == [
        "nam: unknown key (did you mean name?)",
        "timeout: unknown key (did you mean limits.timeout?)",
        'command: expected a list of words (no shell) (write ["python", "measure.py"])',
        "matrix.codec[1]: the text 'zlib' is there twice"
        " (for repetitions add a key, such as repeat = [1, 2, 3])",
        "matrix.level: expected a list of values, found the number 1 (write [1])",
        "matrix.empty: has no values, so that there would be no processes",
        "matrix.index: {index} is there without being declared; choose another name",
        "matrix.exclude[0].codex: no such key in the matrix (did you mean codec?)",
        "env.DEBUG: expected text, found true (write it in quotes)",
        "env.HOLDFAST_INDEX: names that begin with HOLDFAST_ are set by holdfast",
        "limits.jobs: must be 1 or more, found 0",
        'limits.timeout: expected a duration such as "2h", "1h30m", "30s", "500ms", or a number'
        " of seconds, found '2' (write \"2s\")",
        "limits.grace: a duration cannot be -1",
        "limits.fail_fast: expected true or false, found the number 1",
        "limits.job: unknown key (did you mean jobs?)",
        "retry.max_attempts: expected an integer, found the text '1'",
        "retry.max_interruptions: must be 1 or more, found 0",
        "retry.max_interuptions: unknown key (did you mean max_interruptions?)",
        "aggregate.comand: unknown key (did you mean command?)",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "command: is missing"),
        ("command = []", "command: is empty"),
        ('command = [""]', "command: its first word, the program, is empty"),
        ('command = ["sh", 5]', 'command: word 2 is the number 5, not text (write "5")'),
        ('command = ["sh", "\\u0000"]', "command: word 2 contains a NUL character"),
        ('command = ["{codex}"]\n[matrix]\ncodec=["a"]', "codex} (did you mean {codec}?)"),
        (
            'command = ["{zz}"]\nprocesses=2',
            "unknown placeholder {zz} (there are {count}, {index})",
        ),
        ('command = ["awk", "{print $1}"]', "{print $1} (write {{ and }} for braces)"),
        ('command = ["a{"]', "word 1: single '{' (write '{{' for a brace)"),
        ('command = ["a}"]', "word 1: single '}' (write '}}' for a brace)"),
        ('command = ["a"]\nprocesses = 0', "processes: must be 1 or more, found 0"),
        ('command = ["a"]\nprocesses = true', "processes: expected an integer, found true"),
        ('command = ["a"]\nprocesses = 1000000000000', "the limit is 1,000,000"),
        ('command = ["a"]\nprocesses = 1\n[matrix]\na=[1]', "processes: there is a [matrix] too"),
        ('command = ["a"]\n[matrix]', "matrix: is empty"),
        ('command = ["a"]\n[matrix]\na=[1]\nexclude=[{a=1}]', "exclude: leaves no process at all"),
        ('command = ["a"]\n[matrix]\na=[nan]', "matrix.a[0]: nan has no place in JSON"),
        ('command = ["a"]\n[matrix]\na=[9007199254740993]', "matrix.a[0]: beyond 2^53"),
        (
            'command = ["a"]\n[matrix]\na=[0x' + "f" * 5000 + ", 1]\nexclude=[{a=2}]",
            "matrix.exclude[0].a: no combination has 2; there are …, 1",
        ),
        ('command = ["a"]\n[matrix]\na=[2024-01-15]', "matrix.a[0]: expected text, a number"),
        ('command = ["a"]\n[matrix]\n"a b"=[1]', "matrix.a b: not a name"),
        ('command = ["a"]\n[matrix]\ninclude=[{}]', "matrix.include[0]: expected key = value"),
        ('command = ["a"]\n[matrix]\ninclude={a=1}', "matrix.include: expected a list of tables"),
        (
            'command = ["a"]\n[matrix]\ninclude=[{a=2024-01-15}]',
            "matrix.include[0].a: expected text",
        ),
        ('command = ["a"]\nmatrix = 1', "matrix: expected a table, found the number 1"),
        ('command = ["a"]\nlimits = 1', "limits: expected a table, found the number 1"),
        ('command = ["a"]\nlimits = "jobs"', "limits: expected a table, found the text 'jobs'"),
        ('command = ["a"]\nenv = ["A"]', "env: expected a table, found a list"),
        ('command = ["a"]\nname = 1', "name: expected text, found the number 1"),
        ('command = ["a"]\n[limits]\ntimeout=0', "limits.timeout: must be more than 0"),
        ('command = ["a"]\n[env]\n"A=B" = "1"', "env.A=B: not the name of a variable"),
        ('command = ["a"]\n[limits]\nprocesses = 2', "processes belongs above the first [table]"),
        ('[limits]\njobs = 1\ncommand = ["a"]', "command belongs above the first [table]"),
        ('command = ["a"', "TOML: "),
        ('command = ["a"]\ncommand = ["b"]', "TOML: Cannot overwrite"),
        ('command = ["a"]\n\n[matrix]\n  seed = range(3)', "column 10): seed = range(3)"),
        ('command = ["a"]\n[environment]\nA = "1"', "unknown key (did you mean env?)"),
        ('command = ["a"]\n[matrix]\na=[1, 2]\nexclude={a=1}', "table (write exclude = [{…}])"),
        ("x = " + "[" * 50_000, "TOML: "),
        ("x = " + "9" * 5_000, "TOML: "),
    ],
)
def test_a_mistake_is_told_with_its_key_and_what_to_write(problems, text, problem):
    """Nobody has to look for the line."""
    assert any(problem in each for each in problems(text))


def test_a_placeholder_that_only_some_processes_have_is_told(problems):
    """`include` gave it to one of them: the first without it is named."""
    text = """command = ["{a}", "{extra}"]\n[matrix]\na=[1, 2]\ninclude=[{a=1, extra=3}]"""
    (found,) = problems(text)
    assert found.startswith("command: word 2: process 1 has no {extra}")


MATRIX = 'command = ["{a}", "{b}"]\n[matrix]\na = ["one", "two"]\nb = [1, 2, 3]\n'


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        (
            'exclude = [{a = "twoo", b = 1}]',
            'matrix.exclude[0].a: no combination has "twoo"; there are "one", "two"'
            ' (did you mean "two"?)',
        ),
        (
            'exclude = [{b = 2}, {b = "1"}]',
            'matrix.exclude[1].b: no combination has "1"; there are 1, 2, 3 (did you mean 1?)',
        ),
        ("exclude = [{b = 9}]", "matrix.exclude[0].b: no combination has 9; there are 1, 2, 3"),
        (
            'include = [{a = "twoo", c = 1}]',
            'matrix.include[0].a: no combination has "twoo" (there are "one", "two"), and a process'
            ' of its own would lack b (did you mean "two"?)',
        ),
    ],
)
def test_an_entry_of_the_matrix_that_misses_is_told(problems, entries, problem):
    """A typing error must not run what was to be left out."""
    assert problem in problems(MATRIX + entries)


def test_an_entry_that_only_set_made_miss_is_none(load):
    """What the file excludes is still excluded where `--set` has narrowed a list."""
    text = MATRIX + 'exclude = [{b = 3}]\ninclude = [{a = "new", b = 9}]'
    assert [each["b"] for each in load(text, b="[1, 2]").params] == [1, 2, 1, 2, 9]


def test_what_was_stored_with_an_entry_that_misses_can_be_resumed():
    """It is refused in a file, never in an experiment that is there already."""
    config = {"command": ["p"], "matrix": {"a": [1, 2], "exclude": [{"a": 3}]}}
    assert Experiment.from_config(config).num_processes == 2


@pytest.mark.parametrize(
    ("rest", "told"),
    [
        ("[matrix]\na = 1\nb = []\ninclude = [{c = [2]}]", True),
        ("[matrix]\na = [1]\nb = [2]\nc = [3]\nexclude = [{a = 1}]", True),
        ("[matrix]\na = [1]\nb = [2]\nc = [3]\nexclude = [{d = 1}]", True),
        ('processes = "2"', True),
        ("matrix = 1", False),
    ],
)
def test_a_wrong_matrix_hides_no_wrong_placeholder(problems, rest, told):
    """Only what may still be a key of the mended matrix is left for later."""
    known = "" if rest.startswith("processes") else "{a}{b}{c}"
    found = problems(f'command = ["{known}{{index}}", "x {{zz}} {{"]\n{rest}')
    assert len([each for each in found if not each.startswith("command:")]) >= 1
    unknown = [each for each in found if "unknown placeholder" in each]
    assert [each.partition(" (")[0] for each in unknown] == (
        ["command: word 2: unknown placeholder {zz}"] if told else []
    )
    assert any("word 2: single '{'" in each for each in found)


def test_files_that_cannot_be_read_are_named(tmp_path):
    """Missing, a directory, not text: the path and the reason, no traceback."""
    with pytest.raises(ConfigError, match=r"gone\.toml:\n  file: No such file"):
        load_config(tmp_path / "gone.toml")
    with pytest.raises(ConfigError, match="directory"):
        load_config(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'command = ["\xe9"]')
    with pytest.raises(ConfigError, match="byte 0xe9 at offset 12 is not UTF-8"):
        load_config(tmp_path / "latin.toml")


@pytest.mark.parametrize(
    ("there", "meant"),
    [
        (["sweep.toml", "other.toml", "pyproject.toml"], "did you mean {}/sweep.toml?"),
        (["one.toml", "pyproject.toml"], "did you mean {}/one.toml?"),
        (["one.toml", "two.toml"], None),
        ([], None),
    ],
)
def test_a_misspelt_file_name_is_suggested(tmp_path, there, meant):
    """The nearest experiment file beside it, or the only one."""
    for name in there:
        (tmp_path / name).touch()
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "swep.toml")
    (problem,) = caught.value.problems
    assert problem.suggestion == ("" if meant is None else meant.format(tmp_path))


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    """Editors on Windows put one there."""
    path = tmp_path / "experiment.toml"
    path.write_bytes(b'\xef\xbb\xbfcommand = ["true"]\r\n')
    assert load_config(path).command == ("true",)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["command", "jobs", "timeout", "include", "exclude", "x", "", "A=B"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
KEYS = ["name", "command", "processes", "matrix", "env", "limits", "retry", "aggregate", "oops"]


@given(st.dictionaries(st.sampled_from(KEYS), JUNK))
def test_any_content_is_an_experiment_or_a_list_of_problems(config):
    """No content whatsoever gets another exception out of the check."""
    try:
        experiment = Experiment.from_config(config)
    except ConfigError as err:
        assert err.problems  # noqa: PT017
    else:
        json.dumps(experiment.to_config(), allow_nan=False)


# -- --set ----------------------------------------------------------------------------------------


def test_set_replaces_what_the_file_says(load):
    """Values are TOML; a matrix key becomes that one value."""
    experiment = load(EXAMPLE, level="9", limits__jobs="4", limits__timeout="1m", name="7")
    assert [each["level"] for each in experiment.params] == [9, 9, 9]
    assert experiment.limits.jobs == 4
    assert experiment.limits.timeout_s == 60
    assert experiment.name == "7"


def test_set_takes_lists_and_new_tables(load):
    """A matrix key can get several values, and a table need not be there."""
    experiment = load(EXAMPLE, matrix__codec='["zlib"]', retry__max_attempts="3")
    assert {each["codec"] for each in experiment.params} == {"zlib"}
    assert load('command = ["a"]', limits__jobs="1").limits.jobs == 1
    assert load('command = ["a"]', matrix__seed="[1, 2]").num_processes == 2


def test_set_keeps_text_text(load):
    """Where a file has texts, what looks like a number stays as it was typed."""
    experiment = load(EXAMPLE, codec="7", env__MASK="0x10", env__QUOTED='"x"')
    assert {each["codec"] for each in experiment.params} == {"7"}
    assert experiment.env == {"OMP_NUM_THREADS": "1", "MASK": "0x10", "QUOTED": "x"}
    dates = load(EXAMPLE, codec="2024-01-15")
    assert {each["codec"] for each in dates.params} == {"2024-01-15"}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        *((".00001", [1e-05]), ("10.e-6", [1e-05]), ("1e-5", [1e-05]), ("+.5", [0.5])),
        *(("[.1, 1.]", [0.1, 1.0]), ("[1,9]", [1, 9]), ("[ .5, 1e-3 ]", [0.5, 0.001])),
    ],
)
def test_set_reads_numbers_as_people_write_them(load, text, values):
    """With a point before or behind everything, alone and in lists."""
    found = sorted({each["level"] for each in load(EXAMPLE, level=text).params})
    assert [(type(each), each) for each in found] == [(type(each), each) for each in sorted(values)]


def test_set_reads_booleans_and_bare_words(load):
    """Python's True, and a list whose quotes the shell took away."""
    text = 'command = ["p"]\n[matrix]\namp = [true]\nopt = ["sgd"]'
    assert load(text, amp="False").params == ({"amp": False, "opt": "sgd"},)
    assert [each["opt"] for each in load(text, opt="[adam, sgd]").params] == ["adam", "sgd"]
    assert load(EXAMPLE, limits__fail_fast="True").limits.fail_fast is True
    assert load(EXAMPLE, env__A="True").env["A"] == "True"


@pytest.mark.parametrize("words", ["67217e15, adam", "1, true, sgd", "08, 1e5, a"])
def test_set_keeps_every_bare_word_of_a_list_among_texts(load, words):
    """A hash that looks like a number is none because its neighbour does not."""
    text = 'command = ["p"]\n[matrix]\nopt = ["sgd"]'
    assert [each["opt"] for each in load(text, opt=f"[{words}]").params] == words.split(", ")
    mixed = 'command = ["p"]\n[matrix]\nopt = ["sgd", 1]'
    assert [each["opt"] for each in load(mixed, opt="[1e1, a]").params] == [10.0, "a"]


def test_set_says_how_several_values_are_written(problems):
    """A comma alone is what other programs take; `1,5` may be a decimal comma, too."""
    [problem] = problems(EXAMPLE, level="1e-05,.5")
    assert problem.endswith("(several values are written level=[1e-05,.5])")
    [problem] = problems(EXAMPLE, level="1,x")
    assert problem.endswith("(write it as the file does, or change the file)")


@pytest.mark.parametrize(
    ("key", "text", "told"),
    [
        ("level", "1O", 'would make texts of numbers: ["1O"] instead of [1, 6, 9]'),
        ("level", "True", "would make booleans of numbers: [true] instead of [1, 6, 9]"),
        ("level", "nan", 'would make texts of numbers: ["nan"] instead of [1, 6, 9]'),
        ("codec", "[1, 2]", 'would make numbers of texts: [1, 2] instead of ["zlib", "bz2"'),
    ],
)
def test_set_does_not_change_the_type_of_a_whole_list(problems, key, text, told):
    """A typing error in a number is no text that was meant."""
    [problem] = problems(EXAMPLE, **{key: text})
    assert problem.startswith(f"{key}: {told}")


def test_set_of_a_list_among_lists_says_how(problems, load):
    """`layers=[64,32]` would make two processes of what was meant as one value."""
    text = 'command = ["p"]\n[matrix]\nlayers = [[8], [8, 8]]'
    [problem] = problems(text, layers="[64,32]")
    assert "a list of lists is written [[64, 32]]" in problem
    assert load(text, layers="[[64,64]]").params == ({"layers": [64, 64]},)


def test_set_cannot_smuggle_in_another_key(load):
    """A line break in a value is part of the value."""
    experiment = load(EXAMPLE, codec="1\nprocesses = 5")
    assert {each["codec"] for each in experiment.params} == {"1\nprocesses = 5"}


def test_a_key_that_cannot_be_set_is_told(problems):
    """Misspelt, through something that is no table, or empty between dots."""
    assert problems(EXAMPLE, levle="1") == ["levle: unknown key (did you mean matrix.level?)"]
    assert problems(EXAMPLE, command__x="1") == ["command.x: cannot be set: command is no table"]
    assert problems(EXAMPLE, limits__="1")[0].startswith("limits.: not a key")
    assert problems(EXAMPLE, processes="2")[0].startswith("processes: there is a [matrix] too")


# -- stored and found again -----------------------------------------------------------------------

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True).filter(
    lambda name: name not in ("index", "count", "include", "exclude")
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
PLAIN = (
    TEXTS
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
)
SCALARS = PLAIN | st.lists(PLAIN, max_size=2) | st.dictionaries(NAMES, PLAIN, max_size=2)
WORDS = TEXTS.map(lambda text: text.replace("{", "{{").replace("}", "}}"))


@st.composite
def documents(draw):
    """A valid file, as TOML or JSON would give it."""
    document = {"command": ["prog", *draw(st.lists(WORDS, max_size=3)), "{index}"]}
    if draw(st.booleans()):
        lists = st.lists(SCALARS, min_size=1, max_size=3, unique_by=identity)
        document["matrix"] = draw(st.dictionaries(NAMES, lists, min_size=1, max_size=3))
        document["command"] += ["{" + key + "}" for key in document["matrix"]]
    elif draw(st.booleans()):
        document["processes"] = draw(st.integers(1, 5))
    if draw(st.booleans()):
        document["name"] = draw(TEXTS)
    if draw(st.booleans()):
        document["env"] = draw(st.dictionaries(NAMES, WORDS, max_size=3))
    if draw(st.booleans()):
        document["limits"] = {"jobs": draw(st.integers(1, 99)), "timeout": draw(st.integers(1, 99))}
    if draw(st.booleans()):
        document["retry"] = {"max_attempts": draw(st.integers(1, 9)), "backoff": "1m30s"}
        if draw(st.booleans()):  # what was stored before there was the key has none
            document["retry"]["max_interruptions"] = draw(st.integers(1, 99))
    return document


@pytest.mark.filterwarnings("ignore::holdfast.errors.ConfigWarning")
@given(documents())
def test_what_is_stored_gives_the_same_experiment(document):
    """Resuming from the stored configuration runs exactly what was declared."""
    experiment = Experiment.from_config(document, "/work", "/work/experiment.toml")
    stored = json.loads(json.dumps(experiment.to_config()))
    again = Experiment.from_config(stored, "/work", "/work/experiment.toml")
    assert again == experiment
    assert again.to_config() == experiment.to_config()
    assert again.config_hash(Path("/s")) == experiment.config_hash(Path("/s"))
    for index in range(experiment.num_processes):
        assert again.argv(index) == experiment.argv(index)


@pytest.mark.filterwarnings("ignore::holdfast.errors.ConfigWarning")
@given(documents(), documents())
def test_only_the_work_is_hashed(one, other):
    """Name, limits and retries may change between runs; anything else is other work."""
    for key in ("name", "limits", "retry"):
        one.pop(key, None)
    base = Experiment.from_config(one, "/work")
    free = {key: other[key] for key in ("name", "limits", "retry") if key in other}
    free["aggregate"] = {"command": ["x"]}
    same = Experiment.from_config({**one, **free}, "/work")
    assert same.config_hash(Path("/s")) == base.config_hash(Path("/s"))
    different = Experiment.from_config(other, "/work")
    assume(json.dumps(different.work(Path("/s"))) != json.dumps(base.work(Path("/s"))))
    work = [json.dumps(each.work(Path("/s")), sort_keys=True) for each in (base, different)]
    hashes = {each.config_hash(Path("/s")) for each in (base, different)}
    assert len(hashes) == len(set(work))


@pytest.mark.parametrize(
    "change",
    [
        {"command": ["prog", "{a}", "-v"]},
        {"matrix": {"a": [1, 3]}},
        {"matrix": {"a": [2, 1]}},
        {"env": {"X": "2"}},
    ],
)
def test_other_work_has_another_hash(change):
    """What the processes do, and which index does what."""
    base = {"command": ["prog", "{a}"], "matrix": {"a": [1, 2]}, "env": {"X": "1"}}
    hashes = [
        Experiment.from_config(each, "/w").config_hash(Path("/s")) for each in (base, base | change)
    ]
    assert hashes[0] != hashes[1]


def test_the_same_processes_are_the_same_work_however_they_were_written():
    """A matrix that excludes and one that lists, one process by default or by number."""
    short = {"command": ["p", "{a}"], "matrix": {"a": [1, 2, 3], "exclude": [{"a": 2}]}}
    long = {"matrix": {"include": [{"a": 1}, {"a": 3}]}, "command": ["p", "{a}"]}
    hashes = [Experiment.from_config(each, "/w").config_hash(Path("/s")) for each in (short, long)]
    assert hashes[0] == hashes[1]
    one = Experiment.from_config({"command": ["p"], "processes": 1}).work(Path())
    assert one == Experiment.from_config({"command": ["p"]}).work(Path())


def test_a_project_can_move_and_two_projects_never_match(tmp_path):
    """The directory counts relative to the state directory."""
    config = {"command": ["p"]}
    for name in ("a", "b", "moved/a"):
        (tmp_path / name).mkdir(parents=True)
    hashes = [
        Experiment.from_config(config, tmp_path / where).config_hash(tmp_path / state)
        for where, state in [("a", "s"), ("b", "s"), ("moved/a", "moved/s")]
    ]
    assert hashes[0] != hashes[1]
    assert hashes[0] == hashes[2]


@pytest.mark.parametrize(("cwd", "state"), [(".", "s"), ("sub/deep", "s"), (".", "var/states")])
def test_a_moved_project_runs_where_it_lies_now(tmp_path, cwd, state):
    """The stored folder is absolute; the hash, which is not, finds it again."""
    for name in ("old", "new"):
        (tmp_path / name / cwd).mkdir(parents=True)
    stored = Experiment.from_config({"command": ["p"]}, tmp_path / "old" / cwd)
    wanted = stored.config_hash(tmp_path / "old" / state)
    assert stored.moved_with(tmp_path / "old" / state, wanted) is stored
    moved = stored.moved_with(tmp_path / "new" / state, wanted)
    assert moved.cwd == (tmp_path / "new" / cwd).resolve()
    # A hash that somebody else made tells nothing.
    assert stored.moved_with(tmp_path / "new" / state, "0" * 64) is stored
    assert stored.moved_with(tmp_path / "new" / state, None) is stored


def test_inherited_variables_are_never_stored(monkeypatch):
    """A token in the environment must not end up in a state file."""
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    experiment = Experiment.from_config({"command": ["p"], "env": {"A": "1"}})
    stored = json.dumps([experiment.to_config(), experiment.work(Path())])
    assert "hunter2" not in stored
    assert "SECRET_TOKEN" not in stored


def test_a_command_line_is_an_experiment(tmp_path):
    """`holdfast run --procs 3 -- prog {index}`."""
    experiment = Experiment.from_command(["prog", "{index}"], 3, cwd=tmp_path, name="quick")
    assert experiment.argv(2) == ("prog", "2")
    assert experiment.name == "quick"
    assert experiment.cwd == tmp_path
    with pytest.raises(ConfigError, match="command line:\n  command: word 2 is not valid Unicode"):
        Experiment.from_command(["prog", "\udcff"])
