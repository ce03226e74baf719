"""Serves one shard while this node leads it; each leadership has a new object."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final

from codeq.v1 import worker_service_pb2
from codeq_gateway.bodies import InFlight
from codeq_internal.v1 import shard_work_pb2
from google.protobuf import descriptor_pool
from google.protobuf.message import Message

from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.tenants import Tenants
from codeq_server.core.traces import TracedTask, Traces
from codeq_server.engine.runner import ShardRunner
from codeq_server.engine.scheduling import Scheduling
from codeq_server.webhooks.courier import Courier
from codeq_server.webhooks.outgoing import Outgoing
from codeq_server.webhooks.signals import Notifier

from . import payload_schemas
from .artifacts import Artifacts, Keeper
from .audit import AuditService
from .elsewhere import CREATE_SERVICE
from .part_links import LinksToOne, PartLinks, StreamLinks
from .part_stream import PartStream
from .produce import ProducerStream
from .queues import QueueService
from .rate_limits import RateLimits
from .relay import WorkerRelay
from .schedules import ScheduleService
from .shard_create import ShardCreateService
from .shard_service import SHARD, ShardService
from .shards import LinkedShards, Shards
from .stream_token import StreamToken
from .streams import StreamRegistry, hello_of
from .subscriptions import SubscriptionService
from .tasks import TaskService
from .tenants import TenantService
from .topics import TopicService
from .webhooks import WebhookService
from .work import WorkerStream, chosen_shard

TASKS: Final = "codeq.v1.TaskService"
QUEUES: Final = "codeq.v1.QueueService"
TENANTS: Final = "codeq.v1.TenantService"
TOPICS: Final = "codeq.v1.TopicService"
AUDIT: Final = "codeq.v1.AuditService"
SCHEDULES: Final = "codeq.v1.ScheduleService"
SUBSCRIPTIONS: Final = "codeq.v1.SubscriptionService"
WEBHOOKS: Final = "codeq.v1.WebhookService"
SHARD_SERVICES: Final = (TASKS, QUEUES, TENANTS, TOPICS, AUDIT, SCHEDULES, SUBSCRIPTIONS, WEBHOOKS)
"""Services whose unary calls a Serving executes."""

PARTS_MAX: Final = 32 * 6_000
"""Maximum number of open parts of streams: as many as all processes can have streams."""

Handler = Callable[..., Awaitable[Message]]
"""Executes a call: takes the caller's claims and the request, and for an administrative call on a shard the `Act`."""


