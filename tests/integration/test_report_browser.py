"""What `holdfast report` writes, in a real Chromium: in view, quiet, harmless, for everybody."""

import contextlib
import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import experiments
from browsing import Look
from holdfast import ProcessStatus, StateManager
from waiting import until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

#: Processes, and how many of them fail.
SIZES = {3: 1, 60: 5, 1_000: 60, 10_000: 400}
WIDTHS = (375, 1440)
SCHEMES = ("light", "dark")
#: What Chromium prints on: A4 without its margins, in CSS pixels.
PAPER = 718


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The page of a story, made once."""
    project = tmp_path_factory.mktemp("project")

    @functools.cache
    def made(story: str) -> Path:
        manager = StateManager(project / story / ".experiment_state")
        path = project / f"{story}.html"
        with contextlib.ExitStack() as going_on:
            ids = _tell(manager, story, going_on)
            command = [sys.executable, "-m", "holdfast", "report", "-O", str(path), "--", *ids]
            subprocess.run(command, cwd=project / story, check=True, timeout=600)
        return path

    return made


def _tell(manager: StateManager, story: str, going_on: contextlib.ExitStack) -> list[str]:
    """Make the experiments of *story*, which run as long as *going_on* is open; their ids."""
    if story.isdigit():
        n = int(story)
        experiments.sweep(
            *(manager, n),
            failures=SIZES[n],
            groups=5,
            retries=n // 20,
            interruptions=n // 30,
            curves=min(n, 100),
        )
        return ["sweep"]
    if story == "hostile":
        return [experiments.hostile(manager).experiment_id]
    if story == "two-hostile":
        ids = [experiments.hostile(manager).experiment_id]
        return [
            *ids,
            experiments.hostile(manager, experiment_id=experiments.ATTACKS[2]).experiment_id,
        ]
    if story == "compared":
        for name, failures in (("first", 4), ("second", 1)):
            experiments.sweep(manager, 60, experiment_id=name, failures=failures, curves=20)
        return ["first", "second"]
    if story == "ranks":
        experiments.sweep(manager, 12, experiment_id="gangs", ranks=4, failures=2)
        return ["gangs"]
    if story in ("running", "left"):
        going_on.enter_context(
            experiments.going_on(manager, 60, running=8, pending=20, failures=3, curves=30)
        )
        if story == "left":
            going_on.close()
        return ["going-on"]
    assert story == "aggregated"
    experiments.sweep(manager, 60, experiment_id="good", retries=3)
    return ["good"]


def _failed(pages: Callable[[str], Path], story: str) -> set[int]:
    top = pages(story).with_suffix("") / ".experiment_state"
    found: set[int] = set()
    for state in StateManager(top).states():
        found |= set(state.processes.indices(ProcessStatus.FAILED))
    return found


@pytest.fixture
def look(browser: Any, pages: Callable[[str], Path]) -> Iterator[Callable[..., Look]]:
    """Open the page of a story; it has disturbed nobody when it is closed."""
    with contextlib.ExitStack() as stack:
        opened = []

        def at(story: str, **how: Any) -> Look:
            opened.append(stack.enter_context(Look.at(browser, pages(story), **how)))
            return opened[-1]

        yield at
        assert [each.disturbances() for each in opened] == [[] for _ in opened]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("n", SIZES)
def test_nothing_overflows_and_every_failure_is_in_view(
    look: Callable[..., Look], tmp_path: Path, n: int, width: int, scheme: str
) -> None:
    """At every size, width and colour scheme, by the boxes of the laid-out page."""
    page = look(str(n), width=width, scheme=scheme)
    page.picture(tmp_path)
    assert not page.faults()
    found = page.layout()
    assert (found["processes"], found["failed"]) == (n, SIZES[n])
    assert not page.covered()


@pytest.mark.parametrize(
    "story", ["hostile", "two-hostile", "compared", "ranks", "running", "left", "aggregated"]
)
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overflows_whatever_is_shown(
    look: Callable[..., Look], tmp_path: Path, story: str, width: int
) -> None:
    page = look(story, width=width)
    page.picture(tmp_path)
    # The words of attacks are no words.
    assert not page.faults(but="broken" if "hostile" in story else "")
    assert not page.covered()


def test_a_window_may_change_its_width(look: Callable[..., Look]) -> None:
    """What was drawn for one width is drawn again for another."""
    page = look("60")
    for width in (1024, 320, 768, 375, 600, 1440):
        page.page.set_viewport_size({"width": width, "height": 900})
        assert until(lambda: not page.faults()), page.faults()


@pytest.mark.parametrize(
    ("story", "questions"),
    [
        ("60", ["5 failed", experiments.name_of_group(0), "out of memory", "accuracy", "elapsed"]),
        ("10000", ["400 failed", experiments.name_of_group(0), "out of memory", "accuracy"]),
        ("running", ["3 failed", experiments.name_of_group(0), "8 running", "time left"]),
        ("left", ["3 failed", "nobody runs it", "holdfast resume going-on"]),
        ("aggregated", ["60", "accuracy", "aggregated"]),
    ],
)
def test_the_first_screen_answers(
    look: Callable[..., Look], story: str, questions: list[str]
) -> None:
    """What failed and why, what is best, when it ends or ended: without scrolling."""
    found = look(story).page.evaluate(_FIRST_SCREEN)
    assert [each for each in questions if each not in found] == []


#: All words that are whole within the window.
_FIRST_SCREEN = r"""
() => {
  const said = [];
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  while (walker.nextNode()) {
    range.selectNodeContents(walker.currentNode);
    const box = range.getBoundingClientRect();
    if (box.height && box.bottom <= innerHeight && box.top >= 0) said.push(walker.currentNode.data);
  }
  return said.join(" ").replace(/\s+/g, " ");
}
"""


@pytest.mark.parametrize("n", SIZES)
def test_a_printed_page_has_everything_on_the_paper(
    look: Callable[..., Look], tmp_path: Path, n: int
) -> None:
    """Laid out for paper, nothing is cut off; and Chromium does print it."""
    page = look(str(n), width=PAPER, media="print")
    assert not page.faults()
    if n <= 1_000:
        page.page.pdf(path=tmp_path / "page.pdf", format="A4")
        assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("story", ["hostile", "two-hostile"])
@pytest.mark.parametrize("scripts", [True, False])
def test_no_stored_text_becomes_part_of_the_page(
    look: Callable[..., Look], story: str, scripts: bool
) -> None:
    """No script of the store ran; no element, link or attribute came of it."""
    page = look(story, scripts=scripts).page
    page.evaluate(_TOUCH)
    found = page.evaluate(_FOREIGN)
    honest = {"attacked": None, "polluted": None, "handlers": 0, "links": [], "foreign": []}
    assert {key: found.get(key) for key in honest} == honest
    assert found["styles"] == 1
    assert found["scripts"] == 2
    assert "\x1b" not in page.inner_text("body")


#: What only a stored text can have brought.
_FOREIGN = """
() => {
  const all = [...document.querySelectorAll("*")];
  const is = (element, kinds) => kinds.includes(element.tagName.toLowerCase());
  const address = (e) => e.getAttribute("href") || e.getAttribute("src") || "";
  return {
    attacked: window.attacked,
    polluted: ({}).polluted,
    scripts: document.scripts.length,
    styles: document.styleSheets.length,
    handlers: all.filter((e) => [...e.attributes].some((a) => /^on/i.test(a.name))).length,
    links: all.map(address).filter((url) => url && !/^(#|data:)/.test(url)),
    foreign: all.filter((e) =>
      is(e, ["img", "iframe", "object", "embed", "base", "form", "audio", "video"])
      || e.getAttribute("http-equiv") === "refresh").map((e) => e.outerHTML.slice(0, 99)),
  };
}
"""

#: Point at, focus and press whatever can be, as somebody who reads all of it would.
_TOUCH = """
() => {
  const kinds = ["pointerover", "pointermove", "mouseover", "mousemove", "mouseenter", "focus"];
  for (const element of document.querySelectorAll("body *")) {
    for (const kind of kinds) {
      element.dispatchEvent(new MouseEvent(kind, {bubbles: true, clientX: 9, clientY: 9}));
    }
    const pressed = ["BUTTON", "SUMMARY"].includes(element.tagName);
    if (pressed || element.dataset.index) element.click?.();
  }
}
"""


@pytest.mark.parametrize(
    ("story", "width", "scheme"),
    [
        *(("60", width, scheme) for width in WIDTHS for scheme in SCHEMES),
        *(("hostile", width, "light") for width in WIDTHS),
        ("compared", 1440, "light"),
        ("compared", 375, "dark"),
        ("ranks", 1440, "dark"),
        ("running", 1440, "light"),
        ("1000", 1440, "dark"),
    ],
)
def test_axe_finds_nothing_serious(
    look: Callable[..., Look], axe: str, story: str, width: int, scheme: str
) -> None:
    assert not look(story, width=width, scheme=scheme).accessibility(axe)


@pytest.mark.parametrize("story", ["3", "60", "1000", "10000", "hostile"])
def test_without_scripts_every_failure_can_be_read(
    look: Callable[..., Look], pages: Callable[[str], Path], story: str
) -> None:
    """The verdict, the reasons and each failed process are in the page without any script."""
    found = look(story, scripts=False)
    shown = found.page.evaluate(
        """() => [...document.querySelectorAll("noscript [data-status=failed]")]
          .filter((row) => row.checkVisibility() && row.getBoundingClientRect().height > 5)
          .map((row) => +row.dataset.index)"""
    )
    assert set(shown) == _failed(pages, story)
    assert found.page.locator("h1").is_visible()
    assert not found.faults(but="broken" if story == "hostile" else "")
    if story.isdigit():
        assert experiments.name_of_group(0) in found.page.inner_text("body")


def test_a_keyboard_is_enough(look: Callable[..., Look]) -> None:
    """The skip link comes first, arrows go through the grid, Enter sorts by a column."""
    page = look("60").page
    keys = page.keyboard
    keys.press("Tab")
    focused = "document.activeElement"
    assert page.evaluate(f"{focused}.getAttribute('href')").startswith("#")
    box = page.evaluate(f"(({{top, height}}) => [top, height])({focused}.getBoundingClientRect())")
    assert box[0] >= 0 < box[1]
    keys.press("Enter")
    keys.press("Tab")
    assert page.evaluate(f"document.querySelector('main').contains({focused})")

    said = []
    for _ in range(60):  # to the grid
        if page.evaluate(
            f"!!{focused}.closest('[data-part=grid]') && {focused}.tagName != 'SELECT'"
        ):
            break
        keys.press("Tab")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "End", "Home"):
        keys.press(key)
        said.append(page.inner_text("[data-part=grid] output"))
    assert len(set(said)) >= 4
    assert all("rocess" in each for each in said)

    for _ in range(200):  # to a heading of the table
        if page.evaluate(f"!!{focused}.closest('th') && {focused}.tagName == 'BUTTON'"):
            break
        keys.press("Tab")
    first = f"{focused}.closest('table').querySelector('tbody:last-of-type').innerText"
    rows = []
    for _ in range(2):
        keys.press("Enter")
        assert page.evaluate(f"{focused}.closest('th').getAttribute('aria-sort')") in (
            *("ascending", "descending"),
        )
        rows.append(page.evaluate(first))
    assert rows[0] != rows[1]


@pytest.mark.parametrize("n", SIZES)
def test_what_a_page_weighs(
    look: Callable[..., Look], pages: Callable[[str], Path], record_property: Any, n: int
) -> None:
    """Within the bounds that the guide names; how long it takes to open is only recorded."""
    size = pages(str(n)).stat().st_size
    curves = min(n, 100) * 200 * 2 * 16
    per_process = 300 + 150  # what it may take, with three parameters and three results
    assert size <= min(60_000 + per_process * n + 4_096 * 5 + curves, 4_000_000)
    page = look(str(n)).page
    took = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    record_property("bytes", size)
    record_property("milliseconds", took)
    print(json.dumps({"processes": n, "bytes": size, "milliseconds": round(took)}))
