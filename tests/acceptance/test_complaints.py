"""What users of other tools complained of in public, tried with holdfast by the command line.

`COMPLAINTS` is the table; every test names those that it answers, and the last one that none is
without an answer.
"""

import csv
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from shell import Shell, Terminal
from waiting import PATIENCE_S, until

COMPLAINTS: Final = {
    # Numbers
    "hydra-ecosystem/hydra#999": "in a sweep, 1e-05 is a number or a text, depending on its size",
    "treeverse/dvc#5971": "--set-param lr=0.000001 reaches the program as the text '1e-06'",
    "guildai/guildai#50": "a hash such as 3e563 or 67217e15 is taken for a float",
    "nextflow-io/nextflow#4629": "the 0 of 08 is lost, with quotes, too",
    "nextflow-io/nextflow#4237": "a negative number on the command line is a text",
    "spotify/luigi#869": "false on the command line is the text 'false', which is true",
    # Texts, quotes, variables
    "hydra-ecosystem/hydra#1577": "a value with = in it (epoch=9-step=8.ckpt) cannot be set",
    "hydra-ecosystem/hydra#2705": "a value with # in it cannot be set, quoted or not",
    "nextflow-io/nextflow#808": "a value that begins with -- becomes true",
    "snakemake/snakemake#2166": "${HOME} in a configuration is an unknown wildcard, without a hint",
    "wandb/wandb#3255": "${WORLD_SIZE} in a sweep's command is dropped without a word",
    "snakemake/snakemake#1007": "an environment variable with a blank breaks the job script",
    "wandb/wandb#1700": "a sweep cannot switch a flag on and off, only say --flag=False",
    "wandb/wandb#4428": "nested parameters are an invalid configuration",
    # NaN and infinity
    "optuna/optuna#3205": "a trial that returns nan is failed, or not, as the storage pleases",
    "mlflow/mlflow#25640": "NaN counts as 0, so that diverged runs are the best ones",
    "wandb/wandb#2202": "NaN is left out as if it had never been logged",
    "aiidateam/aiida-core#2412": "infinity cannot be stored",
    "aimhubio/aim#2629": "one NaN, and the run cannot be looked at any more",
    # Encodings
    "IDSIA/sacred#176": "a byte that is not UTF-8 in the output is an error in mid-experiment",
    "pydoit/doit#136": "output in another encoding than the terminal's ends in a traceback",
    "snakemake/snakemake#876": "a Cyrillic parameter reaches the program garbled",
    # Large values
    "snakemake/snakemake#854": "too long a command says 'non-zero exit code', and prints all of it",
    "mlflow/mlflow#1976": "a parameter cannot be longer than 250 characters",
    "ray-project/ray#1463": "many parameters: 'File name too long'",
    # Tables
    "treeverse/dvc#5376": "more than five metrics wrap, and nobody knows which is which",
    "wandb/wandb#4501": "columns that the page shows are empty in the exported CSV",
    # Places
    "hydra-ecosystem/hydra#922": "the program runs in another folder, relative paths are broken",
    "nextflow-io/nextflow#3286": "resumed from another folder, everything runs again",
    "glotzerlab/signac#779": "a folder that does not exist: another project is used silently",
    "nextflow-io/nextflow#1408": "the order of parameters changes, and finished work runs again",
    # While it runs, and afterwards
    "Netflix/metaflow#166": "what a task prints is not to be seen while it runs",
    "hydra-ecosystem/hydra#2284": "of a sweep, only the first failure is told, and at the end",
    "treeverse/dvc#6474": "what will be deleted is neither shown nor asked about",
    "snakemake/snakemake#3264": "a dry run of a deletion deletes",
}  # fmt: skip

_answered: set[str] = set()


def answers(*complaints: str) -> Callable[[Any], Any]:
    assert all(each in COMPLAINTS for each in complaints)
    _answered.update(complaints)
    return lambda test: test


def _write(sh: Shell, text: str, script: str = "", name: str = "c.toml") -> str:
    (sh.path / name).write_text(text, "utf-8")
    (sh.path / "c.py").write_text("import json, os, sys\n" + script, "utf-8")
    return name


