"""Slots: what a file may say of them, which are to be had, and who is judged to have one."""

import contextlib
import fcntl
import json
import os
import pwd
import resource
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import liveness
from holdfast.attempts.family import Census
from holdfast.attempts.records import by_kind
from holdfast.config.experiment_file import Experiment
from holdfast.engines.local import holding
from holdfast.errors import ConfigError, DiskError
from holdfast.identity import ProcessIdentity
from holdfast.liveness import Observer
from holdfast.slots import devices, holders, listing, places
from holdfast.slots.allocation import Allocator, Held
from holdfast.slots.places import Place

GPUS = {"slots": {"gpu": ["0", "1"]}, "needs": {"gpu": 1}}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the locks of this test are."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "holdfast" / "slots" / Observer.here().host


def experiment(**config: Any) -> Experiment:
    return Experiment.from_config({"command": ["true"], **config})


def problems(**config: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        experiment(**config)
    return str(caught.value)


# -- the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"needs": {"gpu": 1}}, "needs.gpu: there are no slots.gpu"),
        (
            {"slots": {"gpu": ["0"]}, "needs": {"gpu": 2}},
            "2 can never be had: slots.gpu has only 1",
        ),
        ({"slots": {"gpu": ["0"]}}, "slots.gpu: no process needs any"),
        ({"slots": {"gpu": []}, "needs": {"gpu": 1}}, "slots.gpu: is empty"),
        ({"slots": {"gpu": ["0", 0]}, "needs": {"gpu": 1}}, "entry 2: 0 is there twice"),
        ({"slots": {"gpu": ["a,b"]}, "needs": {"gpu": 1}}, "'a,b' is no name"),
        ({"slots": {"gpu": ["../x"]}, "needs": {"gpu": 1}}, "'../x' is no name"),
        ({"slots": {"gpu": 2}, "needs": {"gpu": 1}}, 'write ["0", "1"]'),
        ({"slots": {"gpu": "0"}, "needs": {"gpu": 1}}, 'write ["0"]'),
        ({"slots": {"seat": "auto"}, "needs": {"seat": 1}}, '"auto" is for gpu only'),
        ({"slots": {"GPU": ["0"]}, "needs": {"GPU": 1}}, "lower-case letters"),
        ({"slots": {"gpu": ["0"]}, "needs": {"gpu": -1}}, "must be 1 or more"),
        ({"slots": {"gpu": ["0"]}, "needs": {"gpu": True}}, "expected an integer"),
        ({**GPUS, "env": {"CUDA_VISIBLE_DEVICES": "3"}}, "env.CUDA_VISIBLE_DEVICES: is set to"),
        ({"command": ["true", "{slot.gpu}"]}, "write [needs] gpu = 1"),
        ({**GPUS, "identity": {"files": ["{slot.gpu}"]}}, "for its command and [env] only"),
    ],
)
def test_what_does_not_fit_together_is_told_before_anything_starts(config, told):
    """Each with the key that it is about, and where there is one with a way out."""
    assert told in problems(**config)


def test_slots_are_no_part_of_the_work(tmp_path):
    """The same processes on other GPUs are the same experiment, and their results are reused."""
    words = {"command": ["train", "--gpu", "{slot.gpu}"], "env": {"G": "{slot.gpu}"}}
    one = experiment(**words, **GPUS)
    other = experiment(**words, slots={"gpu": "auto"}, needs={"gpu": 2})
    assert one.config_hash(tmp_path) == other.config_hash(tmp_path)
    digests = [each.identities(tmp_path, lambda _: "") for each in (one, other)]
    assert digests[0] == digests[1]
    assert one.argv(0) == ("train", "--gpu", "{slot.gpu}")
    assert one.argv(0, {"gpu": "1"}) == ("train", "--gpu", "1")
    assert one.environment(0, {"gpu": "1"}) == {"G": "1"}
    assert one.differs_in(other.to_config()) == ["slots", "needs"]


