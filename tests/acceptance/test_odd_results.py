"""Results as users write them: not finite, long, nested, large, missing; by the command line."""

import csv
import io
import json
import os
import re

import pytest

from shell import Terminal

#: Writes `result`, a Python expression of the index `i`, as Python's own `json` does.
WRITE = """
import json, os, random
i = int(os.environ["HOLDFAST_INDEX"])
nan, inf = float("nan"), float("inf")
result = {result}
if result is not None:
    with open(os.environ["HOLDFAST_RESULT"], "w") as file:
        json.dump(result, file)
"""


@pytest.fixture
def writing(sh):
    """An experiment of some processes that write that result."""

    def make(result, processes=3, more=""):
        (sh.path / "w.py").write_text(WRITE.format(result=result))
        (sh.path / "w.toml").write_text(
            f'command = ["python", "w.py"]\nprocesses = {processes}\n{more}'
        )
        return "w.toml"

    return make


def test_nan_is_kept_told_once_and_counted_apart(sh, writing):
    """A diverged run is a result: its bytes stay, the aggregate is strict, means leave it out."""
    file = writing('{"loss": nan if i else 0.5, "deep": {"worst": [1, -inf]}}')
    out, err = sh("run", file)
    assert err.count("not finite: loss of processes 1-2 (NaN)") == 1
    assert err.count("not finite: deep.worst[1] of processes 0-2 (-Infinity)") == 1
    assert out.splitlines()[2].split()[:2] == ["1", "NaN"]
    assert ["loss", "1", "0.5", "0.5", "0.5", "2"] in map(str.split, out.splitlines())
    _, again = sh("run", file)
    assert "not finite" not in again
    folder = sh.states / sh.only_id()
    assert "NaN" in (folder / "results" / "1.1.json").read_text()
    found = json.loads((folder / "aggregate.json").read_text(), parse_constant=pytest.fail)
    assert found["rows"][1]["result"] == {"loss": None, "deep": {"worst": [1, None]}}
    assert found["rows"][1]["nonfinite"] == {"loss": "NaN", "deep.worst[1]": "-Infinity"}
    assert found["statistics"]["loss"] == {
        "count": 1, "mean": 0.5, "sd": None, "min": 0.5, "max": 0.5, "nonfinite": 2
    }  # fmt: skip
    assert sh.json("ls")["experiments"][0]["status"] == "aggregated"


def test_a_command_that_aggregates_gets_a_strict_table_and_the_results_as_they_are(sh, writing):
    """`HOLDFAST_TABLE` is for any JSON parser, `HOLDFAST_RESULTS` is what was written."""
    (sh.path / "sum.py").write_text(
        "import json, os, pathlib\n"
        "table = json.load(open(os.environ['HOLDFAST_TABLE']), parse_constant=exit)\n"
        "raw = (pathlib.Path(os.environ['HOLDFAST_RESULTS']) / '0.json').read_text()\n"
        "value = {'raw': raw, 'table': table['rows'][0]['result'], 'bad': float('inf')}\n"
        "json.dump(value, open(os.environ['HOLDFAST_RESULT'], 'w'))\n"
    )
    file = writing('{"loss": nan}', more='[aggregate]\ncommand = ["python", "sum.py"]\n')
    found = sh.json("run", file)["aggregate"]
    assert found["value"] == {"raw": '{"loss": NaN}', "table": {"loss": None}, "bad": None}
    assert found["nonfinite"] == {"bad": "Infinity"}


@pytest.mark.parametrize("matrix", ["nan", "inf"])
def test_nan_in_a_matrix_stays_an_error(sh, matrix):
    """What is no number has no place in a hash, nor in a command."""
    (sh.path / "m.toml").write_text(f'command = ["true"]\n[matrix]\nlr = [0.1, {matrix}]\n')
    assert "lr" in sh("run", "m.toml", code=2)[1]


PARAMS = """
import json, os
with open(os.environ["HOLDFAST_PARAMS_FILE"]) as file:
    params = json.load(file)
with open(os.environ["HOLDFAST_RESULT"], "w") as file:
    json.dump({"n": len(params["f"]), "told": "HOLDFAST_PARAMS" in os.environ}, file)
"""


