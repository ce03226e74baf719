"""The numbers that the SDKs of all languages share. Each is owned by the module that uses it."""

from __future__ import annotations

from codeq import (
    async_transport,
    following,
    in_flight,
    producer_items,
    producer_stream,
    servers,
    worker,
    worker_leases,
    worker_stream,
)
from codeq.backoff import FACTOR, Backoff


def defaults() -> dict[str, int]:
    """Returns the defaults and limits of the SDK by name; the SDKs of other languages have the same table."""
    backoff = Backoff()
    table: dict[str, float] = {
        "concurrency": worker.CONCURRENCY,
        "leaseSeconds": worker.LEASE_SECONDS,
        "renewalsPerLease": worker_leases.RENEWALS_PER_LEASE,
        "drainSeconds": worker.DRAIN_SECONDS,
        "leaveSecondsMax": worker_stream.LEAVE_SECONDS_MAX,
        "windowBytes": worker.WINDOW_BYTES,
        "timeoutSeconds": producer_items.TIMEOUT_SECONDS,
        "unsettledMax": worker_stream.UNSETTLED_MAX,
        "messageItemsMax": worker_stream.MESSAGE_ITEMS_MAX,
        "messageBytesMax": worker_stream.MESSAGE_BYTES_MAX,
        "frameTasksMax": producer_stream.FRAME_TASKS_MAX,
        "frameBytesMax": producer_stream.FRAME_BYTES_MAX,
        "inFlightTasksMax": in_flight.IN_FLIGHT_MAX,
        "backoffMinMs": 1000 * backoff.base_seconds,
        "backoffMaxMs": 1000 * backoff.max_seconds,
        "backoffFactor": FACTOR,
        "followMinMs": 1000 * servers.DELAY_SECONDS_MIN,
        "followMaxMs": 1000 * servers.DELAY_SECONDS_MAX,
        "refreshSeconds": servers.REFRESH_SECONDS,
        "stallSeconds": following.ATTEMPT_SECONDS_MAX,
        "keepaliveSeconds": async_transport.KEEPALIVE_SECONDS,
        "keepaliveTimeoutSeconds": async_transport.KEEPALIVE_ANSWER_SECONDS,
    }
    return {name: int(number) for name, number in table.items()}
