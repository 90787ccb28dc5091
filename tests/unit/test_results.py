"""Results: what is accepted, and how loss and alteration are found."""

import contextlib
import gc
import hashlib
import json
import math
import os

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.attempts.names import AttemptName
from holdfast.errors import ResultInvalidError, StateWriteError
from holdfast.results import acceptance, outline
from holdfast.store import strictjson
from holdfast.store.files import Files

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(JSON)
def test_whatever_json_writes_is_read_back(value):
    """Strictness refuses nothing that a correct writer produces."""
    for text in (json.dumps(value), json.dumps(value, indent=2, ensure_ascii=False)):
        assert strictjson.loads(text.encode()) == value


@given(st.binary(max_size=40))
def test_any_bytes_are_a_value_or_a_value_error(data):
    """No input whatsoever gets another exception out of the reader."""
    with contextlib.suppress(ValueError):
        strictjson.loads(data)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (b'{"a": 1, "b": {"c": 1, "c": 1}}', 'duplicate key "c"'),
        (b'{"a": 1, "a" : 1}', 'duplicate key "a"'),
        (b'{"a": 1, "\\u0061": 1}', 'duplicate key "a"'),
        (b'{"NaN": 1,\n "x": NaN}', "NaN is not a number that JSON can hold: line 2 column 7"),
        (b"[1, -Infinity]", "-Infinity .* line 1 column 5"),
        (b"[1e999]", "1e999 .* line 1 column 2"),
        (b'{"n": ' + b"9" * 5_000 + b"}", "integer of 5,000 digits .* line 1 column 7"),
        (b"[" * 100_000, "nested more than 100 levels"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested more than 100 levels"),
        (b"[" * 101 + b"]" * 101, "nested more than 100 levels"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'{"a": "\xff"}', "not UTF-8: byte 0xff at offset 7"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b'{"a": 1} {"b": 2}', "Extra data: line 1 column 10"),
        (b'{"a": 1,}', "line 1 column"),
        (b"{'a': 1}", "line 1 column 2"),
        (b'{"a": "\n"}', "control character"),
    ],
)
def test_ambiguous_json_is_refused_with_what_and_where(data, what):
    """Two readers could see two different values in it, or one of them overflow its stack."""
    with pytest.raises(ValueError, match=what):
        strictjson.loads(data)


def test_depth_counts_nesting_not_brackets():
    """A long list of small objects is shallow, and brackets inside of strings are text."""
    assert len(strictjson.loads(b"[" + b",".join([b'{"a": [1]}'] * 1_000) + b"]")) == 1_000
    assert strictjson.loads(b'["' + b"[" * 1_000 + b'"]') == ["[" * 1_000]
    assert strictjson.loads(b"[" * 100 + b"]" * 100)


@pytest.mark.parametrize("enabled", [True, False])
def test_reading_much_leaves_the_garbage_collector_as_it_was(enabled):
    """Valid or not: a long-running program depends on its own setting."""
    large = json.dumps([{"a": 1}] * 50_000).encode()
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        assert len(strictjson.loads(large)) == 50_000
        with pytest.raises(ValueError, match="Expecting"):
            strictjson.loads(large[:-1])
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()


@pytest.fixture
def folder(tmp_path):
    acceptance.prepare(tmp_path)
    return tmp_path