def test_parameters_of_any_size_are_in_a_file(sh):
    """`HOLDFAST_PARAMS` is left out above 64 KiB, and not inherited from an outer attempt."""
    (sh.path / "p.py").write_text(PARAMS)
    (sh.path / "p.toml").write_text(
        f'command = ["python", "p.py"]\n[matrix]\nf = ["a", "{"y" * 140_000}"]\n'
    )
    sh("run", "p.toml", env={"HOLDFAST_PARAMS": "of somebody else"})
    rows = json.loads((sh.states / sh.only_id() / "aggregate.json").read_text())["rows"]
    assert [row["result"] for row in rows] == [
        {"n": 1, "told": True}, {"n": 140_000, "told": False}
    ]  # fmt: skip
    assert "problem" not in sh("doctor")[0]


def test_what_is_too_long_for_the_system_is_named_with_its_limit(sh):
    """A list of files on a command line, or in a variable."""
    long = "y" * 140_000
    (sh.path / "a.toml").write_text(f'command = ["true", "{{f}}"]\n[matrix]\nf = ["{long}"]\n')
    err = sh("run", "a.toml", code=3)[1]
    assert "argument 1 of the command is too long: 140,001 bytes, the limit is 131,072" in err
    assert "HOLDFAST_PARAMS_FILE" in err
    assert len(err) < 4000
    (sh.path / "b.toml").write_text(f'command = ["true"]\n[env]\nLONG = "{long}"\n')
    assert "the variable LONG is too long: 140,006 bytes" in sh("run", "b.toml", code=3)[1]
    lines = "\n".join(f'V{i} = "{"y" * 100_000}"' for i in range(90))
    (sh.path / "c.toml").write_text(f'command = ["true"]\n[env]\n{lines}\n')
    err = sh("run", "c.toml", code=3)[1]
    assert "arguments and environment are too long together" in err


@pytest.fixture
def half(sh):
    """Of three processes the second fails, and the third wrote nothing."""
    (sh.path / "h.py").write_text(
        "import json, os, sys\n"
        "i = int(sys.argv[1])\n"
        "if i == 2: sys.exit('ValueError: no such luck')\n"
        "if i == 1: json.dump({'m': {'f1': 0.5, 'n': [1] * 99}}, "
        "open(os.environ['HOLDFAST_RESULT'], 'w'))\n"
    )
    (sh.path / "h.toml").write_text(
        'name = "half"\ncommand = ["python", "h.py", "{i}"]\n[matrix]\ni = [1, 2, 3]\n'
    )
    sh("run", "h.toml", code=3)
    return sh.only_id()


def test_half_a_result_can_be_had_without_changing_anything(sh, half):
    """The table of what completed, marked, with what is missing and why."""
    before = sh.json("show", half)
    out, err = sh("aggregate", "--partial", half)
    assert out.splitlines()[0].split() == ["#", "i", "m.f1", "m.n", "time"]
    assert out.splitlines()[1].split()[:3] == ["0", "1", "0.5"]
    assert "partial: 2 of 3 processes" in err
    assert "missing: 1 (failed: exit code 1)" in err
    assert "completed without a result: 2" in err
    assert f"aggregate --partial {half}" in sh("aggregate", half, code=1)[1]
    page = sh("show", half)[0]
    assert "\nresult (partial: 2 of 3 processes)\n" in page
    assert "completed without a result: 2" in page
    after = sh.json("show", half)
    assert all(after[key] == before[key] for key in ("processes", "history", "aggregate"))
    assert after["experiment"]["status"] == "failed"
    assert after["aggregate"]["partial"] is True
    assert after["aggregate"]["rows"][0]["result"] == {"m": {"f1": 0.5, "n": [1] * 99}}
    assert after["aggregate"]["statistics"]["m.f1"]["count"] == 1
    [missing] = after["aggregate"]["missing"]
    assert (missing["index"], missing["status"], missing["why"]) == (1, "failed", "exit code 1")
    assert sh.json("aggregate", "--partial", half)["aggregate"] == after["aggregate"]
    assert not (sh.states / half / "aggregate.json").exists()
    assert "problem" not in sh("doctor")[0]


