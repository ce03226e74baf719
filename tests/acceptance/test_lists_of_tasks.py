"""Lists of tasks over HTTP, the SDK and the command line."""

from __future__ import annotations

from pathlib import Path

import codeq
import httpx
from server_process import DEV_TOKEN, ServerProcess


def test_tasks_can_be_listed_with_filters_and_page_tokens(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server, codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
        tasks = [client.create("LIST", n, priority=n % 2) for n in range(7)]
        client.create("OTHER", 1, delay=3600)
        [claimed] = client.claim(["LIST"])
        page, token = client.tasks("LIST", page_size=5)
        rest, end = client.tasks("LIST", page_size=5, page_token=token)
        assert sorted(task.id for task in page + rest) == sorted(task.id for task in tasks)
        assert end == ""
        assert [task.id for task in client.tasks(statuses=[codeq.TaskStatus.CLAIMED])[0]] == [claimed.id]
        assert [task.command for task in client.tasks(statuses=[codeq.TaskStatus.SCHEDULED])[0]] == ["OTHER"]
        assert client.tasks("LIST", created_to=tasks[0].created_at)[0] == []
        url, headers = f"{server.http_url}/v1/codeq/tasks", {"Authorization": f"Bearer {DEV_TOKEN}"}
        answer = httpx.get(f"{url}?status=CLAIMED&status=SCHEDULED&pageSize=500", headers=headers)
        assert [task["status"] for task in answer.json()["tasks"]] == ["CLAIMED", "SCHEDULED"]
        for query, reason in (("pageToken=AAAA", "INVALID_PAGE_TOKEN"), ("pageSize=501", "INVALID_FIELD")):
            answer = httpx.get(f"{url}?{query}", headers=headers)
            assert (answer.status_code, answer.json()["reason"]) == (400, reason)


def test_tasks_can_be_listed_in_both_orders(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server, codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
        ids = [client.create("LIST", n, priority=n % 2, max_attempts=1).id for n in range(5)]
        page, token = client.tasks("LIST", page_size=3, order_by="newest")
        rest, end = client.tasks("LIST", page_size=3, page_token=token, order_by="newest")
        assert ([task.id for task in page + rest], end) == (ids[::-1], "")
        died = []
        for _ in ids:
            [task] = client.claim(["LIST"])
            client.nack(task, delay=0)
            died.append(task.id)
        assert [task.id for task in client.dead_letters("LIST").tasks] == died
        first = client.dead_letters("LIST", page_size=2, order_by="newest")
        then = client.dead_letters("LIST", page_token=first.next_page_token, order_by="newest")
        assert [task.id for task in first.tasks + then.tasks] == died[::-1]
        url, headers = f"{server.http_url}/v1/codeq", {"Authorization": f"Bearer {DEV_TOKEN}"}
        told = httpx.get(f"{url}/tasks?orderBy=newest", headers=headers).json()["tasks"]
        assert [task["id"] for task in told] == ids[::-1]
        told = httpx.get(f"{url}/admin/queues/LIST/dlq?orderBy=newest", headers=headers).json()["tasks"]
        assert [task["id"] for task in told] == died[::-1]
        refused = httpx.get(f"{url}/tasks?orderBy=random", headers=headers)
        assert refused.status_code == 400
        assert refused.json()["error"] == "orderBy: must be oldest or newest"
