"""What ends by Ctrl-C dies of SIGINT: whoever called it can see that the user wants it to end."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from holdfast.store.manager import StateManager
from processes import hear
from shell import Shell, Terminal
from waiting import PATIENCE_S

LOOP = """
for level in 1 2; do
    {python} -m holdfast run e.toml --set level=$level; echo "$?" >> codes
done
echo on >> codes
"""


def in_bash(sh: Shell, script: str) -> Terminal:
    """*script* in a bash that a user runs in a terminal."""
    (sh.path / "script.sh").write_text(script.format(python=sys.executable))
    return Terminal(sh, program=("bash", "script.sh"))


def test_ctrl_c_ends_the_loop_that_holdfast_is_run_in(sh: Shell) -> None:
    """Bash goes on with the next file if a command exits with 130 instead."""
    sh.hold()
    terminal = in_bash(sh, LOOP)
    sh.began(1)
    os.write(terminal.fd, b"\x03")
    assert terminal.exit_code() == -signal.SIGINT
    assert "interrupted" in terminal.seen
    assert not (sh.path / "codes").exists()
    assert len(StateManager(sh.states).list_experiments()) == 1


def test_a_script_that_wants_to_go_on_sees_130(sh: Shell) -> None:
    """`trap` decides; the code is what shells have always shown."""
    sh.hold()
    terminal = in_bash(sh, "trap : INT\n{python} -m holdfast run e.toml\necho $? >> codes\n")
    sh.began(2)
    os.write(terminal.fd, b"\x03")
    assert terminal.exit_code() == 0
    assert (sh.path / "codes").read_text() == "130\n"


def test_followed_logs_die_of_ctrl_c_and_say_nothing_of_python(sh: Shell) -> None:
    """It is how one leaves them."""
    sh.hold()
    run = sh.start("run", "e.toml")
    sh.began(2)
    process = sh.start("logs", "-f", "@last")
    hear(process.stdout, "out")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err.strip()) == (-signal.SIGINT, "interrupted")
    assert run.poll() is None


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare(1)")
def test_where_the_signal_ends_nobody_the_code_is_130(sh: Shell) -> None:
    """The first process of a container is spared by the kernel."""
    words = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make a pid namespace")
    sh.hold()
    (sh.path / "first.py").write_text(
        "import os, signal, sys, threading, time\n"
        "from pathlib import Path\n"
        "def interrupt():\n"
        "    while not list(Path().glob('began.*')):\n"
        "        time.sleep(0.01)\n"
        "    os.kill(1, signal.SIGINT)\n"
        "assert os.getpid() == 1\n"
        "threading.Thread(target=interrupt, daemon=True).start()\n"
        "from holdfast.cli import main\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run(
        [*words, sys.executable, "first.py", "run", "e.toml"],
        cwd=sh.path,
        env=sh.env,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 130, done.stderr
    assert "interrupted" in done.stderr


def test_everything_is_put_away_before_the_end(sh: Shell) -> None:
    """What is registered for the end of a program (coverage, profilers) runs as ever."""
    (sh.path / "program.py").write_text(
        "import atexit, os, signal, sys\n"
        "from holdfast.cli import main\n"
        "atexit.register(lambda: print('put away'))\n"
        "import holdfast.reading.text as text\n"
        "os.kill(os.getpid(), signal.SIGINT) if sys.argv[1:] == [] else None\n"
        "sys.exit(main())\n"
    )
    sh.hold()
    process = subprocess.Popen(
        [sys.executable, "program.py", "run", "e.toml"],
        cwd=sh.path,
        env=sh.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    sh.began(2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (-signal.SIGINT, "put away\n")
    assert "Traceback" not in err
