"""What a doctor asks of a cluster before anybody trusts it with an experiment."""

from collections.abc import Callable, Iterator
from datetime import datetime

from holdfast.engines.options import EngineOptions
from holdfast.engines.slurm.client import Client

__all__ = ["examine"]


def examine(
    client: Client, wanted: EngineOptions, clock: Callable[[], datetime]
) -> Iterator[tuple[str, str]]:
    """Yield how it is, `ok`, `warning` or `problem`, and what."""
    yield "ok", client.version()
