"""The contract's rows about controlling tasks and queues, against a real server."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import codeq
import httpx
import pytest
from server_process import DEV_TOKEN, ServerProcess

SECONDS_MAX = 30


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the well-known token for everything."""
    with ServerProcess(tmp_path_factory.mktemp("control")) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[codeq.Client]:
    """A client of the server."""
    with codeq.Client(server.producer_addr, token=DEV_TOKEN) as opened:
        yield opened


def rest(server: ServerProcess, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """Makes one HTTP call; returns status and body."""
    headers = {"Authorization": f"Bearer {DEV_TOKEN}"}
    answer = httpx.request(method, f"{server.http_url}/v1/codeq{path}", headers=headers, json=body, timeout=SECONDS_MAX)
    return answer.status_code, answer.json() if answer.content else None


# -- POST /tasks/{id}/cancel: producer; pushed to the worker that holds it -----------------------------------------


def test_rest_cancel_ends_a_waiting_task_with_the_reason(server: ServerProcess, client: codeq.Client) -> None:
    task = client.create("cancel-rest")
    status, body = rest(server, "POST", f"/tasks/{task.id}/cancel", {"reason": "not needed"})
    assert (status, body["status"], body["error"]) == (200, "CANCELLED", "not needed")
    assert "finishedAt" in body
    status, again = rest(server, "POST", f"/tasks/{task.id}/cancel", {})
    assert (status, again) == (200, body)
    status, record = rest(server, "GET", f"/tasks/{task.id}/result")
    assert (status, record["result"]["status"], record["result"]["error"]) == (200, "CANCELLED", "not needed")
    assert client.claim(["cancel-rest"]) == []
    assert client.queue("cancel-rest").ready == 0


def test_cancel_ends_a_scheduled_task(client: codeq.Client) -> None:
    task = client.create("cancel-later", delay=3600)
    assert client.cancel(task).status is codeq.TaskStatus.CANCELLED
    assert client.queue("cancel-later").scheduled == 0
    assert client.get(task.id).error == "CANCELLED"


def test_cancel_of_an_ended_task_gets_409_task_ended(server: ServerProcess, client: codeq.Client) -> None:
    client.create("cancel-ended")
    [task] = client.claim(["cancel-ended"])
    client.complete(task, 1)
    status, body = rest(server, "POST", f"/tasks/{task.id}/cancel", {})
    assert (status, body["reason"]) == (409, "TASK_ENDED")
    with pytest.raises(codeq.TaskEnded):
        client.cancel(task)
    assert client.get(task.id).status is codeq.TaskStatus.COMPLETED


def test_cancel_of_a_claimed_task_rejects_the_later_outcome(client: codeq.Client) -> None:
    client.create("cancel-claimed")
    [task] = client.claim(["cancel-claimed"])
    client.cancel(task, "stop")
    with pytest.raises(codeq.LeaseLost):
        client.complete(task, 1)
    with pytest.raises(codeq.LeaseLost):
        client.heartbeat(task)
    assert client.result(task.id).status is codeq.TaskStatus.CANCELLED


def test_cancel_wakes_callers_waiting_for_the_result(server: ServerProcess, client: codeq.Client) -> None:
    task = client.create("cancel-waited")
    records: list[codeq.TaskResult] = []
    thread = threading.Thread(target=lambda: records.append(client.result(task.id, wait=SECONDS_MAX)))
    thread.start()
    client.cancel(task, "never mind")
    thread.join(SECONDS_MAX / 2)
    assert not thread.is_alive()
    assert (records[0].status, records[0].error) == ("CANCELLED", "never mind")


@pytest.mark.parametrize("style", ["async", "sync"])
def test_cancel_is_pushed_to_the_worker_that_holds_the_task(
    server: ServerProcess, client: codeq.Client, style: str
) -> None:
    command = f"cancel-pushed-{style}"
    started, stopped = threading.Event(), threading.Event()
    worker = codeq.Worker(server.worker_addr, token=DEV_TOKEN)

    async def asynchronous(task: codeq.Task) -> None:
        started.set()
        try:
            await asyncio.sleep(SECONDS_MAX)
        finally:
            stopped.set()

    def synchronous(task: codeq.Task) -> None:
        started.set()
        if task.lost.wait(SECONDS_MAX):
            stopped.set()

    handler = asynchronous if style == "async" else synchronous
    thread = threading.Thread(target=worker.run, args=(handler,), kwargs={"commands": [command]})
    thread.start()
    try:
        task = client.create(command)
        assert started.wait(SECONDS_MAX)
        client.cancel(task)
        assert stopped.wait(5)  # far sooner than the next heartbeat, after 20 seconds
        assert client.get(task.id).status is codeq.TaskStatus.CANCELLED
    finally:
        worker.stop()
        thread.join(SECONDS_MAX)
    assert not thread.is_alive()


# -- POST /admin/queues/{command}/pause, /resume: admin --------------------------------------------------------------


def test_pause_stops_claims_and_resume_wakes_a_waiting_claim(server: ServerProcess, client: codeq.Client) -> None:
    client.create("paused-poll", 1)
    status, queue = rest(server, "POST", "/admin/queues/paused-poll/pause", {})
    assert (status, queue["paused"], queue["ready"]) == (200, True, 1)
    client.create("paused-poll", 2)
    assert client.claim(["paused-poll"]) == []
    got: list[codeq.Task] = []
    thread = threading.Thread(target=lambda: got.extend(client.claim(["paused-poll"], count=9, wait=SECONDS_MAX)))
    thread.start()
    status, queue = rest(server, "POST", "/admin/queues/paused-poll/resume", {})
    assert (status, queue["paused"]) == (200, False)
    thread.join(SECONDS_MAX / 2)
    assert [task.payload for task in got] == [1, 2]


def test_pause_applies_to_streams_and_lets_running_tasks_finish(server: ServerProcess, client: codeq.Client) -> None:
    command = "paused-stream"
    started, go_on = threading.Event(), threading.Event()
    seen: list[object] = []
    worker = codeq.Worker(server.worker_addr, token=DEV_TOKEN)

    def handler(task: codeq.Task) -> object:
        seen.append(task.payload)
        started.set()
        go_on.wait(SECONDS_MAX)
        return "done"

    thread = threading.Thread(target=worker.run, args=(handler,), kwargs={"commands": [command]})
    thread.start()
    try:
        running = client.create(command, 1)
        assert started.wait(SECONDS_MAX)
        assert client.pause_queue(command).paused
        waiting = client.create(command, 2)
        go_on.set()
        assert client.result(running.id, wait=SECONDS_MAX).result == "done"
        assert client.get(waiting.id).status is codeq.TaskStatus.PENDING
        assert seen == [1]
        assert not client.resume_queue(command).paused
        assert client.result(waiting.id, wait=SECONDS_MAX).result == "done"
    finally:
        worker.stop()
        thread.join(SECONDS_MAX)
    assert seen == [1, 2]


def test_pause_survives_a_restart(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as own:
        with codeq.Client(own.producer_addr, token=DEV_TOKEN) as before:
            task = before.create("paused-kept")
            before.pause_queue("paused-kept")
        own.restart()
        with codeq.Client(own.producer_addr, token=DEV_TOKEN) as after:
            assert after.queue("paused-kept").paused
            assert after.claim(["paused-kept"]) == []
            after.resume_queue("paused-kept")
            assert [claimed.id for claimed in after.claim(["paused-kept"])] == [task.id]


def test_pausing_an_unknown_queue_creates_it_until_it_is_resumed(tmp_path: Path) -> None:
    env = {"QUEUES_PER_TENANT_MAX": "2", "QUEUE_IDLE_SECONDS": "1"}
    with (
        ServerProcess(tmp_path, env=env) as server,
        codeq.Client(server.producer_addr, token=DEV_TOKEN) as client,
    ):
        status, queue = rest(server, "POST", "/admin/queues/ahead/pause", {})
        assert (status, queue["command"], queue["paused"], queue["ready"]) == (200, "ahead", True, 0)
        assert client.pause_queue("ahead-grpc").paused
        assert rest(server, "POST", "/admin/queues/ahead/pause", {})[0] == 200
        status, body = rest(server, "POST", "/admin/queues/one-too-many/pause", {})
        assert (status, body["reason"]) == (429, "TOO_MANY_QUEUES")
        client.resume_queue("ahead-grpc")  # it has no tasks, so it is removed; the paused queue stays
        deadline = time.monotonic() + SECONDS_MAX
        while [each.command for each in client.queues()[0]] != ["ahead"]:
            assert time.monotonic() < deadline
        server.kill()
        server.start()
        assert client.queue("ahead").paused
        task = client.create("ahead")
        assert client.claim(["ahead"]) == []
        client.resume_queue("ahead")
        assert [claimed.id for claimed in client.claim(["ahead"])] == [task.id]


def test_pause_validates_the_command_and_resume_creates_no_queue(server: ServerProcess) -> None:
    status, body = rest(server, "POST", "/admin/queues/not%20a%20command/pause", {})
    assert (status, body["reason"]) == (400, "INVALID_FIELD")
    status, body = rest(server, "POST", "/admin/queues/never-used/resume", {})
    assert (status, body["reason"]) == (404, "QUEUE_NOT_FOUND")


# -- GET /tasks/{id}: history of its deliveries -------------------------------------------------------------------


def test_latest_deliveries_are_reported_on_every_interface_and_survive_a_kill(tmp_path: Path) -> None:
    with (
        ServerProcess(tmp_path) as server,
        codeq.Client(server.producer_addr, token=DEV_TOKEN) as client,
    ):
        task = client.create("history", max_attempts=12)
        assert "attemptHistory" not in rest(server, "GET", f"/tasks/{task.id}")[1]
        for number in range(11):
            (claimed,) = client.claim(["history"])
            assert claimed.attempt_history == []
            client.nack(claimed, f"reason {number}", delay=0)
        server.kill()
        server.start()
        (claimed,) = client.claim(["history"], wait=SECONDS_MAX)
        client.complete(claimed)
        history = rest(server, "GET", f"/tasks/{task.id}")[1]["attemptHistory"]
        assert [each["end"] for each in history] == ["NACKED"] * 9 + ["COMPLETED"]
        assert [each.get("error") for each in history] == [*(f"reason {number}" for number in range(2, 11)), None]
        assert {each["workerId"] for each in history} == {claimed.worker_id}
        assert all(each["startedAt"] <= each["endedAt"] for each in history)
        found = client.get(task.id).attempt_history
        assert [(each.end, each.error, each.worker_id) for each in found] == [
            (each["end"], each.get("error"), each["workerId"]) for each in history
        ]
        listed, _ = client.tasks("history")
        assert [each.attempt_history for each in listed] == [[]]


# -- POST /tasks/{id}/progress: JSON <= 64 KiB, visible on the task; extends the lease on request ---------------------


def test_rest_progress_is_stored_byte_for_byte_and_extends_the_lease_on_request(
    server: ServerProcess, client: codeq.Client
) -> None:
    client.create("progress-rest")
    [task] = client.claim(["progress-rest"], lease_seconds=10)
    headers = {"Authorization": f"Bearer {DEV_TOKEN}", "Content-Type": "application/json"}
    url = f"{server.http_url}/v1/codeq/tasks/{task.id}"
    text = '{ "done":1.50, "done":2 }'
    answer = httpx.post(f"{url}/progress", content=f'{{"progress":{text}}}', headers=headers, timeout=SECONDS_MAX)
    assert answer.status_code == 200
    assert f'"progress":{text}' in httpx.get(url, headers=headers, timeout=SECONDS_MAX).text
    before = client.get(task.id).lease_until
    assert before is not None
    after = client.report_progress(task, [1], extend_seconds=600)
    assert (after - before).total_seconds() > 500
    assert client.get(task.id).last_progress == [1]


def test_oversized_or_malformed_progress_is_rejected(server: ServerProcess, client: codeq.Client) -> None:
    client.create("progress-bad")
    [task] = client.claim(["progress-bad"])
    status, body = rest(server, "POST", f"/tasks/{task.id}/progress", {"progress": "x" * 65_536})
    assert (status, body["reason"]) == (413, "TOO_LARGE")
    status, body = rest(server, "POST", f"/tasks/{task.id}/progress", {"progress": 1, "leaseToken": "5"})
    assert (status, body["reason"]) == (409, "STALE_LEASE_TOKEN")
    with pytest.raises(codeq.InvalidField):
        client.report_progress(task, codeq.RawJson(b"{"))
    assert client.get(task.id).last_progress is None


def test_worker_progress_is_shown_while_the_task_runs_and_afterwards(
    server: ServerProcess, client: codeq.Client
) -> None:
    told, go_on = threading.Event(), threading.Event()
    worker = codeq.Worker(server.worker_addr, token=DEV_TOKEN)

    def handler(task: codeq.Task) -> object:
        task.progress({"percent": 10})
        told.set()
        go_on.wait(SECONDS_MAX)
        task.progress({"percent": 100})
        return "done"

    thread = threading.Thread(target=worker.run, args=(handler,), kwargs={"commands": ["progress-stream"]})
    thread.start()
    try:
        task = client.create("progress-stream")
        assert told.wait(SECONDS_MAX)
        deadline = time.monotonic() + SECONDS_MAX
        while client.get(task.id).last_progress is None:
            assert time.monotonic() < deadline
        assert client.get(task.id).last_progress == {"percent": 10}
        go_on.set()
        client.result(task.id, wait=SECONDS_MAX)
        assert client.get(task.id).last_progress == {"percent": 100}
    finally:
        go_on.set()
        worker.stop()
        thread.join(SECONDS_MAX)


# -- GET /tasks/{id}/explain: why it waits -----------------------------------------------------------------------------


def test_explain_says_what_the_task_waits_for_in_each_state(server: ServerProcess, client: codeq.Client) -> None:
    def explained(task: codeq.Task) -> dict[str, Any]:
        status, body = rest(server, "GET", f"/tasks/{task.id}/explain")
        assert status == 200
        assert isinstance(body, dict)
        return body

    first, second = client.create("explained"), client.create("explained")
    urgent, later = client.create("explained", priority=9), client.create("explained", delay=600)
    assert [explained(task)["ahead"] for task in (urgent, first, second)] == [0, 1, 2]
    assert explained(first)["reason"] == "NO_WORKER"
    assert (explained(later)["reason"], 590 < explained(later)["delaySeconds"] <= 600) == ("DELAYED", True)
    client.pause_queue("explained")
    assert (explained(first)["reason"], explained(first)["paused"]) == ("PAUSED", True)
    client.resume_queue("explained")
    told_to_client = client.explain(second.id)
    assert (told_to_client.status, told_to_client.reason, told_to_client.ahead) == ("PENDING", "NO_WORKER", 2)
    [claimed] = client.claim(["explained"])
    told = explained(claimed)
    assert (claimed.id, told["reason"], told["status"]) == (urgent.id, "LEASED", "CLAIMED")
    assert told["workerId"] == claimed.worker_id
    assert "leaseUntil" in told
    assert (explained(first)["reason"], explained(first)["ahead"]) == ("QUEUED", 0)
    client.cancel(first)
    assert explained(first)["reason"] == "ENDED"
    assert explained(second)["ahead"] == 0
    status, body = rest(server, "GET", "/tasks/nothing/explain")
    assert (status, body["reason"]) == (404, "TASK_NOT_FOUND")
