"""The page of a report: bounded in size, harmless, and there whatever state an experiment is in."""

import json
import re
import shutil
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import experiments
from holdfast.config.experiment_file import Experiment
from holdfast.engines.local.engine import LocalEngine
from holdfast.errors import StateCorruptError
from holdfast.orchestration.orchestrator import Orchestrator
from holdfast.reading import text
from holdfast.report import rendering
from holdfast.report.columns import bytes_of, cut
from holdfast.report.document import document
from holdfast.store.manager import StateManager

KB = 1000


def size(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def made(manager: StateManager, *ids: str) -> tuple[dict[str, Any], str]:
    """The document of these experiments, and the page of it."""
    found = document(manager, ids, datetime.now(UTC))
    return found, rendering.page(found).decode()


def of(manager: StateManager, experiment_id: str) -> dict[str, Any]:
    return document(manager, [experiment_id], datetime.now(UTC))["experiments"][0]


class Elements(HTMLParser):
    """What of a page is markup: its elements with their attributes, and the text of its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data


def bound(found: dict[str, Any]) -> int:
    """The bytes that a page of this document may have."""
    (each,) = found["experiments"]
    given = size(each["processes"]["params"]) + size(each["processes"]["results"])
    curves = size(each["curves"]) + size(each["curves_x"])
    return 60 * KB + 300 * each["n"] + given + 4 * KB * len(each["groups"]) + curves


@pytest.mark.parametrize(
    ("number", "story"),
    [
        (3, {}),
        (3, {"failures": 1, "curves": 3}),
        (60, {"failures": 6, "groups": 3, "retries": 4, "interruptions": 3, "curves": 60}),
        (1000, {"failures": 400, "groups": 80, "retries": 100, "curves": 120, "points": 400}),
        (1000, {"failures": 1000, "groups": 5}),
    ],
)
def test_a_page_is_no_larger_than_what_it_shows_of_each_process(memory, number, story):
    """60 KB, 300 bytes a process, 4 KB a group of failures; parameters, results, curves apart."""
    manager = StateManager(memory)
    experiments.sweep(manager, number, **story)
    found, page = made(manager, "sweep")
    (each,) = found["experiments"]
    assert len(page.encode()) <= bound(found)
    assert len(each["groups"]) <= 50
    assert len(each["curves"]) <= 100
    assert all(len(line) <= 200 for lines in each["curves"].values() for line in lines.values())


def test_ten_thousand_processes_are_less_than_four_megabytes_with_every_failure(memory):
    """Every failed process is in the page without a script, too."""
    manager = StateManager(memory)
    experiments.sweep(manager, 10_000, failures=900, groups=60, curves=100)
    found, page = made(manager, "sweep")
    assert len(page.encode()) < min(4_000_000, bound(found))
    (each,) = found["experiments"]
    failed = [at for at, status in enumerate(each["processes"]["status"]) if status == "f"]
    assert len(failed) == 900
    table = page.partition("<noscript>")[2].partition("</noscript>")[0]
    assert {
        int(row) for row in re.findall(r'data-index="(\d+)" data-status="failed"', table)
    } >= set(failed)


def test_texts_of_any_size_take_no_more_room_than_short_ones(manager):
    """A parameter, an error or a log of a megabyte is cut, and what it was is said."""
    state = experiments.hostile(manager)
    found, page = made(manager, state.experiment_id)
    assert len(page.encode()) <= bound(found)
    (each,) = found["experiments"]
    assert re.fullmatch(r"x+… \(100,000 characters\)", each["processes"]["params"]["long"])


@pytest.mark.parametrize("char", ["x", "<", "&", "'"])
@pytest.mark.parametrize("length", [0, 1, 20, 99, 100, 101, 600, 5_000])
def test_a_text_that_is_cut_takes_the_room_that_it_was_given(char, length):
    """With what stands for markup in it; what fits is whole, and else its length is said."""
    each = bytes_of(char) - bytes_of("")
    words = char * length
    short = cut(words, 100)
    if length * each <= 100:
        assert short == words
    else:
        begin, _, rest = short.partition("…")
        assert begin == char * (100 // each)
        assert rest == f" ({length:,} characters)"


def test_no_stored_text_is_markup_or_script(manager):
    """Names, parameters, results, logs and errors that attack the page are text in it."""
    state = experiments.hostile(manager)
    plain = experiments.sweep(manager, 18, failures=6)
    _, page = made(manager, state.experiment_id, plain.experiment_id)
    _, other = made(manager, plain.experiment_id, plain.experiment_id)
    found, known = Elements(page), Elements(other)
    assert {tag for tag, _ in found.found} <= {tag for tag, _ in known.found}
    assert len(found.scripts) == len(known.scripts) == 2
    for _, attributes in found.found:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("href", "src", "action"):
            # A page without an icon asks for one.
            assert (attributes.get(name) or "#").startswith(("#", "data:,"))
    data = found.scripts[0]
    assert not re.search("[<>&\u2028\u2029]", data)
    each, _ = json.loads(data)["experiments"]
    assert "__proto__" in each["params"]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)


def test_only_the_script_of_the_page_may_run_and_nothing_may_be_loaded(manager):
    """The policy in the page names that script by its hash, and no address at all."""
    experiments.sweep(manager, 3)
    _, page = made(manager, "sweep")
    policy = next(
        each["content"] or ""
        for tag, each in Elements(page).found
        if tag == "meta" and each.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy
    assert set(re.findall(r"https?://[^\s\"'<>]*", page)) <= {"http://www.w3.org/2000/svg"}


def test_a_page_of_a_failed_experiment_says_what_failed_and_what_is_best(manager):
    """The verdict, the reasons with their processes and a log, both ends of the first result."""
    experiments.sweep(manager, 60, failures=6, groups=2, retries=5, interruptions=4)
    each = of(manager, "sweep")
    assert each["words"] == "Failed: 54 of 60 processes completed, 6 failed."
    assert each["next"] == "holdfast resume sweep"
    assert [group["count"] for group in each["groups"]] == [3, 3]
    assert each["why"][0].startswith("3 processes ")
    assert each["why"][-1] == "4 attempts were interrupted (lost); no retry is charged for them"
    assert each["interruptions"] == [{"reason": "lost", "count": 4}]
    numbers = {number["label"]: number for number in each["numbers"]}
    assert numbers["completed"]["value"] == "54 of 60"
    best = max(value for value in each["processes"]["results"]["accuracy"] if value is not None)
    assert float(numbers["highest accuracy"]["value"]) == pytest.approx(best, rel=1e-5)
    assert each["spans"]["outcome"].count("i") == 4
    assert each["spans"]["outcome"].count("f") >= 6 + 5
    assert each["processes"]["status"].count("f") == 6


def test_a_page_is_made_while_the_experiment_runs(manager):
    """It tells what runs and when that is done; afterwards, that nobody runs it any more."""
    with experiments.going_on(manager, 50, running=8, pending=20, failures=2):
        each = of(manager, "going-on")
        assert each["words"].startswith("Running: 20 of 50 processes completed, 2 failed, 8 runn")
        assert re.search(r"about .* left\.$", each["words"])
        assert each["next"] == "holdfast logs -f going-on"
        assert each["spans"]["outcome"].count("r") == 8
        assert each["spans"]["end"].count(None) == 8
        assert each["stands"] == "running"
    each = of(manager, "going-on")
    assert each["stands"].startswith("running (owner ")
    assert each["words"].startswith("Not finished, and nobody runs it any more: ")
    assert {"label": "time left", "value": "–", "hint": ""} in each["numbers"]
    assert each["next"] == "holdfast resume going-on"


def test_what_has_not_begun_and_what_is_alone_have_pages_too(manager):
    """Nothing is said of what is not known."""
    manager.create("new", num_processes=4)
    each = of(manager, "new")
    assert each["words"] == "Not started: 4 processes."
    assert each["spans"]["index"] == []
    assert each["processes"]["duration"] is None
    assert each["processes"]["status"] == "pppp"
    experiments.sweep(manager, 1, experiment_id="one")
    found, page = made(manager, "new", "one")
    assert found["experiments"][1]["words"].startswith("Done: its one process completed")
    assert "Not started: 4 processes." in page


def test_lost_results_are_said_and_the_rest_is_shown(manager):
    """The folder may be a copy that somebody made of half of it."""
    experiments.sweep(manager, 20, interrupted=True, pending=5)
    shutil.rmtree(manager.folder("sweep") / "results")
    shutil.rmtree(manager.folder("sweep") / "attempts")
    each = of(manager, "sweep")
    assert each["results"] == []
    assert each["why"][-1] == "the results of these processes are lost or altered: 0-14"
    assert each["processes"]["status"] == "c" * 15 + "p" * 5


def test_what_had_no_room_is_said(memory):
    """At the end of the page, with where it is to be found."""
    manager = StateManager(memory)
    experiments.sweep(manager, 300, failures=60, groups=60)
    found, page = made(manager, "sweep")
    (each,) = found["experiments"]
    kinds, steps = each["left_out"]
    assert re.match(r"\d+ more kinds of failure \(\d+ processes\) have no log here", kinds)
    assert "earlier events are not here: `holdfast show --events` has all" in steps
    listed = page.partition("Not in this page")[2]
    assert f"<li>{kinds}</li>" in listed
    assert f"<li>{steps}</li>" in listed


def test_a_damaged_store_is_told_as_everywhere(manager):
    """No page claims to show what cannot be read."""
    experiments.sweep(manager, 3)
    (journal,) = (manager.folder("sweep") / "journal").iterdir()
    data = bytearray(journal.read_bytes())
    data[len(data) // 2] ^= 0xFF
    journal.write_bytes(data)
    with pytest.raises(StateCorruptError):
        document(manager, ["sweep"], datetime.now(UTC))


def test_a_page_leaves_no_trace_in_the_store(manager):
    """It may be made of what somebody else owns, and of a read-only copy."""
    experiments.sweep(manager, 12, failures=2, curves=5)

    def seen() -> dict[Path, tuple[int, int]]:
        every = manager.state_dir.rglob("*")
        return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in every}

    before = seen()
    made(manager, "sweep")
    assert seen() == before


def test_ranks_are_known_within_their_launcher(manager):
    """What failed is told for each rank."""
    experiments.sweep(manager, 8, ranks=4, failures=4)
    each = of(manager, "sweep")
    assert each["ranks"] == 4
    assert each["processes"]["rank"] == [0, 1, 2, 3] * (each["n"] // 4)


def test_what_a_launcher_used_is_counted_once(manager):
    """However many ranks shared it."""
    state = experiments.sweep(manager, 8, ranks=4)
    each = of(manager, "sweep")
    launchers = [state.processes[first].usage for first in range(0, state.num_processes, 4)]
    assert all(state.processes[first + 3].usage == launchers[first // 4] for first in (0, 4))
    numbers = {number["label"]: number for number in each["numbers"]}
    cpu_s = sum(usage["cpu_s"] for usage in launchers)
    assert numbers["CPU time"]["value"] == text.duration(cpu_s)
    assert re.fullmatch(r"the largest program, of launcher \d+", numbers["peak memory"]["hint"])
    for name in ("rss", "cpu"):
        column = each["processes"][name]
        assert [value is not None for value in column] == [True, False, False, False] * (
            state.num_processes // 4
        )


def test_the_highest_result_may_be_an_integer_that_a_script_rounds(manager, tmp_path):
    """As all numbers of a page are."""
    script = """printf '{{"flops": %s}}' $((1 << {f})) > $HOLDFAST_RESULT"""
    config = {"command": ["sh", "-c", script], "matrix": {"f": [50, 52, 54, 56]}}
    with LocalEngine() as engine:
        experiment = Experiment.from_config(config, tmp_path)
        Orchestrator(manager, engine).run(experiment, experiment_id="big")
    each = of(manager, "big")
    assert each["processes"]["results"]["flops"] == [float(1 << f) for f in (50, 52, 54, 56)]
    numbers = {number["label"]: number for number in each["numbers"]}
    assert numbers["highest flops"]["hint"].startswith("process 3: f=56")
