"""Tables give way where room lacks: columns by their importance, never what leads a row."""

from hypothesis import given
from hypothesis import strategies as st

from holdfast.reading import text
from holdfast.reading.tables import Column, laid_out, left_out_words

IDS = ["exp_20261126_101112_0f1e2d3c", "実験：大規模な学習", "e"]


def table(ids: list[str], name: str = "a name of some length") -> list[Column]:
    n = len(ids)
    return [
        Column("ID", ids),
        Column("STATE", ["failed (out_of_memory)"] * n, least=6),
        Column("DONE", ["1/2"] * n, right=True),
        Column("ETA", ["2m 10s"] * n, right=True, rank=1),
        Column("NAME", [name] * n, least=12, rank=2),
        Column("AGE", ["5 s ago"] * n, right=True, rank=3, optional=True),
    ]


@given(
    st.lists(st.sampled_from([*IDS, "x" * 30, "y" * 70]), min_size=1, max_size=6),
    st.integers(24, 200),
)
def test_no_row_wraps_and_no_id_is_cut(ids: list[str], room: int) -> None:
    """Only an id that is wider than the terminal is, on a row of its own."""
    lines, _ = laid_out(table(ids), room)
    assert [each for each in ids if not any(line.startswith(each) for line in lines)] == []
    assert all(text.width(line) <= room or line in ids for line in lines)


def test_what_is_least_important_goes_first_and_is_named() -> None:
    """What is optional is not missed by anybody, and is not named."""
    gone = [laid_out(table(IDS), room)[1] for room in (None, 120, 80, 60, 48)]
    assert gone == [[], [], [], ["NAME"], ["NAME", "ETA"]]
    assert "AGE" in laid_out(table(IDS), 120)[0][0]
    assert "AGE" not in laid_out(table(IDS), 80)[0][0]


def test_a_column_that_says_nothing_goes_before_any_that_does() -> None:
    """It would only take the room."""
    columns = table(IDS)
    columns[3] = columns[3]._replace(cells=["", "", ""])
    lines, gone = laid_out(columns, 62)
    assert "NAME" in lines[0]
    assert gone == []


def test_one_long_id_does_not_cost_all_others_their_columns() -> None:
    """It has a row of its own, and the rest of its row is below it."""
    lines, gone = laid_out(table(["short", "shorter", "tiny", "x" * 75]), 80)
    assert gone == []
    assert lines[4] == "x" * 75
    assert lines[5].lstrip().startswith("failed")


def test_a_cell_is_painted_and_not_what_looks_like_it_elsewhere() -> None:
    """An id may be called `failed`."""
    columns = [Column("ID", ["failed"]), Column("STATE", ["failed"], style=lambda _: "red")]
    lines, _ = laid_out(columns, 80, coloured=True)
    assert lines[1] == "failed  \x1b[31mfailed\x1b[0m"


def test_a_line_about_what_is_left_out_fits_as_well() -> None:
    """Without the names or without the command, if need be."""
    for room in (200, 60, 40, 20):
        [line] = left_out_words(["NAME", "PROG"], room, "holdfast -C /a/long/path ls -o json")
        assert text.width(line) <= room
    assert left_out_words([], 80, "holdfast ls") == []
