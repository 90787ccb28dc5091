"""The page made of a document: one file that asks nobody for anything when it is opened.

Text is put in by Jinja, which escapes it; the data of tables and plots stands in the page as JSON,
which the page's own script draws. A policy in the page forbids any other script and any request.
"""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache, partial
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from holdfast import diagrams
from holdfast.errors import NotInstalledError
from holdfast.reading import glyphs, text
from holdfast.reading.cells import cell
from holdfast.report import shrinking
from holdfast.status import ProcessStatus

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["GENERATOR", "page"]

Json = Mapping[str, Any]

#: What a page of ours has in its first bytes.
GENERATOR: Final = "holdfast report"

_FOLDER: Final = files("holdfast.report") / "page"
_TEMPLATE: Final = "page.html.j2"
#: What the page shows as text, or not at all, and so is no data of its script.
_NO_DATA: Final = frozenset(
    {
        "words", "why", "next", "numbers", "machines", "code", "environment", "liveness", "note",
        "stands",
        "groups", "config", "left_out",
    }
)  # fmt: skip
#: Of each process that failed, where no script runs: how much is said of each, if they are many.
_MANY, _VERY_MANY = 200, 2_000
#: Characters of the reason of a failure where the script shows it beside others.
_BRIEF: Final = 120
_ESCAPES: Final = {ord(each): f"\\u{ord(each):04x}" for each in "<>&\u2028\u2029"}


def page(document: Json) -> bytes:
    """The whole file.

    Raises:
        NotInstalledError: Jinja2 is missing.
    """
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as err:
        raise NotInstalledError("Jinja2", "report") from err

    # Not a loader of packages, which wants to know where the file is: it may be in an archive.
    environment = Environment(
        autoescape=True,
        loader=FunctionLoader(lambda name: (_FOLDER / name).read_text(encoding="utf-8")),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    experiments = document["experiments"]
    environment.globals["glyph"] = partial(glyphs.glyph, signs=True)
    css, script = _joined(".css"), _joined(".js", _unused(experiments))
    written: str = environment.get_template(_TEMPLATE).render(
        doc=document,
        data=Markup(_data(document)),  # noqa: S704 (its markup is escaped)
        css=Markup(css),  # noqa: S704 (ours)
        script=Markup(script),  # noqa: S704
        csp=_policy(script),
        generator=f"{GENERATOR} {document['holdfast']}",
        title=" and ".join(each["label"] for each in experiments) + " – holdfast",
        machines=[_machines(each, f"m{at}-") for at, each in enumerate(experiments)],
        failed=[_failed(each) for each in experiments],
    )
    # What is no character of UTF-8 is escaped by now, wherever it stood; a page must be made of
    # whatever is left all the same.
    return written.encode(errors="backslashreplace")


def _data(document: Json) -> str:
    """The part of the document that the script reads, as JSON that is harmless in HTML."""
    several = len(document["experiments"]) > 1
    experiments = [
        {
            **{name: value for name, value in each.items() if name not in _NO_DATA},
            "groups": [
                {**{name: group[name] for name in ("reason", "count")}, "words": _brief(group)}
                for group in each["groups"]
            ],
            **({"config": each["config"]} if several else {}),
        }
        for each in document["experiments"]
    ]
    signs = {str(each): glyphs.glyph(each, signs=True) for each in ProcessStatus}
    whole = {**document, "experiments": experiments, "glyphs": signs}
    encoded = json.dumps(whole, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return encoded.translate(_ESCAPES)


def _brief(group: Json) -> str:
    return text.cut(group["words"], _BRIEF)


@cache
def _joined(ending: str, without: frozenset[str] = frozenset()) -> str:
    """Our own files with *ending*, in the order of their names, as small as can be.

    Args:
        without: Parts that this page has no use for: `progress` is `5_progress.js`.
    """
    found = sorted(
        (
            each
            for each in _FOLDER.iterdir()
            if each.name.endswith(ending)
            and each.name.removesuffix(ending).partition("_")[2] not in without
        ),
        key=lambda each: each.name,
    )
    whole = "\n".join(each.read_text(encoding="utf-8") for each in found)
    return shrinking.style(whole) if ending == ".css" else shrinking.script(whole)


def _unused(experiments: Sequence[Json]) -> frozenset[str]:
    """The parts of the script for which there is nothing to draw."""

    def numbers(each: Json, part: str) -> int:
        return sum(each["kinds"][f"{part}.{name}"] == "number" for name in each[part])

    parts = {
        "compare": len(experiments) > 1,
        "progress": any(each["curves"] for each in experiments),
        "parallel": any(
            len(each["swept"]) > 2 and numbers(each, "results") for each in experiments
        ),
    }
    return frozenset(part for part, used in parts.items() if not used)


def _policy(script: str) -> str:
    """What the page may load: nothing but what is in it."""
    digest = b64encode(sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        f"img-src data:; base-uri 'none'; form-action 'none'"
    )


def _machines(each: Json, prefix: str) -> dict[str, "Markup"]:
    from markupsafe import Markup

    counts = each["machines"]["process"]["counts"]
    status = each["machines"]["experiment"]["current"]
    drawn = {
        "experiment": diagrams.inline("experiment", status, None, f"{prefix}e-"),
        "process": diagrams.inline("process", None, counts, f"{prefix}p-"),
    }
    return {name: Markup(svg) for name, svg in drawn.items()}  # noqa: S704 (ours)


def _failed(each: Json) -> list[dict[str, Any]]:
    """The processes that failed, for who runs no script; a few words of each where many did."""
    processes = each["processes"]
    indices = [at for at, status in enumerate(processes["status"]) if status == "f"]
    groups = each["groups"]
    words_of = [group["words"] for group in groups]
    longest = 60 if len(indices) > _MANY else _BRIEF
    rows = []
    for index in indices:
        group = _at(processes["group"], index)
        words = words_of[group] if group is not None and group < len(words_of) else ""
        reason = _at(processes["reason"], index)
        params = " ".join(
            f"{name}={cell(_at(values, index))}"
            for name, values in processes["params"].items()
            if len(indices) <= _MANY or name in each["swept"]
        )
        rows.append(
            {
                "index": index,
                "attempts": _at(processes["attempts"], index),
                "exit": _at(processes["exit"], index),
                "reason": None if reason is None else each["reasons"][reason],
                "words": "" if len(indices) > _VERY_MANY else text.cut(words, longest),
                "params": text.cut(params, 40 if len(indices) > _VERY_MANY else 120),
            }
        )
    return rows


def _at(column: Any, index: int) -> Any:
    return column[index] if isinstance(column, list) else column
