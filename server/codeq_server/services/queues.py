"""QueueService: the queues of a tenant."""

from __future__ import annotations

from codeq.v1 import queue_service_pb2 as pb

from codeq_server.auth.claims import Claims
from codeq_server.core import reads
from codeq_server.core.errors import Reason, Rejection
from codeq_server.engine.runner import ShardRunner

from .convert import queue_message

PAGE_DEFAULT = 100


class QueueService:
    """Tells queues. Methods have the names and contracts of the proto's RPCs."""

    def __init__(self, runner: ShardRunner) -> None:
        self._runner = runner

    async def ListQueues(self, claims: Claims, request: pb.ListQueuesRequest) -> pb.ListQueuesResponse:  # noqa: N802
        """Tells a page of queues; the page token is the last command told."""
        count = request.page_size or PAGE_DEFAULT
        now = self._runner.now()
        views = reads.list_queues(self._runner.shard, claims.tenant_id, request.page_token, count + 1)
        await self._runner.wait_durable()
        page = views[:count]
        return pb.ListQueuesResponse(
            queues=[queue_message(view, now) for view in page],
            next_page_token=page[-1].command if len(views) > count else "",
        )

    async def GetQueue(self, claims: Claims, request: pb.GetQueueRequest) -> pb.GetQueueResponse:  # noqa: N802
        """Tells one queue."""
        queue = self._runner.shard.by_name.get((claims.tenant_id, request.command))
        if queue is None:
            raise Rejection(Reason.QUEUE_NOT_FOUND, f"no queue has the command {request.command!r}")
        now = self._runner.now()
        view = reads.view_queue(self._runner.shard, queue)
        await self._runner.wait_durable()
        return pb.GetQueueResponse(queue=queue_message(view, now))
