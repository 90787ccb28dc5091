"""What is stored of one experiment: the truth of its journals, else its view (guide: storage)."""

import contextlib
import errno
import json
import stat

from holdfast.errors import HoldfastError, StateCorruptError, cause
from holdfast.ids import sanitize_experiment_id
from holdfast.lifecycle.records import ExperimentState
from holdfast.store import encoding, journal, strictjson, view
from holdfast.store.journal import NO_DIRECTORY, Truth
from holdfast.store.place import JOURNALS, Place

__all__ = ["differs", "exists", "misnamed", "read", "view_problem"]


@strictjson.collector_paused()
def read(place: Place, *, below: int | None = None) -> Truth | None:
    """The stored state: of the journals, else of the view; None if there is no experiment.

    Args:
        below: Look only at journals of epochs below this one.

    Raises:
        StateCorruptError, SchemaTooNewError: It cannot be read; it is left as it is.
    """
    truth = _journals(place, below)
    if truth is None:
        state = view.read(place)
        if state is not None and state.epoch:
            # The first claim may have come between our two looks.
            truth = _journals(place, below)
        if truth is None and _hidden(place, state):
            # What the view says may be older than the journal that lies behind it.
            raise StateCorruptError(place.folder, NO_DIRECTORY)
        if truth is None:
            return None if state is None else Truth(state, 0, 0, deleted=False)
    return None if truth.deleted else truth


def _journals(place: Place, below: int | None) -> Truth | None:
    folder = place.open_folder()
    if folder is None:
        return None
    with folder:
        return journal.read_truth(folder, below=below)


def _hidden(place: Place, state: ExperimentState | None) -> bool:
    """Whether what stands in the place of the folder may hide a journal."""
    if state is None:
        return False
    try:
        mode = place.files.stat(place.stem, place.dir_fd).st_mode
    except FileNotFoundError:
        return False
    # A file of that name may be anybody's, as long as there was no claim.
    return stat.S_ISLNK(mode) or (state.epoch > 0 and not stat.S_ISDIR(mode))


def exists(place: Place) -> bool:
    """Whether there is a view or a journal. One of an experiment being deleted counts."""
    for name in (place.view_name, f"{place.stem}/{JOURNALS}"):
        try:
            place.files.stat(name, place.dir_fd)
        except OSError as err:
            # Anything else (EIO, EACCES) does not mean that it is not there.
            if err.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
        else:
            return True
    return False


def misnamed(state: ExperimentState, stem: str) -> str | None:
    """What is wrong with a file *stem* of that name; None if nothing is.

    A copied file must not answer to two names: the one inside counts.
    """
    try:
        expected = sanitize_experiment_id(state.experiment_id)
    except HoldfastError as err:
        return str(err)
    if expected == stem:
        return None
    return f"is of experiment {state.experiment_id!r}, whose file is {expected}.json"


def differs(plain: encoding.Json, truth: ExperimentState) -> str | None:
    """In what a view, as parsed, differs from the *truth* of the same revision; None if in nothing.

    No crash explains it: somebody wrote into the file. What an older version did not know yet, and
    left out, is no difference.
    """
    true = encoding.state_to_json(truth)
    keys = [key for key in {**true, **plain} if plain.get(key) != true.get(key)]
    if not keys:
        return None
    return f"differs from its journal in {', '.join(map(str, keys)):.200}"


def view_problem(place: Place, truth: ExperimentState, *, replay: bool) -> str | None:
    """In what the view disagrees with the *truth* of the journals; None if it does not.

    Args:
        replay: Let a view agree that only lies behind, because its owner died before it refreshed
            it: a replay shows whether the journals ever told that. A view that an owner is about to
            refresh lies behind, too: ask only where there is no owner.
    """
    files = place.files
    try:
        fd = files.open_read(place.view_name, place.dir_fd)
    except FileNotFoundError:
        return "is missing"
    except OSError as err:
        return f"cannot be opened: {cause(err)}"
    try:
        data = files.read_all(fd, view.SIZE_LIMIT)
        if data == encoding.view(truth):
            return None
        plain = json.loads(data)
        seen = plain["epoch"], plain["revision"], plain["status"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "cannot be read"
    finally:
        files.close(fd)
    if seen == (truth.epoch, truth.revision, str(truth.status)):
        problem = differs(plain, truth)
        if problem is None:
            return None
    else:
        problem = (
            f"tells of epoch {seen[0]!r:.20}, revision {seen[1]!r:.20}, {seen[2]!r:.20}; the "
            f"journal of epoch {truth.epoch}, revision {truth.revision}, {str(truth.status)!r}"
        )
    epoch, revision, _ = seen
    if not replay or type(epoch) is not int or type(revision) is not int:
        return problem
    from holdfast.store import former  # mostly a view agrees

    if not former.left_by_a_death(epoch, revision, truth):
        return problem
    with contextlib.suppress(HoldfastError, OSError, LookupError):
        held = former.states(place, epoch, revision)
        if any(differs(plain, each) is None for each in held):
            return None
    return f"{problem}; no journal ever held what it tells: was it edited?"
