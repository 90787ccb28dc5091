"""Results as users write them: not finite, long, nested, large, missing; by the command line."""

import json

import pytest

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
