"""What an experiment file means at the command line, however it is written."""

from shell import Shell

MATRIX = """
command = ["sh", "-c", 'echo "$0 $1" >> began; test ! -e bad || test $0 != 2', "{b}", "{a}"]
[matrix]
b = [1, 2]
a = ["u", "v"]
[env]
X = "{b}"
"""


def test_a_key_of_the_matrix_that_moves_runs_nothing_again(sh: Shell) -> None:
    """Half of it failed; the file's keys change places; exactly the failed half runs again."""
    (sh.path / "bad").touch()
    (sh.path / "e.toml").write_text(MATRIX)
    sh("run", "e.toml", "-j", "1", code=3)
    (sh.path / "bad").unlink()
    (sh.path / "began").unlink()
    moved = MATRIX.replace('b = [1, 2]\na = ["u", "v"]', 'a = ["u", "v"]\nb = [1, 2]')
    (sh.path / "e.toml").write_text(moved)
    plan = sh.json("run", "-n", "e.toml")
    assert [each["argv"][3:] for each in plan["processes"]] == [  # type: ignore[attr-defined, index]
        *(["1", "u"], ["1", "v"], ["2", "u"], ["2", "v"])
    ]
    sh("run", "e.toml", "-j", "1")
    assert (sh.path / "began").read_text().splitlines() == ["2 u", "2 v"]
    sh.only_id()


def test_what_only_a_shell_reads_is_told_by_run(sh: Shell) -> None:
    """Once, before anything runs; a resume does not repeat it."""
    (sh.path / "e.toml").write_text('command = ["echo", "$HOLDFAST_INDEX", ">", "out"]')
    err = sh("run", "e.toml")[1]
    assert err.startswith("warning: e.toml: command: word 2: $HOLDFAST_INDEX stays as it is")
    assert 'if one is meant: ["sh", "-c", "echo $HOLDFAST_INDEX > out"]' in err
    assert err.count("warning") == 1
    assert "warning" not in sh("resume", "@last")[1]


def test_env_booleans_and_tables_reach_the_process(sh: Shell) -> None:
    """Filled-in variables, a flag that is dropped, a table in HOLDFAST_PARAMS."""
    (sh.path / "e.toml").write_text(
        """
        command = ["sh", "-c", 'echo "$X $* $HOLDFAST_PARAMS"', "sh", "{amp?--amp}"]
        [matrix]
        amp = [true, false]
        opt = [{lr = 0.1, betas = [0.9, 0.99]}]
        [env]
        X = "run-{index}"
        """
    )
    sh("run", "e.toml")
    table = '"opt": {"lr": 0.1, "betas": [0.9, 0.99]}}'
    assert f'run-0 --amp {{"amp": true, {table}' in sh("logs", "@last/0")[0]
    assert f'run-1  {{"amp": false, {table}' in sh("logs", "@last/1")[0]


def test_set_tells_a_typing_error_from_a_text(sh: Shell) -> None:
    """A whole list of another type is refused and shown, exit code 2."""
    err = sh("run", "e.toml", "--set", "level=1O", code=2)[1]
    assert 'level: would make texts of numbers: ["1O"] instead of [1, 2, 3]' in err
    sh("run", "e.toml", "--set", "level=.5")
