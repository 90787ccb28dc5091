"""Our own style sheet and script with no byte in them that only their readers need.

Comments and blanks go, and the names that only the script itself uses become short. It relies on
how our files are written: statements end in semicolons, no template stands inside of another.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import product
from string import ascii_lowercase, ascii_uppercase
from typing import Final

__all__ = ["script", "style"]

_Token = tuple[str, str]

_TOKEN: Final = re.compile(
    r"""(?P<blank>(?:\s|//[^\n]*|/\*.*?\*/)+)"""
    r"""|(?P<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')"""
    r"""|(?P<template>`(?:\\.|[^`\\])*`)"""
    r"""|(?P<word>[A-Za-z_$#][\w$]*|\d[\w.]*|\.\d\w*)"""
    r"""|(?P<regex>/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n\[])+/[a-z]*)"""
    r"""|(?P<sign>=>|\.\.\.|\?\.|\?\?=?|\+\+|--|&&|\|\||\*\*|[<>=!]=?=?|[^\w\s])""",
    re.DOTALL,
)
#: After these a slash begins a regular expression; else it divides.
_BEFORE_REGEX: Final = frozenset(
    ["(", ",", "=", ":", "[", "!", "&", "|", "?", "{", "}", ";", "=>", "&&", "||", "return"]
)
#: `--ink`, not the end of a class name.
_VARIABLE: Final = re.compile(r"(?<![\w-])--[a-z][\w-]*")
_HOLE: Final = re.compile(r"\$\{((?:[^{}`]|\{[^{}`]*\})*)\}")
_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")
_KEYWORDS: Final = frozenset({"do", "if", "in", "of", "as"})
_STATEMENTS: Final = frozenset({"if", "for", "while", "switch", "catch", "return", "function"})
_ENDS: Final = frozenset({")", "]", "}", "++", "--"})
_BEGINS: Final = frozenset({"{", "[", "(", "`", "++", "--"})


def style(css: str) -> str:
    """*css* in one line, its variables with short names: no script and no element names one."""
    css = re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)
    parts = re.split(r"""("[^"]*"|'[^']*'|\([^()]*\))""", css)
    # What is in quotes or brackets keeps its blanks: there, some of them mean something.
    for at in range(0, len(parts), 2):
        parts[at] = re.sub(r"\s*([{};,>])\s*", r"\1", re.sub(r"\s+", " ", parts[at]))
        parts[at] = re.sub(r"([\w-]):\s+", r"\1:", parts[at]).replace(";}", "}")
    whole = "".join(parts).strip()
    short = _short_names(set())
    names = {name: next(short) for name, _ in Counter(_VARIABLE.findall(whole)).most_common()}
    return _VARIABLE.sub(lambda found: f"--{names[found[0]]}", whole)


def script(javascript: str) -> str:
    """*javascript* without comments and blanks, its own names as short as they can be."""
    made: list[str] = []
    before, gap = "", ""
    for kind, token in _renamed(list(_tokens(javascript))):
        if kind == "blank":
            gap = "\n" if "\n" in token else " "
            continue
        if gap and _needs(before, token, gap):
            made.append(gap)
        made.append(token)
        before, gap = token, ""
    return "".join(made) + "\n"


def _renamed(tokens: list[_Token]) -> Iterator[_Token]:
    """*tokens* with a short name for each variable whose name is nothing else anywhere.

    One name is one name everywhere, so that no scope has to be known.
    """
    declared, taken, counts = set[str](), set[str](), Counter[str]()
    inner = [
        _tokens(hole)
        for kind, token in tokens
        if kind == "template"
        for hole in _HOLE.findall(token)
    ]
    for found in (tokens, *map(list, inner)):
        uses = _uses(found)
        for name, use in uses:
            counts[name] += 1
            (declared if use == "declared" else taken if use == "other" else set()).add(name)
    short = _short_names(set(counts))
    names = {
        name: next(short)
        for name, _ in counts.most_common()
        if name in declared and name not in taken and len(name) > 2
    }
    for kind, token in tokens:
        yield kind, _put(kind, token, names)


def _put(kind: str, token: str, names: Mapping[str, str]) -> str:
    if kind == "word":
        return names.get(token, token)
    if kind == "template":
        return _HOLE.sub(
            lambda hole: "${" + "".join(_put(*each, names) for each in _tokens(hole[1])) + "}",
            token,
        )
    return token


def _uses(tokens: list[_Token]) -> Iterator[tuple[str, str]]:
    """Each word with what it is here: declared, a variable, or other (a property, a keyword)."""
    code = [(kind, token) for kind, token in tokens if kind != "blank"]
    opened: list[int] = []
    closed: dict[int, int] = {}
    inside: list[str] = []
    for at, (kind, token) in enumerate(code):
        inside.append(code[opened[-1]][1] if opened else "")
        if kind == "sign" and token in _OPENING:
            opened.append(at)
        elif kind == "sign" and token in _CLOSING and opened:
            closed[opened.pop()] = at
    parameters = {
        at
        for first, last in closed.items()
        if code[first][1] == "(" and _token(code, last + 1) == "=>"
        for at in range(first, last)
    }
    for at, (kind, token) in enumerate(code):
        if kind != "word" or token[0].isdigit() or token[0] == ".":
            continue
        before, after = _token(code, at - 1), _token(code, at + 1)
        method = after == "(" and _token(code, closed.get(at + 1, at) + 1) == "{"
        in_object = inside[at] == "{" and before in ("{", ",")
        if (
            before in (".", "?.", "get", "set", "static")
            or (method and before != "function" and token not in _STATEMENTS)
            or (in_object and after in (",", "}", "=", ":"))
            or (after == ":" and before in ("{", ","))
        ):
            yield token, "other"
        elif (
            before in ("const", "let", "function", "class")
            or after == "=>"
            or (at in parameters and before in ("(", ",", "[", "..."))
            or (inside[at] == "[" and _declares(code, at))
        ):
            yield token, "declared"
        else:
            yield token, "variable"


def _declares(code: list[_Token], at: int) -> bool:
    """Whether the list around *at* takes a value apart for new names."""
    while at >= 0 and code[at][1] != "[":
        at -= 1
    return _token(code, at - 1) in ("const", "let")


def _token(code: list[_Token], at: int) -> str:
    return code[at][1] if 0 <= at < len(code) else ""


def _short_names(taken: set[str]) -> Iterator[str]:
    letters = ascii_lowercase + ascii_uppercase + "$_"
    for length in (1, 2):
        for each in product(letters, repeat=length):
            if (name := "".join(each)) not in taken and name not in _KEYWORDS:
                yield name


def _tokens(javascript: str) -> Iterator[tuple[str, str]]:
    at, before = 0, ";"
    while at < len(javascript):
        found = _TOKEN.match(javascript, at)
        assert found is not None, javascript[at : at + 40]
        kind = found.lastgroup or ""
        token = found.group()
        if kind == "regex" and before not in _BEFORE_REGEX:
            kind, token = "sign", "/"
        yield kind, token
        at += len(token)
        if kind != "blank":
            before = token


def _needs(before: str, token: str, gap: str) -> bool:
    """Whether *before* and *token* would be another program without the *gap* between them."""
    last, first = before[-1:], token[0]
    if (_is_word(last) and _is_word(first)) or (last == first and first in "+-/"):
        return True
    # At the end of a line, a semicolon may be meant.
    ends = _is_word(last) or before in _ENDS or last in "\"'`"
    begins = _is_word(first) or token in _BEGINS or first in "\"'`"
    return gap == "\n" and ends and begins


def _is_word(character: str) -> bool:
    return character.isalnum() or character in "_$#"
