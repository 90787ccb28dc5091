"""CPU and memory of attempts that run here; nothing of any that do not."""

import subprocess
import sys
from collections.abc import Callable, Iterator

import attrs
import pytest

from holdfast import liveness
from holdfast.identity import ProcessIdentity
from holdfast.reading.machine import UNKNOWN, Machine, Used, cells
from waiting import until

_MB = 1_000_000

#: A shim's family: a child that holds memory, and whose own child, once asked, burns CPU and ends.
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=0, stdout=1)
child.wait()
"""
CHILD = """
import subprocess, sys
held = bytearray(60_000_000)
print("ready", flush=True)
sys.stdin.readline()
subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.3: pass"])
print("burnt", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def family() -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()


def shim(process: "subprocess.Popen[str]") -> ProcessIdentity:
    found = liveness.identity_of(process.pid)
    assert found is not None
    return found


def test_all_that_descends_from_a_shim_counts(family: "subprocess.Popen[str]") -> None:
    """Memory of children's children, and the CPU time of those that have ended since."""
    seconds = [100.0]
    machine = Machine(monotonic=lambda: seconds[0])
    who = shim(family)
    first = machine.look({3: who, 4: None})
    assert first.keys() == {3}
    assert first[3].cores is None
    assert first[3].memory > 60 * _MB
    assert family.stdin is not None
    assert family.stdout is not None
    family.stdin.write("\n")
    family.stdin.flush()
    assert family.stdout.readline() == "burnt\n"
    seconds[0] += 0.5
    second = machine.look({3: who})
    cores = second[3].cores
    assert cores is not None
    assert cores >= 0.3 / 0.5 * 0.9


@pytest.mark.parametrize(
    "elsewhere",
    [
        lambda who: attrs.evolve(who, boot_id="another boot"),
        lambda who: attrs.evolve(who, pid_namespace="pid:[1]"),
        lambda who: attrs.evolve(who, boot_id=None),
        lambda who: attrs.evolve(who, start_ticks=(who.start_ticks or 0) + 1_000),
        lambda who: attrs.evolve(who, start_ticks=None),
        lambda who: attrs.evolve(who, pid=None),
    ],
)
def test_of_other_machines_nothing_is_known(
    family: "subprocess.Popen[str]", elsewhere: Callable[[ProcessIdentity], ProcessIdentity]
) -> None:
    """Nor after a reboot, nor where the pid was given to another process, nor where none tells."""
    assert Machine().look({0: elsewhere(shim(family))}) == {}


def test_what_has_ended_uses_nothing() -> None:
    """Its shim is gone, or waits for its parent."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        who = liveness.identity_of(process.pid)
        machine = Machine()
        assert machine.look({0: who})[0].memory == 0
        process.kill()
        until(lambda: machine.look({0: who}) == {})
    assert machine.look({0: who}) == {}


def test_two_cells_say_what_is_used() -> None:
    """In numbers that are read at a glance; a dash for what nobody knows."""
    assert cells(None) == (UNKNOWN, UNKNOWN)
    assert cells(Used(cores=None, memory=1_200_000)) == (UNKNOWN, "1.2 MB")
    assert cells(Used(cores=4.124, memory=1_200_000_000)) == ("412%", "1.2 GB")
