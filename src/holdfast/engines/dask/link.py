"""The one place that knows `distributed`: a client, and what it can be asked within seconds.

A client that lost its scheduler cancels all its futures and ends itself; a new one finds the tasks
again by the names that they were published under, if the scheduler still has them.
"""

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from holdfast.engines.carrying import Order
from holdfast.errors import EngineError, EngineRefusedError

__all__ = ["Link"]

_NAME: Final = "dask"
#: How long a scheduler may take to answer.
_CONNECT_S: Final = 4
_ANSWER_S: Final = 15
#: After it could not be reached, it is not asked again for so long, and longer each time.
_AGAIN_S: Final = (0.5, 15.0)
#: What needs certificates.
_SECURE: Final = ("tls", "wss")
#: Of a larger graph, distributed says that it is large.
_AT_ONCE: Final = 500


def _usable(address: str) -> str:
    """*address*, if a client can be made for it: a half-made one holds its program up at its end.

    Raises:
        EngineRefusedError: It cannot.
    """
    from distributed.comm.addressing import parse_address, parse_host_port
    from distributed.comm.registry import get_backend
    from distributed.security import Security

    try:
        scheme, location = parse_address(address, strict=True)
        if scheme in ("tcp", *_SECURE):
            parse_host_port(location)
        get_backend(scheme).get_connector()
        if scheme in _SECURE and not Security().get_connection_args("client").get("ssl_context"):
            raise ValueError("no certificates are configured (distributed.comm.tls)")
    except (ValueError, TypeError, ImportError, OSError) as err:
        raise EngineRefusedError(_NAME, f"address {address}: {err}") from err
    return address


def _said_by_us(record: logging.LogRecord) -> bool:
    """Keep one line of distributed's own from a terminal, for which an `EngineError` stands."""
    return "Failed to reconnect to scheduler" not in str(record.msg)


