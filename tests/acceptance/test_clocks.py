"""Observers whose clocks show something else see the same: other zones, other time namespaces."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from holdfast import liveness
from holdfast.identity import ProcessIdentity
from holdfast.store.manager import StateManager
from processes import hear, python
from shell import Shell

ID = "exp_7"

#: Runs a command in a time namespace of its own, so many nanoseconds after the machine's boot.
_SHIFTED = """
import ctypes, os, subprocess, sys
seconds, nanoseconds = divmod(int(sys.argv[1]), 10**9)
if ctypes.CDLL(None, use_errno=True).unshare(0x80):
    sys.exit("no time namespace: " + os.strerror(ctypes.get_errno()))
try:
    with open("/proc/self/timens_offsets", "w") as file:
        file.write(f"boottime {seconds} {nanoseconds}")
except OSError as err:
    sys.exit(f"no offset: {err}")
sys.exit(subprocess.call(sys.argv[2:]))
"""

#: An owner whose lock the file system refuses: only its pid and its start tell that it lives.
_OWNER = """
import errno, sys, warnings
from holdfast import StateManager
from holdfast.store.files import Files
class Lockless(Files):
    def flock(self, fd, operation):
        raise OSError(errno.ENOLCK, "No locks available")
warnings.simplefilter("ignore")
claim = StateManager(sys.argv[1], files=Lockless()).claim(sys.argv[2])
claim.record("start")
print("owned", flush=True)
sys.stdin.read()
"""

offsets = pytest.mark.parametrize(
    "offset_ns",
    [100_000 * 10**9, 3_333_333_333, -2 * 10**9 - 1],
    ids=["a day", "no whole tick", "before the boot"],
)


def shifted(offset_ns: int) -> list[str]:
    """The words before a command that is to run in such a namespace; skips where there is none."""
    words = [sys.executable, "-c", _SHIFTED, str(offset_ns)]
    tried = subprocess.run([*words, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(tried.stderr.strip())
    return words


@pytest.fixture
def owned(sh: Shell) -> Iterator[ProcessIdentity]:
    """An experiment whose owner lives, holding no lock."""
    StateManager(sh.states).create(ID, num_processes=2)
    with python(_OWNER, sh.states, ID) as process:
        assert process.stdout is not None
        hear(process.stdout, "owned")
        found = StateManager(sh.states).load(ID).owner
        assert found is not None
        yield found
        process.kill()


def seen(sh: Shell, *prefix: str, **env: str) -> list[str]:
    """What an observer there is told about everything, but for who it is and how late it is."""
    texts = []
    for words in (["show", ID, "--json"], ["ls", "--json"], ["doctor", "--json"], ["show", ID]):
        out = subprocess.run(
            [*prefix, sys.executable, "-m", "holdfast", *words],
            cwd=sh.path,
            env={**sh.env, **env},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        out = re.sub(r"pid \d+ on (?=[^ ]+(\"|\)$))", "pid N on ", out, flags=re.MULTILINE)
        texts.append(re.sub(r"\d+(\.\d+)? (s|ms|µs)( ago)?|\d+ µs|\d+\.\d+ ×", "T", out))
    return texts


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Marquesas", "America/Los_Angeles"])
def test_a_clock_in_another_zone_makes_no_difference(
    sh: Shell, owned: ProcessIdentity, zone: str
) -> None:
    """Fourteen hours ahead, or half an hour beside everybody else."""
    here = seen(sh, TZ="UTC")
    assert seen(sh, TZ=zone) == here
    assert f'"pid": {owned.pid}' in here[0]


@offsets
def test_an_owner_is_alive_for_an_observer_in_another_time_namespace(
    sh: Shell, owned: ProcessIdentity, offset_ns: int
) -> None:
    """The start time that the kernel shows there is another one; the pid was not reused."""
    inside = shifted(offset_ns)
    out = subprocess.run(
        [*inside, sys.executable, "-m", "holdfast", "show", ID, "--json"],
        cwd=sh.path,
        env=sh.env,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    told = json.loads(out)["experiment"]["liveness"]
    assert (told["kind"], told["method"]) == ("alive", "pid"), told["compared"]
    if offset_ns % 10**9 == 0:
        assert seen(sh, *inside) == seen(sh)


@offsets
def test_a_process_of_another_time_namespace_is_known_from_here(
    tmp_path: Path, offset_ns: int
) -> None:
    """What it writes about itself is on the machine's clock; once it is gone, it is dead."""
    code = (
        "import json, sys, attrs; from holdfast import liveness\n"
        "print(json.dumps(attrs.asdict(liveness.me())), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [*shifted(offset_ns), sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None
        recorded = ProcessIdentity(**json.loads(hear(process.stdout)))
        verdict = liveness.judge(recorded)
        assert (verdict.kind, verdict.method) == ("alive", "pid"), verdict.compared
        later = attrs.evolve(recorded, start_ticks=(recorded.start_ticks or 0) - 2)
        assert liveness.judge(later).kind == "dead"
    assert liveness.judge(recorded).kind == "dead"
