"""A store with tasks of all kinds goes from one shard to four, to two, and back; the server is stopped meanwhile."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from callback_receiver import Receiver
from codeq_server.storage.moved import MOVED
from racing_callers import Race
from server_process import DEV_TOKEN, ServerProcess
from shard_processes_of import until

CHAIN = (4, 2, 1)
LOSES_FILE = 2
"""Number of shards with which the file of moved tasks is removed before the server starts."""
PLAIN = 40
ORDERED = 12
ENV = {
    "ARTIFACT_BYTES_MAX": "1000",
    "RESULT_WEBHOOK_BASE_BACKOFF_SECONDS": "1",
    "RESULT_WEBHOOK_MAX_ATTEMPTS": "30",
}
CONTENT = b"a chart"


def call(server: ServerProcess, method: str, path: str, body: object = None) -> httpx.Response:
    """Makes a call over a connection of its own."""
    headers = {"Authorization": f"Bearer {DEV_TOKEN}"}
    return httpx.request(method, f"{server.http_url}/v1/codeq{path}", json=body, headers=headers, timeout=60)


def ok(answer: httpx.Response) -> Any:
    assert answer.status_code in (200, 201, 202), answer.text
    return answer.json()


def create(server: ServerProcess, command: str, **fields: object) -> str:
    return str(ok(call(server, "POST", "/tasks", {"command": command, **fields}))["id"])


def claim(server: ServerProcess, command: str, count: int = 1) -> list[dict[str, Any]]:
    body = {"commands": [command], "count": count, "leaseSeconds": 600}
    answer = call(server, "POST", "/tasks/claim/batch", body)
    return [] if answer.status_code == 204 else list(ok(answer)["tasks"])


def end(server: ServerProcess, task: dict[str, Any], status: str = "COMPLETED", **fields: object) -> None:
    body = {"status": status, "leaseToken": task["leaseToken"], **fields}
    ok(call(server, "POST", f"/tasks/{task['id']}/result", body))


def schedule(server: ServerProcess) -> Any:
    return ok(call(server, "GET", "/admin/schedules/often"))


def status(server: ServerProcess, task_id: str) -> str:
    return str(ok(call(server, "GET", f"/tasks/{task_id}"))["status"])


def reshard(server: ServerProcess, to: int, *options: str) -> dict[str, Any]:
    """Stops the server, changes its number of shards, and starts it."""
    assert server.stop() == 0
    command = [sys.executable, "-m", "codeq_cli.main", "store", "reshard", str(server.store), "--to", str(to)]
    done = subprocess.run([*command, *options, "-o", "json"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    server.env["PERSISTENCE_CONFIG"] = json.dumps({"numShards": to})
    if to == LOSES_FILE:
        (server.store / MOVED).unlink()  # the start makes it again
    server.start()
    if to > 1:
        until(lambda: set(httpx.get(f"{server.http_url}/readyz").json().get("shards", {}).values()) == {"served"})
    told: dict[str, Any] = json.loads(done.stdout)
    return told


class Work:
    """Tasks of all kinds on a server of one shard."""

    def __init__(self, server: ServerProcess, receiver: Receiver) -> None:
        self.server = server
        receiver.answer = lambda _: 503
        ok(call(server, "PUT", "/admin/topics/limited", {"maxConsumers": 2}))
        ok(call(server, "PUT", "/admin/topics/keyed", {"concurrencyPerKey": 1}))
        self.plain = [create(server, "plain", payload=number, priority=number % 3) for number in range(PLAIN)]
        self.ended = [task["id"] for task in claim(server, "plain", 4)]
        for task_id in self.ended:
            ok(call(server, "POST", f"/tasks/{task_id}/result", {"status": "COMPLETED", "result": task_id}))
        self.leased = claim(server, "plain", 6)
        self.later = create(server, "later", payload=1, delaySeconds=3600)
        self.soon = create(server, "soon", payload=1, delaySeconds=1)
        self.chosen = create(server, "chosen", payload=1, taskId="order-1")
        self.once = {"command": "once", "payload": 1, "idempotencyKey": "k-1"}
        self.once_id = create(server, **self.once)  # type: ignore[arg-type]
        self.limited_once = {"command": "limited", "payload": 1, "idempotencyKey": "k-3"}
        self.limited_once_id = create(server, **self.limited_once)  # type: ignore[arg-type]
        self.keyed_once = {"command": "ordered-once", "payload": 1, "idempotencyKey": "k-2", "orderingKey": "other"}
        self.keyed_once_id = create(server, **self.keyed_once)  # type: ignore[arg-type]
        self.batch = {
            "atomic": True,
            "idempotencyKey": "batch-1",
            "tasks": [{"command": "batched", "payload": number} for number in range(5)],
        }
        self.batch_ids = self.create_batch()
        self.ordered = [create(server, "ordered", payload=n, orderingKey="o") for n in range(ORDERED)]
        self.first = claim(server, "ordered", 5)[0]
        self.keyed = [create(server, "keyed", payload=n, concurrencyKey="c") for n in range(4)]
        self.holder = claim(server, "keyed", 4)
        assert len(self.holder) == 1
        self.dead = [create(server, "dead", payload=n, maxAttempts=1) for n in range(6)]
        for task in claim(server, "dead", 6):
            ok(call(server, "POST", f"/tasks/{task['id']}/nack", {"leaseToken": task["leaseToken"]}))
        hook = f"{receiver.url}/hook"
        self.called = [create(server, "called", payload=n, webhook=hook) for n in range(3)]
        for task in claim(server, "called", 3):
            end(server, task)
        until(lambda: receiver.requests)
        self.filed = create(server, "filed", payload=1)
        content = base64.b64encode(CONTENT).decode()
        end(server, claim(server, "filed")[0], artifacts=[{"name": "chart", "contentBase64": content}])
        spec = {"every": "1s", "command": "ticks", "payload": 1, "overlap": "skip"}
        ok(call(server, "PUT", "/admin/schedules/often", spec))
        self.fired = ok(call(server, "POST", "/admin/schedules/often/trigger"))["taskId"]
        create(server, "held", payload=1)
        ok(call(server, "POST", "/admin/queues/held/pause"))

    def create_batch(self) -> list[str]:
        results = ok(call(self.server, "POST", "/tasks/batch", self.batch))["results"]
        return [each["task"]["id"] for each in results]

    @property
    def everything(self) -> dict[str, str]:
        """Id and status of every task."""
        named = (
            self.later,
            self.chosen,
            self.once_id,
            self.keyed_once_id,
            self.limited_once_id,
            self.filed,
            self.fired,
        )
        groups = (self.plain, self.batch_ids, self.ordered, self.keyed, self.dead, self.called, named)
        return {task_id: status(self.server, task_id) for group in groups for task_id in group}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started


@pytest.mark.timeout(600)
def test_tasks_of_all_kinds_go_on_under_another_number_of_shards(tmp_path: Path, receiver: Receiver) -> None:
    with ServerProcess(tmp_path / "server", env={"PERSISTENCE_CONFIG": "{}", **ENV}) as server:
        work = Work(server, receiver)
        before = work.everything
        races = [Race("first")]
        races[0].run([server])
        for number in CHAIN:
            told = reshard(server, number)
            assert (told["shards"], told["leases_renewed"]) == (number, 0)
            assert work.everything == before
            assert create(server, **work.once) == work.once_id  # type: ignore[arg-type]
            assert create(server, **work.limited_once) == work.limited_once_id  # type: ignore[arg-type]
            assert create(server, **work.keyed_once) == work.keyed_once_id  # type: ignore[arg-type]
            assert work.create_batch() == work.batch_ids
            taken = {**work.once, "idempotencyKey": None, "taskId": "order-1"}
            assert call(server, "POST", "/tasks", {k: v for k, v in taken.items() if v}).status_code == 409
            assert claim(server, "held") == []
            assert ok(call(server, "GET", "/admin/topics/limited"))["policy"]["maxConsumers"] == 2
            assert call(server, "GET", f"/tasks/{work.filed}/artifacts/chart").content == CONTENT
            skipped = schedule(server)["skippedTotal"]
            until(lambda skipped=skipped: schedule(server)["skippedTotal"] > skipped)
            assert ok(call(server, "GET", "/admin/queues/ticks"))["ready"] == 1, "the running task was forgotten"
            races.append(Race(f"with{number}"))
            for race in races:
                race.run([server])
            work_a_little(server, work)
            before = work.everything
        finish(server, work, receiver)


def work_a_little(server: ServerProcess, work: Work) -> None:
    """Ends a task that was leased before, and takes the next ones of the ordering and the concurrency key."""
    end(server, work.leased.pop())
    end(server, work.first)
    [following] = claim(server, "ordered", 5)
    assert following["payload"] == work.first["payload"] + 1
    work.first = following
    end(server, work.holder.pop())
    work.holder = until(lambda: claim(server, "keyed", 4))
    assert len(work.holder) == 1
    again = work.dead.pop()
    ok(call(server, "POST", f"/tasks/{again}/redrive"))
    [task] = claim(server, "dead", 6)
    assert task["id"] == again
    end(server, task)


def finish(server: ServerProcess, work: Work, receiver: Receiver) -> None:
    receiver.answer = lambda _: 200
    receiver.requests.clear()
    ok(call(server, "POST", "/admin/webhooks/retry", {"command": "called"}))
    until(lambda: {each.json["taskId"] for each in receiver.requests} == set(work.called))
    assert claim(server, "soon")[0]["id"] == work.soon
    priorities = [task.get("priority", 0) for task in claim(server, "plain", PLAIN)]
    assert priorities == sorted(priorities, reverse=True)
    [fired] = claim(server, "ticks", 5)
    assert fired["id"] == work.fired
    end(server, fired)
    assert until(lambda: claim(server, "ticks"))[0]["id"] != work.fired
