"""A simulated world of signals: receivers instead of HTTP, subscribers, producers and workers around one node."""

from __future__ import annotations

import asyncio
import contextvars
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from codeq.v1 import subscription_service_pb2 as pb
from codeq.v1 import task_pb2, task_service_pb2
from codeq_server.core.errors import Rejection
from codeq_server.core.shard import ShardSettings
from codeq_server.webhooks.guard import Guard
from codeq_server.webhooks.outgoing import Outgoing
from codeq_server.webhooks.sender import Answer
from google.protobuf.message import Message
from sim_loop import SimLoop, bury
from sim_node import Lost, Node, Server, _give

HOLDER = "acme w"


class Unjudged:
    """Stands for the judge of tasks where only signals are judged."""

    def __init__(self) -> None:
        self.serial = 0
        self.problems: list[str] = []

    def durable(self, *_: Any) -> None:
        """Ignores a batch."""

    def sent(self, *_: Any) -> None:
        """Ignores a request."""

    def leaves(self, *_: Any) -> None:
        """Ignores an answer."""

    def count(self, _: str) -> None:
        """Ignores an event."""

    def demand(self, holds: object, problem: str) -> None:
        """Notes a broken promise."""
        if not holds:
            self.problems.append(problem)


class CalmNode(Node):
    """A node whose network is fast and loses nothing."""

    def delay(self) -> float:
        return 0.001

    def _answer(self, tenant: str, task: asyncio.Task[Any], answer: Any, request: Message, since: int) -> None:  # noqa: ARG002
        if not task.cancelled():
            self.loop.call_later(self.delay(), _give, answer, task.result())


@dataclass
class Got:
    """A signal that reached its receiver."""

    at: float
    url: str
    body: dict[str, Any]
    headers: Mapping[str, str]

    @property
    def source(self) -> str:
        """The subscription, and the life of the server that sent it."""
        return str(self.body["notificationId"].rpartition("-")[0])


@dataclass
class Receivers:
    """All receivers; takes the place of the sender.

    Attributes:
        got: The signals that arrived, in order.
        delay: Seconds until a receiver answers, by URL.
        status: Status that it answers with, by URL; 0: it never answers, and the request times out after 15 s.
        limits: Milliseconds for which the rate limit refuses further signals, by URL.
        running: Requests in flight, by URL, and the most there were.
    """

    loop: SimLoop
    got: list[Got] = field(default_factory=list)
    delay: dict[str, float] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    running: dict[str, int] = field(default_factory=dict)
    most: dict[str, int] = field(default_factory=dict)
    open_circuits = 0

    def busy(self, url: str) -> int:
        return self.limited(url)

    def limited(self, url: str) -> int:
        return self.limits.get(url, 0)

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> asyncio.Task[Answer]:
        self.running[url] = self.running.get(url, 0) + 1
        self.most[url] = max(self.most.get(url, 0), self.running[url])
        task = asyncio.get_running_loop().create_task(self._answer(url, body, headers))
        task.add_done_callback(lambda _: self._ended(url))
        return task

    def _ended(self, url: str) -> None:
        self.running[url] -= 1

    async def _answer(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        status = self.status.get(url, 200)
        if not status:
            await asyncio.sleep(15)
            return Answer(0, "timeout")
        await asyncio.sleep(self.delay.get(url, 0.001))
        self.got.append(Got(self.loop.time(), url, json.loads(body), headers))
        return Answer(status)


class SignalWorld:
    """One run: a node, its receivers, and calls to it.

    Args:
        seed: Seed of the run.
        calm: Whether the network is fast and loses nothing.
        secret: Secret that signs the signals.
    """

    def __init__(self, seed: int = 0, *, calm: bool = True, secret: str = "") -> None:
        self.chance = random.Random(seed)
        self.loop = SimLoop(self.chance)
        self.loop.calls_left = 10_000_000
        self.audit = Unjudged()
        settings = ShardSettings(max_attempts=5)
        kind = CalmNode if calm else Node
        self.node = kind(self.loop, self.chance, self.audit, settings)  # type: ignore[arg-type]
        self.receivers = Receivers(self.loop)
        guard = Guard(requires_https=False, networks=(), hosts=(), ports=((1, 65535),))
        self.node.outgoing = Outgoing(self.receivers, guard, secret, (), 5)  # type: ignore[arg-type]

    def run(self, story: Callable[[SignalWorld], Awaitable[None]]) -> None:
        """Runs a story to its end."""
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))

        async def told() -> None:
            self.node.start()
            await story(self)

        try:
            self.loop.run_until_complete(self.loop.create_task(told(), context=contextvars.Context()))
            problems = [*self.audit.problems, *map(repr, self.node.problems), *map(repr, self.loop.problems)]
            assert not problems, problems[0]
        finally:
            self.node.crash(power=False)
            self.loop.over = True
            for process in self.node.dead:
                bury(process)
            self.loop.close()

    @property
    def server(self) -> Server:
        server = self.node.server
        assert isinstance(server, Server)
        return server

    @property
    def shard(self) -> Any:
        return self.server.serving.runner.shard

    async def ask(self, method: str, request: Any, holder: str = HOLDER) -> Any:
        """Makes a call, again and again until the server answers it."""
        while True:
            try:
                return await self.node.call(holder, method, request, doubled=0)
            except (Lost, Rejection) as problem:
                if isinstance(problem, Rejection) and problem.reason.name not in {"DRAINING", "OUTCOME_UNKNOWN"}:
                    raise
                await asyncio.sleep(0.1)

    async def subscribe(self, url: str = "http://r.example/", holder: str = HOLDER, **fields: Any) -> str:
        request = pb.CreateSubscriptionRequest(callback_url=url, **fields)
        answer = await self.ask("SubscriptionService/CreateSubscription", request, holder)
        return str(answer.subscription_id)

    async def create(self, command: str = "a", holder: str = "acme p", **fields: Any) -> str:
        spec = task_pb2.TaskSpec(command=command, payload=b"1", **fields)
        answer = await self.ask("TaskService/CreateTask", task_service_pb2.CreateTaskRequest(spec=spec), holder)
        return str(answer.task.id)

    def urls(self) -> list[str]:
        return [each.url for each in self.receivers.got]
