"""Notebooks, in a real kernel: live runs, what shows itself, and the guide's own notebook."""

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from traitlets.config import Config

from holdfast import ExperimentStatus, StateManager
from holdfast.guide import notebook, page
from pages import blocks

#: What a kernel sends that shows something.
_SHOWN = ("display_data", "update_display_data", "execute_result", "stream", "error")


pytestmark = pytest.mark.timeout(900)


@contextlib.contextmanager
def sockets() -> Iterator[Config]:
    """How a kernel is talked to: by files. Ports are free when they are chosen, and a second later,
    when the kernel wants them, they may be somebody else's.
    """
    # Not below `tmp_path`: the name of a socket may have a hundred characters.
    with tempfile.TemporaryDirectory(prefix="hf-", ignore_cleanup_errors=True) as place:
        file = str(Path(place) / "kernel.json")
        yield Config({"KernelManager": {"transport": "ipc", "connection_file": file}})


@contextlib.contextmanager
def kernel(folder: Path) -> Iterator["Kernel"]:
    with sockets() as config:
        manager = KernelManager(kernel_name="python3", config=config)
        manager.start_kernel(cwd=str(folder))
        client = manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=240)
            yield Kernel(manager, client)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


class Kernel:
    """One kernel and what its cells show."""

    def __init__(self, manager: Any, client: BlockingKernelClient) -> None:
        self.manager = manager
        self._client = client

    def run(
        self, code: str, on_shown: Callable[[dict[str, Any]], None] = lambda _: None
    ) -> list[dict[str, Any]]:
        """What the cell *code* shows, message by message, as it does."""
        own = self._client.execute(code)
        shown = []
        while True:
            message = self._client.get_iopub_msg(timeout=240)
            if message["parent_header"].get("msg_id") != own:
                continue
            content = message["content"]
            if message["msg_type"] == "status" and content["execution_state"] == "idle":
                return shown
            if message["msg_type"] in _SHOWN:
                shown.append(
                    {"kind": message["msg_type"], "at": message["header"]["date"], **content}
                )
                assert message["msg_type"] != "error", content
                on_shown(content)


SLEEPS = """
import sys
from holdfast import LocalEngine, Orchestrator, StateManager
manager = StateManager()
with LocalEngine() as engine:
    outcome = Orchestrator(manager, engine).run(
        {
            "name": "it's <b>",
            "command": [sys.executable, "-c", %r],
            "processes": 6,
            "limits": {"jobs": 2},
        }
    )
"""
#: Lasts for some pictures, until one that has it running was `seen`.
QUICK = """
import os, sys, time
time.sleep(1.0)
while not os.path.exists("seen"):
    time.sleep(0.02)
sys.exit("no <luck>" if os.environ["HOLDFAST_INDEX"] == "3" else 0)
"""
ENDLESS = "import threading; threading.Event().wait()"


def test_a_run_that_blocks_a_cell_shows_how_far_it_is(tmp_path: Path):
    """One output, drawn anew up to twice a second, with what failed; nothing else is printed."""

    def see(content: dict[str, Any]) -> None:
        if re.search(r": .*\d running", content["data"]["text/plain"]):
            (tmp_path / "seen").touch()

    with kernel(tmp_path) as notebook:
        shown = notebook.run(SLEEPS % QUICK, see)
        first, *updates = shown
        assert first["kind"] == "display_data"
        assert {each["kind"] for each in updates} == {"update_display_data"}
        assert len({each["transient"]["display_id"] for each in shown}) == 1
        last = updates[-1]["data"]
        assert last["text/plain"].startswith("✗ failed it's <b>: 5 completed, 1 failed, for ")
        assert "it&#x27;s &lt;b&gt;" in last["text/html"]
        assert "exit code 1: no &lt;luck&gt;" in last["text/html"]
        # Two in a second, and the last one when the run is over, whenever that is.
        lasted_s = (updates[-1]["at"] - first["at"]).total_seconds()
        assert len(updates) <= 3 + 2 * lasted_s
        [outcome] = notebook.run("outcome")
        assert outcome["data"]["text/plain"].endswith("1 of 6 processes failed: 3")
        assert "exit code 1: no &lt;luck&gt;" in outcome["data"]["text/html"]
        assert "image/svg+xml" in outcome["data"]
        assert notebook.run("print(outcome.ok)")[0]["text"] == "False\n"
        [history] = notebook.run("manager.history(outcome.state.experiment_id)")
        assert "process 3: fail, running → failed (exit)" in history["data"]["text/plain"]
        assert "<table" in history["data"]["text/html"]


def test_interrupting_the_kernel_stops_the_run(tmp_path: Path):
    """As Ctrl-C does in a terminal: the cell returns an outcome, and nothing runs on."""
    with kernel(tmp_path) as notebook:
        asked = []

        def interrupt(content: dict[str, Any]) -> None:
            if not asked and "2 running" in content["data"]["text/plain"]:
                asked.append(True)
                notebook.manager.interrupt_kernel()

        shown = notebook.run(SLEEPS % ENDLESS, interrupt)
        assert asked
        assert shown[-1]["data"]["text/plain"].startswith("‖ interrupted it's <b>: 6 pending")
        assert notebook.run("print(outcome.signal.name)")[0]["text"] == "SIGINT\n"
    [state] = StateManager(tmp_path / ".experiment_state").states()
    assert state.status is ExperimentStatus.INTERRUPTED
    assert state.processes_running == 0


def test_a_display_that_fails_harms_no_run(tmp_path: Path):
    """A front end that raises is no reason to stop."""
    breaks = """
from IPython.display import display
import IPython.display
def broken(*args, **kwargs):
    raise OSError("closed")
IPython.display.display = broken
"""
    with kernel(tmp_path) as notebook:
        notebook.run(breaks)
        assert notebook.run(SLEEPS % "") == []
        assert notebook.run("print(outcome.ok)")[0]["text"] == "True\n"


def test_a_script_that_has_ipython_shows_nothing(tmp_path: Path):
    """Only kernels do: IPython in a terminal has the whole screen for something else."""
    with kernel(tmp_path) as notebook:
        run = "import subprocess, sys; print(subprocess.run([sys.executable, '-c', code], "
        run += "capture_output=True, text=True))"
        code = f"import IPython\n{SLEEPS % ''}\nprint(outcome.ok)"
        [told] = notebook.run(f"code = {code!r}\n{run}")
        assert "returncode=0, stdout='True\\n', stderr=''" in told["text"]


def test_the_guides_notebook_does_what_it_says(tmp_path: Path):
    """All of its cells run, and print what stands behind them."""
    made = nbformat.reads(notebook("notebook"), as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    with sockets() as config:
        NotebookClient(made, timeout=600, resources=resources, config=config).execute()
    cells = iter([each for each in made.cells if each.cell_type == "code"])
    outputs: list[Any] = []
    compared = 0
    for block in blocks(page("notebook")):
        if block.language == "python":
            outputs = next(cells).outputs
        elif block.language == "text" and block.follows:
            compared += 1
            printed = "".join(
                each.text if each.output_type == "stream" else each.data["text/plain"]
                for each in outputs
            )
            assert _bare(printed) == _bare(block.text)
    assert compared >= 3
    assert next(cells, None) is None
    pictures = [
        output
        for cell in made.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 2


def _bare(printed: str) -> str:
    return re.sub(r"[ ]+$", "", printed.strip(), flags=re.MULTILINE)
