"""The body of a callback: the result record of a task as JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from codeq_internal.v1 import rows_pb2

from codeq_server.core.callbacks import Callback


def body_of(callback: Callback) -> bytes:
    """Returns the body of a callback; every key is there, and the result is as its worker sent it, byte for byte."""
    head = {"taskId": callback.task_id, "eventType": callback.queue.command, "status": callback.status.name}
    tail = {
        "error": callback.error,
        "artifacts": [_artifact(each) for each in callback.artifacts],
        "completedAt": rfc3339(callback.ended_ms),
        "deliveryId": callback.delivery_id,
        "attempt": callback.attempt,
        "tenant": callback.queue.tenant,
    }
    result = b"null" if callback.result is None else callback.result
    return b"".join((json.dumps(head)[:-1].encode(), b', "result": ', result, b", ", json.dumps(tail)[1:].encode()))


def test_body(tenant: str, delivery_id: str, now_ms: int) -> bytes:
    """Returns the body of a test: that of a callback of a task that does not exist."""
    told: dict[str, object] = {
        "taskId": "test",
        "eventType": "test",
        "status": "COMPLETED",
        "result": None,
        "error": "",
    }
    told |= {"artifacts": [], "completedAt": rfc3339(now_ms), "deliveryId": delivery_id, "attempt": 1, "tenant": tenant}
    return json.dumps(told).encode()


def rfc3339(unix_ms: int) -> str:
    """Returns a time as REST writes it: in UTC, with milliseconds."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _artifact(row: rows_pb2.ArtifactRow) -> dict[str, object]:
    """Returns an artifact with the fields that the result record has."""
    found: dict[str, object] = {"name": row.name}
    if row.url:
        found["url"] = row.url
    else:
        found |= {"size": row.size, "sha256": row.sha256.hex()}
    if row.content_type:
        found["contentType"] = row.content_type
    return found
