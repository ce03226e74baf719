"""Dead letters and ended tasks over HTTP: listed, grouped by error, redriven, removed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import codeq
import httpx
import pytest
from server_process import DEV_TOKEN, ServerProcess


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("dead-letters")) as started:
        yield started


@pytest.fixture
def client(server: ServerProcess) -> Iterator[codeq.Client]:
    with codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
        yield client


def call(server: ServerProcess, method: str, path: str, expected: int = 200, **body: object) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {DEV_TOKEN}"}
    more: dict[str, Any] = {"json": body} if method == "POST" else {}
    answer = httpx.request(method, f"{server.http_url}/v1/codeq{path}", headers=headers, timeout=20, **more)
    content: dict[str, Any] = answer.json()
    assert answer.status_code == expected, content
    return content


def bury(client: codeq.Client, command: str, errors: list[str]) -> list[str]:
    for error in errors:
        client.create(command, error, max_attempts=1)
    ids = []
    for error in errors:
        [task] = client.claim([command])
        client.nack(task, error, delay=0)
        ids.append(task.id)
    return ids


def until_ready(client: codeq.Client, command: str, count: int) -> None:
    deadline = time.monotonic() + 20
    while client.queue(command).ready != count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_dead_letters_are_listed_and_grouped_by_error(server: ServerProcess, client: codeq.Client) -> None:
    ids = bury(client, "GROUPED", ["timeout", "refused", "timeout"])
    page = call(server, "GET", "/admin/queues/GROUPED/dlq?pageSize=2")
    assert page["groups"] == [{"error": "timeout", "count": 2}, {"error": "refused", "count": 1}]
    assert ([task["id"] for task in page["tasks"]], page["total"]) == (ids[:2], 3)
    rest = client.dead_letters("GROUPED", page_token=page["nextPageToken"])
    assert ([task.id for task in rest.tasks], rest.groups, rest.next_page_token) == (ids[2:], {}, "")
    assert call(server, "GET", "/admin/queues/NONE/dlq", 404)["reason"] == "QUEUE_NOT_FOUND"


def test_filtered_redrive_supports_dry_run_limit_and_page_token(server: ServerProcess, client: codeq.Client) -> None:
    ids = bury(client, "FILTERED", ["timeout 1", "refused", "timeout 2", "timeout 3"])
    path = "/admin/queues/FILTERED/dlq/redrive"
    dry = call(server, "POST", path, errorContains="timeout", dryRun=True)
    assert (dry["matched"], dry["redriven"], client.queue("FILTERED").dlq) == (3, 0, 4)
    first = call(server, "POST", path, errorContains="timeout", limit=2)
    assert (first["redriven"], client.queue("FILTERED").dlq) == (2, 2)
    more = {"errorContains": "timeout", "pageToken": first["nextPageToken"]}
    second = call(server, "POST", path, **more)
    assert (second["redriven"], second["nextPageToken"]) == (1, "")
    assert [task.id for task in client.dead_letters("FILTERED").tasks] == [ids[1]]
    some = codeq.RedriveFilter(task_ids=[ids[1], ids[0], "none"])
    assert client.redrive_queue("FILTERED", some).redriven == 1
    assert client.queue("FILTERED").ready == 4
    assert call(server, "POST", path, 400, rate=1, dryRun=True)["reason"] == "INVALID_FIELD"
    assert call(server, "POST", path, 400, pageToken="x")["reason"] == "INVALID_PAGE_TOKEN"
    assert call(server, "POST", path, 400, status="COMPLETED")["reason"] == "INVALID_FIELD"
    assert call(server, "POST", "/admin/queues/NONE/dlq/redrive", 404)["reason"] == "QUEUE_NOT_FOUND"


def test_redrive_selects_tasks_by_end_time(client: codeq.Client) -> None:
    ids = bury(client, "TIMED", ["no", "no", "no"])
    ends = [client.get(task_id).finished_at for task_id in ids]
    assert ends[2] is not None
    between = codeq.RedriveFilter(ended_from=ends[2], dry_run=True)
    assert client.redrive_queue("TIMED", between).matched == ends.count(ends[2])
    before = codeq.RedriveFilter(ended_to=ends[2])
    assert client.redrive_queue("TIMED", before).redriven == 3 - ends.count(ends[2])


def test_result_of_a_redriven_task_can_be_awaited_again(server: ServerProcess, client: codeq.Client) -> None:
    [task_id] = bury(client, "WATCHED", ["no"])
    assert client.result(task_id).error == "no"
    assert client.redrive(task_id).status is codeq.TaskStatus.PENDING
    early = call(server, "GET", f"/tasks/{task_id}/result", 404)
    assert early["reason"] == "RESULT_NOT_FOUND"
    shown = client.get(task_id)
    assert (shown.error, shown.attempts, shown.finished_at) == (None, 0, None)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.result, task_id, 20)
        [task] = client.claim(["WATCHED"])
        client.complete(task, "done")
        assert waiting.result().result == "done"


def test_large_redrive_does_not_block_other_callers(server: ServerProcess, client: codeq.Client) -> None:
    count = 3000
    for _ in range(0, count, 500):
        client.create_batch([codeq.NewTask("LARGE", 1, max_attempts=1)] * 500)
    while tasks := client.claim(["LARGE"], count=100):
        ends = [{"taskId": task.id, "status": "FAILED", "error": "no"} for task in tasks]
        call(server, "POST", "/tasks/batch/results", results=ends)
    failed = codeq.RedriveFilter(status=codeq.TaskStatus.FAILED, limit=10_000)
    with ThreadPoolExecutor() as pool:
        redriven = pool.submit(client.redrive_queue, "LARGE", failed)
        served = 0
        while not redriven.done():
            client.create("BESIDE", served)
            served += 1
    assert served > 1
    assert (redriven.result().redriven, client.queue("LARGE").ready) == (count, count)


def test_redrive_with_a_rate_runs_in_the_background(server: ServerProcess, client: codeq.Client) -> None:
    bury(client, "PACED", ["no"] * 6)
    started = time.monotonic()
    answer = call(server, "POST", "/admin/queues/PACED/dlq/redrive", rate=20)
    assert answer["inBackground"]
    until_ready(client, "PACED", 6)
    assert time.monotonic() - started > 0.15


def test_failed_tasks_and_single_tasks_can_be_redriven(server: ServerProcess, client: codeq.Client) -> None:
    for number in range(3):
        client.create("FAILING", number)
    claimed = client.claim(["FAILING"], count=3)
    for task in claimed:
        client.fail(task, "broken")
    one = call(server, "POST", f"/tasks/{claimed[0].id}/redrive")
    assert (one["status"], one["attempts"]) == ("PENDING", 0)
    assert call(server, "POST", f"/tasks/{claimed[0].id}/redrive", 409)["reason"] == "TASK_NOT_REDRIVABLE"
    with pytest.raises(codeq.LeaseLost):
        client.fail(claimed[0], "broken")
    assert call(server, "POST", "/admin/queues/FAILING/dlq/redrive", status="FAILED")["redriven"] == 2
    assert client.queue("FAILING").ready == 3
    assert len(client.claim(["FAILING"], count=5)) == 3


def test_cleanup_removes_tasks_that_ended_before_a_time(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server, codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
        ids = [client.create("OLD", number).id for number in range(4)]
        for task in client.claim(["OLD"], count=3):
            client.complete(task)
        early = call(server, "POST", "/admin/tasks/cleanup", before="2020-01-01T00:00:00Z")
        assert (early["deleted"], early["nextPageToken"]) == (0, "")
        answer = call(server, "POST", "/admin/tasks/cleanup", before="2100-01-01T00:00:00Z", limit=2)
        assert (answer["deleted"], answer["limit"], answer["before"]) == (2, 2, "2100-01-01T00:00:00.000Z")
        token = answer["nextPageToken"]
        rest = call(server, "POST", "/admin/tasks/cleanup", before="2100-01-01T00:00:00Z", pageToken=token)
        assert (rest["deleted"], rest["nextPageToken"]) == (1, "")
        assert [task.id for task in client.tasks()[0]] == ids[3:]
        assert call(server, "POST", "/admin/tasks/cleanup", 400)["reason"] == "INVALID_FIELD"
