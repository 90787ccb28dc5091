"""`holdfast report` as it is typed: where the page goes, and what it does not overwrite."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import experiments
from holdfast.store.manager import StateManager
from shell import Shell
from waiting import PATIENCE_S


@pytest.fixture
def done(sh: Shell) -> Shell:
    manager = StateManager(sh.states)
    experiments.sweep(manager, 6, experiment_id="first", failures=2)
    experiments.sweep(manager, 6, experiment_id="second/run")
    return sh


def is_page(path: Path) -> bool:
    return path.read_bytes().startswith(b"<!doctype html>")


def test_the_page_is_named_for_its_experiment_and_made_anew(done: Shell):
    """Its path is all that stdout has, for `open $(holdfast report ID)`."""
    assert done("report", "first") == ("first.html\n", "")
    assert done("report", "second") == ("second-run.html\n", "")
    first = done.path / "first.html"
    assert is_page(first)
    assert "2 failed" in first.read_text()
    before = first.stat().st_ino
    done("report", "first")
    assert first.stat().st_ino != before
    assert sorted(path.name for path in done.path.glob("*.html*")) == [
        "first.html",
        "second-run.html",
    ]


def test_several_experiments_are_compared_in_one_page(done: Shell):
    """Each once, in the order in which they are named."""
    assert done("report", "second", "first", "first")[0] == "report.html\n"
    page = (done.path / "report.html").read_text()
    assert page.index("second/run") < page.index("4 of 6 processes completed, 2 failed")
    # They have one name, which tells nobody which is which.
    assert ">first</a>" in page
    assert ">second/run</a>" in page


def test_what_is_no_report_is_not_overwritten(done: Shell):
    """A name that was mistyped must not cost somebody's work."""
    notes = done.path / "notes.html"
    notes.write_text("<html>mine</html>")
    _, err = done("report", "first", "-O", "notes.html", code=2)
    assert "notes.html is there, and is no report; --force overwrites it" in err
    assert notes.read_text() == "<html>mine</html>"
    assert done("report", "first", "--force", "-O", "notes.html")[0] == "notes.html\n"
    assert is_page(notes)
    notes.write_text("")
    done("report", "first", "-O", "notes.html")
    assert "is a directory" in done("report", "first", "-O", ".", code=2)[1]
    assert "first.html" not in os.listdir(done.path)


def test_the_page_goes_to_standard_output_too(done: Shell):
    """For a pipe to whoever publishes it."""
    out, err = done("report", "first", "-O", "-")
    assert out.startswith("<!doctype html>")
    assert out.endswith("</html>\n")
    assert err == ""
    assert not list(done.path.glob("*.html"))


def test_a_place_that_cannot_be_written_is_named(done: Shell):
    """And nothing of the page is left there."""
    _, err = done("report", "first", "-O", "absent/x.html", code=1)
    assert "absent/x.html" in err
    assert not (done.path / "absent").exists()


def test_an_unknown_experiment_is_told_as_everywhere(done: Shell):
    """No page is made of the others."""
    _, err = done("report", "first", "thrid", code=4)
    assert "thrid" in err
    assert not list(done.path.glob("*.html"))


def test_without_jinja_the_command_says_what_to_install(done: Shell):
    """Everything else works without it."""
    program = (
        "import sys; sys.modules['jinja2'] = None; sys.argv[0] = 'holdfast'; "
        "from holdfast.console import main; sys.exit(main())"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, "report", "first"],
        cwd=done.path,
        env=done.env,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert found.returncode == 1
    assert found.stderr.startswith("error: Jinja2 is not installed\n")
    assert "pip install 'holdfast[report]'" in found.stderr
    assert not list(done.path.glob("*.html"))
