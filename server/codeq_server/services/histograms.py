"""Exports durations as Prometheus histograms in seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from codeq_server.core.durations import Durations


class Scale(NamedTuple):
    """The ticks of durations, and the buckets to export.

    Attributes:
        per_second: Ticks per second.
        bits: Buckets to export; bucket n ends at 2**n ticks. Each also counts those left out before it.
    """

    per_second: int
    bits: Sequence[int]


OF_TASKS: Final = Scale(1000, range(2, 26, 2))
"""For milliseconds: 4 ms, 16 ms, 64 ms, … 4.7 hours. Every label has these series, so they are few."""

OF_CALLS: Final = Scale(1_000_000, range(8, 28, 2))
"""For microseconds: 0.26 ms, 1 ms, 4 ms, … 67 s."""

OF_DISKS: Final = Scale(1_000_000, range(7, 25))
"""For microseconds: 0.13 ms, 0.26 ms, 0.5 ms, … 17 s."""


def add_durations(family: HistogramMetricFamily, labels: Sequence[str], durations: Durations, scale: Scale) -> None:
    """Adds durations to a family of histograms."""
    buckets: list[tuple[str, float]] = []
    count, start = 0, 0
    for bits in scale.bits:
        count += sum(durations.buckets[start : bits + 1])
        start = bits + 1
        buckets.append((str((1 << bits) / scale.per_second), float(count)))
    count += sum(durations.buckets[start:])
    buckets.append(("+Inf", float(count)))
    family.add_metric(labels, buckets, durations.total / scale.per_second)


def histogram(name: str, text: str, durations: Durations, scale: Scale) -> HistogramMetricFamily:
    """Returns a histogram without labels."""
    family = HistogramMetricFamily(name, text)
    add_durations(family, (), durations, scale)
    return family


class SyncTimes(Collector):
    """The histogram of writes to the store with their syncs.

    Args:
        syncs: The times, in microseconds.
    """

    def __init__(self, syncs: Durations) -> None:
        self._syncs = syncs

    def collect(self) -> Iterator[Metric]:
        """Yields the histogram."""
        yield histogram("codeq_sync_seconds", "Time of a write to the store with its sync.", self._syncs, OF_DISKS)
