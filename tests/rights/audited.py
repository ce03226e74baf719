"""Audit records of a running server, and the calls that make them."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from codeq.v1 import audit_service_pb2 as pb
from codeq.v1 import queue_service_pb2 as queues_pb
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as tasks_pb
from codeq_server.auth.access import METHODS
from codeq_server.services.methods import Method
from google.protobuf import message_factory, timestamp_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from many_tenants import Answer, Server, fill

LIST: Final = "/codeq.v1.AuditService/ListAuditRecords"
SECONDS_MAX: Final = 30
COMMAND: Final = "mine"


def name_of(method: MethodDescriptor) -> str:
    """Returns the full name of an RPC, as gRPC writes it."""
    return f"/{method.containing_service.full_name}/{method.name}"


def acts(server: Server) -> list[Method]:
    """Returns the methods that administer: all that change something and are an administrator's or an operator's."""
    methods = server.calls.methods
    return [methods[name] for each in METHODS if (name := name_of(each)) in methods and methods[name].administers]


async def records(server: Server, token: str = "operator", **filters: Any) -> list[pb.AuditRecord]:
    """Returns all records that a caller sees, oldest first."""
    found: list[pb.AuditRecord] = []
    request = pb.ListAuditRecordsRequest(order_by="oldest", page_size=7, **filters)
    while True:
        answer = await server.grpc(LIST, request, token)
        assert answer.reason == "", answer
        found += answer.message.records
        request.page_token = answer.message.next_page_token
        if not request.page_token:
            return found


async def recorded(server: Server, count: int, **filters: Any) -> list[pb.AuditRecord]:
    """Returns the records, once there are so many: nobody waits for those of refusals."""
    async with asyncio.timeout(SECONDS_MAX):
        while len(found := await records(server, **filters)) < count:
            pass
    return found


def request_of(method: Method, task_id: str = "", **more: Any) -> Message:
    """Returns a well-formed request of an administrative call."""
    values = {
        "task_id": task_id or None,
        "command": COMMAND,
        "name": "made",
        "id": "n2",
        "raft_addr": "127.0.0.1:1",
        "deletion_policy": "Delete",
        "secrets": "a secret of some length",
        "host": "127.0.0.1:1",
        "url": "http://127.0.0.1:1/",
        "before": timestamp_pb2.Timestamp(seconds=4_000_000_000),
        "ScheduleSpec": {"cron": "0 0 29 2 *"},
        "BackfillScheduleRequest": {
            "from": timestamp_pb2.Timestamp(seconds=1),
            "to": timestamp_pb2.Timestamp(seconds=2),
        },
    }
    return fill(message_factory.GetMessageClass(method.descriptor.input_type)(), values | more)


async def make_dead_letter(server: Server, secret: str = "") -> str:
    """Makes a dead letter of the command COMMAND with the secret in payload, progress and error; returns its id."""
    spec = task_pb2.TaskSpec(command=COMMAND, payload=f'"{secret}"'.encode(), max_attempts=1)
    made = await _ask(server, "CreateTask", tasks_pb.CreateTaskRequest(spec=spec), "producer")
    held = (await _ask(server, "ClaimTask", tasks_pb.ClaimTaskRequest(commands=[COMMAND]), "worker")).message.task
    progress = tasks_pb.ReportProgressRequest(task_id=held.id, progress=f'"{secret}"'.encode())
    await _ask(server, "ReportProgress", progress, "worker")
    await _ask(server, "NackTask", tasks_pb.NackTaskRequest(task_id=held.id, reason=secret or "no"), "worker")
    task_id: str = made.message.task.id
    return task_id


async def _ask(server: Server, name: str, request: Message, token: str) -> Answer:
    answer = await server.grpc(f"/codeq.v1.TaskService/{name}", request, token)
    assert answer.reason == "", answer
    return answer


async def pause(server: Server, token: str, *, front: str = "grpc", command: str = COMMAND, tenant: str = "") -> Answer:
    """Pauses a queue."""
    request = queues_pb.PauseQueueRequest(command=command, tenant=tenant)
    ask = server.grpc if front == "grpc" else server.rest
    return await ask("/codeq.v1.QueueService/PauseQueue", request, token)
