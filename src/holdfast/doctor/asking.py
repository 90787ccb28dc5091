"""Requests that nobody can understand: an owner passes them over, and who asked may not know."""

from collections.abc import Iterator

from holdfast.doctor.findings import Finding, hint
from holdfast.store import requests
from holdfast.store.place import Opened

__all__ = ["examine"]


def examine(folder: Opened) -> Iterator[Finding]:
    """The requests in the *folder* of an experiment that are none."""
    for name in sorted(filter(requests.NAME.fullmatch, folder.names())):
        try:
            requests.read(folder, name)
        except OSError:
            continue  # what is no file is named as that, and what is gone is nobody's
        except ValueError as err:
            what = f"is no request, and was passed over: {err}"
            repair = "remove it, and ask again (holdfast stop)"
            yield hint("unreadable", folder.path / name, what, repair)
