"""Tenants and workers are isolated: names, roles, identities."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from bare_streams import auth, produce, producing, settle, take, working
from codeq.v1 import error_pb2, task_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq.v1 import worker_service_pb2 as worker_pb
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from server_process import ServerProcess
from test_bad_input import WORKER_SCOPES, call, refused, static

BODIES: dict[str, dict[str, Any]] = {"result": {"status": "COMPLETED"}, "progress": {"progress": 1}}
"""Bodies of calls that need a non-empty one, by the last word of their path."""


def tokens(tenant: str, role: str = "ADMIN", **worker: Any) -> dict[str, str]:
    """Returns the environment of a server whose only tenant has both tokens; subjects are always the same."""
    rights = {"scopes": WORKER_SCOPES, "eventTypes": ["*"], **worker}
    return {
        "ALLOW_PRODUCER_AS_WORKER": "true",
        "PRODUCER_AUTH_PROVIDER": "static",
        "PRODUCER_AUTH_CONFIG": static("producer", tenant, raw={"tenantId": tenant, "role": role}),
        "WORKER_AUTH_PROVIDER": "static",
        "WORKER_AUTH_CONFIG": static("worker", tenant, **rights),
    }


def of(tenant: str, directory: Path, **more: Any) -> ServerProcess:
    """Returns a server of a tenant; servers in the same directory share a store."""
    return ServerProcess(directory / tenant, env=tokens(tenant, **more), dev=False, store=directory / "store")


def paths_with_a_name(server: ServerProcess, task_id: str, command: str) -> list[tuple[str, str]]:
    """Returns method and path of every operation whose path names a task or a queue."""
    found = []
    for path, methods in httpx.get(f"{server.http_url}/openapi.json").json()["paths"].items():
        # A policy can be set for a command without a queue, so tenants have policies of the same name.
        if ("{task_id}" in path or "{command}" in path) and "/admin/topics/" not in path:
            named = path.removeprefix("/v1/codeq").replace("{task_id}", task_id).replace("{command}", command)
            named = named.replace("{name}", "a")
            assert "{" not in named
            found += [(method.upper(), named) for method in methods if method in ("get", "post", "put", "delete")]
    return found


def test_other_tenants_can_neither_see_nor_change_a_task_or_queue(tmp_path: Path) -> None:
    with of("acme", tmp_path) as server:
        waiting = call(server, "POST", "/tasks", token="producer", json={"command": "A", "payload": 1}).json()
        call(server, "POST", "/tasks", token="producer", json={"command": "B", "payload": 2, "taskId": "named"})
        held = call(server, "POST", "/tasks/claim", token="producer", json={"commands": ["B"]}).json()
        call(server, "POST", "/tasks", token="producer", json={"command": "C", "payload": 3, "taskId": "ended"})
        call(server, "POST", "/tasks/claim", token="producer", json={"commands": ["C"]})
        result = {"status": "COMPLETED", "artifacts": [{"name": "a.txt", "contentBase64": "aGk="}]}
        assert call(server, "POST", "/tasks/ended/result", token="producer", json=result).status_code == 200
        ended = call(server, "GET", "/tasks/ended", token="producer").json()
        page = call(server, "GET", "/tasks?pageSize=1", token="producer").json()["nextPageToken"]
        assert (held["id"], page != "") == ("named", True)
        server.stop()
    with of("umbrella", tmp_path) as server:
        for task in (waiting, held, ended):
            for method, path in paths_with_a_name(server, task["id"], task["command"]):
                body = BODIES.get(path.rpartition("/")[2], {})
                answer = call(server, method, path, token="producer", **({"json": body} if method == "POST" else {}))
                if path.startswith("/admin/queues/"):
                    # Pausing creates the caller's own queue of this name.
                    assert answer.json().get("ready", 0) == 0, (method, path, answer.text)
                    assert answer.json().get("tasks", []) == [], (method, path, answer.text)
                    continue
                assert answer.status_code == 404, (method, path, answer.text)
                assert answer.json()["reason"] in ("TASK_NOT_FOUND", "QUEUE_NOT_FOUND"), (method, path, answer.text)
        results = [{"taskId": held["id"], "leaseToken": held["leaseToken"], "status": "COMPLETED"}]
        answers = call(server, "POST", "/tasks/batch/results", token="producer", json={"results": results}).json()
        assert answers["results"][0]["error"]["reason"] == "TASK_NOT_FOUND"
        cleanup = {"before": "2100-01-01T00:00:00Z"}
        assert call(server, "POST", "/admin/tasks/cleanup", token="producer", json=cleanup).json()["deleted"] == 0
        assert call(server, "GET", "/tasks", token="producer").json()["tasks"] == []
        own = call(server, "GET", "/admin/queues", token="producer").json()["queues"]
        assert [queue for queue in own if queue["ready"] or queue["claimed"] or queue["dlq"]] == []
        refused(call(server, "GET", f"/tasks?pageSize=1&pageToken={page}", token="producer"), 400, "INVALID_PAGE_TOKEN")
        assert call(server, "POST", "/tasks/claim", token="producer", json={}).status_code == 204
        server.stop()
    with of("acme", tmp_path) as server:
        assert call(server, "GET", f"/tasks/{waiting['id']}", token="producer").json() == waiting
        assert call(server, "GET", "/tasks/ended", token="producer").json() == ended
        assert call(server, "GET", "/tasks/ended/artifacts/a.txt", token="producer").content == b"hi"
        kept = call(server, "GET", "/tasks/named", token="producer").json()
        assert (kept["status"], kept["leaseToken"]) == ("CLAIMED", held["leaseToken"])


def every_outcome(task_id: str, token: int) -> list[task_pb2.Outcome]:
    """Returns one outcome of each kind for a delivery, and one with a result."""
    fields = [{"kind": kind} for kind in task_pb2.OutcomeKind.keys()[1:]]
    fields[fields.index({"kind": "OUTCOME_KIND_FAILED"})]["error"] = "x"
    fields.append({"kind": "OUTCOME_KIND_COMPLETED", "result": b"1"})
    return [task_pb2.Outcome(task_id=task_id, lease_token=token, **each) for each in fields]


async def test_other_tenants_worker_stream_cannot_settle_or_extend_a_task(tmp_path: Path) -> None:
    with of("acme", tmp_path) as server:
        call(server, "POST", "/tasks", token="producer", json={"command": "A", "payload": 1})
        held = call(server, "POST", "/tasks/claim", token="worker", json={}).json()
        server.stop()
    task_id, token = held["id"], int(held["leaseToken"])
    with of("umbrella", tmp_path) as server:
        async with working(server, token="worker") as stream:
            errors = await settle(stream, every_outcome(task_id, token))
            assert [error.reason for error in errors] == [error_pb2.ERROR_REASON_TASK_NOT_FOUND] * 5
            heartbeat = worker_pb.Heartbeat(task_id=task_id, lease_token=token)
            progress = worker_pb.Progress(task_id=task_id, lease_token=token, progress=b"1")
            await stream.write(worker_pb.WorkRequest(heartbeats=[heartbeat], progress=[progress]))
            lost = (await stream.read()).lost
            assert [(each.task_id, each.reason) for each in lost] == [
                (task_id, error_pb2.ERROR_REASON_TASK_NOT_FOUND)
            ] * 2


def test_idempotency_keys_of_tenants_are_independent(tmp_path: Path) -> None:
    body = {"command": "A", "payload": "of acme", "idempotencyKey": "order-1"}
    with of("acme", tmp_path) as server:
        first = call(server, "POST", "/tasks", token="producer", json=body).json()
        server.stop()
    with of("umbrella", tmp_path) as server:
        for payload in ("of umbrella", "of acme"):
            key = f"order-{payload == 'of umbrella':d}"
            made = call(
                server, "POST", "/tasks", token="producer", json={**body, "payload": payload, "idempotencyKey": key}
            )
            assert made.status_code == 202
            assert (made.json()["tenantId"], made.json()["payload"]) == ("umbrella", payload)
            assert made.json()["id"] != first["id"]


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of one tenant with two subjects that may work: of-worker and of-producer."""
    with ServerProcess(tmp_path_factory.mktemp("two"), env=tokens("acme"), dev=False) as server:
        yield server


