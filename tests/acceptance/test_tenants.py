"""Limits and usage of tenants over REST, the command line and the SDK: set at run time, exact, kept over restarts."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import codeq
import grpc
import httpx
import pytest
from bare_streams import produce, producing, take, working
from codeq.v1 import error_pb2, task_pb2, worker_service_pb2
from server_process import DEV_TOKEN, ServerProcess
from test_bad_input import call

TENANT = "dev-tenant"
ADMIN = f"/admin/tenants/{TENANT}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path, env={"QUOTAS_STREAMS_MAX": "2", "QUEUES_PER_TENANT_MAX": "9"}) as server:
        yield server


def rest(server: ServerProcess, method: str, path: str, body: object = None, status: int = 200) -> Any:
    answer = call(server, method, path, DEV_TOKEN, **({} if body is None else {"json": body}))
    assert answer.status_code == status, answer.text
    return answer.json()


def cli(server: ServerProcess, *args: str) -> tuple[int, Any]:
    """Returns the exit code of a command and its output, parsed: that of a failure if it failed."""
    command = [sys.executable, "-m", "codeq_cli.main", "--endpoint", server.http_url, "--token", DEV_TOKEN]
    done = subprocess.run([*command, "-o", "json", *args], env=server.env, capture_output=True, check=False)
    return done.returncode, json.loads(done.stdout or done.stderr)


def create(server: ServerProcess, status: int = 202, command: str = "A", **more: object) -> Any:
    return rest(server, "POST", "/tasks", {"command": command, "payload": 1, **more}, status)


def test_quota_set_over_rest_is_enforced_shown_and_kept_over_a_kill(server: ServerProcess) -> None:
    told = rest(server, "PATCH", ADMIN, {"limits": {"waitingTasksMax": 2}})
    assert (told["name"], told["limits"], told["effective"]["waitingTasksMax"]) == (TENANT, {"waitingTasksMax": 2}, 2)
    assert (told["effective"]["queuesMax"], told["effective"]["streamsMax"]) == (9, 2)
    create(server)
    create(server, delaySeconds=100)
    refused = create(server, 429)
    assert refused["reason"] == "QUOTA_EXCEEDED"
    assert "waitingTasksMax" in refused["error"]
    batch = rest(server, "POST", "/tasks/batch", {"tasks": [{"command": "A", "payload": 1}]})
    assert batch["results"][0]["error"]["reason"] == "QUOTA_EXCEEDED"
    used = rest(server, "GET", "/usage")["usage"]
    assert (used["waitingTasks"], used["createdTotal"], used["quotaRefusedTotal"]) == (2, 2, 2)
    assert 'codeq_quota_refusals_total{quota="waitingTasksMax"} 2.0' in httpx.get(f"{server.http_url}/metrics").text
    server.kill()
    server.start()
    create(server, 429)
    assert rest(server, "GET", ADMIN)["usage"]["createdTotal"] == 2
    rest(server, "PATCH", ADMIN, {"inherit": ["waitingTasksMax"]})
    create(server)


def test_operator_limits_a_tenant_and_all_others_with_the_command_line(server: ServerProcess) -> None:
    code, told = cli(server, "tenant", "set", "_default", "leasesMax=5", "producer=6000/100")
    assert (code, told["name"], "usage" in told) == (0, "_default", False)
    assert told["effective"]["producer"] == {"requestsPerMinute": 6000, "burstSize": 100}
    code, told = cli(server, "tenant", "set", TENANT, "leasesMax=1", "queuesMax=1")
    assert (code, told["limits"]) == (0, {"leasesMax": 1, "queuesMax": 1})
    create(server)
    create(server)
    assert create(server, 429, "B")["reason"] == "TOO_MANY_QUEUES"
    assert rest(server, "POST", "/tasks/claim", {"commands": ["A"]})["status"] == "CLAIMED"
    refused = rest(server, "POST", "/tasks/claim", {"commands": ["A"], "waitSeconds": 30}, 429)
    assert refused["reason"] == "QUOTA_EXCEEDED"
    code, used = cli(server, "usage")
    assert (code, used["usage"]["leases"], used["usage"]["deliveredTotal"]) == (0, 1, 1)
    code, told = cli(server, "tenant", "set", TENANT, "leasesMax=inherit")
    assert (code, told["effective"]["leasesMax"]) == (0, 5)
    assert rest(server, "POST", "/tasks/claim", {"commands": ["A"]})["status"] == "CLAIMED"
    assert cli(server, "tenant", "set", "zebra", "streamsMax=7")[0] == 0
    code, listed = cli(server, "tenant", "list")
    assert (code, [each["name"] for each in listed["tenants"]]) == (0, [TENANT, "zebra"])
    code, zebra = cli(server, "usage", "--tenant", "zebra")
    assert (code, zebra["usage"]["createdTotal"], zebra["effective"]["streamsMax"]) == (0, 0, 7)
    assert cli(server, "tenant", "show", "nobody-yet")[1]["limits"] == {}


def test_update_names_the_field_that_it_rejects(server: ServerProcess) -> None:
    for body, field in (
        ({"inherit": ["queueMax"]}, "inherit[0]"),
        ({"inherit": ["queuesMax"], "limits": {"queuesMax": 1}}, "inherit[0]"),
        ({"limits": {"queuesMax": -1}}, "limits.queuesMax"),
        ({"limits": {"producer": {"burstSize": -1}}}, "limits.producer.burstSize"),
        ({"limits": {"producer": {"requestsPerMinute": 5}}}, "limits.producer"),
        ({"limits": {"workerToken": {"burstSize": 5}}}, "limits.workerToken"),
    ):
        refused = rest(server, "PATCH", ADMIN, body, 400)
        assert (refused["reason"], refused["details"][0]["field"]) == ("INVALID_FIELD", field)
    assert rest(server, "PATCH", "/admin/tenants/Not_a_name", {}, 400)["details"][0]["field"] == "name"
    assert call(server, "PUT", ADMIN, DEV_TOKEN, json={}).status_code == 405


def test_sdk_sets_limits_and_gets_the_quota_that_refused(server: ServerProcess) -> None:
    limits = codeq.TenantLimits(stored_bytes_max=3, worker=codeq.RateLimit(100, 10))
    with codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
        told = client.update_tenant(TENANT, limits)
        assert told.limits == limits
        client.create("A", 12)
        with pytest.raises(codeq.QuotaExceeded) as refused:
            client.create("A", 12)
        assert refused.value.metadata == {"quota": "storedBytesMax", "limit": "3"}
        usage = client.usage().usage
        assert usage is not None
        assert (usage.stored_bytes, usage.accepted_bytes_total, usage.quota_refused_total) == (2, 2, 1)
        assert client.update_tenant(TENANT, inherit=["stored_bytes_max"]).effective.stored_bytes_max == 0
        assert [tenant.name for tenant in client.tenants()[0]] == [TENANT]
        assert client.tenant("_default").usage is None


def test_streams_beyond_the_quota_end_at_once(server: ServerProcess) -> None:
    producers = [codeq.Producer(server.producer_addr, token=DEV_TOKEN) for _ in range(2)]
    for producer in producers:
        producer.create("A", 1)
    assert rest(server, "GET", "/usage")["usage"]["streams"] == 2

    async def open_third() -> None:
        async with producing(server):
            pass

    with pytest.raises(grpc.aio.AioRpcError, match="streamsMax") as refused:
        asyncio.run(open_third())
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    producers[0].close()
    with codeq.Producer(server.producer_addr, token=DEV_TOKEN) as fourth:
        fourth.create("A", 1)
    producers[1].close()


def test_tasks_of_a_frame_are_refused_one_by_one(server: ServerProcess) -> None:
    rest(server, "PATCH", ADMIN, {"limits": {"waitingTasksMax": 3}})
    create(server)

    async def test() -> None:
        async with producing(server) as stream:
            ack = await produce(stream, [task_pb2.TaskSpec(command="A", payload=b"1")] * 4)
            assert [bool(task_id) for task_id in ack.task_ids] == [True, True, False, False]
            assert [error.index for error in ack.errors] == [2, 3]
            assert {error.reason for error in ack.errors} == {error_pb2.ERROR_REASON_QUOTA_EXCEEDED}

    asyncio.run(test())


def test_stream_at_the_quota_of_leases_gets_a_task_for_each_lease_that_ends(server: ServerProcess) -> None:
    rest(server, "PATCH", ADMIN, {"limits": {"leasesMax": 2}})
    for _ in range(5):
        create(server)

    async def test() -> None:
        async with working(server, "A") as worker:
            held = await take(worker, 2)
            assert rest(server, "GET", "/usage")["usage"]["leases"] == 2
            for _ in range(3):
                task = held.pop(0)
                kind = task_pb2.OUTCOME_KIND_COMPLETED
                done = task_pb2.Outcome(kind=kind, task_id=task.id, lease_token=task.lease_token, result=b"1")
                await worker.write(worker_service_pb2.WorkRequest(outcomes=[done]))
                held += await take(worker, 1)
            assert len({task.id for task in held}) == 2

    asyncio.run(test())
