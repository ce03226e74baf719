"""The counters of a worker."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class WorkerStats:
    """Counters of a worker.

    Attributes:
        streams: Streams opened; those that are first opened to the shards of a server count as one.
        received: Tasks delivered.
        settled: Outcomes that the server accepted.
        refused: Late outcomes: those that the server rejected, and those dropped because their lease was lost.
        lost: Leases lost while their task was running.
        stuck: Handlers that went on after their timeout, or after the end of their lease.
        late_renewals: Times that leases were renewed only after more than half of their length.
    """

    streams: int = 0
    received: int = 0
    settled: int = 0
    refused: int = 0
    lost: int = 0
    stuck: int = 0
    late_renewals: int = 0
