r"""What code an attempt ran with: the record, its file, and what has changed since.

A record is stored once, as `code/<name>.json` in an experiment's folder, and never changed. It is
one JSON object in ASCII, sorted keys, no spaces, no line feed:

- `format`: 1
- `files`: of each file that the command named, by its path as the command writes it:
  `{"sha256", "size"}`, or `{"mtime_ns", "size"}` of what was too large to be read for this
- `declared`: the same of each file in `[identity] files`
- `git`: `{"dirty", "revision"}`, each of which may be null, or null
- `python`: the version of the interpreter, or null

Its name is the first 32 hex digits of the SHA-256 of the file. Paths are text as UTF-8 reads their
bytes; a byte that is no UTF-8 is a lone surrogate, `\udc80` to `\udcff`, as in all of our files.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import attrs

from holdfast.encoding import local
from holdfast.errors import StateReadError, StateWriteError, cause
from holdfast.provenance.digests import Digests, FileDigest
from holdfast.provenance.files import content
from holdfast.provenance.git import Git
from holdfast.provenance.naming import is_document, is_program
from holdfast.syncing import sync

__all__ = [
    "FOLDER",
    "LARGE",
    "Code",
    "changed",
    "copy",
    "from_form",
    "look",
    "read",
    "without_written",
    "write",
]

#: In an experiment's folder.
FOLDER: Final = "code"
#: A file that is named and larger is data, not code: only its size and time are recorded.
LARGE: Final = 16 << 20

_FORMAT: Final = 1
_LIMIT: Final = 64 << 20
_NAME: Final = re.compile(r"[0-9a-f]{32}")
_HEX: Final = re.compile(r"[0-9a-f]{64}")
_REVISION: Final = re.compile(r"[0-9a-f]{40,64}")

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

# What this process has made durable, by device, inode and ctime (0 for a folder of records): once
# is enough, and it is asked for at every start of an attempt.
_durable: set[tuple[int, int, int]] = set()


@attrs.frozen(kw_only=True)
class Code:
    """What code an attempt ran with.

    Attributes:
        files: The files that its command names, by path, relative to where it runs.
        declared: The declared files, likewise.
        git: None if there was no repository, or git did not answer.
        python: The version of its interpreter; None if it runs none, or one that is not known.
    """

    files: Mapping[str, FileDigest] = attrs.field(factory=dict)
    declared: Mapping[str, FileDigest] = attrs.field(factory=dict)
    git: Git | None = None
    python: str | None = None

    @property
    def name(self) -> str:
        """32 hex digits: equal for the same code, whoever ran it."""
        return _name(self.encoded())

    def encoded(self) -> bytes:
        """The content of its file."""
        plain = {
            "format": _FORMAT,
            "files": _digests_to_json(self.files),
            "declared": _digests_to_json(self.declared),
            "git": None if self.git is None else attrs.asdict(self.git),
            "python": self.python,
        }
        return json.dumps(plain, sort_keys=True, separators=(",", ":")).encode("ascii")


def look(
    named: Iterable[str],
    cwd: Path,
    digests: Digests,
    *,
    declared: Iterable[str] = (),
    git: Git | None = None,
    python: str | None = None,
) -> Code:
    """The record of the code as it is now.

    Args:
        named: The files that the command names (`naming.Namer`). What has gone in between is left
            out.
        cwd: What their paths are relative to.
        digests: Hashes them.
        declared: The declared files.
        git: What git said when the run began.
        python: The version of the interpreter (`interpreter.python_version`).

    Raises:
        StateReadError: A declared file cannot be read.
    """
    files = {}
    for name in named:
        with contextlib.suppress(StateReadError, OSError, ValueError):
            files[name] = _digest(os.path.join(cwd, local(name)), digests)
    stated = {name: digests.of(os.path.join(cwd, local(name))) for name in declared}
    return Code(files=files, declared=stated, git=git, python=python)


def changed(code: Code, cwd: Path, digests: Digests) -> dict[str, str]:
    """The named files that are not as *code* has them, with what became of each.

    The text goes on after the path: "changed", "is gone", "is no file any more", "cannot be read:
    Permission denied (EACCES)".
    """
    found = {}
    for name, then in code.files.items():
        words = _became(os.path.join(cwd, local(name)), then, digests)
        if words is not None:
            found[name] = words
    return found


def without_written(code: Code, cwd: Path, digests: Digests, since: datetime | None = None) -> Code:
    """*code* without the files that an attempt which ran with it has written.

    Those are data or documents (`out.ipynb`), and changed since, or were written anew as they were
    after *since*. Other programs change because somebody edits them.
    """
    touched = changed(code, cwd, digests).keys() | {
        name for name in code.files if _is_younger(os.path.join(cwd, local(name)), since)
    }
    written = {name for name in touched if _may_be_output(name, cwd)}
    if not written:
        return code
    return attrs.evolve(code, files={k: v for k, v in code.files.items() if k not in written})


def _is_younger(path: str, since: datetime | None) -> bool:
    try:
        return since is not None and os.stat(path).st_mtime > since.timestamp()
    except (OSError, ValueError):
        return False


def _may_be_output(name: str, cwd: Path) -> bool:
    return is_document(name) or not is_program(os.path.join(cwd, local(name)))


def _digest(path: str, digests: Digests) -> FileDigest:
    info = os.stat(path)
    if info.st_size > LARGE and stat.S_ISREG(info.st_mode):
        return FileDigest(size=info.st_size, mtime_ns=info.st_mtime_ns)
    return digests.of(path)


def _became(path: str, then: FileDigest, digests: Digests) -> str | None:
    try:
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):
            return "is no file any more"
        if info.st_size != then.size or (
            then.mtime_ns is not None and then.mtime_ns != info.st_mtime_ns
        ):
            return "changed"
        return "changed" if then.sha256 and digests.of(path).sha256 != then.sha256 else None
    except (FileNotFoundError, NotADirectoryError):
        return "is gone"
    except OSError as err:
        return f"cannot be read: {cause(err)}"
    except StateReadError as err:
        return "is gone" if err.errno == errno.ENOENT else f"cannot be read: {err.cause}"
    except ValueError as err:
        return f"cannot be read: {err}"


# -- the file -------------------------------------------------------------------------------------


def write(folder: Path, code: Code) -> str:
    """Have *code* in the experiment's *folder*, durably; its name.

    Raises:
        StateWriteError: The file system refused, or something else has its place.
    """
    data = code.encoded()
    name = _name(data)
    path = folder / FOLDER / f"{name}.json"
    try:
        _make(folder)
        with _opened(folder) as directory:
            _write(directory, path.name, data)
    except OSError as err:
        raise StateWriteError.of(path, "recording the code", err) from err
    return name


def read(folder: Path, name: str) -> Code | None:
    """The record *name* of the experiment's *folder*; None if it is missing, damaged or newer.

    Nothing that is not exactly what `write` would make of it is accepted: a digest too short, a
    key twice, another format.
    """
    if not _NAME.fullmatch(name):
        return None
    try:
        with _opened(folder) as directory:
            data = content(f"{name}.json", _LIMIT, directory)
        if data is None or _name(data) != name:
            return None
        code = _decoded(json.loads(data))
    except (OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError):
        return None
    return code if code.encoded() == data else None


def from_form(plain: Mapping[str, Any]) -> Code | None:
    """The record that *plain* tells of, its JSON but for the format; None if it is none."""
    try:
        return _decoded(plain)
    except (LookupError, TypeError, ValueError, AttributeError):
        return None


def copy(source: Path, folder: Path, name: str | None) -> str | None:
    """Have the record *name* of the experiment in *source* in *folder*, too; None if it is gone.

    Raises:
        StateWriteError: As `write`.
    """
    found = None if name is None else read(source, name)
    return None if found is None else write(folder, found)


def _name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    outer = os.open(folder, _DIRECTORY)
    try:
        # Nothing below the state directory is read or written through a link.
        directory = os.open(FOLDER, _DIRECTORY | os.O_NOFOLLOW, dir_fd=outer)
    finally:
        os.close(outer)
    try:
        yield directory
    finally:
        os.close(directory)


def _make(folder: Path) -> None:
    """Have the folder of the records, durably."""
    made = False
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder / FOLDER, 0o777)
        made = True
    info = os.lstat(folder / FOLDER)
    # One that exists may have been made by a process that was killed before it came to this line;
    # a new one may have the inode number of one that was deleted.
    if made or (info.st_dev, info.st_ino, 0) not in _durable:
        fd = os.open(folder, _DIRECTORY)
        try:
            sync(fd)
        finally:
            os.close(fd)
        _durable.add((info.st_dev, info.st_ino, 0))


def _write(directory: int, name: str, data: bytes) -> None:
    try:
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if (info.st_dev, info.st_ino, info.st_ctime_ns) in _durable:
            return
        there = content(name, _LIMIT, directory) == data
    except FileNotFoundError:
        there = False
    fd = -1
    draft = f".tmp-{os.urandom(8).hex()}"
    try:
        if there:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            fd = os.open(draft, flags, 0o666, dir_fd=directory)
            left = memoryview(data)
            while left:
                left = left[os.write(fd, left) :]
        sync(fd)
        if not there:
            os.rename(draft, name, src_dir_fd=directory, dst_dir_fd=directory)
        sync(directory)
        info = os.fstat(fd)
        _durable.add((info.st_dev, info.st_ino, info.st_ctime_ns))
    except BaseException:
        if not there:
            with contextlib.suppress(OSError):
                os.unlink(draft, dir_fd=directory)
        raise
    finally:
        if fd >= 0:
            os.close(fd)


# -- as JSON --------------------------------------------------------------------------------------


def _digests_to_json(files: Mapping[str, FileDigest]) -> dict[str, Any]:
    return {
        path: {"size": each.size, "sha256": each.sha256}
        if each.sha256 is not None
        else {"size": each.size, "mtime_ns": each.mtime_ns}
        for path, each in files.items()
    }


def _decoded(plain: Any) -> Code:
    """The record in *plain*; whatever is wrong raises one or other of many errors."""
    git, python = plain["git"], plain["python"]
    if git is not None:
        git = Git(revision=_text(git["revision"], _REVISION), dirty=git["dirty"])
        if type(git.dirty) not in (bool, type(None)):
            raise TypeError("dirty")
    return Code(
        files={path: _digest_from_json(each) for path, each in plain["files"].items()},
        declared={path: _digest_from_json(each) for path, each in plain["declared"].items()},
        git=git,
        python=_text(python),
    )


def _digest_from_json(plain: Any) -> FileDigest:
    size, mtime_ns = plain["size"], plain.get("mtime_ns")
    if type(size) is not int or size < 0 or type(mtime_ns) not in (int, type(None)):
        raise TypeError("size")
    digest = _text(plain.get("sha256"), _HEX)
    if (digest is None) == (mtime_ns is None):
        raise ValueError("one of sha256, mtime_ns")
    return FileDigest(size=size, sha256=digest, mtime_ns=mtime_ns)


def _text(value: Any, pattern: re.Pattern[str] | None = None) -> str | None:
    if value is None:
        return None
    if type(value) is not str or (pattern is not None and not pattern.fullmatch(value)):
        raise TypeError("text")
    return value