def _planned(sh: Shell, file: str, *settings: str) -> list[Any]:
    """The parameters of every process that a run with these `--set` would have."""
    plan: Any = sh.json("run", "-n", file, *(word for each in settings for word in ("--set", each)))
    return [each["params"] for each in plan["processes"]]


#: Writes its parameters as a result, from the file or from its words.
ECHO = """
with open(os.environ["HOLDFAST_PARAMS_FILE"]) as file:
    found = {"types": {k: type(v).__name__ for k, v in json.load(file).items()}}
with open(os.environ["HOLDFAST_RESULT"], "w") as file:
    json.dump({**found, "argv": sys.argv[1:], "env": os.environ.get("COVARIATE")}, file)
"""


@answers("hydra-ecosystem/hydra#999", "treeverse/dvc#5971", "nextflow-io/nextflow#4237")
def test_numbers_are_numbers_however_they_are_written(sh: Shell) -> None:
    """With exponents, small, negative; the program finds floats, and a wrong comma is explained."""
    file = _write(sh, 'command = ["python", "c.py", "{lr}"]\n[matrix]\nlr = [0.1]\n', ECHO)
    sh("run", file, "--set", "lr=[1e-05, 1e-3, .000001, -12.5]")
    found: Any = sh.json("show", "@last")
    assert [each["params"]["lr"] for each in found["processes"]] == [1e-05, 0.001, 1e-06, -12.5]
    rows = [row["result"] for row in found["aggregate"]["rows"]]
    assert [row["types"]["lr"] for row in rows] == ["float"] * 4
    assert [row["argv"] for row in rows] == [["1e-05"], ["0.001"], ["1e-06"], ["-12.5"]]
    err = sh("run", file, "--set", "lr=1e-05,1e-3", code=2)[1]
    assert "several values are written lr=[1e-05,1e-3]" in err


@answers("guildai/guildai#50", "nextflow-io/nextflow#4629")
def test_texts_that_look_like_numbers_stay_texts(sh: Shell) -> None:
    """Hashes and numbers with a leading zero, alone and in lists."""
    keys = "\n".join(f'{key} = ["e3b0c4"]' for key in "abcde")
    file = _write(sh, f'command = ["p"]\n[matrix]\n{keys}\n')
    words = {"a": "3e563", "b": "67217e15", "c": "08", "d": "010824"}
    settings = [f"{key}={word}" for key, word in words.items()]
    planned = _planned(sh, file, *settings, "e=[67217e15, 08, abc]")
    assert planned == [{**words, "e": each} for each in ("67217e15", "08", "abc")]


@answers("hydra-ecosystem/hydra#1577", "hydra-ecosystem/hydra#2705", "nextflow-io/nextflow#808")
def test_a_value_may_have_any_character(sh: Shell) -> None:
    """What stands behind the first `=` is the value, and arrives as one word."""
    words = {
        **{"a": "log/epoch=9-step=8.ckpt", "b": "#", "c": "pink & green", "d": "--testing"},
        **{"e": "", "f": "{x}", "g": "--a=%r@b #c & $HOME '\"{{x}", "h": "a@b, c"},
    }
    keys = "\n".join(f'{key} = ["x"]' for key in words)
    argv = ", ".join(f'"{{{key}}}"' for key in words)
    file = _write(sh, f'command = ["python", "c.py", {argv}]\n[matrix]\n{keys}\n', ECHO)
    sh("run", file, *(f"--set={key}={word}" for key, word in words.items()))
    assert _rows(sh)[0]["argv"] == list(words.values())


def _rows(sh: Shell) -> list[Any]:
    found: Any = sh.json("show", "@last")
    return [row["result"] for row in found["aggregate"]["rows"]]


