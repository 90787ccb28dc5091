"""Ctrl-C and SIGTERM while the program is still loading itself."""

import random
import signal
import subprocess
import sys

import pytest

from waiting import PATIENCE_S

#: What the installed script does, with the signal on its way; what comes before is Python itself.
_PROGRAM = """
import os, sys, threading, time
number, wait_s = int(sys.argv.pop(1)), float(sys.argv.pop(1))

def strike():
    time.sleep(wait_s)
    os.kill(os.getpid(), number)

if wait_s:
    from holdfast.console import main
    threading.Thread(target=strike, daemon=True).start()
else:
    # At once, as early as can be: in the first module that is loaded after `holdfast.console`.
    class Striking:
        def find_spec(self, name, *_):
            if name == "holdfast.cli":
                os.kill(os.getpid(), number)

    sys.meta_path.insert(0, Striking())
    from holdfast.console import main
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("words", [["ls"], ["--help"], ["run", "e.toml"]], ids=lambda each: each[0])
def test_a_signal_while_modules_are_loaded_ends_it_without_a_traceback(tmp_path, words, number):
    """It dies of the signal, or was done before; nothing of Python's machinery is shown."""
    (tmp_path / "e.toml").write_text('command = ["sleep", "60"]\n[limits]\ngrace = "1s"\n')
    chance = random.Random(4)
    for wait_s in [0, *(chance.random() * 0.25 for _ in range(12))]:
        program = [sys.executable, "-c", _PROGRAM, str(int(number)), str(wait_s), *words]
        run = subprocess.run(
            program, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
        assert "Traceback" not in run.stderr
        assert "Exception ignored" not in run.stderr
        assert run.returncode in (-number, 128 + number, *([] if words[0] == "run" else [0]))