def test_everything_of_each_process_is_exported_whole(sh, half):
    """CSV for spreadsheets, a JSON object in each line for everything else."""
    rows = list(csv.DictReader(io.StringIO(sh("export", half)[0])))
    assert [row["status"] for row in rows] == ["completed", "failed", "completed"]
    assert [row["params.i"] for row in rows] == ["1", "2", "3"]
    assert [row["result.m.f1"] for row in rows] == ["0.5", "", ""]
    assert json.loads(rows[0]["result.m.n"]) == [1] * 99
    assert (rows[1]["exit_code"], rows[1]["error"]) == ("1", "exit code 1")
    assert float(rows[0]["duration_s"]) > 0
    lines = [json.loads(line) for line in sh("export", "--jsonl", half)[0].splitlines()]
    assert lines[0]["result"] == {"m": {"f1": 0.5, "n": [1] * 99}}
    assert [line["attempts"] for line in lines] == [1, 1, 1]
    [one] = sh("export", "--jsonl", "@last/1")[0].splitlines()
    assert json.loads(one) == lines[1]
    assert "choose one of" in sh("export", "--csv", "--jsonl", half, code=2)[1]


def test_names_and_single_processes_work_where_ids_do(sh, half):
    """A name that two experiments have names none."""
    assert sh("show", "half")[0].startswith(half)
    page = sh("show", "@last/0")[0]
    assert page.startswith(f"{half}/0\n")
    assert "m.f1" in page
    assert "no such luck" in sh("show", "half/1")[0]
    assert sh.json("show", "@last/0")["aggregate"]["rows"][0]["result"]["m"]["f1"] == 0.5
    assert "no 7" in sh("show", "half/7", code=2)[1]
    assert "half/1" in sh("rm", "half/1", code=4)[1]
    sh("run", "h.toml", "--fresh", code=3)
    assert "fits 2 experiments" in sh("rm", "half", code=4)[1]
    _, err = sh("stop", "@last/0", "half", code=2)
    assert "is one process, and goes alone" in err
    sh("run", "--fresh", "--set", "name=exp", "h.toml", code=3)
    assert "'exp', a name and the beginning of ids, fits" in sh("show", "exp", code=4)[1]


def test_results_that_nobody_saw_are_not_deleted_without_a_question(sh, half):
    """Asked on a terminal only, not again once they were shown, and never of aggregated ones."""
    assert "would be deleted: 3 processes, 1 result" in sh("rm", "-n", half)[0]
    terminal = Terminal(sh, "rm", half)
    terminal.read("1 result never shown nor aggregated")
    os.write(terminal.fd, b"n\n")
    assert terminal.exit_code() == 1
    assert sh.only_id() == half
    sh("show", half)
    terminal = Terminal(sh, "rm", half)
    assert terminal.exit_code() == 0
    assert not list(sh.states.glob("*.json"))


def test_a_script_or_yes_is_not_asked(sh, half):
    """Nobody is there to answer."""
    terminal = Terminal(sh, "rm", "-y", half)
    assert terminal.exit_code() == 0
    sh("run", "h.toml", code=3)
    sh("rm", "half")
    assert not list(sh.states.glob("*.json"))


def test_a_run_without_any_result_says_so(sh, writing):
    """`HOLDFAST_RESULT` misspelt is found at once."""
    err = sh("run", writing("None"))[1]
    assert "no process wrote a result (to the file that HOLDFAST_RESULT names)" in err


def test_no_table_wraps_a_row_and_what_is_left_out_can_be_had(sh, writing):
    """On 80 columns, with nested results, long lists and long texts."""
    file = writing(
        '{"text": "y" * 100000, "list": [random.random() for _ in range(10000)], '
        '**{f"metric_{n}": {"f1": i + n / 7} for n in range(40)}}'
    )
    terminal = Terminal(sh, "run", file)
    assert terminal.exit_code() == 0
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.seen).replace("\r", "\n").split("\n")
    assert len(terminal.seen) < 20_000
    rows = [line for line in lines if re.match(r"(#|[0-2]) |metric_|result ", line)]
    assert max(map(len, rows)) <= 80
    header = next(line for line in rows if line.startswith("#"))
    assert "metric_0.f1" in header
    assert "list" not in header
    [command] = {line.split(": ")[-1] for line in lines if "more columns" in line}
    whole = sh(*command.split()[command.split().index("export") :])[0]
    csv.field_size_limit(1 << 20)
    row = next(csv.DictReader(io.StringIO(whole)))
    assert len(row["result.text"]) == 100_000
    assert len(json.loads(row["result.list"])) == 10_000
    assert row["result.metric_39.f1"] == str(39 / 7)
    for words in (["show", "@last"], ["ls"], ["run", file], ["show", "@last/1"]):
        out, err = sh(*words)
        assert len(out) + len(err) < 20_000, words
        assert max(map(len, out.splitlines())) <= 1000, words


