"""What serves one shard for as long as this node leads it: a new object for each leadership."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from codeq_gateway.bodies import InFlight
from google.protobuf import descriptor_pool
from google.protobuf.message import Message

from codeq_server.auth.claims import Claims
from codeq_server.core.errors import Rejection
from codeq_server.engine.artifacts import ArtifactKeeper
from codeq_server.engine.runner import ShardRunner

from .artifacts import Artifacts
from .produce import ProducerStream
from .queues import QueueService
from .streams import StreamRegistry
from .tasks import TaskService
from .work import WorkerStream

TASKS: Final = "codeq.v1.TaskService"
QUEUES: Final = "codeq.v1.QueueService"
SHARD_SERVICES: Final = (TASKS, QUEUES)
"""Services whose unary calls a Serving carries out."""

Handler = Callable[[Claims, Any], Awaitable[Message]]


class Serving:
    """The runner of a shard, and the services, streams and waiters on it.

    Everything that decides on the shard, or tells of it, hangs on this object and on nothing else. After `end` none of
    it decides anything, so it cannot touch what the next leadership makes of the same store.

    Attributes:
        runner: Runner of the shard.
        streams: Open streams.
        handlers: What carries out unary calls, by full name of the method.

    Args:
        runner: Runner of the shard.
        keeper: Keeps contents of artifacts; None: contents are refused.
        lease_seconds: Lease of workers that do not say.
        artifact_bytes_max: Bytes that the content of one artifact may have.
    """

    def __init__(
        self, runner: ShardRunner, keeper: ArtifactKeeper | None, *, lease_seconds: int, artifact_bytes_max: int
    ) -> None:
        self.runner = runner
        self.streams = StreamRegistry()
        self._lease_seconds = lease_seconds
        self._artifacts = Artifacts(runner, keeper, artifact_bytes_max)
        self.handlers: dict[str, Handler] = handlers_of(TASKS, TaskService(runner, lease_seconds, self._artifacts))
        self.handlers |= handlers_of(QUEUES, QueueService(runner))

    async def produce(self, claims: Claims, context: Any, in_flight: InFlight) -> None:
        """Serves a producer stream to its end; `in_flight` counts the bytes of its large frames.

        Raises:
            Rejection: Why it is ended; may be in an exception group.
        """
        await ProducerStream(self.runner, claims, self.streams, context, in_flight).run()

    async def work(self, claims: Claims, context: Any) -> None:
        """Serves a worker stream to its end.

        Raises:
            Rejection: Why it is ended; may be in an exception group.
        """
        await WorkerStream(self.runner, claims, self.streams, self._lease_seconds, self._artifacts, context).run()

    def drain(self, grace_ms: int, leader: str = "") -> None:
        """Ends every wait, and tells streams that they end in so many milliseconds.

        Args:
            grace_ms: Time until the streams end.
            leader: Where their gRPC services go on; "": nobody knows.
        """
        self.runner.drain()
        self.streams.drain(grace_ms, leader)

    def end(self, refusal: Rejection) -> None:
        """Ends the leadership: from now on nothing is decided, and everybody is told.

        Calls that decided something whose fate is open get OUTCOME_UNKNOWN, all others the refusal; streams get a
        notice, and end with the refusal a moment later.

        Args:
            refusal: NOT_LEADER, with what is known of the next leader as metadata.
        """
        self.streams.end(refusal)
        self.runner.end(refusal)

    async def close(self) -> None:
        """Commits what is decided, unless the leadership has ended, and releases the log."""
        await self.runner.close()


def handlers_of(service_name: str, service: object) -> dict[str, Handler]:
    """Returns the methods of an object with the names of a service's RPCs, by their full names."""
    methods = descriptor_pool.Default().FindServiceByName(service_name).methods
    return {f"/{service_name}/{method.name}": getattr(service, method.name) for method in methods}
