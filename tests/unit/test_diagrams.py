"""The pictures in `diagrams/` show the declared machines, all of them and nothing else."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import get_args

import pytest

from holdfast import diagrams
from holdfast.diagrams import drawing
from holdfast.lifecycle.edges import edges
from holdfast.lifecycle.machines import MACHINES
from holdfast.status import Entity

FOLDER = Path(__file__).parents[2] / "diagrams"
ENTITIES = get_args(Entity)
SVG = "{http://www.w3.org/2000/svg}"


def declared(entity: Entity) -> set[tuple[str, str, str]]:
    return {(edge.event, edge.source, edge.target) for edge in edges(MACHINES[entity])}


def guards(entity: Entity) -> set[str]:
    return {guard for edge in edges(MACHINES[entity]) for guard in edge.guards}


def test_the_committed_diagrams_are_current():
    """What `diagrams/` has of the machines is what they declare today, and none is left over."""
    committed = {
        path.name: path.read_text(encoding="utf-8")
        for path in FOLDER.iterdir()
        if path.stem in ENTITIES
    }
    assert committed == diagrams.files(), (
        "run: for m in experiment process; do for f in mermaid:mmd svg:svg markdown:md; do "
        "holdfast diagram $m --format ${f%:*} > diagrams/$m.${f#*:}; done; done"
    )


@pytest.mark.parametrize("entity", ENTITIES)
def test_mermaid_shows_every_transition_and_no_other(entity):
    """Reading the Mermaid text back gives exactly the declared transitions and guards."""
    text = diagrams.render(entity, "mermaid")
    found = re.findall(r"^    (\w+) --> (\w+) : (\w+)(?: \[(.*)\])?$", text, re.MULTILINE)
    assert {(event, source, target) for source, target, event, _ in found} == declared(entity)
    said = {name for *_, guard in found for name in re.findall(r"\w+_\w+", guard)}
    assert not said & set(diagrams.everywhere(entity))
    assert said | set(diagrams.everywhere(entity)) == guards(entity)


@pytest.mark.parametrize("entity", ENTITIES)
def test_the_table_shows_every_transition_and_no_other(entity):
    """Reading the Markdown table back gives exactly the declared transitions."""
    rows = re.findall(
        r"^\| `(\w+)` \| ([\w, ]+) \| (\w+)(?: \(final\))? \| .* ?\|$",
        diagrams.render(entity, "markdown"),
        re.MULTILINE,
    )
    found = {
        (event, source, target) for event, sources, target in rows for source in sources.split(", ")
    }
    assert found == declared(entity)


@pytest.mark.parametrize("entity", ENTITIES)
def test_dot_shows_every_transition_and_no_other(entity):
    """Reading the dot text back gives exactly the declared transitions."""
    found = re.findall(r'"(\w+)" -> "(\w+)" \[label="(\w+)', diagrams.render(entity, "dot"))
    assert {(event, source, target) for source, target, event in found} == declared(entity)


@pytest.mark.parametrize("entity", ENTITIES)
def test_the_drawing_is_well_formed_and_has_every_status_and_event(entity):
    """The SVG has a box per status and a label per arrow, and describes itself in words."""
    root = ET.fromstring(diagrams.render(entity, "svg"))
    texts = [(text.get("class"), text.text) for text in root.iter(f"{SVG}text")]
    assert [text for kind, text in texts if kind == "name"] == list(diagrams.statuses(entity))
    assert sorted(text for kind, text in texts if kind == "event") == sorted(
        event for event, _, _ in declared(entity)
    )
    described = root.findtext(f"{SVG}desc", "")
    for event, source, target in declared(entity):
        assert re.search(rf"{event}( \[[^]]*\])? from {source} to {target}", described)


@pytest.mark.parametrize("entity", ENTITIES)
def test_nothing_in_the_drawing_overlaps_or_leaves_the_page(entity):
    """No two boxes or labels of the SVG cover each other, and all of them are on the page."""
    root = ET.fromstring(diagrams.render(entity, "svg"))
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    areas = []
    for box in root.iter(f"{SVG}rect"):
        if box.get("class") != "page":
            x, y, w, h = (float(box.get(name, 0)) for name in ("x", "y", "width", "height"))
            areas.append((x, y, x + w, y + h))
    for text in root.iter(f"{SVG}text"):
        if text.get("class") == "name":
            continue
        x, y = float(text.get("x", 0)), float(text.get("y", 0))
        wide = 7.2 * len(text.text or "")
        left = x - wide * {"start": 0, "middle": 0.5, "end": 1}[text.get("text-anchor", "start")]
        areas.append((left, y - 10, left + wide, y + 3))
    for number, (x0, y0, x1, y1) in enumerate(areas):
        assert x0 >= 0
        assert y0 >= 0
        assert x1 <= width
        assert y1 <= height
        for left, top, right, bottom in areas[:number]:
            assert x1 <= left or right <= x0 or y1 <= top or bottom <= y0


@pytest.mark.parametrize("entity", ENTITIES)
def test_no_arrow_runs_through_a_box_or_a_label(entity):
    """One that did would seem to come from where it does not, or to mean another's guards."""
    root = ET.fromstring(diagrams.render(entity, "svg"))
    areas = []
    for box in root.iter(f"{SVG}rect"):
        if box.get("class") != "page":
            x, y, w, h = (float(box.get(name, 0)) for name in ("x", "y", "width", "height"))
            areas.append((x + 1, y + 1, x + w - 1, y + h - 1))
    for text in root.iter(f"{SVG}text"):
        if text.get("class") in ("event", "guard"):
            x, y = float(text.get("x", 0)), float(text.get("y", 0))
            wide = 7 * len(text.text or "")
            left = x - wide * {"start": 0, "middle": 0.5, "end": 1}[text.get("text-anchor", "")]
            areas.append((left, y - 9, left + wide, y + 2))
    lines = list(root.iter(f"{SVG}path"))
    assert len(lines) > len(declared(entity))
    for line in lines:
        x0, y0, x1, y1, x2, y2 = map(float, re.findall(r"-?[0-9.]+", line.get("d", "")))
        for step in range(101):
            t = step / 100
            x, y = (
                a * (1 - t) ** 2 + 2 * b * t * (1 - t) + c * t**2
                for a, b, c in ((x0, x1, x2), (y0, y1, y2))
            )
            assert not any(left < x < right and top < y < low for left, top, right, low in areas)


