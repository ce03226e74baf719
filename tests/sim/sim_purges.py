"""What the judge of a run knows of purges: none ends what came later, none leaves what waited."""

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
    """A purge that somebody asked for, and the last batch when the answer came; None: none came."""

    answered: int | None = None


def judge_queue_rows(audit: Audit, rows: Sequence[tuple[bytes, bytes | None]]) -> None:
    """Judges purges that are over: nothing outlived them that waited when they were asked for."""
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
            early = task.state.changed_ms <= before.purge.at_ms if task.state else position <= tails.get(lane, 0)
            audit.demand(running or not early, f"{task.task_id} outlived a purge")


def judge_end(audit: Audit, task: Known, home: bytes, before: rows_pb2.StateRow | None) -> None:
    """Judges an end; one by a purge only if somebody asked for it when the task was there and waited."""
    if task.end is None or task.end.error != PURGED_ERROR:
        return
    audit.count("purged")
    purges = audit.purges.get((task.asked.tenant, task.asked.command), [])
    asked = any(purge.answered is None or task.born <= purge.answered for purge in purges)
    audit.demand(asked, f"{task.task_id} was purged, and nobody asked for that since it was created")
    row = rows_pb2.QueueRow.FromString(audit.rows.get(b"q" + home[1:5]) or b"")
    if row.HasField("purge") and before is not None and not task.revived:
        unknown = any(purge.answered is None for purge in purges)
        audit.demand(unknown or before.changed_ms <= row.purge.at_ms, f"{task.task_id} came after the purge")
