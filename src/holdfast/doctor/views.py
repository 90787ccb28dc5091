"""Whether a view tells exactly what its journals do, and how it is made to with nothing lost.

The journals count, but words that somebody wrote into a view by hand are nowhere else: whatever no
journal held is kept aside, byte for byte, before a view is written anew.
"""

import errno
import secrets
import warnings
from collections.abc import Callable, Iterator
from typing import Final

import attrs

from holdfast.doctor import absence
from holdfast.doctor.findings import Finding, Site, hint, problem, readable, to_read
from holdfast.errors import (
    HoldfastError,
    NoLocksWarning,
    SchemaTooNewError,
    StateCorruptError,
    UnreadableStateWarning,
    cause,
)
from holdfast.lifecycle.records import ExperimentState
from holdfast.store import decoding, encoding, former, strictjson, view
from holdfast.store.catalog import scanning
from holdfast.store.manager import StateManager
from holdfast.store.owners import is_owned
from holdfast.store.place import Place

__all__ = ["examine"]

_UNTRUSTED: Final = (
    "keep it: it is not written anew from a journal with a step that was not allowed, since it may "
    "be what is right"
)


def examine(
    site: Site, place: Place, state: ExperimentState, *, trusted: bool
) -> Iterator[Finding]:
    """In what the view differs from *state*, which its journals tell.

    Nothing is said while an owner may be at work: it refreshes its view within a second. If the
    journals are not *trusted* (a step was not allowed), the view may be right, and is kept.
    """
    if is_owned(place, state):
        return
    path = place.view_path
    try:
        seen = _look(place)
    except SchemaTooNewError as err:
        repair = "left as it is: the holdfast that wrote it can read it; the journals count"
        yield problem("unreadable", path, readable(err), repair)
        return
    except (OSError, ValueError) as err:
        yield problem("unreadable", path, _why(err), _advice(err))
        return
    if seen.state == state:
        return
    again = scanning.read_entry(place)
    if again is None or again.state != state:
        return  # somebody is at work
    if seen.data is not None and seen.state is not None:
        seen = attrs.evolve(seen, told=_told(place, seen.state, seen.data))
    if seen.state is not None and _moment(seen.state) > _moment(state):
        # Written anew, it would no longer tell what is gone: acknowledged steps, and who knows how
        # many. No crash explains that, since a view is written after its journal.
        yield absence.behind_view(place, seen.state, state)
        return
    what, kind = seen.difference(state)
    if not trusted:
        yield kind("view", path, what, _UNTRUSTED)
        return
    repair, fixed = _repair(site, place, state, seen)
    yield attrs.evolve(kind("view", path, what, repair), fixable=True, fixed=fixed)


@attrs.frozen
class _Seen:
    """What was found in the place of a view.

    Attributes:
        data: None if there is nothing.
        state: What it tells; else *damage* says why it tells nothing.
        told: Whether it is known that a journal held just that at some time, to the byte.
    """

    data: bytes | None
    state: ExperimentState | None = None
    damage: str = ""
    told: bool = False

    def difference(self, state: ExperimentState) -> tuple[str, Callable[..., Finding]]:
        """In what it differs from *state*, and what kind of finding that is."""
        seen = self.state
        if self.data is None:
            return "is missing", hint
        if seen is None:
            return f"cannot be read: {self.damage}", problem
        if _moment(seen) < _moment(state):
            tells = f"tells of {absence.moment(seen)}, the journal of {absence.moment(state)}"
            if not self.told:
                return f"{tells}, and of what no journal held: edited by hand?", problem
            if former.left_by_a_death(*_moment(seen), state):
                return f"{tells}: its owner died before it refreshed it", hint
            return tells, problem
        if self.told:
            # Letting go is the one line that moves no revision.
            return "lacks that its owner let go: it died before it refreshed it", hint
        fields = [
            field.name
            for field in attrs.fields(ExperimentState)
            if getattr(seen, field.name) != getattr(state, field.name)
        ]
        return f"differs from its journal in {', '.join(fields)}", problem


def _moment(state: ExperimentState) -> tuple[int, int]:
    return state.epoch, state.revision


def _look(place: Place) -> _Seen:
    """What is in the place of the view.

    Raises SchemaTooNewError; OSError; ValueError if it is no regular file, or too large for ours.
    """
    try:
        opened = place.top.open_read(place.view_name)
    except FileNotFoundError:
        return _Seen(None)
    with opened:
        data = place.files.read_whole(opened.fd, view.SIZE_LIMIT)
    try:
        plain = strictjson.loads(data)
    except ValueError as err:
        return _Seen(data, damage=f"is not valid JSON: {err}")
    try:
        return _Seen(data, decoding.state_from_json(plain, opened.path))
    except StateCorruptError as err:
        return _Seen(data, damage=readable(err))


def _why(err: OSError | ValueError) -> str:
    if not isinstance(err, OSError):
        return str(err)
    if err.errno == errno.ELOOP:
        return "is a symbolic link, which is never followed"
    if err.errno == errno.ENXIO:
        return "is a socket, or a device that is not there"
    return f"cannot be read: {cause(err)}"


def _advice(err: OSError | ValueError) -> str:
    if isinstance(err, OSError) and err.errno not in (errno.ELOOP, errno.ENXIO):
        return to_read(err)
    return "move it away: the journals count, and a missing view can be made again from them"


def _told(place: Place, seen: ExperimentState, data: bytes) -> bool:
    """Whether *data* is, to the byte, what the journal held when it was at *seen*'s revision."""
    try:
        return any(encoding.view(each) == data for each in former.states(place, *_moment(seen)))
    except (HoldfastError, OSError, LookupError):
        return False


# -- mending --------------------------------------------------------------------------------------


def _repair(site: Site, place: Place, state: ExperimentState, seen: _Seen) -> tuple[str, bool]:
    """What is to be done or was done, and whether it was."""
    words = "rewrite it from the journals, which count"
    precious = None if seen.told else seen.data
    if not site.fix:
        return words if precious is None else f"{words}; what is in it is kept aside", False
    if precious is not None:
        try:
            copy = _keep(place, precious)
        except OSError as err:
            return f"{words}; what is in it cannot be kept aside: {cause(err)}", False
        words = f"{words}; what was in it is kept in {place.stem}/{copy}"
    refused = _rewrite(place, state.experiment_id)
    return (words, True) if refused is None else (f"{words}; refused: {refused}", False)


def _keep(place: Place, data: bytes) -> str:
    """Keep *data* in the experiment's folder, durably; the name of the copy. Raises OSError."""
    name = f"view-replaced-{secrets.token_hex(4)}"
    with place.top.open_dir(place.stem) as folder:
        view.write_new(folder, name, data)
        place.files.fsync(folder.fd)
    return name


def _rewrite(place: Place, experiment_id: str) -> str | None:
    """Claim it, which rewrites the view; why not, if its owner lives, or may live."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreadableStateWarning)
        warnings.simplefilter("ignore", NoLocksWarning)  # found in the file system already
        try:
            StateManager(place.state_dir, files=place.files).claim(experiment_id).release()
        except HoldfastError as err:
            return str(err).partition("\n")[0]
    return None