def test_what_every_arrow_asks_is_one_note_in_every_notation():
    """A settled experiment freezes its processes: said once, and not on each arrow."""
    assert diagrams.everywhere("experiment") == ()
    always = ("experiment_is_open", "gang_moves_together")
    assert diagrams.everywhere("process") == always
    assert all(edge.guards[:2] == always for edge in edges(MACHINES["process"]))
    for notation in diagrams.FORMATS:
        text = diagrams.render("process", notation)
        plain = text.replace("`", "")
        for note in diagrams.notes("process"):
            assert note.rstrip(".") in plain
        drawn = re.sub(r"<desc.*</desc>|^\| `experiment_is_open.*", "", text, flags=re.MULTILINE)
        # The Markdown page holds the Mermaid text, too.
        assert drawn.count("experiment_is_open") == (2 if notation == "markdown" else 1)


def test_the_order_in_which_an_end_is_tried_is_shown():
    """What an exit means is read off the picture."""
    assert "the first of complete, requeue, fail" in diagrams.notes("process")[1]
    assert diagrams.notes("experiment") == ()


def test_every_status_has_a_place_in_the_drawing():
    """A newly declared status fails here, and not at a user's `holdfast diagram`."""
    for entity in ENTITIES:
        assert set(drawing.PLACES[entity]) == set(diagrams.statuses(entity))


def test_only_an_aggregated_experiment_is_final():
    """A process never is: a lost result sends even a completed one back."""
    assert diagrams.final("experiment") == ("aggregated",)
    assert diagrams.final("process") == ()


@pytest.mark.parametrize("entity", ENTITIES)
def test_a_drawing_inside_a_page_has_counts_and_no_styles_of_its_own(entity):
    """A page's style sheet colours it; ids are the page's, every status says how many are there."""
    counts = {status: 1000 * number for number, status in enumerate(diagrams.statuses(entity))}
    root = ET.fromstring(diagrams.inline(entity, "failed", counts, "first-"))
    assert not list(root.iter(f"{SVG}style"))
    assert [each.get("id") for each in root.iter() if each.get("id")] == ["first-t"]
    texts = [text.text for text in root.iter(f"{SVG}text") if "count" in text.get("class", "")]
    assert texts == [f"{count:,}" for count in counts.values()]
    assert all(
        f"{count:,} {status}" in root.findtext(f"{SVG}title", "")
        for status, count in counts.items()
    )
