"""What ended badly while somebody watched, the same together."""

from holdfast.reading.ended import Ended


def _failed(ended: Ended, *indices: int, kind: str = "exit", again: bool = False) -> None:
    ended.add(
        (kind, again),
        indices,
        verb="failed",
        why="exit code 1",
        sample=f"process {indices[-1]}",
        charged=True,
        final=not again,
    )


def test_a_process_that_fails_for_good_takes_all_its_earlier_failures_along() -> None:
    """What is left counts the attempts of the others alone."""
    ended = Ended()
    for index in (3, 3, 4):
        _failed(ended, index, again=True)
    ended.reopen(3, final=False)
    _failed(ended, 3)
    heads = [kind.head() for kind in ended.failures()]
    assert "failed process 4, tried again: exit code 1" in heads
    assert "failed process 3: exit code 1" in heads
    assert len(heads) == 2


def test_a_kind_goes_with_its_last_process() -> None:
    """What is tried again has not failed for good."""
    ended = Ended()
    _failed(ended, 1, 2, kind="a")
    _failed(ended, 2, kind="b")
    ended.reopen(2)
    assert [(kind.size, kind.number) for kind in ended.failures()] == [(1, 1)]
    ended.reopen(1)
    assert ended.failures() == []
    ended.reopen(1)


def test_interruptions_stay_when_a_process_is_tried_again() -> None:
    """They are charged to nobody, and happened all the same."""
    ended = Ended()
    ended.add(("x",), (5,), verb="lost", why="gone", sample="process 5", charged=False)
    _failed(ended, 5)
    ended.reopen(5)
    assert [kind.head() for kind in ended.interruptions()] == ["lost process 5: gone"]
    assert ended.failures() == []
