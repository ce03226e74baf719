"""The row that lists the deliveries of a claim."""

from __future__ import annotations

from collections.abc import Sequence

from codeq_internal.v1 import rows_pb2

from .deliveries import Claim, Delivery


def lease_row(claim: Claim, slots: Sequence[Delivery], *, plain: bool = False) -> bytes:
    """Returns the lease row of a claim; `plain`: every task was taken from its home, for its first delivery."""
    queues = [slot.home.queue.number for slot in slots]
    row = rows_pb2.LeaseRow(
        worker=claim.worker,
        subject="" if claim.subject == claim.worker else claim.subject,
        lease_ms=claim.lease_ms,
        claimed_ms=claim.claimed_ms,
        queues=queues[:1] if len(set(queues)) == 1 else queues,
        homes=[slot.home.index << 48 | slot.position for slot in slots],
    )
    if plain:
        return row.SerializeToString()
    if any(slot.place for slot in slots):
        row.places.extend([slot.place for slot in slots])
    if any(slot.attempts for slot in slots):
        row.attempts.extend([slot.attempts for slot in slots])
    return row.SerializeToString()
