"""The demo: a real little experiment, left as files that a newcomer reads, edits and runs again.

Owns what is written to `./holdfast-demo`: the two files beside this one, as they are. Running it
is an experiment like any other, and the command line's.
"""

import secrets
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import attrs

from holdfast.errors import StateWriteError

__all__ = ["FOLDER", "DemoFiles", "write_demo"]

#: Where the demo goes, in the current directory.
FOLDER: Final = "holdfast-demo"

_NAMES: Final = ("experiment.toml", "measure.py")

# The modules in C: `bz2` and `lzma` themselves are always there, and fail when they are imported.
_CODECS: Final = {"zlib": "zlib", "bz2": "_bz2", "lzma": "_lzma"}


@attrs.frozen(kw_only=True)
class DemoFiles:
    """What `write_demo` left in place.

    Attributes:
        experiment: The experiment file, to be run.
        written: Files that were not there.
        kept: Files that were there and differ from ours: the user's by now.
        missing: Codecs that this Python was built without. Their processes will fail, saying so.
    """

    experiment: Path
    written: tuple[Path, ...] = ()
    kept: tuple[Path, ...] = ()
    missing: tuple[str, ...] = ()


def write_demo(folder: Path | str = FOLDER) -> DemoFiles:
    """Put the demo's files into *folder*, made if missing; what is there already is kept.

    Raises:
        StateWriteError: The file system refused.
    """
    folder = Path(folder)
    written, kept = [], []
    for name in _NAMES:
        path = folder / name
        ours = files(__name__).joinpath(name).read_bytes()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if _put(path, ours):
                written.append(path)
            elif not path.is_file() or path.read_bytes() != ours:
                kept.append(path)
        except OSError as err:
            raise StateWriteError.of(path, "writing the demo", err) from err
    missing = [codec for codec, module in _CODECS.items() if find_spec(module) is None]
    return DemoFiles(
        experiment=folder / _NAMES[0],
        written=tuple(written),
        kept=tuple(kept),
        missing=tuple(missing),
    )


def _put(path: Path, data: bytes) -> bool:
    if path.exists() or path.is_symlink():
        return False
    # Half a file, left by a kill in between, would be taken for the user's own next time.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        draft.write_bytes(data)
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
    return True