def test_none_needed_is_none_held():
    """`--set needs.gpu=0` runs without, as on a laptop."""
    assert experiment(slots={"gpu": ["0"]}, needs={"gpu": 0}).needs == {}


# -- where they are -------------------------------------------------------------------------------


@given(name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,20}", fullmatch=True))
def test_every_name_has_a_file_of_its_own_and_is_read_off_it(name):
    """Also one with a slash, as those of parts of GPUs have."""
    found = places.place("gpu", name)
    assert found.path.parent == places.directory()
    fd = places.lock(found)
    assert fd is not None
    os.close(fd)
    assert found in places.all_known()
    found.path.unlink()


def test_locks_are_for_their_user_alone(home):
    """Whoever could lock them could keep a GPU from being used."""
    os.close(places.lock(places.place("gpu", "0")) or -1)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "gpu.0").stat().st_mode) == 0o600


def test_a_relative_place_is_ignored(monkeypatch, tmp_path):
    """It would be another one in every directory, and two runs not see each other."""
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert places.directory().is_relative_to(tmp_path / ".local" / "state")


@pytest.mark.parametrize("told", ["", "rel/ative"])
def test_a_home_that_is_no_place_is_none_for_slots(monkeypatch, told):
    """As in a container whose user has no name there; who only looks sees that none is held."""
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    if told:
        monkeypatch.setenv("HOME", told)
    with pytest.raises(DiskError, match="HOME is no"):
        places.directory()
    assert listing.waited_for({"gpu": None}) == []


@pytest.mark.parametrize("kind", ["directory", "link", "fifo"])
def test_what_is_no_file_is_no_lock(home, kind):
    """It is named, and neither followed nor waited for."""
    home.mkdir(parents=True)
    path = home / "gpu.0"
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("elsewhere")
    else:
        os.mkfifo(path)
    with pytest.raises(DiskError, match=r"gpu\.0: locking the slot failed"):
        places.lock(places.place("gpu", "0"))
    assert not (home / "elsewhere").exists()


def test_a_lock_whose_file_was_moved_away_is_not_taken_for_one(home, monkeypatch):
    """Two would hold two files under one name: the name is checked once the lock is had."""
    slot = places.place("gpu", "0")
    os.close(places.lock(slot) or -1)
    flock, moved = fcntl.flock, []

    def moving(fd: int, operation: int) -> None:
        if not moved:
            moved.append(slot.path.rename(home / "moved"))
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", moving)
    fd = places.lock(slot)
    assert fd is not None
    assert os.path.samestat(os.fstat(fd), slot.path.stat())
    os.close(fd)


# -- what is to be had ----------------------------------------------------------------------------

NEEDS = st.dictionaries(st.sampled_from(["gpu", "seat"]), st.integers(1, 3), min_size=1)


def pool_of(sizes: dict[str, int]) -> dict[str, list[Place]]:
    return {kind: [places.place(kind, str(n)) for n in range(s)] for kind, s in sizes.items()}


@contextlib.contextmanager
def locked(slots: list[Place]) -> Iterator[None]:
    found = [places.lock(slot) for slot in slots]
    try:
        yield
    finally:
        for fd in found:
            os.close(fd or -1)


