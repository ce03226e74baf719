"""Many large concurrent calls: memory stays bounded, no leadership is lost, and excess callers get an error."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import bare_streams
import grpc
import httpx
import psutil
import pytest
from bare_streams import auth, create_many, settle, take, working
from codeq.v1 import task_pb2, task_service_pb2
from codeq.v1 import worker_service_pb2 as worker_pb
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from lone_member import lone_member, post
from server_process import DEV_TOKEN, ServerProcess

HEADERS: Final = {"Authorization": f"Bearer {DEV_TOKEN}", "Content-Type": "application/json"}
SPEC: Final = b'{"command":"BIG","payload":"' + b"x" * 1_000_000 + b'"}'
BATCH: Final = b'{"tasks":[' + b",".join([SPEC] * 8) + b"]}"
MEMORY_MAX: Final = 768 << 20
"""Maximum resident bytes of a server while sixty large batches, 480 MB in total, arrive at once."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server"), apart=False) as server:
        yield server


async def _watch(process: psutil.Process, highest: list[int]) -> None:
    while True:
        highest.append(process.memory_info().rss)
        await asyncio.sleep(0.02)


@pytest.mark.timeout(180)
async def test_concurrent_large_batches_stay_within_bounded_memory(server: ServerProcess) -> None:
    highest: list[int] = []
    watch = asyncio.create_task(_watch(psutil.Process(server.pid), highest))
    limits = httpx.Limits(max_connections=60)
    async with (
        httpx.AsyncClient(base_url=server.http_url, headers=HEADERS, timeout=120, limits=limits) as http,
        grpc.aio.insecure_channel(server.producer_addr) as channel,
    ):
        request = task_service_pb2.BatchCreateTasksRequest(
            tasks=[task_pb2.TaskSpec(command="BIG", payload=b'"%s"' % (b"x" * 1_000_000))] * 8
        )

        async def over_rest() -> int:
            return (await http.post("/v1/codeq/tasks/batch", content=BATCH)).status_code

        async def over_grpc() -> int:
            options: Any = TaskServiceStub(channel)
            try:
                await options.BatchCreateTasks(request, metadata=auth(), timeout=120)
            except grpc.aio.AioRpcError as error:
                return 429 if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED else 0
            return 200

        ends = Counter(await asyncio.gather(*(over_rest() for _ in range(40)), *(over_grpc() for _ in range(20))))
    watch.cancel()
    assert set(ends) <= {200, 429}
    assert ends[200] >= 16
    assert max(highest) < MEMORY_MAX
    assert post(server, "/tasks", {"command": "AFTER"}).status_code == 202


@pytest.mark.timeout(180)
async def test_frame_of_nacks_with_large_progress_does_not_end_leadership(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 2,150 tasks of 64 KiB of progress each, a single batch would exceed the message limit between members."""
    monkeypatch.setattr(bare_streams, "SECONDS_MAX", 170)
    with lone_member(tmp_path) as member:
        assert post(member, "/tasks", {"command": "FIRST", "payload": 1}).status_code == 202
        await create_many(member, "NACK", 2150)
        async with working(member, "NACK") as stream:
            tasks = await take(stream, 2150)
            progress = b'"%s"' % (b"p" * 65_000)
            for first in range(0, 2150, 128):
                reports = [
                    worker_pb.Progress(task_id=task.id, lease_token=task.lease_token, progress=progress)
                    for task in tasks[first : first + 128]
                ]
                await stream.write(worker_pb.WorkRequest(progress=reports))
            nacks = [
                task_pb2.Outcome(task_id=task.id, lease_token=task.lease_token, kind=task_pb2.OUTCOME_KIND_NACK)
                for task in tasks
            ]
            assert await settle(stream, nacks) == []
        assert post(member, "/tasks", {"command": "LAST", "payload": 1}).status_code == 202
        assert member.log.count('"leading"') == 1
