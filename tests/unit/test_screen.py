"""Lines that are drawn again and again at the end of a terminal of any size."""

import contextlib
import fcntl
import io
import os
import pty
import re
import struct
import termios
from collections.abc import Iterator
from typing import TextIO

import pytest

from holdfast.cli.screen import Screen
from holdfast.reading import text


class Pty:
    """A terminal in which nobody but *stream* writes."""

    def __init__(self, encoding: str = "utf-8") -> None:
        self.fd, inside = pty.openpty()
        self.stream: TextIO = open(inside, "w", encoding=encoding)  # noqa: SIM115

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def drawn(self, screen: Screen, lines: list[tuple[str, text.Style | None]]) -> str:
        """What drawing *lines* writes."""
        screen.draw(lambda columns, rows: lines)
        return os.read(self.fd, 1 << 16).decode()

    def close(self) -> None:
        self.stream.close()
        os.close(self.fd)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pty]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    found = Pty()
    yield found
    found.close()


def shown(written: str) -> list[str]:
    """The lines in *written*, without what moves the cursor."""
    return re.sub(r"\x1b\[[0-9]*[A-Z]", "", written).replace("\r", "").splitlines()


@pytest.mark.parametrize(("columns", "rows"), [(60, 15), (80, 24), (120, 40), (20, 3)])
def test_no_line_wraps_and_no_row_scrolls(terminal: Pty, columns: int, rows: int) -> None:
    """However long they are, or many; wide characters take two columns."""
    terminal.resize(columns, rows)
    asked: list[tuple[int, int]] = []
    lines: list[tuple[str, text.Style | None]] = [
        ("x" * 300, "red"), ("训练" * 100, None), *[("short", None)] * 100,
    ]  # fmt: skip
    screen = Screen(terminal.stream)
    screen.draw(lambda *size: asked.append(size) or lines)  # type: ignore[func-returns-value]
    found = shown(os.read(terminal.fd, 1 << 16).decode())
    assert asked == [(columns - 1, rows - 1)]
    assert len(found) == rows - 1
    assert max(map(text.width, found)) <= columns - 1


def test_the_next_frame_stands_in_the_place_of_the_one_before(terminal: Pty) -> None:
    """The cursor goes up by as many rows as there are; a narrower terminal has wrapped some."""
    terminal.resize(80, 24)
    screen = Screen(terminal.stream)
    terminal.drawn(screen, [("a" * 70, None), ("b", None)])
    assert terminal.drawn(screen, [("c", None)]).startswith("\r\x1b[2A")
    terminal.drawn(screen, [("a" * 70, None), ("b", None)])
    terminal.resize(40, 24)
    assert terminal.drawn(screen, [("c", None)]).startswith("\r\x1b[3A")
    terminal.drawn(screen, [("a", None)] * 10)
    terminal.resize(40, 5)
    assert terminal.drawn(screen, [("c", None)]).startswith("\x1b[H")
    screen.clear()
    assert os.read(terminal.fd, 100).decode().endswith("\x1b[J")


def test_ascii_stands_for_what_a_locale_lacks(
    terminal: Pty, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sign by sign, so that columns stay."""
    monkeypatch.setenv("LC_ALL", "C")
    terminal.resize(40, 5)
    words = shown(terminal.drawn(Screen(terminal.stream), [("█░ ● – 训 " + "x" * 90, None)]))
    assert words[0].startswith("#- > - ? xxx")
    assert words[0].endswith("x~")
    assert words[0].isascii()


def test_a_terminal_that_is_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever draws goes on."""
    monkeypatch.setenv("TERM", "xterm")
    terminal = Pty()
    screen = Screen(terminal.stream)
    screen.draw(lambda columns, rows: [("a", None)])
    os.close(terminal.fd)
    screen.draw(lambda columns, rows: [("b", None)])
    screen.clear()
    with contextlib.suppress(OSError):
        terminal.stream.close()
    with io.StringIO() as nowhere:
        Screen(nowhere).draw(lambda columns, rows: [("a", None)])
        assert "a" in nowhere.getvalue()