def held_task(server: ServerProcess, command: str) -> dict[str, Any]:
    """Returns a task that the worker of-worker holds."""
    call(server, "POST", "/tasks", token="producer", json={"command": command, "payload": 1})
    held: dict[str, Any] = call(server, "POST", "/tasks/claim", token="worker", json={"commands": [command]}).json()
    assert held["workerId"] == "of-worker"
    return held


@pytest.mark.parametrize("with_token", [True, False])
@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("heartbeat", {"extendSeconds": 600}),
        ("result", {"status": "COMPLETED", "workerId": "of-worker"}),
        ("nack", {}),
        ("abandon", {}),
        ("progress", {"progress": 1, "extendSeconds": 600}),
    ],
)
def test_lease_cannot_be_used_by_another_subject_even_with_its_token(
    two_workers: ServerProcess, action: str, body: dict[str, Any], *, with_token: bool
) -> None:
    held = held_task(two_workers, f"{action}-{with_token}")
    if with_token:
        body = {**body, "leaseToken": held["leaseToken"]}
    answer = call(two_workers, "POST", f"/tasks/{held['id']}/{action}", token="producer", json=body)
    refused(answer, 409, "NOT_LEASE_OWNER")
    kept = call(two_workers, "GET", f"/tasks/{held['id']}", token="producer").json()
    assert (kept["status"], kept["workerId"], kept["leaseToken"]) == ("CLAIMED", "of-worker", held["leaseToken"])
    assert "progress" not in kept
    ends = [datetime.fromisoformat(task["leaseUntil"]) for task in (held, kept)]
    assert abs(ends[0] - ends[1]) < timedelta(seconds=0.1)  # not extended


