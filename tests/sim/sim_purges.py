"""Judges purges: a purge must end every task that was waiting, and no task that came later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codeq_internal.v1 import rows_pb2
from codeq_server.core import keys
from codeq_server.core.purging import PURGED_ERROR

if TYPE_CHECKING:
    from sim_audit import Audit, Known


@dataclass
class Purge:
    """A requested purge, and the last batch when its answer arrived; None: no answer."""

    answered: int | None = None


def judge_queue_rows(audit: Audit, rows: Sequence[tuple[bytes, bytes | None]]) -> None:
    """Judges finished purges: no task that was waiting at the time of the request may survive."""
    for key, value in rows:
        before = rows_pb2.QueueRow.FromString(audit.rows.get(key) or b"")
        if not before.HasField("purge") or rows_pb2.QueueRow.FromString(value or b"").HasField("purge"):
            continue
        audit.count("purge over")
        tails = dict(keys.unpack_home(tail) for tail in before.purge.tails)
        for home, task in audit.by_home.items():
            if home[1:5] != key[1:] or task.end is not None or task.removed:
                continue
            _, lane, position = keys.split_place_key(home)
            ended_token = task.state.ended_token if task.state else 0
            running = any(token > ended_token for token in task.slots)
            changed_ms = task.state.changed_ms if task.state else 0  # 0 also for a task that only waited for a key
            early = changed_ms <= before.purge.at_ms if changed_ms else position <= tails.get(lane, 0)
            audit.demand(running or not early, f"{task.task_id} outlived a purge")


def judge_end(audit: Audit, task: Known, home: bytes, before: rows_pb2.StateRow | None) -> None:
    """Judges the end of a task; a purge may end it only if it was waiting when the purge was requested."""
    if task.end is None or task.end.error != PURGED_ERROR:
        return
    audit.count("purged")
    purges = audit.purges.get((task.asked.tenant, task.asked.command), [])
    asked = any(purge.answered is None or task.born <= purge.answered for purge in purges)
    audit.demand(asked, f"{task.task_id} was purged without a request since its creation")
    row = rows_pb2.QueueRow.FromString(audit.rows.get(b"q" + home[1:5]) or b"")
    if row.HasField("purge") and before is not None and not task.revived:
        unknown = any(purge.answered is None for purge in purges)
        audit.demand(unknown or before.changed_ms <= row.purge.at_ms, f"{task.task_id} came after the purge")
