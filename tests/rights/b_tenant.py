"""Tenant B, whose data nobody else may see or change: tasks in every state, and everything that names them."""

from __future__ import annotations

from typing import Any, Final

from codeq.v1 import queue_service_pb2, task_pb2, tenant_service_pb2
from codeq.v1 import task_service_pb2 as pb
from google.protobuf.message import Message
from many_tenants import Server

SECRET: Final = "b-s3cret"
"""Part of everything that B stores: payloads, results, errors, progress, artifacts."""
COMMANDS: Final = ("bills", "letters")
KEY: Final = "b-key"
NAMED: Final = "b-named"
FILE: Final = "b-notes.txt"
LEASE_SECONDS: Final = 7200
LEASE_MS_ROUGHLY: Final = 100
"""The end of a lease is kept by another clock than it is shown by, so it is shown a little differently each time."""
TASKS: Final = "/codeq.v1.TaskService/"
QUEUES: Final = "/codeq.v1.QueueService/"
TENANTS: Final = "/codeq.v1.TenantService/"


class TenantB:
    """The tenant's data.

    Attributes:
        ids: Ids of its tasks that the server made.
        names: Ids that it chose, or that follow from a key; a task of another tenant may have the same.
        leases: Lease tokens of its held tasks.
        page_tokens: Page tokens of its lists.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.ids: list[str] = []
        self.names: list[str] = []
        self.leases: list[int] = []
        self.page_tokens: list[str] = []
        self._lease_ends: dict[str, int] = {}

    async def fill(self) -> None:
        """Creates tasks in every state, with leases, artifacts, names and keys."""
        for command in COMMANDS:
            await self._create(command, delay_seconds=100_000)
            for _ in range(4):
                await self._create(command)
            held = [await self._claim(command) for _ in range(3)]
            file = task_pb2.NewArtifact(name=FILE, content=f"{SECRET} file".encode())
            ended = {"status": task_pb2.TASK_STATUS_COMPLETED, "result": f'"{SECRET} result"'.encode()}
            await self._ask("SubmitResult", pb.SubmitResultRequest(task_id=held[0].id, artifacts=[file], **ended))
            await self._ask("NackTask", pb.NackTaskRequest(task_id=held[1].id, reason=f"{SECRET} error"))
            progress = f'"{SECRET} progress"'.encode()
            await self._ask("ReportProgress", pb.ReportProgressRequest(task_id=held[2].id, progress=progress))
            self.leases += [each.lease_token for each in held]
        await self._create("bills", task_id=NAMED)
        await self._create("letters", idempotency_key=KEY)
        for order in ("oldest", "newest"):
            listed = await self._ask("ListTasks", pb.ListTasksRequest(page_size=1, order_by=order))
            self.page_tokens.append(listed.next_page_token)
        queues = await self._ask("ListQueues", queue_service_pb2.ListQueuesRequest(page_size=1))
        self.page_tokens.append(queues.next_page_token)

    async def seen(self) -> list[str]:
        """Returns everything that B sees of its data, except what time changes."""
        listed = []
        for command in COMMANDS:
            listed += (await self._ask("ListTasks", pb.ListTasksRequest(command=command, page_size=500))).tasks
        found: list[Message] = []
        for task in listed:
            shown = (await self._ask("GetTask", pb.GetTaskRequest(task_id=task.id))).task
            if shown.HasField("lease_until"):
                until = shown.lease_until.ToMilliseconds()
                first = self._lease_ends.setdefault(task.id, until)
                if abs(until - first) < LEASE_MS_ROUGHLY:
                    shown.ClearField("lease_until")
            found.append(shown)
            if task.finished_at.seconds:
                found.append((await self._ask("GetTaskResult", pb.GetTaskResultRequest(task_id=task.id))).result)
        for command in COMMANDS:
            queue = (await self._ask("GetQueue", queue_service_pb2.GetQueueRequest(command=command))).queue
            for name in ("oldest_age_seconds", "created_rate", "completed_rate"):
                queue.ClearField(name)
            found.append(queue)
        tenant = (await self._ask("GetUsage", tenant_service_pb2.GetUsageRequest())).tenant
        tenant.ClearField("usage")  # others of the tenant may create tasks, too
        found.append(tenant)
        return [str(each) for each in found]

    async def _create(self, command: str, **fields: Any) -> None:
        spec = task_pb2.TaskSpec(command=command, payload=f'"{SECRET} payload"'.encode(), max_attempts=1, **fields)
        task = (await self._ask("CreateTask", pb.CreateTaskRequest(spec=spec))).task
        (self.names if "task_id" in fields or "idempotency_key" in fields else self.ids).append(task.id)

    async def _claim(self, command: str) -> Any:
        return (await self._ask("ClaimTask", pb.ClaimTaskRequest(commands=[command], lease_seconds=LEASE_SECONDS))).task

    async def _ask(self, name: str, request: Message) -> Any:
        service = TENANTS if "Usage" in name else QUEUES if "Queue" in name else TASKS
        answer = await self._server.grpc(service + name, request, "B")
        assert answer.reason == "", answer
        return answer.message
