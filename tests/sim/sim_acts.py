"""Judges audit records: a queue is paused or resumed in a batch if and only if the batch has the record of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from codeq_internal.v1 import rows_pb2
from codeq_server.core import keys

if TYPE_CHECKING:
    from sim_audit import Audit

_PAUSED = {"PauseQueue": True, "ResumeQueue": False}


def judge(audit: Audit, table: Mapping[bytes, Sequence[tuple[bytes, bytes | None]]]) -> None:
    """Judges the rows of a batch, given by table."""
    told: dict[tuple[str, str], bool] = {}
    for _, value in table.get(keys.AUDIT, ()):
        row = rows_pb2.AuditRow.FromString(value or b"")
        if row.outcome == "OK" and row.call in _PAUSED:
            told[row.tenant, row.object] = _PAUSED[row.call]
    for key, value in table.get(keys.QUEUES, ()):
        before = rows_pb2.QueueRow.FromString(audit.rows.get(key) or b"")
        after = rows_pb2.QueueRow.FromString(value or b"")
        said = told.get((after.tenant, after.command), before.paused)
        audit.demand(value is None or after.paused == said, f"queue {after.command} is paused or not without a record")
