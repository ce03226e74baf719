"""Purge of a queue, on a real server: waiting tasks end, later ones stay, and a killed server resumes the purge."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import codeq
import httpx
import pytest
from codeq_internal.v1 import rows_pb2
from codeq_server.storage.rocks import RocksStore
from server_process import DEV_TOKEN, ServerProcess

SECONDS_MAX = 60
MANY = 30_000
TRIES_MAX = 5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("purge")) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[codeq.Client]:
    with codeq.Client(server.producer_addr, token=DEV_TOKEN) as opened:
        yield opened


def rest(server: ServerProcess, method: str, path: str) -> tuple[int, Any]:
    """Makes one HTTP call; returns status and body."""
    headers = {"Authorization": f"Bearer {DEV_TOKEN}"}
    body = {} if method == "POST" else None
    answer = httpx.request(method, f"{server.http_url}/v1/codeq{path}", headers=headers, json=body, timeout=SECONDS_MAX)
    return answer.status_code, answer.json()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def until_purged(client: codeq.Client, command: str) -> codeq.Queue:
    until(lambda: not client.queue(command).purging)
    return client.queue(command)


def create_many(client: codeq.Client, command: str, count: int) -> list[str]:
    ids = []
    for _ in range(0, count, 1000):
        created = client.create_batch([codeq.NewTask(command, 1)] * 1000)
        ids += [task.id for task in created if isinstance(task, codeq.Task)]
    return ids


def test_rest_purge_ends_waiting_tasks_and_keeps_all_others(server: ServerProcess, client: codeq.Client) -> None:
    dead = client.create("mixed", max_attempts=1)
    client.nack(client.claim(["mixed"])[0], "no", delay=0)
    running, waiting, later = client.create("mixed"), client.create("mixed"), client.create("mixed", delay=3600)
    [claimed] = client.claim(["mixed"])
    assert claimed.id == running.id
    status, body = rest(server, "POST", "/admin/queues/mixed/purge")
    assert (status, body["command"], body["claimed"], body["dlq"]) == (200, "mixed", 1, 1)
    queue = until_purged(client, "mixed")
    assert (queue.ready, queue.scheduled, queue.claimed, queue.dlq) == (0, 0, 1, 1)
    for task in (waiting, later):
        status, record = rest(server, "GET", f"/tasks/{task.id}/result")
        assert (status, record["result"]["status"], record["result"]["error"]) == (200, "CANCELLED", "PURGED")
    assert client.complete(claimed, 1).status is codeq.TaskStatus.COMPLETED
    assert client.get(dead.id).status is codeq.TaskStatus.DLQ
    assert client.redrive(waiting.id).status is codeq.TaskStatus.PENDING
    assert [task.id for task in client.claim(["mixed"])] == [waiting.id]


def test_purge_rejects_an_unknown_queue_and_finishes_an_empty_one_at_once(
    server: ServerProcess, client: codeq.Client
) -> None:
    assert rest(server, "POST", "/admin/queues/none/purge")[1]["reason"] == "QUEUE_NOT_FOUND"
    with pytest.raises(codeq.QueueNotFound):
        client.purge_queue("none")
    client.create("empty")
    client.complete(client.claim(["empty"])[0])
    assert client.purge_queue("empty").purging is False


def test_purge_wakes_callers_waiting_for_a_result(client: codeq.Client) -> None:
    task = client.create("watched", delay=3600)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.result, task.id, 20)
        client.purge_queue("watched")
        assert waiting.result().error == "PURGED"


def test_tasks_created_during_a_purge_are_delivered_after_it(server: ServerProcess, client: codeq.Client) -> None:
    old = create_many(client, "large", MANY)
    queue = client.purge_queue("large")
    assert (queue.purging, queue.ready + queue.scheduled > 0) == (True, True)
    new = [client.create("large", number).id for number in range(20)]
    explained = rest(server, "GET", f"/tasks/{new[0]}/explain")[1]
    assert explained["reason"] in {"PURGING", "NO_WORKER"}
    assert until_purged(client, "large").ready == 20
    assert [task.id for task in client.claim(["large"], count=100)] == new
    assert {client.get(task_id).status for task_id in old[::3000]} == {codeq.TaskStatus.CANCELLED}


def test_purge_resumes_after_a_kill(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        for _ in range(TRIES_MAX):
            purge_and_kill(server)
            if is_purging(server.store):
                break
            server.start()
        else:
            pytest.fail("every purge was over before the kill")
        server.start()
        with codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
            kept = client.create("killed").id
            queue = until_purged(client, "killed")
            assert (queue.ready, queue.scheduled) == (1, 0)
            assert [task.id for task in client.claim(["killed"], count=9)] == [kept]


def purge_and_kill(server: ServerProcess) -> None:
    """Kills a server, usually in the middle of a purge."""
    with codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
        create_many(client, "killed", MANY - 1000)
        client.create_batch([codeq.NewTask("killed", delay=3600)] * 1000)
        client.purge_queue("killed")
        server.kill()


def is_purging(store: Path) -> bool:
    """Returns whether a purge is in progress in a closed store."""
    rows = RocksStore(store, fsync=False)
    [(_, value)] = rows.scan(b"q", b"r", 2)
    rows.close()
    return rows_pb2.QueueRow.FromString(value).HasField("purge")
