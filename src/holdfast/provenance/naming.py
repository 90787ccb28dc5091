"""Which files a command names: `train.py` in `python train.py --lr 0.1`, `./sim`, `conf.yaml`.

A guess by its nature: it errs towards naming a file too many, and looks only where a word leads.
Nothing is run and nothing but the first bytes of a file is read.
"""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from holdfast.encoding import local, to_bytes
from holdfast.provenance.files import regular

__all__ = ["Namer", "is_document", "is_program", "named_files"]

_SOURCES: Final = frozenset(
    {
        *("py", "pyw", "pyx", "pxd", "sh", "bash", "zsh", "ksh", "csh", "fish", "ps1"),
        *("r", "rmd", "qmd", "jl", "m", "pl", "pm", "rb", "lua", "tcl", "awk", "sed", "php"),
        *("js", "mjs", "cjs", "ts", "java", "scala", "kt", "groovy", "clj", "go", "rs", "swift"),
        *("c", "cc", "cpp", "cxx", "h", "hh", "hpp", "cu", "cuh", "cl", "f", "f90", "f95", "f03"),
        *("for", "d", "cs", "fs", "hs", "ml", "nim", "zig", "ex", "exs", "erl", "lisp", "scm"),
        *("stan", "jags", "bugs", "mod", "gms", "do", "sas", "sps", "sql", "wl", "smk", "nf"),
        *("mk", "cmake", "sbatch", "slurm", "j2"),
    }
)
#: What people write and programs, too: `papermill in.ipynb out.ipynb`.
_DOCUMENTS: Final = frozenset({"ipynb", "toml", "yaml", "yml", "ini", "cfg", "conf"})
_MAGIC: Final = (
    *(b"#!", b"\x7fELF", b"MZ"),
    *(b"\xcf\xfa\xed\xfe", b"\xfe\xed\xfa\xcf", b"\xca\xfe\xba\xbe"),  # of macOS
)

