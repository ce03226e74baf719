"""Judges what is created under quotas of waiting tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from codeq_internal.v1 import rows_pb2
from codeq_server.core import keys, tenant_keys
from codeq_server.core.errors import Reason
from codeq_server.core.status import Status

Rows = Mapping[bytes, list[tuple[bytes, bytes | None]]]
"""Changed rows by table."""

if TYPE_CHECKING:
    from sim_audit import Audit

RECENT = 3
"""Batches after which a quota that was replaced within one batch cannot have been in force any more."""
WAITING = frozenset({Status.PENDING, Status.SCHEDULED})


def refused(audit: Audit, tenant: str, reason: Reason) -> bool:
    """Returns whether a create was refused by a quota, of which there must have been one."""
    if reason is not Reason.QUOTA_EXCEEDED:
        return False
    audit.count("refused by a quota")
    audit.demand(any(quota for _, quota in audit.quotas.get(tenant, ())), f"{tenant} has no quota, yet is refused")
    return True


def judge(audit: Audit, rows: Mapping[bytes, bytes | None], table: Rows) -> None:
    """Judges a batch that creates tasks: when it created the last one, no more were waiting than the quota allowed.

    Since then, tasks may have come back to wait; each of them has a state row in the batch that says so.
    """
    for tenant in {known.asked.tenant for known in audit.tasks.values() if known.born == audit.batches}:
        quotas = [*_stored(audit, tenant, rows)]
        quotas += [quota for at, quota in audit.quotas.get(tenant, ()) if at + RECENT >= audit.batches]
        if 0 in quotas:
            continue
        audit.count("created under a quota")
        waiting = 0
        numbers = set[int]()
        for key, row in _queues(audit, rows):
            if row.tenant == tenant:
                numbers.add(keys.queue_of(key))
                waiting += row.scheduled + sum(lane.ready for lane in row.lanes)
        states = [value for key, value in table.get(keys.STATES, ()) if value and keys.queue_of(key) in numbers]
        back = sum(rows_pb2.StateRow.FromString(value).status in WAITING for value in states)
        audit.demand(
            waiting <= max(quotas) + back, f"{waiting} tasks of {tenant} wait, of which {back} came back: {quotas}"
        )


def _stored(audit: Audit, tenant: str, rows: Mapping[bytes, bytes | None]) -> Iterator[int]:
    """Yields the quota before and after a batch."""
    key = tenant_keys.tenant_key(tenant)
    before = audit.rows.get(key)
    for value in (before, rows.get(key, before)):
        yield rows_pb2.TenantRow.FromString(value or b"").limits.waiting_tasks_max


def _queues(audit: Audit, rows: Mapping[bytes, bytes | None]) -> Iterator[tuple[bytes, rows_pb2.QueueRow]]:
    """Yields the queues after a batch."""
    found = dict(audit.rows.scan(*keys.table_rows(keys.QUEUES), 1 << 30))
    found |= {key: value for key, value in rows.items() if key[:1] == keys.QUEUES}  # type: ignore[misc]
    for key, value in found.items():
        if value is not None:
            yield key, rows_pb2.QueueRow.FromString(value)