class Serving:
    """The runner of a shard, and the services, streams and waiters on it.

    Everything that makes decisions on the shard or reads from it belongs to this object alone. After `end` it decides
    nothing more, so it cannot interfere with the next leadership on the same store.

    Attributes:
        runner: Runner of the shard.
        streams: Open streams of clients.
        parts: Parts of streams of workers that processes serve which hold other shards, or this one.
        outgoing: Makes requests to URLs of tenants; None: none are made.
        signals: Sends signals; None: none are sent.
        courier: Delivers callbacks; None without `outgoing`.
        rates: Rate limits of calls and streams.
        handlers: Handlers of unary calls, by full name of the method.

    Args:
        runner: Runner of the shard.
        keeper: Stores contents of artifacts; None: contents are rejected.
        lease_seconds: Default lease of workers.
        artifact_bytes_max: Maximum bytes of one artifact's content.
        outgoing: Makes requests to URLs of tenants; None: none are made.
    """

    def __init__(
        self,
        runner: ShardRunner,
        keeper: Keeper | None,
        *,
        lease_seconds: int,
        artifact_bytes_max: int,
        outgoing: Outgoing | None = None,
    ) -> None:
        self.runner = runner
        self.outgoing = outgoing
        self.signals = None if outgoing is None else Notifier(runner, outgoing)
        self.courier: Courier | None = None
        if outgoing is not None:
            runner.shard.endpoints.check_url = outgoing.guard.check_url
            self.courier = Courier(runner, outgoing)
        runner.shard.policies.checker = payload_schemas.Checker()
        self.streams = StreamRegistry(runner.shard.tenants)
        self.parts = StreamRegistry(Tenants(), PARTS_MAX)
        self.rates = RateLimits(runner)
        self._scheduling = Scheduling(runner)
        self._lease_seconds = lease_seconds
        self._artifacts = Artifacts(runner, keeper, artifact_bytes_max)
        tasks = TaskService(runner, lease_seconds, self._artifacts, self.rates)
        self.handlers: dict[str, Handler] = handlers_of(TASKS, tasks)
        self.handlers |= handlers_of(QUEUES, QueueService(runner, self.streams.workers))
        self.handlers |= handlers_of(TENANTS, TenantService(runner, self.streams))
        self.handlers |= handlers_of(TOPICS, TopicService(runner))
        self.handlers |= handlers_of(AUDIT, AuditService(runner))
        self.handlers |= handlers_of(SCHEDULES, ScheduleService(runner))
        self.handlers |= handlers_of(SUBSCRIPTIONS, SubscriptionService(runner, self.signals))
        if self.signals is not None:
            self.signals.start()
        self.handlers |= handlers_of(WEBHOOKS, WebhookService(runner, outgoing))
        self.handlers |= handlers_of(SHARD, ShardService(runner))
        self.handlers |= handlers_of(CREATE_SERVICE, ShardCreateService(runner))

    async def produce(
        self, token: StreamToken, context: Any, in_flight: InFlight, shards: Shards | None = None
    ) -> None:
        """Serves a producer stream to its end.

        Args:
            token: Token of the client.
            context: The call.
            in_flight: Counts the bytes of large frames.
            shards: All shards; None: there is only this one.

        Raises:
            Rejection: Why the stream ends; may be in an exception group.
        """
        await ProducerStream(self.runner, token, self.streams, context, in_flight, self.rates, shards).run()

    async def work(self, token: StreamToken, context: Any, shards: LinkedShards | None = None) -> None:
        """Serves a worker stream to its end: over all `shards` if there are several, unless the client has chosen one.

        Raises:
            Rejection: Why the stream ends; may be in an exception group.
        """
        first = await hello_of(context, worker_service_pb2.WorkRequest)
        only = None if shards is None else chosen_shard(first.hello, shards.count)
        if shards is None or only == shards.mine:
            stream = WorkerStream(
                self.runner, token, self.streams, self._lease_seconds, self._artifacts, context, self.rates, first
            )
            running: Coroutine[Any, Any, None] = stream.run()
        else:
            links: PartLinks = StreamLinks(shards, partial(self._work_here, token))
            if only is not None:
                links = LinksToOne(links, only)
            seconds, route = self.runner.unix_seconds, self.runner.shard.settings.route
            relay = WorkerRelay(token, self.streams, self._lease_seconds, context, links, seconds, first, route)
            running = relay.run()
        del first  # it would keep all its items in memory
        await running

    async def work_part(self, token: StreamToken, context: Any, first: shard_work_pb2.WorkOnShardRequest) -> None:
        """Serves this shard's part of a worker stream to its end.

        Args:
            token: Token of the client.
            context: The call.
            first: Its first message.

        Raises:
            Rejection: Why the part ends; may be in an exception group.
        """
        part = PartStream(
            self.runner, token, self.parts, self._lease_seconds, self._artifacts, context, self.rates, first
        )
        await part.run()

    async def _work_here(self, token: StreamToken, context: Any) -> None:
        await self.work_part(token.again(), context, await hello_of(context, shard_work_pb2.WorkOnShardRequest))

    def trace(self, record: Callable[[list[TracedTask]], None]) -> None:
        """Has the traces of new tasks recorded.

        Args:
            record: Called with tasks whose ends are durable; must not raise.
        """
        self.runner.shard.traces = Traces()
        self.runner.on_traced = record

    def drain(self, grace_ms: int, leader: str = "") -> None:
        """Ends every wait, and notifies streams that they will end.

        Args:
            grace_ms: Time until the streams end, in milliseconds.
            leader: gRPC address of the next leader; "": unknown.
        """
        self.runner.drain()
        self.streams.drain(grace_ms, leader)
        self.parts.drain(grace_ms, leader)
        self.rates.drain(Rejection(Reason.DRAINING, "the server is stopping"))

    def end(self, refusal: Rejection) -> None:
        """Ends the leadership: nothing more is decided, and all callers are notified.

        Calls with an uncommitted decision get OUTCOME_UNKNOWN, all others the rejection; streams get a notice, and end
        with the rejection a moment later.

        Args:
            refusal: NOT_LEADER, with all known details of the next leader as metadata.
        """
        self._stop_outgoing()
        self.streams.end(refusal)
        self.parts.end(refusal)
        self.runner.end(refusal)

    async def close(self) -> None:
        """Commits pending decisions, unless the leadership has ended, and releases the log."""
        self._stop_outgoing()
        await self.runner.close()

    def _stop_outgoing(self) -> None:
        if self.signals is not None:
            self.signals.stop()
        if self.courier is not None:
            self.courier.stop()


def handlers_of(service_name: str, service: object) -> dict[str, Handler]:
    """Returns the methods of an object that implement a service's RPCs, by the RPCs' full names."""
    methods = descriptor_pool.Default().FindServiceByName(service_name).methods
    return {f"/{service_name}/{method.name}": getattr(service, method.name) for method in methods}
