"""A call about a task of another tenant takes the same path as one about a task that does not exist.

What is compared are the reads of the store, the batches and the steps of the event loop, not times.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any

import pytest
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq_server.auth.authenticator import Authenticator
from codeq_server.auth.claims import WORKER_SCOPES
from codeq_server.auth.static import StaticToken, StaticValidator
from codeq_server.core import ids, names
from codeq_server.core.claims import claim
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.model import Caller
from codeq_server.core.new_task import Naming, NewTask
from codeq_server.core.withdrawal import cancel
from codeq_server.services.calls import Calls
from codeq_server.services.serving import Serving
from codeq_server.services.shard_table import ShardTable
from codeq_server.storage.memory import MemoryStore
from google.protobuf.message import Message
from held_log import HeldRunner

TASKS = "/codeq.v1.TaskService/"
COMPLETED = task_pb2.TASK_STATUS_COMPLETED
MISSING = "7a1f5e0c-2b3d-4c5e-9f60-718293a4b5c6"
"""An id of the form that producers choose or derive from a key."""


def requests(task_id: str) -> dict[str, Message]:
    """Returns a request of each call that names a task, by the call's name."""
    artifact = task_pb2.NewArtifact(name="a", url="https://files.example/a")
    submitted: dict[str, Any] = {"task_id": task_id, "status": COMPLETED}
    one = pb.SubmitResultRequest(**submitted, lease_token=7)
    return {
        "GetTask": pb.GetTaskRequest(task_id=task_id),
        "GetTaskResult": pb.GetTaskResultRequest(task_id=task_id),
        "GetTaskResult, waiting": pb.GetTaskResultRequest(task_id=task_id, wait_seconds=5),
        "GetTaskArtifact": pb.GetTaskArtifactRequest(task_id=task_id, name="a"),
        "ExplainTask": pb.ExplainTaskRequest(task_id=task_id),
        "CancelTask": pb.CancelTaskRequest(task_id=task_id),
        "RedriveTask": pb.RedriveTaskRequest(task_id=task_id),
        "HeartbeatTask": pb.HeartbeatTaskRequest(task_id=task_id),
        "ReportProgress": pb.ReportProgressRequest(task_id=task_id, progress=b"1", lease_token=7),
        "NackTask": pb.NackTaskRequest(task_id=task_id, reason="no"),
        "AbandonTask": pb.AbandonTaskRequest(task_id=task_id, lease_token=7),
        "SubmitResult": pb.SubmitResultRequest(**submitted, result=b"1"),
        "SubmitResult, with artifacts": pb.SubmitResultRequest(**submitted, artifacts=[artifact]),
        "BatchSubmitResults": pb.BatchSubmitResultsRequest(results=[one]),
    }


class ReadStore(MemoryStore):
    """Notes its reads."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    def get(self, key: bytes) -> bytes | None:
        self.reads.append(f"get {key[:1].decode()}")
        return super().get(key)

    def scan(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        self.reads.append(f"scan {start[:1].decode()}")
        return super().scan(start, end, limit)

    def scan_back(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        self.reads.append(f"scan back {start[:1].decode()}")
        return super().scan_back(start, end, limit)


class Steps:
    """Awaits a coroutine, and counts how often it gives way to the event loop."""

    def __init__(self, inner: Coroutine[Any, Any, Any]) -> None:
        self._inner = inner
        self.count = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._inner.__await__()
        while True:
            try:
                waited = next(steps)
            except StopIteration as end:
                return end.value
            self.count += 1
            yield waited


class Desk:
    """A server of the tenants "acme", who asks, and "other"."""

    def __init__(self) -> None:
        self.store = ReadStore()
        self.runner = HeldRunner(store=self.store)
        self.runner.log.free = True
        tokens = [
            StaticToken(tenant, "w", "", WORKER_SCOPES, frozenset({"*"}), {"tenantId": tenant, "role": "ADMIN"})
            for tenant in ("acme", "other")
        ]
        validator = StaticValidator(*tokens)
        self.calls = Calls(Authenticator(validator, validator), ShardTable(lambda: Rejection(Reason.NOT_LEADER, "")))
        self.calls.shards.present(Serving(self.runner, None, lease_seconds=60, artifact_bytes_max=0))

    async def fill(self) -> dict[str, str]:
        """Creates a task of "other" in every state, and tasks of "acme"; returns the ids of the former by state."""
        runner, shard = self.runner, self.runner.shard
        for tenant in ("acme", "other"):
            running = runner.create("run", tenant=tenant)
            assert claim(shard, Caller(tenant, "w", "w"), None, 1, 1000, 60_000, runner.now())
            ended = runner.create("end", tenant=tenant)
            cancel(shard, tenant, ended, "", runner.now())
            waiting = runner.create("wait", tenant=tenant)
            scheduled = runner.create("wait", tenant=tenant, delay=5000)
        named = f"{MISSING[:-1]}7"
        task = NewTask("wait", b"1", naming=Naming(named))
        assert isinstance(names.create(shard, "other", task, runner.now()), names.Created)
        runner.changed()
        await runner.wait_durable()
        return {"waiting": waiting, "scheduled": scheduled, "running": running, "ended": ended, "named": named}

    async def trace(self, call: str, request: Message, tenant: str = "acme") -> tuple[Any, ...]:
        """Returns what a call did: its outcome, its reads, its steps, and the batches that it began."""
        self.store.reads.clear()
        batches = len(self.runner.log.batches)
        steps = Steps(self.calls.call(TASKS + call.partition(",")[0], request, f"Bearer {tenant}"))
        try:
            answer: Any = await steps
            told = Reason(answer.results[0].error.reason).name if "Batch" in call else "answered"
        except Rejection as rejection:
            told = rejection.reason.name
        return told, tuple(self.store.reads), steps.count, len(self.runner.log.batches) - batches


@pytest.fixture
async def desk() -> Desk:
    return Desk()


@pytest.mark.parametrize("call", requests(""))
async def test_id_of_another_tenant_is_looked_for_like_one_that_does_not_exist(desk: Desk, call: str) -> None:
    ids_of = await desk.fill()
    queue = desk.runner.shard.by_name["other", "wait"].number
    absent = {
        "in no queue": ids.task_id(10**6, 0, 1, 7),
        "in a queue of the other tenant": ids.task_id(queue, 0, 10**6, 7),
        "of another epoch": ids.task_id(queue, 0, 1, 6),
    }
    expected = await desk.trace(call, requests(absent.pop("in no queue"))[call])
    assert expected[0] == "TASK_NOT_FOUND"
    made = absent | {state: task_id for state, task_id in ids_of.items() if state != "named"}
    for state, task_id in made.items():
        assert await desk.trace(call, requests(task_id)[call]) == expected, state
    assert await desk.trace(call, requests(ids_of["named"])[call]) == await desk.trace(call, requests(MISSING)[call])


async def test_reads_are_noticed(desk: Desk) -> None:
    """Otherwise the comparison would show nothing."""
    found = await desk.fill()
    for state, task_id in found.items():
        told, reads, *_ = await desk.trace("GetTask", requests(task_id)["GetTask"], "other")
        assert told == "answered", state
        assert reads, state