def test_an_accepted_result_is_recorded_by_size_and_digest(folder):
    """What is recorded proves the file, whatever happens to it later."""
    data = b'{"ratio": 2.5}\n'
    acceptance.path_of(folder, AttemptName("exp", "2", 1)).write_bytes(data)
    ref = acceptance.accept(folder, AttemptName("exp", "2", 1))
    assert ref is not None
    assert attrs.asdict(ref) == {
        "path": "results/2.1.json",
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    assert acceptance.verify(folder, ref) is None
    assert acceptance.load(folder, ref) == {"ratio": 2.5}


def test_a_process_may_write_no_result(tmp_path):
    """No file is no error, with and without the directory."""
    assert acceptance.accept(tmp_path, AttemptName("exp", "0", 1)) is None
    acceptance.prepare(tmp_path)
    acceptance.prepare(tmp_path)
    assert acceptance.accept(tmp_path, AttemptName("exp", "0", 1)) is None


def test_the_file_and_its_name_are_synchronised_before_it_counts(folder):
    """After a power cut a completed process must not lack its result."""

    class Recording(Files):
        def __init__(self):
            self.synced = []

        def fsync(self, fd):
            self.synced.append(os.fstat(fd).st_ino)
            super().fsync(fd)

    path = acceptance.path_of(folder, AttemptName("exp", "0", 1))
    path.write_text("1")
    files = Recording()
    acceptance.accept(folder, AttemptName("exp", "0", 1), files=files)
    assert files.synced == [path.stat().st_ino, path.parent.stat().st_ino]


def test_a_disk_that_fails_is_not_the_fault_of_the_process(folder):
    """EIO while synchronising is an error of ours: the attempt is not failed for it."""

    class Broken(Files):
        def fsync(self, fd):
            raise OSError(5, "Input/output error")

    acceptance.path_of(folder, AttemptName("exp", "0", 1)).write_text("1")
    with pytest.raises(StateWriteError, match="Input/output error"):
        acceptance.accept(folder, AttemptName("exp", "0", 1), files=Broken())


def test_invalid_json_is_refused_with_the_file_and_the_reason(folder):
    """The attempt fails with a sentence that tells its author what to mend."""
    acceptance.path_of(folder, AttemptName("exp", "0", 1)).write_text('{"loss": nan}')
    with pytest.raises(ResultInvalidError, match=r"result 0\.1\.json is not valid JSON: Expect"):
        acceptance.accept(folder, AttemptName("exp", "0", 1))


def test_what_python_writes_of_a_diverged_run_is_a_result(folder):
    """NaN is no JSON, but losing hours of work for it helps nobody."""
    data = b'{"loss": NaN, "worst": [1, -Infinity], "vast": 1e999}'
    path = acceptance.path_of(folder, AttemptName("exp", "0", 1))
    path.write_bytes(data)
    ref = acceptance.accept(folder, AttemptName("exp", "0", 1))
    assert path.read_bytes() == data
    found = acceptance.load(folder, ref)
    assert strictjson.nonfinite(found) == {
        "loss": "NaN", "worst[1]": "-Infinity", "vast": "Infinity"
    }  # fmt: skip
    assert strictjson.strict(found) == {"loss": None, "worst": [1, None], "vast": None}


NONFINITE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.sampled_from(["NaN", "},", "],", '"', "\\", "9" * 400, "1e999"]),
    lambda inner: st.lists(inner, max_size=9)
    | st.dictionaries(st.text("ab.\",}]", max_size=2), inner, max_size=9),
    max_leaves=60,
)  # fmt: skip


@pytest.fixture
def windows(monkeypatch):
    """Windows so small that every document is a large one."""
    monkeypatch.setattr(outline, "_WINDOW", 24)
    monkeypatch.setattr(outline, "_SMALL", 6)
    monkeypatch.setattr(outline, "_PREVIEW", 8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NONFINITE, st.sampled_from([None, 1]))
def test_an_outline_is_of_the_value_that_a_parser_makes(windows, value, indent):
    """Neither windows nor items in one go change what is seen, named or written."""
    data = json.dumps(value, indent=indent, ensure_ascii=False).encode()
    found = outline.outline(data)
    assert found.nonfinite == strictjson.nonfinite(value)
    assert strictjson.loads(found.strict().encode()) == strictjson.strict(value)
    assert "\n" not in found.strict()
    for key, inner in value.items() if isinstance(value, dict) else ():
        kept = found.value[key]
        if isinstance(inner, int | None):
            assert kept == inner


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NONFINITE, st.sampled_from([None, 1]))
def test_what_an_outline_leaves_out_is_had_whole_from_the_document(
    windows, monkeypatch, value, indent
):
    """Lists as JSON, long texts as they are, and what an object has too much of as an object."""
    monkeypatch.setattr(outline, "MOST_FIELDS", 3)
    data = json.dumps(value, indent=indent, ensure_ascii=False).encode()
    found = outline.outline(data)

    def same(kept, inner):
        if isinstance(inner, dict):
            assert list(kept)[:3] == list(inner)[:3]
            for key in list(inner)[:3]:
                same(kept[key], inner[key])
            if len(inner) > 3:
                rest = json.loads(found.whole(kept["…"]))
                assert rest == {key: strictjson.strict(inner[key]) for key in list(inner)[3:]}
        elif isinstance(inner, list):
            assert json.loads(found.whole(kept)) == strictjson.strict(inner)
        elif isinstance(inner, str):
            assert found.whole(kept) == inner

    same(found.value, value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NONFINITE, st.data())