_SHELLS: Final = frozenset({"sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "fish"})
_TEXT_FOLLOWS: Final = re.compile(r"-[A-Za-z]*c[A-Za-z]*")
#: A word of a shell's: plain, escaped and quoted parts; quotes that do not end are plain.
_WORD: Final = re.compile(
    r"""(?:[^\s'"\\;&|<>()`]+|\\.|'[^']*'|"(?:[^"\\]|\\.)*"|['"\\])+""", re.DOTALL
)
_QUOTED: Final = re.compile(r"""\\(.)|'([^']*)'|"((?:[^"\\]|\\.)*)\"""", re.DOTALL)
_MODULE: Final = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
#: A shell that starts a shell that starts a shell.
_DEEPEST: Final = 3

#: Where programs lie on any machine, whatever PATH says.
_OF_SYSTEM: Final = (
    "/bin",
    "/sbin",
    "/usr/bin",
    "/usr/sbin",
    "/usr/local/bin",
    "/opt/homebrew/bin",
)


def named_files(
    argv: Sequence[str],
    cwd: str | os.PathLike[str],
    *,
    before: datetime | None,
    path: str | None = None,
) -> tuple[str, ...]:
    """The files that the filled-in command *argv* names, once each, in order; see `Namer`."""
    return Namer(cwd, before=before, path=path).files(argv)


def is_program(path: str | os.PathLike[str]) -> bool:
    """Whether it is code or configuration, which people write, and attempts do not.

    A source suffix says so; else `#!` or the magic of a binary; else an executable bit, where the
    name has no suffix: on some file systems everything is executable. Of what is gone or
    unreadable, the name alone tells.
    """
    if _is_source(os.fspath(path)):
        return True
    try:
        fd = regular(path)
        if fd is None:
            return False
        try:
            head, mode = os.pread(fd, 4, 0), os.fstat(fd).st_mode
        finally:
            os.close(fd)
    except (OSError, ValueError):
        return False
    return head.startswith(_MAGIC) or (bool(mode & 0o111) and not Path(path).suffix)


class Namer:
    """Names the files of many commands of one moment: what it has seen, it does not check again.

    A named file is a regular file, or a link to one, that can be read, and

    - that a word of the command is the path of: a whole word; what follows its first `=`
      (`--config=conf.yaml`) or a leading `@`; a word of the text behind the `-c` of a shell;
      the file of the module after `-m`;
    - that is no installed program: a path into a directory on PATH, of the system, or the `bin` of
      a venv or conda environment counts only if it is a source and not the first word; the first
      word counts only with a slash;
    - that is a program (`is_program`), or was last modified before *before*: what is younger is
      what attempts have written.

    Args:
        cwd: Where the command runs.
        before: When the experiment's first attempt started; None if none has.
        path: PATH as the command finds it; by default as we do.
    """

    def __init__(
        self,
        cwd: str | os.PathLike[str],
        *,
        before: datetime | None = None,
        path: str | None = None,
    ) -> None:
        self._cwd = os.path.join(os.fspath(cwd), "")
        self._before_ns = None if before is None else _nanoseconds(before)
        self._path = path if path is not None else os.environ.get("PATH", os.defpath)
        self._installed: dict[str, bool] = {}
        self._on_path: frozenset[str] | None = None
        # Of a word: the path in records, or None if it names nothing that counts.
        self._named: dict[str, str | None] = {}

    def files(self, argv: Sequence[str]) -> tuple[str, ...]:
        """The files that *argv* names, as it writes them, as UTF-8 reads them; once each."""
        found: dict[str, None] = {}
        known = self._named
        for word in self._candidates(argv):
            if word in known:
                name = known[word]
            else:
                name = known[word] = self._judged(word)
            if name is not None:
                found[name] = None
        return tuple(found)

    def _candidates(self, argv: Sequence[str]) -> Iterator[str]:
        if argv and "/" in argv[0] and not self._is_installed(argv[0]):
            yield argv[0]
        yield from _words(argv)

    def _judged(self, word: str) -> str | None:
        # As the program gets it, which may be other bytes than this locale's.
        name = word if word.isascii() else _as_utf8(word)
        if not name:
            return None
        path = os.path.join(self._cwd, local(name))
        try:
            info = os.stat(path)
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(info.st_mode) or not os.access(path, os.R_OK):
            return None
        if "/" in word and not _is_source(word) and self._is_installed(word):
            return None
        if self._before_ns is None or info.st_mtime_ns < self._before_ns or is_program(path):
            return name
        return None

    def _is_installed(self, word: str) -> bool:
        """Whether the directory of *word* is one of installed programs."""
        folder = os.path.join(self._cwd, local(os.path.dirname(word)))
        found = self._installed.get(folder)
        if found is None:
            found = self._installed[folder] = self._holds_programs(folder)
        return found

    def _holds_programs(self, folder: str) -> bool:
        try:
            real = os.path.realpath(folder)
            if self._on_path is None:
                # `.` and other relative ones are where people work, and so is the command's own.
                given = filter(os.path.isabs, self._path.split(os.pathsep))
                on_path = set(map(os.path.realpath, (*given, *_OF_SYSTEM)))
                self._on_path = frozenset(on_path - {os.path.realpath(self._cwd)})
            if real in self._on_path:
                return True
            if os.path.basename(os.path.normpath(folder)) not in ("bin", "condabin"):
                return False
            above = os.path.dirname(os.path.normpath(folder))
            return any(
                os.path.exists(os.path.join(above, each)) for each in ("pyvenv.cfg", "conda-meta")
            )
        except (OSError, ValueError):
            return False


def _words(argv: Sequence[str], depth: int = 0) -> Iterator[str]:
    """What in *argv* could be the path of a file; not the first word, except of a shell's text."""
    in_shell = text_follows = module_follows = False
    for number, word in enumerate(argv):
        if word[:1] == "-":
            module_follows = word == "-m"
            if in_shell and _TEXT_FOLLOWS.fullmatch(word):
                text_follows = True
            elif "=" in word:
                yield word.partition("=")[2]
            continue
        if text_follows:
            in_shell = text_follows = False
            if depth < _DEEPEST:
                yield from _words(_split(word), depth + 1)
            continue
        if number or depth:
            yield word
        if module_follows and _MODULE.fullmatch(word):
            file = word.replace(".", "/")
            yield f"{file}.py"
            yield f"{file}/__main__.py"
        elif word[:1] == "@":
            yield word[1:]
        elif "=" in word:
            yield word.partition("=")[2]
        module_follows = False
        in_shell = in_shell or word.rpartition("/")[2] in _SHELLS


def _split(text: str) -> list[str]:
    """The words of a shell's *text*, without quotes and operators."""
    words = _WORD.findall(text)
    if "'" in text or '"' in text or "\\" in text:
        return [_QUOTED.sub(_plain, each) for each in words]
    return words


def _plain(quoted: re.Match[str]) -> str:
    escaped, single, double = quoted.groups()
    if double is not None:
        return re.sub(r'\\(["\\$`])', r"\1", double)
    return single if single is not None else escaped


def is_document(path: str) -> bool:
    """Whether its name is that of a notebook or a configuration, which attempts may write, too."""
    return os.path.splitext(path)[1][1:].lower() in _DOCUMENTS


def _is_source(path: str) -> bool:
    suffix = os.path.splitext(path)[1][1:].lower()
    return suffix in _SOURCES or suffix in _DOCUMENTS or os.path.basename(path) == "Makefile"


def _as_utf8(word: str) -> str:
    """*word* as UTF-8 reads the bytes that the program gets; empty if there are none."""
    try:
        return to_bytes(word).decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return ""


def _nanoseconds(at: datetime) -> int:
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1_000