@given(needs=NEEDS, data=st.data())
def test_sets_are_whole_and_no_slot_is_in_two(needs, data):
    """Of any number of takers: all that could be had is had, and what is let go is free again."""
    sizes = {kind: data.draw(st.integers(need, 6)) for kind, need in needs.items()}
    pool = pool_of(sizes)
    everything = [slot for slots in pool.values() for slot in slots]
    others = data.draw(st.lists(st.sampled_from(everything), unique=True))
    free = Counter(slot.kind for slot in everything if slot not in others)
    # Also where an example is broken off in its midst.
    with contextlib.ExitStack() as held, locked(others):
        taken: list[Held] = []
        for wanted in data.draw(st.lists(st.integers(0, 4), max_size=4)):
            most = min(free[kind] // need for kind, need in needs.items())
            found = Allocator(lambda: pool, needs).take(wanted)
            assert len(found) == min(wanted, most)
            taken += [held.enter_context(contextlib.closing(each)) for each in found]
            for each in found:
                assert Counter(slot.kind for slot in each.slots) == needs
                free -= Counter(slot.kind for slot in each.slots)
            if taken and data.draw(st.booleans()):
                gone = taken.pop()
                free += Counter(slot.kind for slot in gone.slots)
                gone.close()
        paths = [slot.path for each in taken for slot in each.slots]
        assert len(paths) == len(set(paths))
        assert not set(paths) & {slot.path for slot in others}
    with locked(everything):
        assert Allocator(lambda: pool, needs).take(1) == []


def test_without_room_for_who_holds_it_no_slot_is_taken(home):
    """On a full disk: its shim would wait for room, and nobody say so."""
    slot = places.place("gpu", "0")
    allocator = Allocator(lambda: {"gpu": [slot]}, {"gpu": 1})
    allocator.check()
    assert slot.path.read_bytes() == b""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(DiskError, match=r"gpu\.0: making room for who holds it failed"):
            allocator.check()
        with pytest.raises(DiskError, match=r"gpu\.0: making room for who holds it failed"):
            allocator.take(1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (held,) = allocator.take(1)
    assert places.holder(slot) is None  # nobody has signed it
    holding.sign([each.fd for each in held.slots], b"{}")
    assert slot.path.read_bytes() == b"{}"
    held.close()


def test_a_set_says_what_it_is(home):
    """As the start of an attempt records it."""
    (held,) = Allocator(lambda: pool_of({"gpu": 2, "seat": 1}), {"gpu": 2, "seat": 1}).take(1)
    assert str(held) == "gpu 0,1; seat 0"
    assert by_kind(held.slots) == {"gpu": "0,1", "seat": "0"}
    held.close()
    held.close()


def test_a_fork_of_the_run_holds_nothing(home):
    """Else a slot would be held as long as a child of some library lives."""
    (held,) = Allocator(lambda: pool_of({"gpu": 1}), {"gpu": 1}).take(1)
    ours, theirs = os.pipe()
    began, begins = os.pipe()
    child = os.fork()
    if not child:
        os.write(begins, b".")
        os.read(ours, 1)
        os._exit(0)
    os.read(began, 1)
    held.close()
    try:
        again = Allocator(lambda: pool_of({"gpu": 1}), {"gpu": 1}).take(1)
        assert len(again) == 1
        again[0].close()
    finally:
        os.write(theirs, b".")
        os.waitpid(child, 0)
        for end in (ours, theirs, began, begins):
            os.close(end)


# -- who has one ----------------------------------------------------------------------------------


def signed(slot: Place, identity: ProcessIdentity, mark: str = "m" * 32) -> None:
    """A slot that somebody held whose lock is free."""
    plain = attrs.asdict(identity, filter=lambda _, value: value is not None)
    plain |= {"experiment": "exp_7", "attempt": "3.1", "mark": mark}
    plain["started_at"] = "2024-01-15T12:34:56+00:00"
    os.close(places.lock(slot) or -1)
    slot.path.write_text(json.dumps(plain))


def kind_of(slot: Place) -> str:
    (found,) = [each for each in listing.listing()[0] if each.slot == slot]
    return found.kind


DEAD = attrs.evolve(liveness.me(), pid=2**22 + 1, start_ticks=1)


@pytest.mark.parametrize(
    ("identity", "kind"),
    [
        (liveness.me(), "held"),
        (DEAD, "free"),
        (attrs.evolve(DEAD, boot_id="another"), "free"),
        (attrs.evolve(DEAD, boot_id="another", machine_id="another"), "unknown"),
        (attrs.evolve(DEAD, pid_namespace="pid:[1]"), "unknown"),
    ],
    ids=["alive", "dead", "rebooted", "another machine", "another namespace"],
)
def test_a_free_lock_alone_frees_no_slot(home, identity, kind):
    """What can be judged is; what cannot is not given, said, and can be freed by hand."""
    slot = places.place("gpu", "0")
    signed(slot, identity)
    allocator = Allocator(lambda: {"gpu": [slot]}, {"gpu": 1})
    found = allocator.take(1)
    assert (kind_of(slot) if not found else "free") == kind
    for each in found:
        each.close()
        assert slot.path.read_text().strip() == ""
    assert [each.kind for each in allocator.taken] == ([] if found else [kind])
    if kind == "unknown":
        assert "may be used by exp_7 3.1 since 2024-01-15 12:34:56Z" in str(allocator.taken[0])
        assert listing.free(slot).kind == "unknown"
        assert kind_of(slot) == "free"
    elif kind == "held":
        assert listing.free(slot).kind == "held"
        assert kind_of(slot) == "held"


def test_what_a_dead_shim_left_still_has_its_slot(home):
    """It has closed every descriptor, and is known by its mark alone."""
    slot, mark = places.place("gpu", "0"), "f" * 32
    signed(slot, DEAD, mark)
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "HOLDFAST_SESSION": f"outer:{mark}"},
    ) as left:
        assert left.stdin is not None
        assert left.stdout is not None
        left.stdout.readline()
        allocator = Allocator(lambda: {"gpu": [slot]}, {"gpu": 1})
        assert allocator.take(1) == []
        told = f"gpu.0 is used by what exp_7 3.1 left: {left.pid} (python"
        assert str(allocator.taken[0]).startswith(told)
        assert listing.free(slot).kind == "left"
        left.stdin.close()
    (held,) = allocator.take(1)
    held.close()


