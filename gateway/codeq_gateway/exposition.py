"""The metrics of a process in the Prometheus text format, rendered in slices so that a scrape holds up no call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

SLICE_SECONDS: Final = 0.002
"""Time after which rendering gives way to the rest of the event loop; a family is rendered in one piece."""


class Exposition:
    """Renders the metrics of collectors, in the order in which they were added.

    Attributes:
        registry: The collectors; some add themselves.

    Args:
        slice_seconds: Time after which rendering gives way.
    """

    def __init__(self, slice_seconds: float = SLICE_SECONDS) -> None:
        self.registry = CollectorRegistry()
        self._slice_seconds = slice_seconds
        self._refreshes: list[Callable[[], Awaitable[None]]] = []

    def add(self, collector: Collector, refresh: Callable[[], Awaitable[None]] | None = None) -> None:
        """Adds a collector.

        Args:
            collector: The collector.
            refresh: Brings its values up to date before it is read; None: they always are.
        """
        self.registry.register(collector)
        if refresh is not None:
            self._refreshes.append(refresh)

    async def text(self) -> bytes:
        """Returns all metrics."""
        for refresh in self._refreshes:
            await refresh()
        parts: list[bytes] = []
        began = time.perf_counter()
        for family in self.registry.collect():
            parts.append(generate_latest(_One(family)))
            if time.perf_counter() - began > self._slice_seconds:
                await asyncio.sleep(0)
                began = time.perf_counter()
        return b"".join(parts)


class _One(Collector):
    """A family, as a collector."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        """Yields the family."""
        yield self._family
