"""A receiver of callbacks that fails as it likes, and the judge of what it gets."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from codeq_internal.v1 import rows_pb2
from codeq_server.core import ids, keys
from codeq_server.core.callbacks import CALLBACKS_KEPT
from codeq_server.core.status import Status
from codeq_server.webhooks.bodies import rfc3339
from codeq_server.webhooks.guard import Guard
from codeq_server.webhooks.outgoing import Outgoing
from codeq_server.webhooks.sender import Answer

if TYPE_CHECKING:
    from sim_audit import Audit

DELAYS_MS = (300,) * 1_000
URLS = ("http://one.example/hook", "https://two.example/hook?x=1")


class Calls:
    """What a run knows about callbacks.

    Attributes:
        due: Keys of the callbacks in durable rows that have not arrived yet.
        arrived: Number of arrivals by key.
        accepted: Keys of those that a receiver accepted.
        failing: Whether receivers fail now and then.
    """

    def __init__(self) -> None:
        self.due: set[bytes] = set()
        self.arrived: Counter[bytes] = Counter()
        self.accepted: set[bytes] = set()
        self.failing = True

    def batch(self, audit: Audit, rows: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Judges the callbacks in a durable batch: one is removed only after it arrived."""
        for key, value in rows:
            if value is not None:
                if key not in self.accepted:
                    self.due.add(key)
                row = rows_pb2.OutboxRow.FromString(value)
                done = row.state == rows_pb2.CALLBACK_STATE_DELIVERED
                audit.demand(not done or key in self.accepted, "a callback is delivered that nobody accepted")
                continue
            before = audit.rows.get(key)
            if before is not None and key in self.due:
                task = self.task(audit, key, rows_pb2.OutboxRow.FromString(before))
                audit.demand(task.revived >= CALLBACKS_KEPT, f"the callback of {task.task_id} was removed, not made")
                self.due.discard(key)

    def task(self, audit: Audit, key: bytes, row: rows_pb2.OutboxRow) -> Any:
        """Returns the task of a callback."""
        lane, position = keys.unpack_home(row.home)
        prefix = keys.lane_prefix(keys.TASKS, keys.split_outbox_key(key)[0], lane)
        return audit.by_home[keys.place_key(prefix, position)]

    def leaves(self, audit: Audit, body: bytes, headers: Mapping[str, str]) -> bytes:
        """Judges a callback that leaves the server, whose end must be durable; returns its key."""
        told = json.loads(body)
        ref = ids.parse_id(told["deliveryId"])
        audit.demand(ref is not None and headers["webhook-id"] == told["deliveryId"], f"a callback names itself {told}")
        assert ref is not None
        key = keys.outbox_key(ref.queue, ref.position)
        value = audit.rows.get(key)
        audit.demand(value is not None, f"the end of {told['taskId']} is reported, but not durable")
        row = rows_pb2.OutboxRow.FromString(value or b"")
        task = self.task(audit, key, row)
        audit.demand(
            (told["taskId"], told["tenant"], told["eventType"], ref.epoch)
            == (task.task_id, task.asked.tenant, task.asked.command, row.epoch),
            f"{told['taskId']} is reported as another task",
        )
        audit.demand(
            (told["status"], told["completedAt"]) == (Status(row.status).name, rfc3339(row.ended_ms)),
            f"{told['taskId']} is reported as {told['status']}, but ended otherwise",
        )
        if row.status == Status.COMPLETED:
            assert task.end is not None
            result = json.loads(task.end.result) if task.end.HasField("result") else None
            audit.demand(told["result"] == result, f"{told['taskId']} is reported with another result")
        return key

    def arrives(self, audit: Audit, key: bytes, status: int) -> None:
        """Records what the receiver did."""
        self.arrived[key] += 1
        audit.count("callback")
        if 200 <= status < 300:
            self.accepted.add(key)
            self.due.discard(key)
            audit.count("callback accepted")

    def finish(self, audit: Audit) -> None:
        """Judges the end of a run: every callback has arrived."""
        audit.demand(not self.due, f"callbacks never arrived: {sorted(key.hex() for key in self.due)}")


class SimSender:
    """Stands for the network and all receivers behind it; as the server's `Sender`, but it opens no connections."""

    open_circuits = 0

    def __init__(self, audit: Audit, chance: random.Random, delay: Callable[[], float]) -> None:
        self._audit, self._chance, self._delay = audit, chance, delay

    def busy(self, url: str) -> int:  # noqa: ARG002 - all receivers are alike
        return self._chance.choice((0, 0, 0, 20, 700)) if self._audit.calls.failing else 0

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> asyncio.Task[Answer]:
        self._audit.demand(url in URLS, f"a callback goes to {url}")
        key = self._audit.calls.leaves(self._audit, body, headers)
        return asyncio.get_running_loop().create_task(self._post(key))

    async def _post(self, key: bytes) -> Answer:
        await asyncio.sleep(self._delay())
        status = self._chance.choice((200, 204, 500, 429, 0)) if self._audit.calls.failing else 200
        self._audit.calls.arrives(self._audit, key, status)
        await asyncio.sleep(self._delay())
        if self._audit.calls.failing and self._chance.random() < 0.1:
            return Answer(0, "timeout", 15_000)
        return Answer(status, "" if status else "connection refused", 3)


def outgoing(sender: Any) -> Outgoing:
    """Returns what a Serving needs to make callbacks."""
    return Outgoing(sender, Guard(False, (), (), ((1, 65535),)), "", DELAYS_MS, 0)
