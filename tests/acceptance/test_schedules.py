"""Schedules on a real server, over REST: instants fire once and in order while the server is killed."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from server_process import DEV_TOKEN, ServerProcess

HEADERS = {"Authorization": f"Bearer {DEV_TOKEN}"}
KILLS = 3
TASKS_PER_LIFE = 2


def call(server: ServerProcess, method: str, path: str, body: Any = None) -> httpx.Response:
    return httpx.request(method, f"{server.http_url}/v1/codeq{path}", json=body, headers=HEADERS, timeout=60)


def next_task(server: ServerProcess) -> dict[str, Any]:
    """Claims the next task, waiting for it."""
    while (reply := call(server, "POST", "/tasks/claim", {"commands": ["tick"], "waitSeconds": 30})).status_code == 204:
        pass
    task: dict[str, Any] = reply.json()
    done = call(server, "POST", f"/tasks/{task['id']}/result", {"status": "COMPLETED", "result": 1})
    assert done.status_code == 200
    return task


def test_every_instant_fires_once_and_in_order_while_the_server_is_killed(tmp_path: Path) -> None:
    spec = {"every": "1s", "command": "tick", "payload": "{{scheduledAt}}", "misfire": "all"}
    tasks = []
    with ServerProcess(tmp_path) as server:
        assert call(server, "PUT", "/admin/schedules/ticks", spec).status_code == 200
        for _ in range(KILLS):
            tasks += [next_task(server) for _ in range(TASKS_PER_LIFE)]
            server.kill()
            server.start()
        tasks += [next_task(server) for _ in range(TASKS_PER_LIFE)]
        fires = call(server, "GET", "/admin/schedules/ticks/history").json()["fires"]
        shown = call(server, "GET", "/admin/schedules/ticks").json()
    instants = [datetime.fromisoformat(task["payload"]) for task in tasks]
    assert {later - earlier for earlier, later in itertools.pairwise(instants)} == {timedelta(seconds=1)}
    assert len({task["id"] for task in tasks}) == len(tasks)
    fired = [fire["scheduledAt"] for fire in fires]
    assert len(fired) == len(set(fired)) == len({fire["taskId"] for fire in fires})
    assert fired == sorted(fired, reverse=True)
    assert {task["id"] for task in tasks} <= {fire["taskId"] for fire in fires}
    assert (shown["missedTotal"], shown["skippedTotal"]) == (0, 0)


def test_definition_that_cannot_fire_is_refused_with_its_field(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        for field, spec in {
            "cron": {"cron": "0 0 30 2 *"},
            "every": {"every": "soon"},
            "timeZone": {"cron": "@daily", "timeZone": "Mars/Olympus"},
            "at": {"at": "2001-01-01T00:00:00Z"},
            "overlap": {"cron": "@daily", "overlap": "sometimes"},
            "misfireMax": {"cron": "@daily", "misfireMax": 101},
            "jitterSeconds": {"cron": "@daily", "jitterSeconds": -1},
            "endAt": {"cron": "@daily", "startAt": "2030-01-01T00:00:00Z", "endAt": "2029-01-01T00:00:00Z"},
        }.items():
            reply = call(server, "PUT", "/admin/schedules/bad", {"command": "tick", "payload": 1, **spec})
            assert (reply.status_code, reply.json()["reason"]) == (400, "INVALID_FIELD"), field
            assert [each["field"] for each in reply.json()["details"]] == [field]
        assert call(server, "GET", "/admin/schedules/bad").status_code == 404
        assert (
            call(server, "PUT", "/admin/schedules/no%20name", {"command": "tick", "cron": "@daily"}).status_code == 400
        )
