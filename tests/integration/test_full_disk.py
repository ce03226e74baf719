"""The disk has less free space than the reserve: new tasks are rejected, and everything else continues."""

from __future__ import annotations

from pathlib import Path

import codeq
import httpx
import pytest
from server_process import DEV_TOKEN, ServerProcess

ALWAYS_FULL = {"DISK_RESERVE_BYTES": str(1 << 50)}
HEADERS = {"Authorization": f"Bearer {DEV_TOKEN}"}


def post(server: ServerProcess, path: str, body: object) -> httpx.Response:
    return httpx.post(f"{server.http_url}/v1/codeq{path}", json=body, headers=HEADERS)


def get(server: ServerProcess, path: str) -> httpx.Response:
    return httpx.get(f"{server.http_url}{path}")


async def test_nearly_full_disk_rejects_new_tasks_and_lets_existing_ones_end(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with ServerProcess(tmp_path / "first", store=store) as server:
        task_id = post(server, "/tasks", {"command": "a", "payload": 1, "idempotencyKey": "k"}).json()["id"]
        assert server.stop() == 0
    with ServerProcess(tmp_path / "second", store=store, env=ALWAYS_FULL) as server:
        refused = post(server, "/tasks", {"command": "a", "payload": 2})
        assert (refused.status_code, refused.json()["reason"]) == (429, "STORAGE_FULL")
        assert int(refused.headers["Retry-After"]) > 0
        (item,) = post(server, "/tasks/batch", {"tasks": [{"command": "a", "payload": 2}]}).json()["results"]
        assert item["error"]["reason"] == "STORAGE_FULL"
        async with codeq.AsyncProducer(server.producer_addr, token=DEV_TOKEN) as producer:
            for command in ("a", "new"):
                with pytest.raises(codeq.StorageFull) as error:
                    await producer.create(command, 2, timeout_seconds=1)
                assert error.value.retryable
            assert await producer.create("a", 1, idempotency_key="k") == task_id
        again = post(server, "/tasks", {"command": "a", "payload": 1, "idempotencyKey": "k"})
        assert (again.status_code, again.json()["id"], again.json()["duplicate"]) == (200, task_id, True)
        ready = get(server, "/readyz")
        assert (ready.status_code, ready.json()["storageFull"]) == (200, True)
        assert "\ncodeq_storage_full 1.0\n" in get(server, "/metrics").text
        claimed = post(server, "/tasks/claim", {"commands": ["a"]}).json()
        assert claimed["id"] == task_id
        assert post(server, f"/tasks/{task_id}/result", {"status": "COMPLETED"}).status_code == 200
        assert post(server, "/tasks/claim", {"commands": ["a"]}).status_code == 204
        assert server.stop() == 0
    with ServerProcess(tmp_path / "third", store=store) as server:
        assert post(server, "/tasks", {"command": "a", "payload": 2}).status_code == 202
        assert get(server, "/readyz").json()["storageFull"] is False
