"""QueueService: the queues of a tenant."""

from __future__ import annotations

from codeq.v1 import queue_service_pb2 as pb

from codeq_server.auth.claims import Claims
from codeq_server.core import reads
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.model import Queue
from codeq_server.core.purging import purge
from codeq_server.engine.runner import ShardRunner

from .auditing import Act
from .connected import ConnectedWorkers
from .convert import queue_message
from .listing import list_dead_letters
from .page_tokens import last_name, page_token
from .redriving import Redriver

PAGE_DEFAULT = 100


class QueueService:
    """Reports and manages queues. Methods have the names and contracts of the proto's RPCs."""

    def __init__(self, runner: ShardRunner, workers: ConnectedWorkers) -> None:
        self._runner = runner
        self._workers = workers
        self._redriver = Redriver(runner)

    async def ListQueues(self, claims: Claims, request: pb.ListQueuesRequest) -> pb.ListQueuesResponse:  # noqa: N802
        """Returns a page of queues."""
        count = request.page_size or PAGE_DEFAULT
        of = ("queues", claims.tenant_id)
        after = last_name(request.page_token, *of)
        now = self._runner.now()
        views = reads.list_queues(self._runner.shard, claims.tenant_id, after, count + 1, claims.seen_commands)
        await self._runner.wait_durable()
        page = views[:count]
        return pb.ListQueuesResponse(
            queues=[queue_message(view, now) for view in page],
            next_page_token=page_token(page[-1].command.encode(), *of) if len(views) > count else "",
        )

    async def GetQueue(self, claims: Claims, request: pb.GetQueueRequest) -> pb.GetQueueResponse:  # noqa: N802
        """Returns one queue."""
        return pb.GetQueueResponse(queue=await self._told(self._queue(claims, request.command)))

    async def ListWorkers(self, claims: Claims, request: pb.ListWorkersRequest) -> pb.ListWorkersResponse:  # noqa: N802
        """Returns a page of connected workers."""
        self._runner.now()  # raises if the runner no longer decides
        page = self._workers.page(claims, request)
        await self._runner.wait_durable()
        return page

    async def PauseQueue(  # noqa: N802
        self, claims: Claims, request: pb.PauseQueueRequest, act: Act
    ) -> pb.PauseQueueResponse:
        """Pauses the deliveries of a queue, and creates it if needed."""
        claims.check_command(request.command)
        self._runner.now()  # raises if the runner no longer decides
        queue = self._runner.shard.open_queue(claims.tenant_id, request.command)
        before = {"paused": queue.paused}
        self._runner.shard.pause(queue)
        act.record(self._runner, before=before, after={"paused": True})
        return pb.PauseQueueResponse(queue=await self._told(queue))

    async def ResumeQueue(  # noqa: N802
        self, claims: Claims, request: pb.ResumeQueueRequest, act: Act
    ) -> pb.ResumeQueueResponse:
        """Resumes the deliveries of a queue."""
        queue = self._queue(claims, request.command)
        before = {"paused": queue.paused}
        self._runner.shard.resume(queue)
        act.record(self._runner, before=before, after={"paused": False})
        return pb.ResumeQueueResponse(queue=await self._told(queue))

    async def PurgeQueue(  # noqa: N802
        self, claims: Claims, request: pb.PurgeQueueRequest, act: Act
    ) -> pb.PurgeQueueResponse:
        """Starts to purge the waiting tasks of a queue."""
        queue = self._queue(claims, request.command)
        before = {"purging": queue.purge is not None}
        purge(self._runner.shard, queue, self._runner.now())
        act.record(self._runner, before=before, after={"purging": queue.purge is not None})
        return pb.PurgeQueueResponse(queue=await self._told(queue))

    async def ListDeadLetters(  # noqa: N802
        self, claims: Claims, request: pb.ListDeadLettersRequest
    ) -> pb.ListDeadLettersResponse:
        """Returns a page of a queue's dead letters."""
        return await list_dead_letters(self._runner, self._queue(claims, request.command), request)

    async def RedriveTasks(  # noqa: N802
        self, claims: Claims, request: pb.RedriveTasksRequest, act: Act | None = None
    ) -> pb.RedriveTasksResponse:
        """Redrives tasks of a queue; a dry run is no act."""
        return await self._redriver.redrive(self._queue(claims, request.command), request, act)

    def _queue(self, claims: Claims, command: str) -> Queue:
        claims.check_command(command)
        self._runner.now()  # raises if the runner no longer decides
        queue = self._runner.shard.by_name.get((claims.tenant_id, command))
        if queue is None:
            raise Rejection(Reason.QUEUE_NOT_FOUND, f"no queue has the command {command!r}")
        return queue

    async def _told(self, queue: Queue) -> pb.Queue:
        """Returns a queue's message once the reported state is durable."""
        now = self._runner.now()
        view = reads.view_queue(self._runner.shard, queue)
        self._runner.changed()
        await self._runner.wait_durable()
        return queue_message(view, now)
