"""The node and the network: a server that dies and restarts, and calls that are late, duplicated or lost."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import deque
from typing import Any

import sim_keys
from codeq.v1 import producer_service_pb2, worker_service_pb2
from codeq_gateway.bodies import InFlight
from codeq_server.auth.authenticator import Authenticator
from codeq_server.auth.claims import WORKER_SCOPES, Claims
from codeq_server.auth.static import StaticToken, StaticValidator
from codeq_server.core import recovery
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.shard import ShardSettings
from codeq_server.engine.runner import ShardRunner
from codeq_server.replication.local import LocalLog
from codeq_server.services.calls import Calls
from codeq_server.services.serving import Serving
from codeq_server.services.shard_table import ShardTable
from codeq_server.services.stream_token import StreamToken
from codeq_server.storage.identity import next_identity, save
from google.protobuf.message import Message
from sim_audit import Audit
from sim_disk import Disk, DiskStore
from sim_loop import Process, SimLoop
from sim_receiver import SimSender, outgoing

LEASE_SECONDS = 2
_OUTSIDE = contextvars.Context()
END = object()
"""Returned by a stream's read after a half-close."""


class Lost(Exception):  # noqa: N818 - names the outcome of a call
    """The server is down, or the connection broke: the outcome of the call is unknown."""


def tenant_of(holder: str) -> str:
    """Returns the tenant of the token "tenant subject"."""
    return holder.partition(" ")[0]


def claims_of(holder: str) -> Claims:
    """Returns the claims of the token "tenant subject"."""
    tenant, subject = holder.split()
    return Claims(subject, tenant, WORKER_SCOPES, frozenset({"*"}), "USER", is_admin=True)


class Trust(Authenticator):
    """An authenticator that accepts every token."""

    def __init__(self) -> None:
        nobody = StaticValidator(StaticToken("unused"))
        super().__init__(nobody, nobody)

    def known(self, authorization_header: str, principal: int, scope: str = "") -> Claims:  # noqa: ARG002
        return claims_of(authorization_header)


