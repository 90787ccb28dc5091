"""A real Chromium that looks at pages: what they lay out, ask for, complain of and let run."""

import contextlib
import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

__all__ = ["Look", "a_browser", "axe", "missing"]

#: What reads a page for those who cannot see it; another version finds other things.
AXE = "axe-core@4.10.3"
_LAYOUT = Path(__file__).parent / "data" / "layout.js"
#: It would ask its maker for updates, and the sandbox needs what containers refuse.
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
#: Pixels of a page beyond which Chromium makes no picture of it in one piece.
_TALLEST = 16_000
#: Milliseconds for whatever a browser is asked: a large page takes seconds, on a busy machine more.
_PATIENCE_MS = 300_000
_FAULTS = ("outside", "clipped", "overlapping", "tiny", "broken", "unseen")
_WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective}: ${event.blockedURI || event.sample}`);
});
"""


@functools.cache
def _chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def missing() -> str:
    """Why no page can be looked at here; empty if it can."""
    lacking = []
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        lacking.append("playwright (pip install playwright)")
    if _chromium() is None:
        lacking.append("Chromium (Debian: chromium)")
    if shutil.which("npm") is None:
        lacking.append("npm, for axe-core")
    return f"no page can be looked at without {', '.join(lacking)}" if lacking else ""


@contextlib.contextmanager
def a_browser() -> Iterator[Any]:
    """A Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=_chromium(), args=list(_FLAGS), timeout=_PATIENCE_MS
        )
        try:
            yield browser
        finally:
            browser.close()


def axe(folder: Path) -> str:
    """The source of axe-core, installed in *folder*."""
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder, AXE]
    subprocess.run(command, check=True, timeout=240, stdin=subprocess.DEVNULL)
    return (folder / "node_modules/axe-core/axe.min.js").read_text()


@attrs.define(slots=False)  # playwright keeps its handlers in it
class Look:
    """A page that is open, and what it did that somebody might mind.

    Attributes:
        page: Playwright's.
        requests: Whatever it asked for beyond its own file.
        errors: What it complained of, on the console or by an exception.
        dialogs: What it asked the user.
    """

    page: Any
    requests: list[str] = attrs.field(factory=list)
    errors: list[str] = attrs.field(factory=list)
    dialogs: list[str] = attrs.field(factory=list)

    @classmethod
    @contextlib.contextmanager
    def at(
        cls,
        browser: Any,
        path: Path,
        *,
        width: int = 1440,
        height: int = 900,
        scheme: str = "light",
        media: str = "screen",
        scripts: bool = True,
    ) -> Iterator["Look"]:
        """Open *path* in a window of its own, without any network."""
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            java_script_enabled=scripts,
            offline=True,
        )
        context.set_default_timeout(_PATIENCE_MS)
        try:
            page = context.new_page()
            look = cls(page)
            own = path.resolve().as_uri()
            page.emulate_media(media=media, color_scheme=scheme)
            page.add_init_script(_WATCH)
            context.on("request", lambda asked: look._requested(asked.url, own))
            page.on("console", look._said)
            page.on("pageerror", lambda error: look.errors.append(str(error)))
            page.on("dialog", look._asked)
            page.goto(own, wait_until="load")
            if media == "print" and scripts:
                page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
            yield look
        finally:
            context.close()

    def _requested(self, url: str, own: str) -> None:
        if url.partition("#")[0] != own and not url.startswith("data:"):
            self.requests.append(url[:200])

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def _asked(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def layout(self) -> dict[str, Any]:
        """What `tests/data/layout.js` finds."""
        found: dict[str, Any] = self.page.evaluate(_LAYOUT.read_text())
        return found

    def picture(self, folder: Path) -> None:
        """Leave pictures of it in *folder*, for whoever wants to see what a test saw."""
        self.page.screenshot(path=folder / "top.png")
        if self.layout()["height"] < _TALLEST:
            self.page.screenshot(path=folder / "whole.png", full_page=True)

    def faults(self, *, but: str = "") -> dict[str, Any]:
        """What is wrong with the layout, by kind *but* one; nothing where nothing is."""
        found = self.layout()
        wrong = {key: found[key][:8] for key in _FAULTS if found[key] and key != but}
        if found["scrollWidth"] > found["width"]:
            wrong["width"] = f"{found['scrollWidth']} of {found['width']} pixels"
        return wrong

    def disturbances(self) -> list[str]:
        """Whatever it asked for, complained of, or had to be stopped from."""
        # First what is asked of the page: before its answer comes what was said until then.
        violations = self.violations()
        return [*self.requests, *self.errors, *self.dialogs, *violations]

    def covered(self, most: int = 60) -> list[str]:
        """Of that many failed processes, spread over all, those that something else covers."""
        found: list[str] = self.page.evaluate(_COVERED, most)
        return found

    def violations(self) -> list[str]:
        """What the page's own policy had to stop."""
        found: list[str] = self.page.evaluate("window.violations")
        return found

    def accessibility(self, axe: str) -> list[str]:
        """What axe-core finds that is serious or critical."""
        self.page.evaluate(axe)
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{each['impact']} {each['id']}: {node['html'][:160]} {node['failureSummary'][:300]}"
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"][:5]
        ]


_COVERED = """
(most) => {
  const failed = [...document.querySelectorAll("[data-status=failed][data-index]")];
  const step = Math.max(1, Math.floor(failed.length / most));
  const covered = [];
  for (let i = 0; i < failed.length; i += step) {
    failed[i].scrollIntoView({block: "center", inline: "nearest", behavior: "instant"});
    const box = failed[i].getBoundingClientRect();
    const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    if (!top || !(failed[i] === top || failed[i].contains(top))) {
      covered.push(`${failed[i].dataset.index}: ${top && top.outerHTML.slice(0, 120)}`);
    }
  }
  window.scrollTo(0, 0);
  return covered;
}
"""