LARGE = """
import os
with open(os.environ["HOLDFAST_RESULT"], "w") as file:
    file.write('{"acc": 1, "w": [' + ",".join(["[]"] * %d) + ']}')
"""


def test_a_large_result_takes_little_memory_and_is_whole_where_it_is_asked_for(sh):
    """20 MB of empty lists are 500 MB of Python's: run, show and aggregate never build them."""
    number = 6_000_000
    (sh.path / "l.py").write_text(LARGE % number)
    (sh.path / "l.toml").write_text('command = ["python", "l.py"]\n')
    limit = "ulimit -v 450000; "
    for words in ("run l.toml", "run l.toml", "show @last"):
        done = sh.shell(limit + f"holdfast {words}")
        assert done.returncode == 0, done.stderr
        assert f"{number:,} items" in done.stdout or "[[],[]" in done.stdout
        assert len(done.stdout) < 3000
    for words in ("aggregate --json", "export --csv", "export --jsonl"):
        done = sh.shell(limit + f"holdfast {words} @last | wc -c")
        assert int(done.stdout) > 3 * number, words
    [path] = sh.states.glob("*/aggregate.json")
    assert path.stat().st_size > 3 * number


def test_a_large_result_is_exported_whole(sh, writing):
    """In columns as a small one, though its value is never built."""
    file = writing(
        '{"text": "é\\n\\"" + "y" * 400_000 * i, "list": [0.5, "a"] * (1 + 100_000 * i) + [nan], '
        '"deep": {"f1": i, "none": None, "worst": -inf}, '
        '"many": {f"k{n}": n for n in range(1 + 12_000 * i)}}',
        processes=2,
    )
    sh("run", file)
    csv.field_size_limit(1 << 22)
    small, large = csv.DictReader(io.StringIO(sh("export", "@last")[0]))
    for row, i in ((small, 0), (large, 1)):
        assert row["result.text"] == 'é\n"' + "y" * 400_000 * i
        assert json.loads(row["result.list"]) == [0.5, "a"] * (1 + 100_000 * i) + [None]
        assert [row[f"result.deep.{name}"] for name in ("f1", "none", "worst")] == [
            str(i), "", "-Infinity"
        ]  # fmt: skip
        assert row["result.many.k0"] == "0"
    assert large["result.many.k9999"] == "9999"
    assert json.loads(large["result.many.…"]) == {f"k{n}": n for n in range(10_000, 12_001)}


def test_a_large_value_of_the_users_own_aggregation_takes_little_memory(sh):
    """As a large result: shown by its beginning, printed and stored whole, never built."""
    number = 7_000_000
    (sh.path / "v.py").write_text((LARGE % number).replace("]}'", '], "bad": NaN}\''))
    (sh.path / "v.toml").write_text(
        'command = ["true"]\n[aggregate]\ncommand = ["python", "v.py"]\n'
    )
    limit = "ulimit -v 450000; "
    for words in ("run v.toml", "run v.toml", "show @last"):
        done = sh.shell(limit + f"holdfast {words}")
        assert done.returncode == 0, done.stderr
        assert "[[],[]" in done.stdout
        assert len(done.stdout) < 3000
    [path] = sh.states.glob("*/aggregate.json")
    before = path.read_bytes()
    assert len(before) > 3 * number
    assert before.endswith(b'"bad": null},\n "nonfinite": {"bad": "NaN"}\n}\n')
    for words in ("aggregate --json", "show --json"):
        done = sh.shell(limit + f"holdfast {words} @last | wc -c")
        assert int(done.stdout) > 3 * number, words
    path.unlink()
    done = sh.shell(limit + "holdfast aggregate @last")
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == before


def test_want_of_memory_is_a_clear_error(sh, writing):
    """No traceback, and what to do."""
    sh("run", writing('{"w": ["x" * 1000] * 60000}', processes=1))
    done = sh.shell("ulimit -v 200000; holdfast export @last")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search("not enough memory|Cannot allocate memory", done.stderr)
