"""A walk through every route of the REST API with any HTTP client."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any, Final

Send = Callable[[str, str, "bytes | None"], tuple[int, bytes]]
"""Sends a request, its method, path and JSON body (None: none), and returns status and body of the reply."""

Step = tuple[str, str, int, object]
"""Method, template of the route, status, and the constant part of the reply."""

PREFIX: Final = "/v1/codeq"
_SHORT_LIVED: Final = frozenset(
    {
        "command",
        "completedAt",
        "createdAt",
        "endedAt",
        "finishedAt",
        "firstAt",
        "id",
        "lastAt",
        "leaseToken",
        "leaseUntil",
        "nextPageToken",
        "oldestAgeSeconds",
        "createdRate",
        "completedRate",
        "purging",
        "startedAt",
        "taskId",
        "updatedAt",
    }
)
"""Fields whose values differ between walks."""

_ABOUT_ALL: Final = frozenset(
    {
        *("/admin/queues", "/admin/workers", "/admin/tenants", "/admin/audit", "/usage", "/server", "/raft/status"),
        "/cluster/topology",
    }
)
"""Routes whose replies include data of other walks."""


class Walk:
    """One walk, on a queue of its own.

    Args:
        send: Sends the requests.
        queue: Name of the queue.

    Attributes:
        steps: The steps done so far.
    """

    def __init__(self, send: Send, queue: str) -> None:
        self._send = send
        self._queue = queue
        self.steps: list[Step] = []

    def run(self) -> list[Step]:
        """Calls every route and returns the steps."""
        first = self._create_and_look()
        self._work(first)
        self._end_badly()
        self._administer()
        self._set_policies()
        self._plan()
        self._reach_out(first["id"])
        return self.steps

    def _do(self, method: str, template: str, body: dict[str, Any] | None = None, **names: str) -> Any:
        path = PREFIX + template.format(**names)
        sent = None if method == "GET" and body is None else json.dumps(body or {}).encode()
        if method == "GET" and body is not None:
            path, sent = f"{path}?{'&'.join(f'{key}={value}' for key, value in body.items())}", None
        status, answer = self._send(method, path, sent)
        try:
            told = json.loads(answer) if answer else None
        except ValueError:
            told = answer.decode()
        self.steps.append((method, template, status, None if template in _ABOUT_ALL else _lasting(told)))
        return told

    def _create_and_look(self) -> dict[str, Any]:
        queue = self._queue
        first = self._do("POST", "/tasks", {"command": queue, "payload": {"n": 1}, "priority": 5})
        more = [{"command": queue, "payload": number} for number in (2, 3, 4)]
        self._do("POST", "/tasks/batch", {"tasks": more})
        self._do("GET", "/tasks", {"command": queue, "pageSize": "3"})
        self._do("GET", "/tasks/{id}", id=first["id"])
        self._do("GET", "/tasks/{id}/explain", id=first["id"])
        self._do("GET", "/tasks/{id}/result", id=first["id"])
        self._do("POST", "/admin/queues/{queue}/pause", queue=queue)
        self._do("POST", "/tasks/claim", {"commands": [queue]})
        self._do("POST", "/admin/queues/{queue}/resume", queue=queue)
        self._do("GET", "/admin/queues/{queue}", queue=queue)
        self._do("GET", "/admin/queues")
        self._do("GET", "/admin/workers")
        self._do("POST", "/tasks/claim", {"commands": ["no-such-queue"]})
        return dict(first)

    def _work(self, first: dict[str, Any]) -> None:
        queue = self._queue
        held = self._do("POST", "/tasks/claim", {"commands": [queue], "leaseSeconds": 300})
        assert held["id"] == first["id"]
        fence = {"leaseToken": held["leaseToken"]}
        stale = {"leaseToken": str(int(held["leaseToken"]) - 1)}
        self._do("POST", "/tasks/{id}/heartbeat", fence | {"extendSeconds": 600}, id=held["id"])
        self._do("POST", "/tasks/{id}/progress", fence | {"progress": {"half": True}}, id=held["id"])
        for route in ("nack", "abandon", "heartbeat"):
            self._do("POST", "/tasks/{id}/" + route, stale, id=held["id"])
        self._do("POST", "/tasks/{id}/result", stale | {"status": "COMPLETED"}, id=held["id"])
        file = {"name": "notes.txt", "contentBase64": base64.b64encode(b"some notes").decode()}
        ended = fence | {"status": "COMPLETED", "result": {"ok": 1}, "artifacts": [file]}
        self._do("POST", "/tasks/{id}/result", ended, id=held["id"])
        self._do("GET", "/tasks/{id}/result", id=held["id"])
        self._do("GET", "/tasks/{id}/artifacts/{name}", id=held["id"], name="notes.txt")
        one, two = self._do("POST", "/tasks/claim/batch", {"commands": [queue], "count": 2})["tasks"]
        self._do("POST", "/tasks/{id}/abandon", {"leaseToken": one["leaseToken"]}, id=one["id"])
        failed = {"taskId": two["id"], "leaseToken": two["leaseToken"], "status": "FAILED", "error": "broken"}
        self._do("POST", "/tasks/batch/results", {"results": [failed]})
        again = self._do("POST", "/tasks/claim", {"commands": [queue]})
        late = {"leaseToken": again["leaseToken"], "delaySeconds": 3600, "reason": "later"}
        self._do("POST", "/tasks/{id}/nack", late, id=again["id"])
        self._do("POST", "/tasks/{id}/cancel", {"reason": "no more"}, id=again["id"])

    def _end_badly(self) -> None:
        queue = f"{self._queue}-dead"
        made = self._do("POST", "/tasks", {"command": queue, "maxAttempts": 1})
        held = self._do("POST", "/tasks/claim", {"commands": [queue]})
        self._do("POST", "/tasks/{id}/nack", {"leaseToken": held["leaseToken"], "reason": "why"}, id=made["id"])
        self._do("GET", "/admin/queues/{queue}/dlq", queue=queue)
        self._do("POST", "/admin/queues/{queue}/dlq/redrive", {"dryRun": True}, queue=queue)
        self._do("GET", "/tasks/{id}", id=made["id"])
        self._do("POST", "/admin/queues/{queue}/dlq/redrive", {"errorContains": "other"}, queue=queue)
        self._do("POST", "/tasks/{id}/redrive", id=made["id"])
        self._do("GET", "/tasks/{id}", id=made["id"])

    def _administer(self) -> None:
        self._do("POST", "/admin/queues/{queue}/purge", queue=self._queue)
        self._do("POST", "/admin/tasks/cleanup", {"before": "2020-01-01T00:00:00Z", "limit": 5})
        self._do("POST", "/admin/backup", {"name": "b"})
        self._do("GET", "/raft/status")
        self._do("GET", "/cluster/topology")
        self._do("POST", "/admin/cluster/members", {"id": "n", "raftAddr": "127.0.0.1:1"})
        self._do("DELETE", "/admin/cluster/members/{id}", id="n")
        self._do("POST", "/admin/cluster/transfer", {"id": "n"})
        self._do("PATCH", "/admin/tenants/{name}", {"limits": {"queuesMax": 3}}, name="walked")
        self._do("GET", "/admin/tenants/{name}", name="walked")
        self._do("GET", "/admin/tenants")
        self._do("GET", "/usage")
        self._do("GET", "/server")
        self._do("GET", "/admin/audit")

    def _set_policies(self) -> None:
        topic = "/admin/topics/{command}"
        self._do("PUT", topic, {"policy": {"maxAttempts": 0}}, command="none")
        self._do("GET", topic, command="none")
        self._do("DELETE", topic, command="none")
        self._do("GET", "/admin/topics")

    def _plan(self) -> None:
        schedule = "/admin/schedules/{name}"
        self._do("PUT", schedule, {"cron": "0 0 30 2 *", "command": "A"}, name="never")
        for act in ("pause", "resume", "trigger", "backfill", "recompute"):
            self._do("POST", f"{schedule}/{act}", name="never")
        self._do("GET", schedule, name="never")
        self._do("GET", f"{schedule}/history", name="never")
        self._do("DELETE", schedule, name="never")
        self._do("GET", "/admin/schedules")

    def _reach_out(self, task_id: str) -> None:
        self._do("GET", "/tasks/{id}/webhooks", id=task_id)
        self._do("POST", "/tasks/{id}/webhooks/retry", id=task_id)
        self._do("GET", "/admin/webhooks", {"command": self._queue})
        self._do("POST", "/admin/webhooks/retry", {"command": self._queue})
        for method in ("PUT", "GET", "DELETE"):
            self._do(method, "/admin/webhooks/secrets")
        for act in ("pause", "resume", "test"):
            self._do("POST", f"/admin/webhooks/{act}")
        self._do("POST", "/workers/subscriptions", {"callbackUrl": "http://10.0.0.1/", "eventTypes": ["A"]})
        self._do("POST", "/workers/subscriptions/{id}/heartbeat", id="none")
        for folder in ("workers", "admin"):
            self._do("GET", f"/{folder}/subscriptions")
            self._do("DELETE", f"/{folder}/subscriptions/{{id}}", id="none")
        self._do("GET", "/workers/subscriptions/{id}", id="none")


def _lasting(told: Any) -> Any:
    """Returns the constant part of a reply."""
    if isinstance(told, dict):
        return {key: "…" if key in _SHORT_LIVED else _lasting(value) for key, value in told.items()}
    if isinstance(told, list):
        return [_lasting(value) for value in told]
    return told
