"""Progress bars in logs: what was drawn over is not shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.reading.folding import Folded


def folded(data: bytes, pieces: list[int]) -> list[bytes]:
    """The lines of *data*, read in pieces of these lengths, and the rest at once."""
    log, found, at = Folded(), list[bytes](), 0
    for length in [*pieces, len(data)]:
        found += log.feed(data[at : at + length])
        at += length
    lines, rest = log.take()
    return [*found, *lines, rest]


#: As tqdm draws a bar within a bar.
NESTED = (
    b"\router 0/2\n\rinner 1/9\x1b[A\n\rinner 9/9\x1b[A\router 1/2"
    b"\n\rinner 9/9\x1b[A\router 2/2\nend\n"
)


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"a\nb\nc", [b"a", b"b", b"c"]),
        (b"from\r\nwindows\r\n", [b"from", b"windows", b""]),
        (b"\r 0%\r 50%\r100%\nafter\n", [b"100%", b"after", b""]),
        (b"10%\r20%\r30%", [b"30%"]),
        (b"\rbar\r   \r", [b"bar"]),
        (b"\rbar\r   \rdone\n", [b"done", b""]),
        (NESTED, [b"outer 2/2", b"inner 9/9", b"end", b""]),
        (b"\n\n", [b"", b"", b""]),
        (b"\x1b[31mred\x1b[0m\n", [b"\x1b[31mred\x1b[0m", b""]),
    ],
)
def test_only_the_last_state_of_a_bar_is_a_line(data: bytes, lines: list[bytes]) -> None:
    """Whatever else is in a log is there as it was."""
    assert folded(data, []) == lines


@given(
    st.lists(st.sampled_from([b"\r", b"\n", b" ", b"12%", b"word", b"\x1b[A", b"\x1b"])),
    st.lists(st.integers(1, 5)),
)
def test_it_does_not_matter_in_which_pieces_a_log_is_read(
    parts: list[bytes], pieces: list[int]
) -> None:
    """A reader that follows sees any part of a bar at any time."""
    assert folded(b"".join(parts), pieces) == folded(b"".join(parts), [])


def test_the_beginning_of_a_line_that_was_taken_is_not_repeated() -> None:
    """A question is shown before it is answered, and then only what follows."""
    log = Folded()
    assert log.feed(b"one\nsure? ") == [b"one"]
    assert log.take() == ([], b"sure? ")
    assert log.feed(b"yes\ntwo\n") == [b"yes", b"two"]


def test_a_bar_is_known_while_it_is_drawn() -> None:
    """So that a terminal can show it in its place."""
    log = Folded()
    assert log.bar is None
    assert log.feed(b"\r10%\r20%") == []
    assert log.bar == b"20%"
    assert log.feed(b"\ndone\n") == [b"20%", b"done"]
    assert log.bar is None


def test_a_bar_whose_line_has_ended_need_not_wait_for_the_next_line() -> None:
    """What follows may take hours; yet it is kept while another is drawn within it."""
    log = Folded()
    assert log.feed(b"\r10%\r20%") == []
    assert log.ended is None
    assert log.feed(b"\n\rnext 1%") == []
    assert (log.ended, log.bar) == (b"20%", b"next 1%")
    assert log.release() == [b"20%"]
    assert (log.ended, log.bar) == (None, b"next 1%")
    assert log.feed(b"\n") == []
    assert log.feed(b"\rinner 1/9\x1b[A") == []
    assert (log.ended, log.bar) == (None, b"next 1%")
    assert log.take() == ([b"next 1%"], b"inner 1/9")


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    """A program may write a terabyte without a line feed."""
    log = Folded()
    written = b"".join(part for _ in range(5) for part in log.feed(b"x" * 700_000))
    lines, rest = log.take()
    assert len(written + rest) == 3_500_000
    assert lines == []
    assert len(rest) < 2_000_000
