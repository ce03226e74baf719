"""A stopping server does not wait for long polls."""

from __future__ import annotations

import asyncio
import signal
import time

import httpx
from server_process import DEV_TOKEN, ServerProcess

AUTH = {"Authorization": f"Bearer {DEV_TOKEN}"}
WAIT_SECONDS = 30


async def test_shutdown_ends_long_polls_at_once_with_draining(server: ServerProcess) -> None:
    async with httpx.AsyncClient(base_url=f"{server.http_url}/v1/codeq", headers=AUTH, timeout=60) as http:
        task = (await http.post("/tasks", json={"command": "WAITED", "payload": 1})).json()
        polls = [
            asyncio.create_task(http.post("/tasks/claim", json={"commands": ["NONE"], "waitSeconds": WAIT_SECONDS})),
            asyncio.create_task(http.get(f"/tasks/{task['id']}/result", params={"waitSeconds": WAIT_SECONDS})),
        ]
        waiting = ""
        async with asyncio.timeout(20):
            while "codeq_workers_waiting 1.0" not in waiting or "codeq_ends_watched 1.0" not in waiting:
                waiting = (await http.get(f"{server.http_url}/metrics")).text
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        answers = await asyncio.gather(*polls)
        assert [(a.status_code, a.json()["reason"]) for a in answers] == [(503, "DRAINING")] * 2
        assert all(int(a.headers["Retry-After"]) >= 1 for a in answers)
        assert time.monotonic() - began < WAIT_SECONDS / 2
    assert await asyncio.to_thread(server.wait) == 0