def test_an_outline_refuses_what_a_parser_refuses(windows, value, data):
    """A large document is judged as a small one would be."""
    text = json.dumps(value)
    at = data.draw(st.integers(0, len(text)))
    damaged = text[:at] + data.draw(st.sampled_from('[]{},:"1 x\\')) + text[at:]
    try:
        strictjson.loads(damaged.encode(), finite=False)
    except ValueError:
        with pytest.raises(ValueError, match=r"\w"):
            outline.outline(damaged.encode())
    else:
        outline.outline(damaged.encode())


@pytest.mark.parametrize("depth", [99, 100, 101, 5000])
@pytest.mark.parametrize("wrap", ["[%s]", '{"a": %s}', '[1, {"b": [%s]}, 2]'])
def test_an_outline_counts_levels_as_a_parser_does(windows, depth, wrap):
    """Whatever was taken in one go, the limit is the same."""
    text = "1"
    while text.count("[") + text.count("{") < depth:
        text = wrap % text
    try:
        strictjson.loads(text.encode())
    except ValueError as err:
        with pytest.raises(ValueError, match=str(err)):
            outline.outline(text.encode())
    else:
        outline.outline(text.encode())


@pytest.mark.parametrize("fields", [10, 30])
def test_duplicate_keys_are_found_across_windows(windows, monkeypatch, fields):
    """Of one object, however it was taken in."""
    monkeypatch.setattr(outline, "MOST_FIELDS", 12)
    members = [f'"k{number}": {{"a": 1}}' for number in range(fields)]
    shown = outline.outline(("{" + ",".join(members) + "}").encode()).value
    assert len(shown) == min(fields, 13)
    with pytest.raises(ValueError, match='duplicate key "k3"'):
        outline.outline(("{" + ",".join([*members, '"k3": 1']) + "}").encode())


@pytest.mark.timeout(10)
@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "unreadable"])
def test_only_regular_files_are_results(folder, kind, tmp_path_factory):
    """A link could lead anywhere and a FIFO would block the orchestrator for ever."""
    path = acceptance.path_of(folder, AttemptName("exp", "0", 1))
    if kind == "link":
        target = tmp_path_factory.mktemp("elsewhere") / "secret.json"
        target.write_text("1")
        path.symlink_to(target)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.write_text("1")
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("root reads everything")
    with pytest.raises(ResultInvalidError, match="result 0"):
        acceptance.accept(folder, AttemptName("exp", "0", 1))


def test_an_enormous_result_is_refused_unread(folder):
    """A sparse gigabyte must not fill the orchestrator's memory."""
    with acceptance.path_of(folder, AttemptName("exp", "0", 1)).open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ResultInvalidError, match="1,073,741,824 bytes, more than the limit"):
        acceptance.accept(folder, AttemptName("exp", "0", 1))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(b'{"a": 2}'), "SHA-256"),
        (lambda path: path.write_bytes(b'{"a": 1} '), "9 bytes, recorded are 8"),
        (lambda path: path.write_bytes(b""), "0 bytes"),
        (lambda path: (path.unlink(), path.symlink_to("/etc/passwd")), "symbolic link"),
        (lambda path: (path.unlink(), path.parent.rmdir()), "missing"),
    ],
)
def test_loss_and_alteration_are_found(folder, damage, problem):
    """The process is run again rather than averaged over a result that nobody wrote."""
    path = acceptance.path_of(folder, AttemptName("exp", "0", 1))
    path.write_bytes(b'{"a": 1}')
    ref = acceptance.accept(folder, AttemptName("exp", "0", 1))
    damage(path)
    assert problem in acceptance.verify(folder, ref)
    with pytest.raises(ResultInvalidError, match=problem):
        acceptance.load(folder, ref)


@pytest.mark.parametrize("path", ["../x.json", "results/../../x", "/etc/passwd", "results/", "x"])
def test_a_forged_reference_leads_nowhere(folder, path):
    """A state file is input: its paths never leave `results/`."""
    ref = acceptance.ResultRef(path=path, size=1, sha256="")
    assert "outside" in acceptance.verify(folder, ref)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_come_back_to_the_last_digit(value):
    """A hook of ours on floats must not round."""
    found = strictjson.loads(json.dumps([value]).encode())[0]
    assert found == value
    assert math.copysign(1, found) == math.copysign(1, value)
