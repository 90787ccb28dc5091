"""What looks at pages finds what is wrong with one, and nothing wrong with one that is right."""

from pathlib import Path
from typing import Any

import pytest

from browsing import Look
from waiting import until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

_HEAD = "<!doctype html><html lang=en><meta charset=utf-8><title>t</title>"
_CELL = '<button data-index="{}" data-status="{}" style="{}">x</button>'


def _page(tmp_path: Path, body: str, head: str = "") -> Path:
    path = tmp_path / "page.html"
    path.write_text(f"{_HEAD}{head}<main><h1>Title</h1>{body}</main></html>")
    return path


def _cells(style: str) -> str:
    return _CELL.format(0, "completed", "") + _CELL.format(1, "failed", style)


def test_nothing_is_wrong_with_a_plain_page(browser: Any, axe: str, tmp_path: Path) -> None:
    """Text that wraps, a box that scrolls, text for ears only, and two processes in view."""
    ears = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)"
    body = (
        f"<p>{'word ' * 200}</p><span style='{ears}'>for ears</span>"
        f"<div tabindex=0 style='overflow:auto;width:100px'><pre>{'w' * 300}</pre></div>"
        + _cells("")
    )
    with Look.at(browser, _page(tmp_path, body), width=375) as look:
        assert not look.faults()
        found = look.layout()
        assert (found["processes"], found["failed"]) == (2, 1)
        assert not look.covered()
        assert not look.accessibility(axe)
        assert not look.disturbances()


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("width", "<p style='white-space:nowrap'>" + "long " * 100),
        ("outside", "<p style='white-space:nowrap'>" + "long " * 100),
        ("clipped", "<div style='width:40px;overflow:hidden;white-space:nowrap'>cut off here"),
        ("clipped", "<svg width=40 height=20><text y=15>cut off here by its drawing</text></svg>"),
        ("overlapping", "<p>one text<p style='margin-top:-30px'>and another over it"),
        ("overlapping", "<button>one</button><button style='margin-left:-20px'>two</button>"),
        ("broken", "<p style='width:2em;overflow-wrap:anywhere'>completed"),
        ("tiny", "<p style='font-size:6px'>who reads this"),
        ("unseen", _cells("display:none")),
        ("unseen", _cells("visibility:hidden")),
        ("unseen", _cells("position:absolute;left:-5000px")),
        ("unseen", f"<div style='height:20px;overflow:auto'><p>{'a<br>' * 9}{_cells('')}</div>"),
        ("unseen", f"<details><summary>more</summary>{_cells('')}</details>"),
    ],
)
def test_what_is_wrong_with_a_layout_is_found(
    browser: Any, tmp_path: Path, what: str, body: str
) -> None:
    with Look.at(browser, _page(tmp_path, body), width=375) as look:
        assert look.faults()[what]


def test_a_process_under_something_else_is_found(browser: Any, tmp_path: Path) -> None:
    cover = "<div style='position:fixed;inset:0;background:#fff'></div>"
    with Look.at(browser, _page(tmp_path, _cells("") + cover)) as look:
        assert len(look.covered()) == 1


def test_what_a_page_asks_for_and_says_is_heard(browser: Any, tmp_path: Path) -> None:
    """A request, an error, an exception, a dialog, and what its policy stops."""
    policy = (
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; "
        "script-src 'unsafe-inline'; connect-src http://a.invalid\">"
    )
    script = (
        "<script>fetch('http://a.invalid/x').catch(() => 0); new Image().src = 'http://b.invalid/';"
        "console.error('told'); alert('asked'); throw Error('thrown')</script>"
    )
    with Look.at(browser, _page(tmp_path, script, policy)) as look:

        def heard() -> bool:
            said = "\n".join(look.disturbances())
            words = ("http://a.invalid/x", "asked", "told", "thrown", "img-src")
            return all(word in said for word in words)

        until(heard)
        assert "http://a.invalid/x" in look.requests
        assert look.dialogs == ["asked"]
        assert any("told" in each for each in look.errors)
        assert any("thrown" in each for each in look.errors)
        assert any("img-src" in each for each in look.violations())


def test_what_axe_finds_serious_is_told(browser: Any, axe: str, tmp_path: Path) -> None:
    body = "<p style='color:#ccc;background:#fff'>pale</p><button></button>"
    with Look.at(browser, _page(tmp_path, body)) as look:
        found = " ".join(look.accessibility(axe))
    assert "color-contrast" in found
    assert "button-name" in found
