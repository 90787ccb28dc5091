"""Whether what people say about experiments can be read, and is about one that is there.

Nothing rests on it: tags that are lost are lost, and no experiment with them.
"""

from collections.abc import Iterator

from holdfast.doctor.findings import Finding, Site, hint, problem, readable, to_read
from holdfast.errors import HoldfastError
from holdfast.store import annotations
from holdfast.store.catalog import scanning
from holdfast.store.place import Place

__all__ = ["examine"]


def examine(site: Site) -> Iterator[Finding]:
    """Annotations that cannot be read, and those of experiments that are no more."""
    found = annotations.all_of(site.top)
    for path, error in found.unreadable:
        yield problem("unreadable", path, readable(error), _to_do(error))
    for about in found.found:
        place = Place.of(site.top, about.experiment_id)
        entry = scanning.read_entry(place)
        if entry is not None and (entry.state is None or annotations.about(entry.state) == about):
            continue
        path = site.top.path / annotations.FOLDER / place.view_name
        if entry is None:
            what = "says something about an experiment that is not there"
            repair = "remove it, unless you will bring the experiment back from a backup"
        else:
            what = "says something about a former experiment of this name"
            repair = "remove it; the one that is there has none of it"
        yield hint("leftover", path, what, repair)


def _to_do(error: HoldfastError) -> str:
    if isinstance(error.__cause__, OSError):
        return to_read(error.__cause__)
    return "left as it is: remove it, and tag and note anew what you remember"