async def test_named_stream_stays_within_its_subject(two_workers: ServerProcess) -> None:
    held = held_task(two_workers, "posing")
    async with working(two_workers, "mine", token="producer", name="of-worker") as stream:
        errors = await settle(stream, every_outcome(held["id"], int(held["leaseToken"])))
        assert [error.reason for error in errors] == [error_pb2.ERROR_REASON_NOT_LEASE_OWNER] * 5
        made = call(two_workers, "POST", "/tasks", token="producer", json={"command": "mine", "payload": 1}).json()
        await take(stream, 1)
        shown = call(two_workers, "GET", f"/tasks/{made['id']}", token="worker").json()
        assert shown["workerId"] == "of-producer/of-worker"


@pytest.mark.parametrize("role", ["ADMIN", "admin"])
def test_role_header_grants_no_administrator_rights(tmp_path: Path, role: str) -> None:
    env = {**tokens("acme", role="USER"), "ENV": "dev"}
    with ServerProcess(tmp_path / "server", env=env, dev=False) as server:
        for token in ("producer", "worker"):
            answer = call(server, "GET", "/admin/queues", token=token, headers={"X-Role": role})
            assert answer.status_code in (401, 403), answer.text


@pytest.mark.parametrize("asked", [{}, {"commands": []}, {"commands": None}], ids=["absent", "empty", "null"])
async def test_claim_without_commands_covers_every_command_the_token_allows(
    tmp_path: Path, asked: dict[str, Any]
) -> None:
    commands = ["GENERATE_MASTER", "x", "Some.Thing-else_9"]
    with of("acme", tmp_path) as server:
        for command in commands * 2:
            call(server, "POST", "/tasks", token="producer", json={"command": command, "payload": 1})
        got = [call(server, "POST", "/tasks/claim", token="worker", json=asked).json()["command"] for _ in commands]
        assert sorted(got) == sorted(commands)
        async with working(server, token="worker") as stream:
            assert sorted(task.command for task in await take(stream, len(commands))) == sorted(commands)
        server.stop()
    limited = {"eventTypes": ["x", "y"]}
    with of("acme", tmp_path, **limited) as server:
        for command in (*commands, "y"):
            call(server, "POST", "/tasks", token="producer", json={"command": command, "payload": 1})
        answer = call(server, "POST", "/tasks/claim/batch", token="worker", json={**asked, "count": 100}).json()
        assert [task["command"] for task in answer["tasks"]] == ["x", "y"]
        refused(
            call(server, "POST", "/tasks/claim", token="worker", json={"commands": ["X"]}), 403, "COMMAND_NOT_ALLOWED"
        )


