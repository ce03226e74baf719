"""A small queue behind the gateway's dispatcher interface: enough of the services to answer the tests' calls."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from typing import Any

from codeq.v1 import error_pb2, queue_service_pb2, server_service_pb2, task_pb2, task_service_pb2
from codeq_gateway.dispatch import Admission, Call, CallFailed
from google.protobuf.message import Message

SERVICES = [
    task_service_pb2.DESCRIPTOR.services_by_name["TaskService"],
    queue_service_pb2.DESCRIPTOR.services_by_name["QueueService"],
    server_service_pb2.DESCRIPTOR.services_by_name["ServerService"],
]

CREATED_SECONDS = 1_700_000_000
CREATED = "2023-11-14T22:13:20.000Z"


class TaskDouble:
    """Answers calls, and remembers them.

    Attributes:
        calls: Calls made, in order.
        failure: The error of the next calls; None: they succeed.
        hold: Whether calls wait until they are cancelled or released.
        waiting: Set while a held call waits.
        released: Set to let held calls go on.
        cancelled: Number of held calls that were cancelled.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.failure: Exception | None = None
        self.hold = False
        self.admitted: list[tuple[str, str]] = []
        self.origins: list[str] = []
        self.refuses: CallFailed | None = None
        self.admission: Admission | None = None
        self.waiting = asyncio.Event()
        self.released = asyncio.Event()
        self.cancelled = 0
        self._tasks: dict[str, task_pb2.Task] = {}
        self._ready: deque[task_pb2.Task] = deque()
        self._numbers = itertools.count(1)

    @property
    def requests(self) -> list[Any]:
        """Request messages of the calls made, in order."""
        return [call.request for call in self.calls]

    def admit(self, method: str, authorization: str, origin: str) -> Admission | None:
        """Checks whether a caller may make a call: everybody may, unless a test says otherwise."""
        self.admitted.append((method, authorization))
        self.origins.append(origin)
        if self.refuses is not None:
            raise self.refuses
        return self.admission

    async def call(self, call: Call) -> Message:
        """Answers a call."""
        self.calls.append(call)
        if self.failure is not None:
            raise self.failure
        if self.hold:
            self.waiting.set()
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        answer: Message = getattr(self, call.method.rpartition("/")[2])(call.request)
        return answer

    def CreateTask(self, request: task_service_pb2.CreateTaskRequest) -> Message:  # noqa: N802
        return task_service_pb2.CreateTaskResponse(task=self._create(request.spec))

    def BatchCreateTasks(self, request: task_service_pb2.BatchCreateTasksRequest) -> Message:  # noqa: N802
        answers = []
        for index, spec in enumerate(request.tasks):
            if spec.command:
                answers.append(task_service_pb2.CreateTaskAnswer(task=self._create(spec)))
            else:
                refused = error_pb2.ItemError(
                    index=index, reason=error_pb2.ERROR_REASON_INVALID_FIELD, message="no command"
                )
                answers.append(task_service_pb2.CreateTaskAnswer(error=refused))
        return task_service_pb2.BatchCreateTasksResponse(results=answers)

    def ClaimTask(self, _request: task_service_pb2.ClaimTaskRequest) -> Message:  # noqa: N802
        return task_service_pb2.ClaimTaskResponse(task=self._claim() if self._ready else None)

    def ClaimTasks(self, request: task_service_pb2.ClaimTasksRequest) -> Message:  # noqa: N802
        count = min(request.count, len(self._ready))
        return task_service_pb2.ClaimTasksResponse(tasks=[self._claim() for _ in range(count)])

    def HeartbeatTask(self, request: task_service_pb2.HeartbeatTaskRequest) -> Message:  # noqa: N802
        answer = task_service_pb2.HeartbeatTaskResponse(lease_token=self._tasks[request.task_id].lease_token)
        answer.lease_until.seconds = CREATED_SECONDS + request.extend_seconds
        return answer

    def SubmitResult(self, request: task_service_pb2.SubmitResultRequest) -> Message:  # noqa: N802
        return task_service_pb2.SubmitResultResponse(result=self._end(request))

    def BatchSubmitResults(self, request: task_service_pb2.BatchSubmitResultsRequest) -> Message:  # noqa: N802
        answers = [
            task_service_pb2.SubmitResultAnswer(task_id=item.task_id, result=self._end(item))
            for item in request.results
        ]
        return task_service_pb2.BatchSubmitResultsResponse(results=answers)

    def NackTask(self, request: task_service_pb2.NackTaskRequest) -> Message:  # noqa: N802
        status = task_pb2.TASK_STATUS_SCHEDULED if request.delay_seconds else task_pb2.TASK_STATUS_PENDING
        return task_service_pb2.NackTaskResponse(status=status, delay_seconds=request.delay_seconds)

    def AbandonTask(self, _request: task_service_pb2.AbandonTaskRequest) -> Message:  # noqa: N802
        return task_service_pb2.AbandonTaskResponse(status=task_pb2.TASK_STATUS_PENDING)

    def GetTask(self, request: task_service_pb2.GetTaskRequest) -> Message:  # noqa: N802
        if request.task_id not in self._tasks:
            raise CallFailed(error_pb2.ERROR_REASON_TASK_NOT_FOUND, "no such task")
        return task_service_pb2.GetTaskResponse(task=self._tasks[request.task_id])

    def GetTaskResult(self, _request: task_service_pb2.GetTaskResultRequest) -> Message:  # noqa: N802
        raise CallFailed(error_pb2.ERROR_REASON_RESULT_NOT_FOUND, "not ended")

    def ListQueues(self, _request: queue_service_pb2.ListQueuesRequest) -> Message:  # noqa: N802
        return queue_service_pb2.ListQueuesResponse()

    def GetQueue(self, request: queue_service_pb2.GetQueueRequest) -> Message:  # noqa: N802
        queue = queue_service_pb2.Queue(command=request.command, ready=2**53 + 1, oldest_age_seconds=1.5)
        return queue_service_pb2.GetQueueResponse(queue=queue)

    def GetServerInfo(self, _request: server_service_pb2.GetServerInfoRequest) -> Message:  # noqa: N802
        return server_service_pb2.GetServerInfoResponse(server=server_service_pb2.ServerInfo(mode="single", fsync=True))

    def _create(self, spec: task_pb2.TaskSpec) -> task_pb2.Task:
        task = task_pb2.Task(
            id=f"t{next(self._numbers)}",
            command=spec.command,
            payload=spec.payload,
            priority=spec.priority,
            max_attempts=spec.max_attempts if spec.HasField("max_attempts") else 5,
            status=task_pb2.TASK_STATUS_PENDING,
            tenant_id="tenant",
        )
        if spec.HasField("idempotency_key"):
            task.duplicate = True
        task.created_at.seconds = task.updated_at.seconds = CREATED_SECONDS
        self._tasks[task.id] = task
        self._ready.append(task)
        return task

    def _claim(self) -> task_pb2.Task:
        task = self._ready.popleft()
        task.status = task_pb2.TASK_STATUS_CLAIMED
        task.attempts += 1
        task.worker_id = "worker"
        task.lease_token = 2**64 - 1
        return task

    def _end(self, request: task_service_pb2.SubmitResultRequest) -> task_pb2.TaskResult:
        record = task_pb2.TaskResult(task_id=request.task_id, status=request.status)
        if request.HasField("result"):
            record.result = request.result
        record.completed_at.seconds = CREATED_SECONDS
        record.completed_at.nanos = 7_999_999
        return record
