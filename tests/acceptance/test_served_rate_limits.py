"""Rate limits of a running server: over REST, in process and through a standalone gateway, over gRPC and on streams."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path

import codeq
import grpc
import httpx
import pytest
from bare_streams import auth, produce, producing
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from server_process import DEV_TOKEN, ServerProcess

TASKS = "/v1/codeq/tasks"
BURST = 5
PER_MINUTE = 6
"""One call in ten seconds."""
LIMIT = {"producer": {"requestsPerMinute": PER_MINUTE, "burstSize": BURST}}


@pytest.fixture(params=["in process", "apart"])
def limited(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path, env={"RATE_LIMIT": json.dumps(LIMIT)}, apart=request.param == "apart") as server:
        yield server
        print(server.log)


def create(server: ServerProcess) -> httpx.Response:
    headers = {"Authorization": f"Bearer {DEV_TOKEN}"}
    return httpx.post(f"{server.http_url}{TASKS}", json={"command": "A"}, headers=headers, timeout=30)


def create_over_grpc(server: ServerProcess) -> grpc.RpcError:
    """Creates a task; returns why it was refused."""
    with grpc.insecure_channel(server.producer_addr) as channel:
        request = pb.CreateTaskRequest(spec=task_pb2.TaskSpec(command="A", payload=b"1"))
        with pytest.raises(grpc.RpcError) as caught:
            TaskServiceStub(channel).CreateTask(request, metadata=auth(), timeout=30)
    return caught.value


def hits(server: ServerProcess) -> int:
    text = httpx.get(f"{server.http_url}/metrics", timeout=30).text
    [count] = re.findall(
        r'^codeq_rate_limit_hits_total\{operation="create_task",scope="producer"\} (\S+)$', text, re.MULTILINE
    )
    return int(float(count))


def test_call_over_the_rate_gets_429_over_rest_and_the_same_over_grpc(limited: ServerProcess) -> None:
    began = time.monotonic()
    assert [create(limited).status_code for _ in range(BURST)] == [202] * BURST
    refused = create(limited)
    seconds = refused.json()["retryAfterSeconds"]
    least = 60 / PER_MINUTE - (time.monotonic() - began)
    assert max(1, math.ceil(least)) <= seconds <= 60 / PER_MINUTE
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == str(seconds)
    assert refused.json() == {
        "error": "rate limit exceeded",
        "code": "RESOURCE_EXHAUSTED",
        "reason": "RATE_LIMITED",
        "details": [],
        "scope": "producer",
        "operation": "create_task",
        "subject": "token",
        "retryAfterSeconds": seconds,
    }
    status = rpc_status.from_call(create_over_grpc(limited))
    assert (status.code, status.message) == (grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], "rate limit exceeded")
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert [detail.Unpack(each) for detail, each in zip(status.details, (info, retry), strict=True)] == [True, True]
    assert (info.domain, info.reason) == ("codeq", "RATE_LIMITED")
    assert 1 <= retry.retry_delay.seconds <= seconds
    assert retry.retry_delay.nanos == 0
    assert dict(info.metadata) == {
        "scope": "producer",
        "operation": "create_task",
        "subject": "token",
        "retryAfterSeconds": str(retry.retry_delay.seconds),
    }
    assert hits(limited) == 2


async def test_stream_and_calls_share_a_bucket_and_the_stream_is_slowed(tmp_path: Path) -> None:
    """Two tasks beyond the burst take two tenths of a second."""
    rate = {"producer": {"requestsPerMinute": 600, "burstSize": BURST}}
    with ServerProcess(tmp_path, env={"RATE_LIMIT": json.dumps(rate)}) as server:
        async with producing(server) as stream:
            spec = task_pb2.TaskSpec(command="A", payload=b"1")
            began = time.monotonic()
            assert len((await produce(stream, [spec] * BURST)).task_ids) == BURST
            assert len((await produce(stream, [spec] * 2)).task_ids) == 2
            assert time.monotonic() - began >= 0.19
        assert hits(server) == 1


def test_python_client_waits_as_long_as_it_is_told_and_calls_again(tmp_path: Path) -> None:
    rate = {"producer": {"requestsPerMinute": 60, "burstSize": 1}}
    with ServerProcess(tmp_path, env={"RATE_LIMIT": json.dumps(rate)}) as server:
        with codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
            ids = {client.create("A", 1) for _ in range(3)}
        assert len(ids) == 3
        with codeq.Client(server.producer_addr, token=DEV_TOKEN, timeout_seconds=0.5) as client:
            with pytest.raises(codeq.RateLimited) as caught:
                client.create("A", 1)
            assert caught.value.retry_after == 1
            assert caught.value.metadata["subject"] == "token"
