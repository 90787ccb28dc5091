"""`import holdfast` costs next to nothing, and yet everything public is there."""

import subprocess
import sys
from pathlib import Path

import pytest

import holdfast

HEAVY = {"statemachine", "attrs", "attr", "cattrs", "psutil", "click", "rich", "tomllib", "sqlite3"}


def loaded_by(code: str) -> set[str]:
    """The top-level modules that *code* adds to those of a fresh interpreter."""
    return modules_after(code) - modules_after("pass")


def modules_after(code: str, *, whole: bool = False) -> set[str]:
    name = "name" if whole else "name.partition('.')[0]"
    script = f"{code}\nimport sys\nprint(*sorted({{{name} for name in sys.modules}}))"
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return set(run.stdout.splitlines()[-1].split())


def test_importing_holdfast_loads_nothing_heavy():
    """Neither a dependency nor any other module comes with `import holdfast`."""
    assert loaded_by("import holdfast; holdfast.__version__; dir(holdfast)") == {"holdfast"}


def test_statuses_load_no_dependency():
    """A script that only compares statuses stays as quick as one without holdfast."""
    assert not HEAVY & loaded_by("from holdfast import ExperimentStatus, ProcessStatus, Reason")


def test_making_a_record_by_hand_loads_no_machine():
    """Readers of states never pay for python-statemachine."""
    code = (
        "from holdfast import ExperimentState; ExperimentState(experiment_id='x').can_aggregate()"
    )
    assert not (HEAVY - {"attrs", "attr"}) & loaded_by(code)


def test_an_error_to_be_caught_loads_no_dependency():
    """`except holdfast.HoldfastError` costs a script nothing."""
    assert not HEAVY & loaded_by("from holdfast import HoldfastError, ConfigProblem, Refusal")


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        ("--version", set()),
        ("--help", {"click"}),
        ("guide --list", {"click"}),
        # What it reads are records, whether or not their codec is.
        ("ls", {"click", "attrs", "attr", "cattrs"}),
        ("show one", {"click", "attrs", "attr", "cattrs"}),
    ],
)
def test_a_command_that_looks_loads_only_what_it_shows(
    words: str, needed: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """No machine, no database, no rich for a pipe, and nothing that only a mistake would need."""
    monkeypatch.chdir(tmp_path)
    holdfast.StateManager(Path(".experiment_state")).create("one", num_processes=2)
    unneeded = HEAVY | {"difflib", "csv", "subprocess", "multiprocessing", "asyncio", "email"}
    code = f"from holdfast.cli import main; main({words.split()!r})"
    assert loaded_by(code) & unneeded <= needed


def test_a_listing_of_what_does_not_run_looks_for_no_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What twenty idle experiments would never show is not even imported."""
    monkeypatch.chdir(tmp_path)
    manager = holdfast.StateManager(Path(".experiment_state"))
    for number in range(20):
        manager.create(f"exp_{number}", num_processes=2)
    code = "from holdfast.cli import main; main(['ls'])"
    assert not [name for name in modules_after(code, whole=True) if name.endswith(".progress")]


def test_every_public_name_is_there():
    """Each name of `__all__` can be had, and is listed by `dir`."""
    for name in holdfast.__all__:
        assert getattr(holdfast, name) is not None
    assert set(holdfast.__all__) <= set(dir(holdfast))


def test_every_error_is_public():
    """Whoever catches an error can import it from `holdfast`."""
    from holdfast import errors

    kinds = {name for name in errors.__all__ if name.endswith(("Error", "Warning"))}
    # What the door to the file system raises is turned into a `DiskError`.
    assert kinds - {"NoHardLinksError"} | {"ConfigProblem", "Refusal"} <= set(holdfast.__all__)
    raised = {name for name in kinds if issubclass(getattr(errors, name), holdfast.HoldfastError)}
    assert {getattr(errors, name).__module__ for name in raised} == {"holdfast.errors"}
    assert all(
        issubclass(getattr(holdfast, name), holdfast.HoldfastError)
        for name in holdfast.__all__
        if name.endswith("Error")
    )


def test_an_unknown_name_is_an_attribute_error():
    """A misspelt name fails as in any other module, also for `hasattr`."""
    assert not hasattr(holdfast, "StateManger")
    assert not hasattr(holdfast, "__wrapped__")


def test_the_version_is_the_packages_version():
    """`holdfast.__version__` and the installed distribution agree."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        assert version("holdfast") == holdfast.__version__
    except PackageNotFoundError:  # Run from a checkout that is on the path only.
        assert holdfast.__version__[0].isdigit()
