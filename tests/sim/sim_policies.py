"""Judges that no more tasks are leased than the limits of consumers allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from codeq_internal.v1 import rows_pb2
from codeq_server.core import keys, tenant_keys

if TYPE_CHECKING:
    from sim_audit import Audit

RECENT = 3
"""Batches after which a limit that was replaced within one batch cannot have been in force any more."""


def judge(audit: Audit, rows: Mapping[bytes, bytes | None]) -> None:
    """Judges a batch: a queue with more leased tasks than before has no more than its policy allows."""
    for key, value in rows.items():
        if key[:1] != keys.QUEUES or value is None:
            continue
        after = rows_pb2.QueueRow.FromString(value)
        before = rows_pb2.QueueRow.FromString(audit.rows.get(key) or b"")
        if after.claimed <= before.claimed:
            continue
        limits = [*_stored(audit, after.tenant, after.command, rows)]
        told = audit.consumers.get((after.tenant, after.command), ())
        limits += [most for at, most in told if at + RECENT >= audit.batches]
        if 0 in limits:
            continue
        audit.count("claimed under a limit of consumers")
        audit.demand(
            after.claimed <= max(limits), f"{after.claimed} tasks of {after.command} are leased, not {max(limits)}"
        )


def _stored(audit: Audit, tenant: str, command: str, rows: Mapping[bytes, bytes | None]) -> Iterator[int]:
    """Yields the limit before and after a batch; 0: none."""
    key = tenant_keys.topic_key(tenant, command)
    before = audit.rows.get(key)
    for value in (before, rows.get(key, before)):
        yield rows_pb2.TopicRow.FromString(value or b"").policy.max_consumers
