"""What a notebook shows of machines and records, and pictures from Python."""

import base64
import pickle
import re
from xml.etree import ElementTree

import pytest

import holdfast
from experiments import hostile, sweep
from holdfast.diagrams import FORMATS
from holdfast.errors import InvalidRequestError
from holdfast.lifecycle.machines import MACHINES, ExperimentMachine, ProcessMachine
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.reading.evidence import parameters
from holdfast.results import aggregation
from holdfast.status import ExperimentStatus, ProcessStatus

SHOWN = [
    *(ExperimentState(experiment_id="x<b>", status=s, num_processes=2) for s in ExperimentStatus),
    *(ProcessProgress(status=s) for s in ProcessStatus),
]


def marked(svg: str) -> list[str]:
    """The statuses that *svg* marks as the current one."""
    root = ElementTree.fromstring(svg)
    classes = [
        each.get("class", "").split() for each in root.iter("{http://www.w3.org/2000/svg}rect")
    ]
    return [names[1] for names in classes if "now" in names]


@pytest.mark.parametrize("record", SHOWN, ids=lambda each: f"{type(each).__name__}-{each.status}")
def test_a_record_shows_itself_with_its_status_marked(record):
    """A few words and our own picture, without Graphviz: no traceback, no wall of fields."""
    shown = record._repr_mimebundle_()
    assert marked(shown["image/svg+xml"]) == [str(record.status)]
    assert str(record.status) in shown["text/plain"]
    assert len(shown["text/plain"]) < 200
    assert "<b>" not in shown["text/html"]


@pytest.mark.parametrize("record", SHOWN, ids=lambda each: f"{type(each).__name__}-{each.status}")
def test_a_machine_shows_where_it_stands(record):
    """python-statemachine's own pictures need pydot, and end in a traceback without it."""
    kind = ExperimentMachine if isinstance(record, ExperimentState) else ProcessMachine
    machine = kind(record)
    assert marked(machine._repr_svg_()) == [str(record.status)]
    assert marked(machine._repr_mimebundle_()["image/svg+xml"]) == [str(record.status)]
    data = re.search(r"base64,([^\"]*)", machine._repr_html_())
    assert data is not None
    assert base64.b64decode(data[1]).decode() == machine._repr_svg_()


def test_a_machine_that_moved_shows_its_new_status():
    """The picture is of the record that the machine has by now."""
    machine = ExperimentMachine(ExperimentState(experiment_id="x"))
    machine.send("start")
    assert marked(machine._repr_svg_()) == ["running"]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("entity", MACHINES)
def test_every_picture_can_be_had_from_python(entity, format):
    """`holdfast.diagram` gives what the command prints, and marks a status where there is one."""
    plain = holdfast.diagram(entity, format=format)
    assert plain == holdfast.diagram(MACHINES[entity], format=format)
    records = {"experiment": ExperimentState(experiment_id="x"), "process": ProcessProgress()}
    record = records[entity]
    now = holdfast.diagram(record, format=format)
    assert now == holdfast.diagram(MACHINES[entity](record), format=format)
    assert now != plain


@pytest.mark.parametrize(
    ("entity", "format", "words"),
    [
        ("experiments", "svg", "experiment, process, a machine or a record"),
        (None, "svg", "experiment, process, a machine or a record"),
        ("process", "png", "svg, markdown"),
        ("process", None, "must be one of"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_words(entity, format, words):
    """It says what there is instead."""
    with pytest.raises(InvalidRequestError, match=words):
        holdfast.diagram(entity, format=format)


def test_an_experiment_says_why_its_processes_failed(manager):
    """Grouped, the most frequent first, beside a bar that says its counts in words."""
    state = sweep(manager, 60, failures=7, groups=2)
    shown = state._repr_mimebundle_()["text/html"]
    assert 'aria-label="53 completed, 7 failed"' in shown
    assert len(re.findall(r"✗ \d+ process", shown)) >= 1
    assert state._repr_html_() == shown


def test_a_history_is_a_list_that_shows_itself(manager):
    """As a table and as lines, the last of them; its slices, too."""
    state = sweep(manager, 60)
    history = manager.history(state.experiment_id)
    assert isinstance(history, list)
    assert history == list(history)
    assert pickle.loads(pickle.dumps(history)) == history
    shown = history._repr_mimebundle_()
    assert shown["text/plain"].startswith(f"{len(history) - 20:,} steps before these\n")
    assert shown["text/html"].count("<tr>") == 101
    assert history[-2:]._repr_mimebundle_()["text/html"].count("<tr>") == 3
    step = history[-2]
    assert step._repr_mimebundle_()["text/plain"].endswith(
        "experiment: aggregate, completed → aggregated"
    )
    assert step._repr_html_().count("<tr>") == 2


def test_an_outcome_shows_its_rows(manager):
    """What came of it, then its first rows with parameters and results."""
    state = sweep(manager, 60)
    aggregate = aggregation.read(manager.folder(state.experiment_id))
    outcome = holdfast.Outcome(state=state, aggregate=aggregate, message="aggregated <b>")
    shown = outcome._repr_mimebundle_()
    assert shown["text/plain"] == "aggregated <b>"
    html = outcome._repr_html_()
    assert html == shown["text/html"]
    assert "aggregated &lt;b&gt;" in html
    assert html.count("<tr>") == 21
    assert "<p>… 40 more rows</p>" in html
    assert all(f">{name}</th>" in html for name in ("lr", "seed", "accuracy"))
    assert marked(shown["image/svg+xml"]) == ["aggregated"]


def test_what_others_stored_is_text(manager):
    """Markup in names, errors and results is no markup of the page, and long texts are cut."""
    state = hostile(manager)
    folder = manager.folder(state.experiment_id)
    aggregate = aggregation.partial_of(state, folder, parameters(state) or ())
    outcome = holdfast.Outcome(state=state, aggregate=aggregate, message=state.name or "")
    for each in (state, outcome, manager.history(state.experiment_id)):
        html = each._repr_html_()
        tags = {tag.lower() for tag in re.findall(r"<\s*/?\s*([a-zA-Z!]+)", html)}
        assert tags <= {"p", "div", "span", "img", "table", "thead", "tbody", "tr", "th", "td"}
        assert html.count("<img") == html.count('<img alt="The experiment machine')
        assert "\x1b" not in html
        assert "\u202e" not in html
        assert len(html) < 200_000