def test_who_has_inherited_a_lock_of_the_dead_is_named(home):
    """Such as a daemon that an attempt left on purpose: whoever waits must know whom to end."""
    slot = places.place("gpu", "0")
    signed(slot, DEAD)
    fd = places.lock(slot)
    assert fd is not None
    pipe = subprocess.PIPE
    with subprocess.Popen(["cat"], stdin=pipe, stdout=pipe, pass_fds=[fd]) as heir:
        os.close(fd)
        assert heir.stdin is not None
        assert heir.stdout is not None
        heir.stdin.write(b"is it you?\n")
        heir.stdin.flush()
        heir.stdout.readline()
        (found,) = listing.listing()[0]
        assert (found.kind, found.why) == ("left", f"{heir.pid} (cat) has inherited its lock")
        assert found.released
        heir.stdin.close()
    assert kind_of(slot) == "free"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\0", b"\0" * 300, b"[" * 9999])
def test_a_file_that_says_nothing_names_nobody(home, content):
    """Torn by a kill, nothing ran by that name yet; written by a stranger, it is not believed."""
    slot = places.place("gpu", "0")
    os.close(places.lock(slot) or -1)
    slot.path.write_bytes(content)
    assert holders.standing(slot, places.holder(slot), Census, locked=False).kind == "free"


@pytest.mark.parametrize(
    "content",
    [{}, {"experiment": 3}, {"experiment": "e", "attempt": "1.1", "pid": "twelve"}],
)
def test_a_file_that_is_not_understood_is_believed_to_name_somebody(home, content):
    """A later version may have written it, and its processes live."""
    slot = places.place("gpu", "0")
    os.close(places.lock(slot) or -1)
    slot.path.write_text(json.dumps(content))
    assert holders.standing(slot, places.holder(slot), Census, locked=False).kind == "unknown"


# -- GPUs -----------------------------------------------------------------------------------------

UUIDS = ("GPU-aaaa1111", "GPU-bbbb2222", "GPU-cccc3333")


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called nvidia-smi that lists three GPUs."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    rows = "\n".join(f"{number}, {uuid}" for number, uuid in enumerate(UUIDS))
    program.write_text(f"#!/bin/sh\ncat <<'.'\n{rows}\n.\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    devices._listed.cache_clear()
    yield program
    devices._listed.cache_clear()


@pytest.mark.parametrize(
    ("visible", "names", "found"),
    [
        (None, None, ["0", "1", "2"]),
        ("2,1", None, ["1", "2"]),
        ("1,-1,0", None, ["1"]),
        ("GPU-cccc", None, ["2"]),
        (None, ["7"], ["7"]),
        ("1,2", ["2"], ["2"]),
        (UUIDS[2], ["2"], ["2"]),
        ("2", [UUIDS[2]], [UUIDS[2]]),
        ("MIG-1/2", ["MIG-1/2"], ["MIG-1/2"]),
    ],
)
def test_gpus_are_what_the_driver_lists_and_the_environment_leaves(
    driver, monkeypatch, visible, names, found
):
    """A variable that is set only narrows, by number and by UUID, and as CUDA reads it."""
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    pool = devices.pool({"gpu": names}, {"gpu": 1}, "file")
    assert [slot.name for slot in pool["gpu"]] == found


@pytest.mark.parametrize(
    ("visible", "names", "need", "told"),
    [
        ("2", ["0"], 1, "0 is not among those that CUDA_VISIBLE_DEVICES=2 leaves"),
        ("", ["0"], 1, "it leaves none"),
        ("", None, 1, "no GPU that CUDA_VISIBLE_DEVICES= leaves"),
        ("0,1", None, 3, "a process needs 3, and there are 2: 0, 1"),
        (None, ["0", UUIDS[0]], 1, f"0 and {UUIDS[0]} are the same GPU"),
    ],
)
def test_what_cannot_be_had_is_refused(driver, monkeypatch, visible, names, need, told):
    """Before anything starts: it would wait for ever, or use what is not its own."""
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(ConfigError, match=r"slots\.gpu") as caught:
        devices.pool({"gpu": names}, {"gpu": need}, "file")
    assert told in str(caught.value)


def test_a_gpu_has_one_lock_whatever_it_is_called(driver):
    """By its number in one file and by its UUID in another, it is never given twice."""
    by_number = devices.pool({"gpu": ["1"]}, {"gpu": 1}, "one")["gpu"]
    by_uuid = devices.pool({"gpu": ["GPU-bbbb"]}, {"gpu": 1}, "other")["gpu"]
    assert by_number[0].path == by_uuid[0].path


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (None, "nvidia-smi is not on PATH"),
        ("echo 'NVIDIA-SMI has failed'; exit 9", "exit code 9): NVIDIA-SMI has failed"),
        ("echo No devices were found", "lists no GPU (exit code 0): No devices were found"),
    ],
)
def test_a_driver_that_lists_nothing_is_told(driver, monkeypatch, script, told):
    """In its own words, and with the way around it."""
    if script is None:
        monkeypatch.setenv("PATH", "/nowhere")
    else:
        driver.write_text(f"#!/bin/sh\n{script}\n")
    with pytest.raises(ConfigError) as caught:
        devices.pool({"gpu": None}, {"gpu": 1}, "file")
    assert told in str(caught.value)


def test_a_run_does_not_wait_for_the_attempt_that_it_is_part_of(home, monkeypatch):
    """The outer one would end only after it: it is refused, and says whose the slot is."""
    slot = places.place("gpu", "0")
    signed(slot, liveness.me(), "a" * 32)
    monkeypatch.setenv("HOLDFAST_SESSION", "b" * 32 + ":" + "a" * 32)
    with pytest.raises(
        ConfigError, match=r"gpu\.0 is held by exp_7 3\.1, which this run is part of"
    ):
        devices.pool({"gpu": ["0"]}, {"gpu": 1}, "file")
    assert len(devices.pool({"gpu": ["0", "1"]}, {"gpu": 1}, "file")["gpu"]) == 1