@answers("snakemake/snakemake#2166", "wandb/wandb#3255")
def test_a_variable_that_no_shell_fills_in_is_told(sh: Shell) -> None:
    """An error with the right notation for an unknown one, a warning for what would stay as is."""
    file = _write(sh, 'command = ["echo", "${HOME}/data"]\n[env]\nD = "${HOME}"\n')
    err = sh("run", file, code=2)[1]
    assert err.count("unknown placeholder {HOME} (a shell's variable is written ${{HOME}}") == 2
    _write(sh, 'command = ["echo", "$WORLD_SIZE"]\n')
    err = sh("run", file)[1]
    assert "word 2: $WORLD_SIZE stays as it is: there is no shell to fill it in" in err
    assert '["sh", "-c", "echo $WORLD_SIZE"]' in err
    _write(sh, 'command = ["echo", "${lr}"]\n[matrix]\nlr = [1]\n')
    assert "word 2: ${lr} becomes $ and the value (the value alone is {lr})" in sh("run", file)[1]


@answers("snakemake/snakemake#1007", "wandb/wandb#1700", "wandb/wandb#4428", "spotify/luigi#869")
def test_blanks_flags_and_nested_values_reach_the_program(sh: Shell) -> None:
    """A flag is there or not, a table is a value, a variable is one whatever its characters."""
    text = """
        command = ["python", "c.py", "{amp?--amp}", "{opt}"]
        [matrix]
        amp = [true, false]
        opt = [{name = "adam", lr = 1e-4}]
        [env]
        COVARIATE = 'organism part; "x" $y'
        """
    file = _write(sh, text, ECHO)
    sh("run", file)
    nested = '{"name": "adam", "lr": 0.0001}'
    assert [row["argv"] for row in _rows(sh)] == [["--amp", nested], [nested]]
    assert _rows(sh)[0]["env"] == 'organism part; "x" $y'
    assert _rows(sh)[0]["types"] == {"amp": "bool", "opt": "dict"}
    assert f"opt={nested}" in sh("run", "-n", "--fresh", file)[0]
    assert [each["amp"] for each in _planned(sh, file, "amp=False")] == [False]
    err = sh("run", file, "--set", "amp=no", code=2)[1]
    assert 'would make texts of booleans: ["no"] instead of [true, false]' in err


DIVERGED = """
loss = [0.5, float("nan"), float("inf"), 1.5][int(os.environ["HOLDFAST_INDEX"])]
with open(os.environ["HOLDFAST_RESULT"], "w") as file:
    json.dump({"loss": loss}, file)
"""


@answers(
    *("optuna/optuna#3205", "mlflow/mlflow#25640", "wandb/wandb#2202"),
    *("aiidateam/aiida-core#2412", "aimhubio/aim#2629"),
)
def test_a_diverged_run_is_a_result_and_no_good_one(sh: Shell) -> None:
    """Completed, shown as NaN, kept as written, in no mean and no minimum; JSON stays JSON."""
    out, err = sh("run", _write(sh, 'command = ["python", "c.py"]\nprocesses = 4\n', DIVERGED))
    assert [line.split()[1] for line in out.splitlines()[1:5]] == ["0.5", "NaN", "Infinity", "1.5"]
    assert "not finite: loss of processes 1-2 (Infinity, NaN)" in err
    document = json.loads(sh("show", "@last", "--json")[0], parse_constant=pytest.fail)
    assert document["experiment"]["status"] == "aggregated"
    assert [each["attempt"] for each in document["processes"]] == [1, 1, 1, 1]
    statistics = document["aggregate"]["statistics"]["loss"]
    assert (statistics["min"], statistics["mean"], statistics["nonfinite"]) == (0.5, 1.0, 2)
    raw = (sh.states / sh.only_id() / "results" / "2.1.json").read_text()
    assert json.loads(raw)["loss"] == float("inf")
    rows = list(csv.DictReader(io.StringIO(sh("export", "@last")[0])))
    assert [row["result.loss"] for row in rows] == ["0.5", "NaN", "Infinity", "1.5"]


