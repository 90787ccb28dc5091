"""What a Dask worker or a pool runs, and what comes back from where no files are shared.

There an attempt runs in a folder of its own, and its exit record, its outputs and its result are
the value of its task. Everything here is called by name from another process.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs

from holdfast.attempts import environment
from holdfast.attempts.names import ATTEMPTS, RESULTS
from holdfast.attempts.parcels import Parcel, packed, unpack
from holdfast.attempts.records import Attempt
from holdfast.engines import station, waves
from holdfast.engines.contract import Handle
from holdfast.engines.tasks import WAVES
from holdfast.errors import DiskError, EngineError
from holdfast.identity import ProcessIdentity

__all__ = ["Order", "carry_out", "order", "sees", "take_in"]


@attrs.frozen(kw_only=True)
class Order:
    """An attempt on its way to whoever runs it.

    Attributes:
        token: Of the experiment's folder: who sees it there has the same folder.
        inputs: Contents of the files that its environment names, for who does not see them.
        apart: Whether to run it in a folder of its own in any case.
    """

    attempt: Attempt
    token: str
    inputs: Mapping[str, bytes]
    apart: bool = False


def order(attempt: Attempt, token: str, *, apart: bool = False) -> Order:
    """*attempt*, with what it needs to be run anywhere."""
    inputs = {}
    path = attempt.env.get(environment.PARAMS_FILE)
    if path is not None:
        with contextlib.suppress(OSError):
            inputs[path] = Path(path).read_bytes()
    return Order(attempt=attempt, token=token, inputs=inputs, apart=apart)


def sees(folder: str, token: str) -> bool:
    """Whether this process has the very folder that *token* is of."""
    path = Path(folder)
    try:
        # A look at the directory, so that a network file system asks its server again.
        if WAVES not in (each.name for each in path.iterdir()):
            return False
        return waves.token(path) == token
    except (OSError, DiskError):
        return False


def carry_out(
    wanted: Order,
    started: Callable[[ProcessIdentity | None], None] = lambda _: None,
    completing: Callable[[bool], None] = lambda _: None,
) -> Parcel | None:
    """Run an attempt to its certain end; see `station.run`.

    Returns:
        Its files, if they are not in the experiment's folder; None if they are there, or if it was
        told to stop before it began.
    """
    attempt = wanted.attempt
    if not wanted.apart and sees(str(attempt.folder), wanted.token):
        station.run(attempt, started=started, completing=completing)
        return None
    with tempfile.TemporaryDirectory(prefix="holdfast-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        moved = _moved(wanted, folder)
        known_as = attempt.folder
        if not station.run(moved, folder=known_as, started=started, completing=completing):
            return None
        return packed(folder, attempt.name)


def _moved(wanted: Order, folder: Path) -> Attempt:
    """The attempt as it runs in *folder*: every variable that named a file of its own does so."""
    attempt, old = wanted.attempt, str(wanted.attempt.folder)

    def there(value: str) -> str:
        if value != old and not value.startswith(old + os.sep):
            return value
        return str(folder) + value[len(old) :]

    env = {name: there(value) for name, value in attempt.env.items()}
    for directory in (ATTEMPTS, RESULTS):
        (folder / directory).mkdir()
    for name in (environment.CHECKPOINT_DIR, environment.CHECKPOINTS, environment.REPORTS):
        if env.get(name, "").startswith(str(folder)):
            Path(env[name]).mkdir(parents=True, exist_ok=True)
    for path, content in wanted.inputs.items():
        target = Path(there(path))
        if target.is_relative_to(folder):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    # The directory that it was submitted from is likely not there either.
    cwd = attempt.cwd if attempt.cwd and Path(attempt.cwd).is_dir() else str(folder)
    return attrs.evolve(attempt, folder=folder, env=env, cwd=cwd)


def take_in(handle: Handle, parcel: Parcel) -> None:
    """Put what came back of an attempt where it belongs.

    Raises:
        EngineError: The disk refuses. That passes: whoever has it keeps it, and tries again.
    """
    try:
        unpack(handle.folder, handle.name, parcel)
    except DiskError as err:
        problem = f"what came back of attempt {handle.name} waits for the disk: {err}"
        raise EngineError(handle.engine, problem) from err
