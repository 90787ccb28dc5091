"""The sign beside the word of a status."""

import io

import pytest

from holdfast.reading import glyphs, text
from holdfast.status import ExperimentStatus, ProcessStatus

LOCALE = ("LC_ALL", "LC_CTYPE", "LANG", "PYTHONIOENCODING", "PYTHONUTF8")


def stream(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


@pytest.mark.parametrize("status", [*ExperimentStatus, *ProcessStatus, "submitted", "held"])
@pytest.mark.parametrize("signs", [True, False])
def test_every_status_has_a_sign_of_one_column_and_a_colour(status: str, signs: bool) -> None:
    """A sign of two columns would shift everything to its right."""
    sign = glyphs.glyph(status, signs=signs)
    assert sign != "?"
    assert text.width(sign) == 1
    assert signs or sign.isascii()
    assert glyphs.style(status) is not None


def test_statuses_of_one_machine_differ_by_their_signs() -> None:
    """Without colours, the signs are what tells a column's rows apart."""
    for machine in (ExperimentStatus, ProcessStatus):
        for signs in (True, False):
            assert len({glyphs.glyph(each, signs=signs) for each in machine}) == len(machine)


def test_words_after_a_status_do_not_change_its_sign() -> None:
    """`failed (exit)` is failed, and `interrupted, 3 run on` is interrupted."""
    assert glyphs.status("failed (exit)", signs=False) == "x failed (exit)"
    assert glyphs.status("interrupted, 3 run on", signs=False) == "= interrupted, 3 run on"
    assert glyphs.glyph("dissolved", signs=True) == "?"


@pytest.mark.parametrize(
    ("environment", "encoding", "signs"),
    [
        ({"LANG": "en_GB.UTF-8"}, "utf-8", True),
        ({"LANG": "C.UTF-8"}, "utf-8", True),
        ({"LANG": "C"}, "utf-8", False),
        ({}, "utf-8", False),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, "utf-8", False),  # what Python makes of LANG=C
        ({"LANG": "en_GB.UTF-8", "LC_CTYPE": "C.UTF-8"}, "utf-8", True),
        ({"LANG": "en_GB.UTF-8", "LC_ALL": "C"}, "utf-8", False),
        ({"LANG": "de_DE.ISO-8859-1"}, "iso8859-1", False),
        ({"LANG": "en_GB.UTF-8"}, "ascii", False),
        ({"LANG": "C", "PYTHONUTF8": "1"}, "utf-8", True),
    ],
)
def test_signs_are_ascii_where_the_locale_has_no_others(
    environment: dict[str, str], encoding: str, signs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python writes UTF-8 under `LANG=C`, too, which such a terminal shows as rubbish."""
    for name in LOCALE:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert glyphs.has_signs(stream(encoding)) is signs
