"""Lists of tasks over HTTP, the SDK and the command line."""

from __future__ import annotations

from pathlib import Path

import codeq
import httpx
from server_process import DEV_TOKEN, ServerProcess


def test_list_tasks_with_filters_and_page_tokens(tmp_path: Path) -> None:
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
