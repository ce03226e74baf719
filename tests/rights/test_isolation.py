"""Nothing of a tenant is seen or changed by callers of another one, nor by those who are bound to other commands."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from b_tenant import COMMANDS, FILE, SECRET, TenantB
from codeq.v1 import producer_service_pb2, task_pb2, worker_service_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq_server.auth.access import METHODS
from codeq_server.auth.claims import WORKER_SCOPES, Token
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from many_tenants import Answer, Server, fill, producer, reasons, serving, worker
from random_calls import OWN_COMMAND, RandomCalls

CALLS = int(os.environ.get("CODEQ_ISOLATION_CALLS", "2000"))
SEED = int(os.environ.get("CODEQ_ISOLATION_SEED", "1"))
LOOKS_EVERY = 200
"""Calls between two looks at everything that B has."""

ELSEWHERE = {OWN_COMMAND}
PRODUCERS: dict[str, Token] = {
    "B": producer("beta", "b-shop", role="ADMIN"),
    "A producer": producer("alpha"),
    "A viewer": producer("alpha", role="VIEWER"),
    "A administrator": producer("alpha", role="ADMIN"),
    "operator": producer("", "The Operator", scopes={"codeq:operator"}),
    "operator of A": producer("alpha", scopes={"codeq:operator"}),
    "B's producer of other commands": producer("beta", commands=ELSEWHERE),
    "B's administrator of other commands": producer("beta", commands=ELSEWHERE, role="ADMIN"),
    "B's viewer of other commands": producer("beta", commands=ELSEWHERE, role="VIEWER"),
}
WORKERS: dict[str, Token] = {
    "B": worker("beta"),
    "A worker": worker("alpha"),  # with the subject of B's worker
    "A worker of other commands": worker("alpha", commands=ELSEWHERE),
    "B's worker of other commands": worker("beta", "w2", commands=ELSEWHERE),
}
AUDIT = "ListAuditRecords"
SEES_TASKS = {"B's worker of other commands"}
"""Workers see all tasks of their tenant."""

CALLERS = sorted((PRODUCERS.keys() | WORKERS.keys()) - {"B"})
ABOUT_ITS_OWN = frozenset({"TASK_NOT_FOUND", "INVALID_FIELD"}) | reasons()
"""What a caller may be told about a task of B."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(tmp_path, PRODUCERS, WORKERS) as running:
        yield running


@pytest.fixture
async def b(server: Server) -> TenantB:
    tenant = TenantB(server)
    await tenant.fill()
    return tenant


class Search:
    """A search for a call that shows or changes something of B.

    Attributes:
        not_found: Number of calls about a task of B that were told it does not exist.
    """

    def __init__(self, server: Server, b: TenantB, seed: int) -> None:
        self._server, self._b = server, b
        self._chance = random.Random(seed)
        self._calls = RandomCalls(self._chance, b, [name for name in CALLERS if name.startswith("A")])
        self.not_found = 0

    async def run(self, callers: list[str], count: int) -> None:
        """Makes calls, and looks at B's data in between.

        Raises:
            AssertionError: Something of B was seen or changed.
        """
        before = await self._b.seen()
        assert SECRET in "".join(before)
        made: list[str] = []
        for number in range(count):
            method, caller = self._chance.choice(METHODS), self._chance.choice(callers)
            front = "stream" if method.client_streaming else self._chance.choice(["grpc", "rest"])
            requests = self._calls.requests(method)
            if caller.startswith("operator"):
                # An operator may act on B. Limits on A would reject its calls before they are decided.
                instead = "gamma" if method.name == "UpdateTenant" else "alpha"
                for request in requests:
                    for field in ("tenant", "name"):
                        if getattr(request, field, "") == "beta":
                            setattr(request, field, instead)
            answer = await self._ask(front, method, requests, caller)
            said = f"call {number}: {method.name} over {front} as {caller}: {requests}\n{answer}"
            self._check(front, method.name, requests, caller, answer, said)
            made.append(said)
            if (number + 1) % LOOKS_EVERY == 0 or number + 1 == count:
                now = await self._b.seen()
                changed = sorted(set(before) ^ set(now))
                assert changed == [], "\n\n".join(made)
                assert now == before
                made.clear()

    async def _ask(self, front: str, method: MethodDescriptor, requests: list[Message], caller: str) -> Answer:
        name = f"/{method.containing_service.full_name}/{method.name}"
        if front == "stream":
            return await self._server.stream(name, requests, caller)
        return await (self._server.grpc if front == "grpc" else self._server.rest)(name, requests[0], caller)

    def _check(self, front: str, name: str, requests: list[Message], caller: str, answer: Answer, said: str) -> None:
        assert answer.reason != "INTERNAL", said
        if caller in SEES_TASKS:
            return
        if name == AUDIT:  # it shows callers the ids that they named, and an operator what anyone did
            assert SECRET not in answer.seen, said
            assert caller.startswith("operator") or '"beta"' not in answer.seen, said
            return
        sent = str(requests)
        assert SECRET not in answer.seen, said
        assert [each for each in self._b.ids if each in answer.seen and each not in sent] == [], said
        if getattr(requests[0], "task_id", "") in self._b.ids:
            assert answer.reason in ABOUT_ITS_OWN, said
            if answer.reason == "TASK_NOT_FOUND":
                assert front == "grpc" or answer.status == 404, said
                self.not_found += 1
        if caller.startswith("A"):
            self._calls.learn(answer.seen)