class Server:
    """One life of the server."""

    def __init__(self, node: Node) -> None:
        self.store = DiskStore(node.disk)
        identity = next_identity(self.store, 1, node.clock()[0] // 1000, bytes(range(16)))
        save(self.store, identity)
        shard = recovery.open_shard(self.store, node.settings, identity.epoch, *node.clock())
        sim_keys.set_limits(shard, shard.at(*node.clock()))
        runner = ShardRunner(shard, LocalLog(self.store), node.clock, node.chance.random, node.broke)
        self.serving = Serving(runner, None, lease_seconds=LEASE_SECONDS, artifact_bytes_max=0, outgoing=node.outgoing)
        self.calls = Calls(Trust(), ShardTable(lambda: Rejection(Reason.DRAINING, "not started")))
        self.calls.shards.present(self.serving)
        runner.changed()


class Node:
    """The machine: its disk, its clocks, and its server, if one is running."""

    def __init__(self, loop: SimLoop, chance: random.Random, audit: Audit, settings: ShardSettings) -> None:
        self.loop, self.chance, self.audit, self.settings = loop, chance, audit, settings
        self.disk = Disk(chance, audit.durable)
        self.outgoing = outgoing(SimSender(audit, chance, self.delay))
        """What the server makes requests to URLs with."""
        self.wall_offset_ms = 1_700_000_000_000
        self.top_offset_ms = self.wall_offset_ms
        self.mono_offset_ms = 0
        self.server: Any = None
        """The value returned by `serve`, while the process lives."""
        self.slowness = 1.0
        self.process: Process | None = None
        self.dead: list[Process] = []
        self.problems: list[BaseException] = []
        self.streams: dict[Stream, None] = {}
        self.lost: dict[asyncio.Future[Any], None] = {}
        """Calls waiting for an answer."""

    def clock(self) -> tuple[int, int]:
        now = int(self.loop.time() * 1000)
        self.top_offset_ms = max(self.top_offset_ms, self.wall_offset_ms)
        return now + self.wall_offset_ms, now + self.mono_offset_ms

    def mono_ms(self) -> int:
        """Returns the time on the monotonic clock in milliseconds."""
        return self.clock()[1]

    def settle_clock(self) -> None:
        """Sets the wall clock to its highest past value, so that nothing has to wait for it to catch up."""
        self.wall_offset_ms = max(self.wall_offset_ms, self.top_offset_ms)

    def broke(self, problem: BaseException) -> None:
        self.problems.append(problem)

    def start(self) -> None:
        """Opens the store and starts serving."""
        self.process = Process(self.loop)
        self.process.slowness = self.slowness
        self.server = self.process.run(self.serve)

    def serve(self) -> Any:
        """Starts a new life of the server and returns it, with its calls."""
        return Server(self)

    def slow_down(self, factor: float) -> None:
        """Slows down the disk by a factor."""
        self.slowness = factor
        if self.process is not None:
            self.process.slowness = factor

    def crash(self, *, power: bool) -> None:
        """Kills the server without a shutdown; a power cut also loses unsynced writes."""
        if self.process is None:
            return
        self.audit.count("power cut" if power else "kill")
        self.process.kill()
        self.dead.append(self.process)
        self.server = self.process = None
        if power:
            self.disk.cut_power()
        streams, self.streams = self.streams, {}
        for stream in streams:
            stream.lose()
        lost, self.lost = self.lost, {}
        for future in lost:
            if not future.done():
                self.loop.call_later(self.delay(), _lose, future)

    async def stop(self) -> None:
        """Shuts the server down gracefully: clients are notified, decided batches are made durable."""
        server, process = self.server, self.process
        if server is None or process is None:
            return
        self.audit.count("stop")
        server.calls.draining = True
        process.run(server.serving.drain, 200)
        await asyncio.sleep(0.2)
        for stream in list(self.streams):
            stream.stop()
        await asyncio.sleep(0)
        await asyncio.wait([process.start(server.serving.close())], timeout=5)
        self.audit.demand(not server.serving.runner.shard.in_flight, "a shutdown left batches in flight")
        self.crash(power=self.chance.random() < 0.5)

    def delay(self) -> float:
        """Returns the delay of a message."""
        return self.chance.choice((0.0, 0.0001, 0.001, 0.01, 0.05)) if self.chance.random() < 0.97 else 1.5

    # -- calls -----------------------------------------------------------------------------------------------------

    async def call(
        self, holder: str, method: str, request: Message, patience: float = 8.0, *, doubled: float = 0.05
    ) -> Any:
        """Returns the answer of a call.

        Raises:
            Rejection: The server rejected the call.
            Lost: Its outcome is unknown.
        """
        await asyncio.sleep(self.delay())
        since = self.audit.serial
        answer: asyncio.Future[Any] = self.loop.create_future()
        copies = 2 if self.chance.random() < doubled else 1
        tasks = [
            self._serve(holder, method, request, answer, since, late=copy * self.delay()) for copy in range(copies)
        ]
        self.lost[answer] = None
        try:
            async with asyncio.timeout(patience):
                return await answer
        except TimeoutError:
            raise Lost from None
        finally:
            self.lost.pop(answer, None)
            if not answer.done() or answer.cancelled():
                for task in tasks:
                    task.cancel()

    def _serve(
        self, holder: str, method: str, request: Message, answer: Any, since: int, *, late: float
    ) -> asyncio.Task[Any]:
        server, process = self.server, self.process
        if server is None or process is None:
            raise Lost

        self.audit.sent(request)

        async def serve() -> Any:
            if late:
                await asyncio.sleep(late)
            copy = type(request).FromString(request.SerializeToString())
            try:
                return await server.calls.call(f"/codeq.v1.{method}", copy, holder)
            except Rejection as rejection:
                return rejection

        task = process.start(serve())
        task.add_done_callback(lambda done: self._answer(tenant_of(holder), done, answer, request, since))
        return task

    def _answer(
        self, tenant: str, task: asyncio.Task[Any], answer: asyncio.Future[Any], request: Message, since: int
    ) -> None:
        if task.cancelled():
            return
        message = task.result()
        if isinstance(message, Rejection) and message.reason is Reason.NOT_LEADER:
            self.audit.sent(request, -1)
        self.audit.leaves(tenant, message, since)
        if self.chance.random() < 0.02:
            self.loop.call_later(self.delay(), _lose, answer)
        else:
            self.loop.call_later(self.delay(), _give, answer, message)

    def open(self, holder: str, kind: str) -> Stream:
        """Opens a stream.

        Raises:
            Lost: The server is down.
        """
        if self.server is None or self.process is None:
            raise Lost
        stream = Stream(self, kind, holder)
        self.streams[stream] = None
        stream.serve(self.server.calls, self.process)
        return stream


async def _renewed(holder: str) -> Claims:
    return claims_of(holder)


def _lose(future: asyncio.Future[Any]) -> None:
    _give(future, Lost())


def _give(future: asyncio.Future[Any], message: Any) -> None:
    if future.done():
        return
    if isinstance(message, BaseException):
        future.set_exception(message)
        future.exception()  # mark the exception as retrieved, because the caller may be gone
    else:
        future.set_result(message)


class Pipe:
    """One direction of a stream: messages arrive in order, each with its own delay."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._on_way: deque[Any] = deque()
        self._items: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._last = 0.0

    def send(self, item: Any) -> None:
        loop = self._node.loop
        self._last = max(self._last, loop.time() + self._node.delay())
        self._on_way.append(item)
        loop.call_at(self._last, self._arrive)  # timers due at the same time run in any order

    def _arrive(self) -> None:
        self.put(self._on_way.popleft())

    def put(self, item: Any) -> None:
        self._items.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> Any:
        while not self._items:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._items.popleft()


class Stream:
    """A bidirectional call: the client's end, and the context for the server's end."""

    def __init__(self, node: Node, kind: str, holder: str) -> None:
        self._node, self._kind, self._holder = node, kind, holder
        self._up, self._down = Pipe(node), Pipe(node)
        self._task: asyncio.Task[None] | None = None
        self._broken = False

    def serve(self, calls: Calls, process: Process) -> None:
        self._task = process.start(self._serve(calls))
        self._task.add_done_callback(self._ended)

    # -- the server's end ------------------------------------------------------------------------------------------

    async def _serve(self, calls: Calls) -> None:
        if calls.draining:
            raise Rejection(Reason.DRAINING, "the server is stopping")
        serving = calls.shards.current()
        token = StreamToken(claims_of(self._holder), _renewed, self._node.loop.time)
        await (serving.produce(token, self, InFlight()) if self._kind == "produce" else serving.work(token, self))

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def read(self) -> Any:
        return await self._up.get()

    async def write(self, message: Any) -> None:
        if self._kind == "work":
            message = worker_service_pb2.WorkResponse.FromString(message)
        else:
            message = producer_service_pb2.ProduceResponse.FromString(message.SerializeToString())
        node = self._node
        if node.chance.random() < 0.3:
            await asyncio.sleep(node.delay())
        if self._broken:
            await node.loop.create_future()  # until the call is cancelled
        node.audit.leaves(tenant_of(self._holder), message)
        node.loop.call_soon(self._down.send, message, context=_OUTSIDE)  # a sent message survives the server

    # -- the client's end ------------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Sends a message, which may or may not arrive."""
        self._node.audit.sent(message)
        self._up.send(type(message).FromString(message.SerializeToString()))

    def half_close(self) -> None:
        self._up.send(END)

    async def receive(self) -> Any:
        """Returns the next message, or END.

        Raises:
            Rejection: The server ended the call.
            Lost: The connection broke.
        """
        item = await self._down.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def lose(self) -> None:
        """Breaks the connection because the server is gone."""
        self._broken = True
        self._down.send(Lost())

    def break_off(self) -> None:
        """Ends the client: the server reads END, and the call is cancelled at once or shortly after."""
        if self._broken or self._task is None or self._task.done():
            return
        self._broken = True
        self._up.put(END)
        self._node.loop.call_later(self._node.delay(), self._task.cancel)

    def stop(self) -> None:
        """Ends the call from the server's side."""
        if self._task is not None:
            self._task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._node.streams.pop(self, None)
        if task.cancelled():
            if not self._broken:
                self._down.send(Lost())
            return
        problem = task.exception()
        while isinstance(problem, BaseExceptionGroup):
            problem = problem.exceptions[0]
        if problem is not None and not isinstance(problem, Rejection):
            self._node.problems.append(problem)
        self._down.send(END if problem is None else problem)


def retryable(rejection: Rejection) -> bool:
    """Returns whether a rejection is unrelated to the call itself."""
    return rejection.reason in {Reason.OUTCOME_UNKNOWN, Reason.DRAINING, Reason.NOT_LEADER}