class Link:
    """A client of a scheduler, or of a cluster of its own in this process.

    Attributes:
        address: Of the scheduler; None before a cluster of its own was started.
        own: Whether the cluster is of its own, and ends with it.

    Args:
        address: None for what Dask's own configuration names (`DASK_SCHEDULER_ADDRESS`), or else a
            cluster of its own.
        news: Called from another thread when a task is over or something was said.
    """

    def __init__(
        self, address: str | None, resources: Mapping[str, float], news: Callable[[], None]
    ) -> None:
        self.address = address
        self.own = False
        self._resources = dict(resources)
        self._news = news
        self._client: Any = None
        self._cluster: Any = None
        self._said: deque[Mapping[str, Any]] = deque()
        self._done: deque[str] = deque()
        self._refused: EngineError | None = None
        self._again_at, self._pause_s = 0.0, _AGAIN_S[0]

    def client(self) -> Any:
        """The client, connected now.

        Raises:
            EngineError: The scheduler cannot be reached.
        """
        if self._client is not None and self._client.status == "running":
            return self._client
        if self._client is not None and self._client.status == "connecting":
            raise self._unreachable("the connection was lost")
        if self._refused is not None and time.monotonic() < self._again_at:
            raise self._refused
        try:
            with self._asking():
                self._connect()
        except EngineError as err:
            # Whoever waits for it here hears nothing else meanwhile.
            self._refused, self._again_at = err, time.monotonic() + self._pause_s
            self._pause_s = min(self._pause_s * 2, _AGAIN_S[1])
            raise
        self._refused, self._pause_s = None, _AGAIN_S[0]
        return self._client

    def _connect(self) -> None:
        try:
            import dask.config
            from distributed import Client, LocalCluster

            from holdfast.engines.dask.tasks import TOPIC
        except ImportError as err:
            raise EngineError(_NAME, f"{err}: pip install 'holdfast[dask]'") from err
        self.address = self.address or dask.config.get("scheduler-address", None)
        if self.address is None:
            threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
            # In this process, where its tasks only wait; its dashboard is for this host alone.
            self._cluster = LocalCluster(
                n_workers=1,
                threads_per_worker=threads,
                processes=False,
                dashboard_address="127.0.0.1:0",
                worker_dashboard_address="127.0.0.1:0",
                memory_limit=0,
                resources={kind: count * threads for kind, count in self._resources.items()},
            )
            self.own = True
        where = self._cluster or _usable(self.address)
        logging.getLogger("distributed.client").addFilter(_said_by_us)
        # A wrong address is a matter of seconds: nothing waits behind it but a new client.
        client = Client(where, timeout=_CONNECT_S, set_as_default=False, name="holdfast")
        client.subscribe_topic(TOPIC, self._heard)
        self._client = client

    def _heard(self, event: tuple[float, Any]) -> None:
        said = event[1]
        if isinstance(said, Mapping):
            self._said.append(said)
            self._news()

    def said(self) -> Iterator[Mapping[str, Any]]:
        """What workers said since the last call."""
        while self._said:
            yield self._said.popleft()

    def submit(
        self,
        dataset: str,
        task: Callable[..., Any],
        wanted: Mapping[str, Order],
        keys: Sequence[str],
    ) -> dict[str, Any]:
        """Have *task* run of each, published as *dataset*: they outlive this client.

        Returns:
            The futures, by the same names.
        """
        client = self.client()
        futures: dict[str, Any] = {}
        names, orders = list(wanted), list(wanted.values())
        with self._asking():
            for at in range(0, len(names), _AT_ONCE):
                some = slice(at, at + _AT_ONCE)
                found = client.map(
                    task,
                    orders[some],
                    key=list(keys[some]),
                    resources=self._resources or None,
                    retries=0,
                    pure=False,
                )
                futures.update(zip(names[some], found, strict=True))
            client.publish_dataset(futures, name=dataset, callback_timeout=_ANSWER_S)
        self.watch(futures)
        return futures

    def watch(self, futures: Mapping[str, Any]) -> None:
        """Have the end of each be told."""
        for future in futures.values():
            future.add_done_callback(self._is_done)

    def _is_done(self, future: Any) -> None:
        self._done.append(future.key)
        self._news()

    def done(self) -> set[str]:
        """The keys of tasks that are over, or lost with the connection, since the last call."""
        found = set()
        while self._done:
            found.add(self._done.popleft())
        return found

    def published(self, prefix: str) -> dict[str, dict[str, Any]]:
        """What was published under names that begin so: futures, by dataset and name."""
        client, found = self.client(), {}
        with self._asking():
            for dataset in client.list_datasets(callback_timeout=_ANSWER_S):
                if isinstance(dataset, str) and dataset.startswith(prefix):
                    futures = client.get_dataset(dataset, default=None, callback_timeout=_ANSWER_S)
                    if isinstance(futures, dict):
                        found[dataset] = futures
                        self.watch(futures)
        return found

    def unpublish(self, datasets: Sequence[str]) -> None:
        """Have the scheduler forget these; whoever cannot tell it now leaves a few names there."""
        with contextlib.suppress(EngineError):
            client = self.client()
            with self._asking():
                for dataset in datasets:
                    client.unpublish_dataset(dataset, callback_timeout=_ANSWER_S)

    def gather(self, futures: Sequence[Any]) -> list[Any]:
        """The values of tasks that are over."""
        client = self.client()
        with self._asking():
            return list(client.gather(list(futures), errors="raise", asynchronous=False))

    def cancel(self, futures: Sequence[Any]) -> None:
        """Take tasks that have not begun out of the queue, whoever published them."""
        client = self.client()
        with self._asking():
            client.cancel(list(futures), force=True)

    def run(self, function: Callable[..., Any], *args: Any) -> dict[str, Any]:
        """What *function* returns on each worker, or the exception that it met there."""
        client = self.client()
        with self._asking():
            return dict(client.run(function, *args, on_error="return", callback_timeout=_ANSWER_S))

    def workers(self) -> dict[str, Mapping[str, float]]:
        """The resources of every worker, by its address."""
        client = self.client()
        with self._asking():
            found = client.scheduler_info(callback_timeout=_ANSWER_S)["workers"]
        return {address: dict(about.get("resources") or {}) for address, about in found.items()}

    def close(self) -> None:
        """Go; what was published stays with the scheduler, unless that is our own."""
        for each in (self._client, self._cluster):
            if each is not None:
                with contextlib.suppress(Exception):
                    each.close(timeout=_ANSWER_S)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except (
            OSError,
            RuntimeError,
            asyncio.CancelledError,
            concurrent.futures.CancelledError,
        ) as err:
            raise self._unreachable(str(err) or type(err).__name__) from err

    def _unreachable(self, why: str) -> EngineError:
        return EngineError(_NAME, f"the scheduler at {self.address} cannot be reached: {why}")
