"""The copy that is drilled: what goes into it, how large it is, and what would lead out of it."""

import errno
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

import attrs

from holdfast.config.experiment_file import Experiment
from holdfast.errors import StateReadError, StateWriteError
from holdfast.store.place import STATE_DIR

__all__ = [
    "Made",
    "Survey",
    "copy",
    "is_everybodys",
    "leading_out",
    "named",
    "shared",
    "survey",
    "undo",
]

_CLONE: Final = 0x40049409  # FICLONE of linux/fs.h
_BLOCK: Final = 1 << 20
#: Paths in a text of a command, as a shell or an option has them: `--out=/scratch/x`, `>/tmp/y`.
#: Not what follows the `http:` of an address.
_PATH: Final = re.compile(r"""(?:^|(?<=[\s=:,;<>|&()'"])|(?<=file://))/(?!/)[^\s=:,;<>|&()'"]*""")
#: How what is written to is called: `-o`, `--out-dir`, `SAVE_TO`; `>` in a shell.
_WRITTEN: Final = re.compile(
    r"^-+o$|out|save|log|dest|result|checkpoint|ckpt|write|export|work_?dir|>$", re.IGNORECASE
)
#: Where what is named is nobody's output.
_OF_SYSTEM: Final = ("/bin", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr")
#: Processes whose filled-in words are looked at: what is absolute is so in all of them.
_MOST_COMMANDS: Final = 1000


#: By relative path, inode and time of the last change of what was copied: no program can fake both.
Made = dict[str, tuple[int, int]]


@attrs.frozen(kw_only=True)
class Survey:
    """What lies in a folder.

    Attributes:
        folder: An absolute path.
        apart: What in it was not looked at.
        signs: What gives a change away, by relative path.
        files: How many there are.
        size: What a copy takes on the disk at the most, in bytes.
        out: Links that lead out of the folder, and where to: what is behind them is not copied.
    """

    folder: Path
    apart: tuple[Path, ...]
    signs: Mapping[str, tuple[int, ...]]
    files: int
    size: int
    out: Mapping[str, str]


def survey(folder: Path, apart: tuple[Path, ...] = ()) -> Survey:
    """Look at everything in *folder* but for state directories at its top, and *apart*.

    Raises:
        StateReadError: Something in it cannot be read.
    """
    signs: dict[str, tuple[int, ...]] = {}
    out: dict[str, str] = {}
    size = files = 0
    real = Path(os.path.realpath(folder))
    for path, info in _entries(folder, apart):
        signs[path] = (info.st_mode, info.st_size, info.st_mtime_ns, info.st_ino)
        if stat.S_ISREG(info.st_mode):
            files += 1
            size += min(info.st_size, info.st_blocks * 512)
        elif stat.S_ISLNK(info.st_mode):
            target = Path(os.path.realpath(folder / path))
            if not target.is_relative_to(real):
                out[path] = str(target)
        elif stat.S_ISDIR(info.st_mode):
            signs[path] = (info.st_mode,)
    return Survey(folder=folder, apart=apart, signs=signs, files=files, size=size, out=out)


def _entries(folder: Path, apart: tuple[Path, ...]) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below *folder*, folders before what they contain."""
    left_out = {folder / STATE_DIR, *apart}
    pending = [folder]
    while pending:
        here = pending.pop()
        try:
            for entry in os.scandir(here):
                path = Path(entry.path)
                if path in left_out:
                    continue
                info = entry.stat(follow_symlinks=False)
                yield str(path.relative_to(folder)), info
                if stat.S_ISDIR(info.st_mode):
                    pending.append(path)
        except OSError as err:
            raise StateReadError.of(
                Path(err.filename or here), "looking at what to copy", err
            ) from err


def copy(found: Survey, target: Path, check: Callable[[], None] = lambda: None) -> Made:
    """Make *target* a copy of what was *found*; what is there already is taken for copied.

    Links that lead out of the folder lead to the same place; those to something in the folder, to
    the copy of it. Sockets and devices are left out.

    Args:
        check: Called for every file; raises to end it.

    Raises:
        StateReadError, StateWriteError: The disk refused.
    """
    source = found.folder
    folders: list[str] = [""]
    made: Made = {}
    _made(target, lambda: target.mkdir(parents=True, exist_ok=True))
    for path, signs in found.signs.items():
        check()
        here, there = source / path, target / path
        mode = signs[0]
        if stat.S_ISDIR(mode):
            _made(there, partial(there.mkdir, exist_ok=True))
            folders.append(path)
            continue
        if not os.path.lexists(there):
            if stat.S_ISLNK(mode):
                _link(found, here, there, path, target)
            elif stat.S_ISREG(mode):
                _file(here, there)
            elif stat.S_ISFIFO(mode):
                _made(there, partial(os.mkfifo, there))
            else:
                continue
        info = there.lstat()
        made[path] = (info.st_ino, info.st_ctime_ns)
    for path in reversed(folders):
        _made(target / path, partial(shutil.copystat, source / path, target / path))
    return made


def undo(found: Survey, target: Path, made: Made) -> None:
    """Take away from *target*, a copy of what was *found*, all that is not as it was *made*.

    So only that has to be copied again: there may be much that no run writes to.

    Raises:
        StateReadError, StateWriteError: The disk refused.
    """
    shutil.rmtree(target / STATE_DIR, ignore_errors=True)
    for path, info in list(_entries(target, ())):
        there = target / path
        if stat.S_ISDIR(info.st_mode):
            if not stat.S_ISDIR(found.signs.get(path, (0,))[0]):
                _made(there, partial(shutil.rmtree, there, ignore_errors=True))
        elif made.get(path) != (info.st_ino, info.st_ctime_ns):
            _made(there, partial(there.unlink, missing_ok=True))


def _made(path: Path, make: Callable[[], object]) -> None:
    try:
        make()
    except OSError as err:
        raise StateWriteError.of(path, "copying", err) from err


def _link(found: Survey, here: Path, there: Path, path: str, target: Path) -> None:
    leads = os.readlink(here)  # noqa: PTH115
    if path in found.out:
        leads = found.out[path]
    elif leads.startswith("/"):
        inside = os.path.relpath(os.path.realpath(here), os.path.realpath(found.folder))
        leads = str(target / inside)
    _made(there, lambda: there.symlink_to(leads))


def _file(here: Path, there: Path) -> None:
    try:
        source = os.open(here, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as err:
        raise StateReadError.of(here, "copying", err) from err
    try:
        target = os.open(there, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _content(source, target)
        finally:
            os.close(target)
        shutil.copystat(here, there, follow_symlinks=False)
    except OSError as err:
        raise StateWriteError.of(there, "copying", err) from err
    finally:
        os.close(source)


def _content(source: int, target: int) -> None:
    """Share what *source* has if the file system can, else copy it, holes as holes."""
    try:
        fcntl.ioctl(target, _CLONE, source)
        return
    except OSError:
        pass
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    at = 0
    while at < size:
        try:
            begin = os.lseek(source, at, os.SEEK_DATA)
            end = os.lseek(source, begin, os.SEEK_HOLE)
        except OSError as err:
            if err.errno == errno.ENXIO:
                return  # nothing but a hole up to the end
            begin, end = at, size  # a file system that does not know its holes
        at = begin
        while at < end:
            data = os.pread(source, min(_BLOCK, end - at), at)
            if not data:
                return  # it was shortened meanwhile
            os.pwrite(target, data, at)
            at += len(data)


# -- what would lead out of it --------------------------------------------------------------------


def _texts(experiment: Experiment) -> Iterator[tuple[str, str, str]]:
    """Everything that a process is told: where it stands, what it is called, the text.

    Not the program itself.
    """
    step = experiment.rank_count
    for index in range(0, min(experiment.num_processes, _MOST_COMMANDS * step), step):
        yield from _words("command", experiment.argv(index))
        for name, text in experiment.environment(index).items():
            yield f"env.{name}", name, text
        for key, value in experiment.params[index].items():
            yield f"matrix.{key}", key, str(value)
    yield from _words("aggregate.command", experiment.aggregate.command or ())


def _words(where: str, argv: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    for number, (before, word) in enumerate(pairwise(argv), 2):
        yield f"word {number} of {where}", before if before.startswith("-") else "", word


def _paths(experiment: Experiment) -> Iterator[tuple[str, str, bool]]:
    """Absolute paths: where each stands, itself, and whether that sounds like something written."""
    seen: set[tuple[str, str]] = set()
    for where, name, text in _texts(experiment):
        for found in _PATH.finditer(text):
            path = found[0]
            if (where, path) not in seen:
                seen.add((where, path))
                # `--out=` in the same word, or `>` of a shell.
                before = text[: found.start()].split()[-1:]
                yield where, path, any(map(_WRITTEN.search, (name, *before)))


def _homes(folder: Path) -> tuple[str, ...]:
    return tuple({str(folder), os.path.realpath(folder)})


def _is_in(path: str, folders: tuple[str, ...]) -> bool:
    plain = os.path.normpath(path)
    return any(plain == each or plain.startswith(f"{each}/") for each in folders)


def leading_out(experiment: Experiment) -> list[str]:
    """What has a run of a copy write into the original, or make something elsewhere; clauses."""
    homes, found = _homes(experiment.cwd), []
    for where, path, written in _paths(experiment):
        if _is_in(path, homes) or _is_in(os.path.realpath(path), homes):
            found.append(f"{where} names {path}, which is in the folder itself")
        elif _is_in(path, _OF_SYSTEM) or path.count("/") < 2:
            continue
        elif not os.path.lexists(path):
            found.append(f"{where} names {path}, which is not there: it would be made")
        elif written:
            found.append(f"{where} names {path}, which looks like an output")
    return list(dict.fromkeys(found))


def named(experiment: Experiment) -> list[Path]:
    """The absolute paths in it that are neither the system's nor in the folder."""
    homes = _homes(experiment.cwd)
    paths = (path for _, path, _ in _paths(experiment) if not _is_in(path, _OF_SYSTEM))
    return [Path(path) for path in dict.fromkeys(paths) if not _is_in(path, homes)]


def shared(experiment: Experiment, found: Survey) -> list[Path]:
    """What is outside of the folder, and can be written by what runs in a copy."""
    homes = _homes(experiment.cwd)
    paths = dict.fromkeys([*named(experiment), *map(Path, found.out.values())])
    return [
        path
        for path in paths
        if os.access(path, os.W_OK) and not _is_in(str(path), homes) and not is_everybodys(path)
    ]


def is_everybodys(path: Path) -> bool:
    """Whether it is a place like `/tmp`, in which something happens all the time."""
    return bool(path.stat().st_mode & stat.S_ISVTX)