BAD_NAMES = ["", " ", "a/b", "/", "a b", ".a", "-a", "ä", "a\n", "a\x00", "a" * 129, "a:b", "*"]


def counts_of_queues(server: ServerProcess) -> list[dict[str, object]]:
    """Returns every queue without its rates and ages, which change with time."""
    queues = call(server, "GET", "/admin/queues?pageSize=500", token="producer").json()["queues"]
    return [
        {name: value for name, value in queue.items() if not name.endswith(("Rate", "AgeSeconds"))} for queue in queues
    ]


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: repr(name[:8]))
async def test_every_interface_rejects_a_malformed_command(two_workers: ServerProcess, name: str) -> None:
    before = counts_of_queues(two_workers)
    spec = {"command": name, "payload": 1}
    answer = refused(call(two_workers, "POST", "/tasks", token="producer", json=spec), 400, "INVALID_FIELD")
    assert answer["details"][0]["field"] == "command"
    batch = call(two_workers, "POST", "/tasks/batch", token="producer", json={"tasks": [spec]}).json()
    assert batch["results"][0]["error"]["reason"] == "INVALID_FIELD"
    claim = call(two_workers, "POST", "/tasks/claim", token="worker", json={"commands": ["ok", name]})
    assert refused(claim, 400, "INVALID_FIELD")["details"][0]["field"] == "commands[1]"
    proto = task_pb2.TaskSpec(command=name, payload=b"1")
    async with producing(two_workers, token="producer") as stream:
        ack = await produce(stream, [proto])
        assert [error.reason for error in ack.errors] == [error_pb2.ERROR_REASON_INVALID_FIELD]
    async with grpc.aio.insecure_channel(two_workers.producer_addr) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await TaskServiceStub(channel).CreateTask(pb.CreateTaskRequest(spec=proto), metadata=auth("producer"))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with working(two_workers, name, token="worker"):
            pass
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert counts_of_queues(two_workers) == before


def test_commands_that_differ_in_case_have_different_queues(two_workers: ServerProcess) -> None:
    for command in ("Case", "case", "CASE"):
        call(two_workers, "POST", "/tasks", token="producer", json={"command": command, "payload": command})
    for command in ("Case", "case", "CASE"):
        counters = call(two_workers, "GET", f"/admin/queues/{command}", token="producer").json()
        assert counters["ready"] == 1
        claimed = call(two_workers, "POST", "/tasks/claim", token="worker", json={"commands": [command]}).json()
        assert claimed["payload"] == command
        nothing = call(two_workers, "POST", "/tasks/claim", token="worker", json={"commands": [command]})
        assert nothing.status_code == 204


def test_development_tokens_share_one_tenant(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "dev") as server:
        made = call(server, "POST", "/tasks", json={"command": "A", "payload": 1}).json()
        claimed = call(server, "POST", "/tasks/claim", json={}).json()
        assert (made["tenantId"], claimed["id"]) == ("dev-tenant", made["id"])
        assert json.loads(httpx.get(f"{server.http_url}/healthz").text) == {"status": "ok"}