#: Locales as old clusters have them, with Python's own remedies switched off.
BARE = {"LC_ALL": "C", "LANG": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@answers("IDSIA/sacred#176", "pydoit/doit#136", "snakemake/snakemake#876")
@pytest.mark.parametrize("locale", [{}, BARE], ids=["utf8", "C"])
def test_whatever_a_program_prints_is_kept_and_shown(sh: Shell, locale: dict[str, str]) -> None:
    """Bytes of any encoding are in the logs as they were; a Cyrillic parameter arrives as UTF-8."""
    sh.env.update(locale)
    script = (
        "sys.stdout.buffer.write(b'\\x96 \\x92\\xa5\\xaa 50%|\\xe2\\x96\\x88\\r100%\\n')\n"
        "sys.exit(os.fsencode(sys.argv[1]) != 'Диаграмма'.encode())\n"
    )
    file = 'name = "ё"\ncommand = ["python", "c.py", "{w}"]\n[matrix]\nw = ["Диаграмма"]\n'
    sh("run", _write(sh, file, script))
    folder = sh.states / sh.only_id() / "attempts"
    written = b"\x96 \x92\xa5\xaa 50%|\xe2\x96\x88\r100%\n"
    assert (folder / "0.1.out").read_bytes() == written
    assert sh.shell("holdfast logs -o --raw @last | od -An -c").stdout.count("226") >= 2
    terminal = Terminal(sh, "logs", "@last")
    assert terminal.exit_code() == 0
    assert "100%" in terminal.seen
    assert "Traceback" not in terminal.seen


@answers("snakemake/snakemake#854", "mlflow/mlflow#1976", "ray-project/ray#1463")
def test_large_parameters_are_cut_only_where_people_look(sh: Shell) -> None:
    """In the file whole; in no file name; what is too long for a command is named."""
    many = "\n".join(f'key_{i} = ["{"v" * 200}"]' for i in range(40))
    script = (
        "found = json.load(open(os.environ['HOLDFAST_PARAMS_FILE']))\n"
        "json.dump({'n': len(found['f']), 'keys': len(found)},"
        " open(os.environ['HOLDFAST_RESULT'], 'w'))\n"
    )
    matrix = f'[matrix]\nf = ["{"y" * 150_000}"]\n{many}\n'
    out, err = sh("run", _write(sh, f'command = ["python", "c.py"]\n{matrix}', script))
    assert _rows(sh) == [{"n": 150_000, "keys": 41}]
    assert len(out) + len(err) < 20_000
    names = [path.name for path in (sh.states / sh.only_id()).rglob("*")]
    assert max(map(len, names)) < 60
    err = sh("run", _write(sh, f'command = ["true", "{{f}}"]\n{matrix}'), code=3)[1]
    assert "argument 1 of the command is too long: 150,001 bytes, the limit is 131,072" in err
    assert len(err) < 4000


METRICS = """
value = {f"metric_number_{k}": {"f1": k / 7, "note": "y" * 300} for k in range(24)}
with open(os.environ["HOLDFAST_RESULT"], "w") as file:
    json.dump(value, file)
"""


@answers("treeverse/dvc#5376", "wandb/wandb#4501")
def test_a_table_never_wraps_and_the_export_has_everything(sh: Shell) -> None:
    """48 columns on a terminal of 80; the line below says where what is left out is."""
    terminal = Terminal(
        sh, "run", _write(sh, 'command = ["python", "c.py"]\nprocesses = 2\n', METRICS)
    )
    assert terminal.exit_code() == 0
    seen = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.seen)
    lines = seen.replace("\r", "\n").split("\n")
    [header] = [line for line in lines if line.startswith("#")]
    assert header.split()[1] == "metric_number_0.f1"
    assert len(header) <= 80
    [rest] = {line for line in lines if "more columns" in line}
    rows = list(csv.DictReader(io.StringIO(sh(*rest.split("holdfast ")[-1].split())[0])))
    assert [len(row["result.metric_number_23.note"]) for row in rows] == [300, 300]
    assert all(row[f"result.metric_number_{k}.f1"] == str(k / 7) for row in rows for k in range(24))