@pytest.mark.timeout(60 + CALLS // 20)
async def test_random_calls_of_everyone_else_neither_see_nor_change_a_tenant(server: Server, b: TenantB) -> None:
    search = Search(server, b, SEED)
    await search.run(CALLERS, CALLS)
    assert search.not_found >= CALLS // 20


async def test_every_call_about_a_task_of_another_tenant_is_told_that_there_is_none(server: Server, b: TenantB) -> None:
    values = {
        "lease_token": b.leases[-1],
        "name": FILE,
        "SubmitResultRequest": {"status": task_pb2.TASK_STATUS_FAILED, "error": "no"},
        "NewArtifact": {"url": "https://files.example/1"},
    }
    about_a_task = [method for method in METHODS if "task_id" in method.input_type.fields_by_name]
    assert len(about_a_task) >= 10
    for method in about_a_task:
        name = f"/{method.containing_service.full_name}/{method.name}"
        for task_id in (b.ids[-1], b.ids[5], *b.names):
            request = fill(message_factory.GetMessageClass(method.input_type)(), values | {"task_id": task_id})
            for caller in ("A worker", "A administrator"):
                over_grpc, over_rest = [await ask(name, request, caller) for ask in (server.grpc, server.rest)]
                assert over_grpc.reason == over_rest.reason
                if over_grpc.reason != "WRONG_TOKEN_KIND":
                    assert (over_rest.reason, over_rest.status) == ("TASK_NOT_FOUND", 404), (name, over_rest)


async def test_the_search_notices_a_caller_who_sees_the_tenant(server: Server, b: TenantB) -> None:
    with pytest.raises(AssertionError, match="as B"):
        await Search(server, b, SEED).run(["B"], 200)


async def test_stream_of_the_same_worker_name_in_another_tenant_gets_none_of_its_tasks_and_cancels(
    server: Server,
) -> None:
    work: Any = server.channel.stream_stream(
        "/codeq.v1.WorkerService/Work",
        request_serializer=worker_service_pb2.WorkRequest.SerializeToString,
        response_deserializer=worker_service_pb2.WorkResponse.FromString,
    )
    streams = {}
    for tenant, token in (("alpha", "A worker"), ("beta", "B")):
        opened = streams[tenant] = work(metadata=[("authorization", f"Bearer {token}")])
        hello = worker_service_pb2.WorkerHello(name="printer", commands=[*COMMANDS])
        await opened.write(worker_service_pb2.WorkRequest(hello=hello, add_credits=10))
        assert (await opened.read()).welcome.tenant_id == tenant

    async def create(token: str) -> str:
        spec = task_pb2.TaskSpec(command="bills", payload=b"1")
        made = await server.grpc("/codeq.v1.TaskService/CreateTask", pb.CreateTaskRequest(spec=spec), token)
        task_id: str = made.message.task.id
        return task_id

    of_b = await create("B")
    (held,) = (await streams["beta"].read()).tasks
    assert held.id == of_b
    cancel = pb.CancelTaskRequest(task_id=of_b)
    assert (await server.grpc("/codeq.v1.TaskService/CancelTask", cancel, "A producer")).reason == "TASK_NOT_FOUND"
    assert (await server.grpc("/codeq.v1.TaskService/CancelTask", cancel, "B")).reason == ""
    (notice,) = (await streams["beta"].read()).cancelled
    assert notice.task_id == of_b
    of_a = await create("A producer")
    first = await streams["alpha"].read()  # nothing came before its own task
    assert ([task.id for task in first.tasks], list(first.cancelled)) == ([of_a], [])
    for opened in streams.values():
        opened.cancel()


async def test_same_names_and_keys_in_two_tenants_are_two_tasks(server: Server, b: TenantB) -> None:
    for field, value in (("task_id", "b-named"), ("idempotency_key", "b-key")):
        spec = task_pb2.TaskSpec(command="bills", payload=b"1", **{field: value})
        made = await server.grpc("/codeq.v1.TaskService/CreateTask", pb.CreateTaskRequest(spec=spec), "A producer")
        assert (made.reason, made.message.task.tenant_id, made.message.task.duplicate) == ("", "alpha", False)
        frame = producer_service_pb2.ProduceRequest(hello=producer_service_pb2.ProducerHello(), tasks=[spec])
        again = await server.stream("/codeq.v1.ProducerService/Produce", [frame], "B's producer of other commands")
        assert "COMMAND_NOT_ALLOWED" in again.seen
        assert SECRET not in again.seen


def test_callers_of_the_search_have_every_scope_of_a_worker() -> None:
    assert all(token.scopes >= WORKER_SCOPES for token in WORKERS.values())