@answers("hydra-ecosystem/hydra#922", "nextflow-io/nextflow#3286", "nextflow-io/nextflow#1408")
def test_work_is_the_same_from_any_folder_and_in_any_order(sh: Shell) -> None:
    """The program runs beside its file, and is not run again from elsewhere, nor for moved keys."""
    (sh.path / "proj" / "data").mkdir(parents=True)
    (sh.path / "proj" / "data" / "in").write_text("x\n")
    (sh.path / "other").mkdir()
    text = 'command = ["sh", "-c", "cat data/in >> runs"]\n[matrix]\n'
    _write(sh, f"{text}a = [1]\nb = [2]\n", name="proj/c.toml")
    home, sh.path = sh.path, sh.path / "proj"
    sh("run", "c.toml")
    sh.path = home / "other"
    assert "aggregated already" in sh("run", "../proj/c.toml")[1]
    (home / "proj" / "c.toml").write_text(f"{text}b = [2]\na = [1]\n")
    err = sh("run", "../proj/c.toml")[1]
    assert "the experiments are in ../proj/.experiment_state" in err
    assert "aggregated already" in err
    assert (home / "proj" / "runs").read_text() == "x\n"


@answers("glotzerlab/signac#779")
def test_a_folder_that_does_not_exist_is_told(sh: Shell) -> None:
    """No other one is taken in its place, and none is made by looking."""
    sh("run", _write(sh, 'command = ["true"]\n'))
    err = sh("-C", "some/where", "ls", code=2)[1]
    assert f"there is no directory some/where in {sh.path}" in err
    assert "there is no directory" in sh("-C", "~/states", "resume", "@last", code=2)[1]
    assert not (sh.path / "some").exists()
    sh("run", "no/such.toml", code=2)


@answers("Netflix/metaflow#166")
def test_what_python_prints_is_in_the_log_at_once(sh: Shell) -> None:
    """Nothing is flushed by the program, which still runs."""
    script = "import time\nprint('epoch 1')\nopen('printed', 'w').close()\n"
    script += "while os.path.exists('hold'): time.sleep(0.01)\n"
    sh.env.pop("PYTHONUNBUFFERED", None)
    sh.hold()
    process = sh.start("run", _write(sh, 'command = ["python", "c.py"]\n', script))
    until((sh.path / "printed").exists)
    assert "epoch 1\n" in sh("logs", "-o", "@last")[0]
    sh.let_go()
    assert process.wait(PATIENCE_S) == 0


HALF = """
i = int(os.environ["HOLDFAST_INDEX"])
if i: sys.exit(f"ValueError: no {i}")
with open(os.environ["HOLDFAST_RESULT"], "w") as file:
    json.dump({"score": 0.5}, file)
"""


@answers("hydra-ecosystem/hydra#2284", "treeverse/dvc#6474", "snakemake/snakemake#3264")
def test_failures_are_told_each_and_results_go_only_if_meant(sh: Shell) -> None:
    """Every failure at once and with its words; what is there stays through a dry run, and no."""
    file = _write(sh, 'command = ["python", "c.py"]\nprocesses = 3\n', HALF)
    err = sh("run", file, code=3)[1]
    at_once, at_the_end = err.split("\nfailed:\n")
    for index in (1, 2):
        assert f"failed process {index}: exit code 1: ValueError: no {index}\n" in at_once + "\n"
        assert f"ValueError: no {index}" in sh("logs", "-e", f"@last/{index}")[0]
    assert "2 processes: 1-2\n    | ValueError: no 1\n" in at_the_end
    assert "would be deleted: 3 processes, 1 result" in sh("rm", "-n", "c")[0]
    terminal = Terminal(sh, "rm", "c")
    terminal.read("1 result never shown nor aggregated")
    os.write(terminal.fd, b"n\n")
    assert terminal.exit_code() == 1
    found = sh("aggregate", "--partial", "@last")[0].splitlines()
    assert found[1].split()[:2] == ["0", "0.5"]
    sh("rm", "-y", "c")
    assert not list(Path(sh.states).glob("*.json"))


def test_every_complaint_has_its_answer() -> None:
    """The table at the top is what the tests try."""
    assert _answered == set(COMPLAINTS)
    assert len(COMPLAINTS) >= 30
