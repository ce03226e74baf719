"""Several shards in one process, each a real Serving over a store in memory, with links that a test can break."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from accepted_tasks import create
from codeq_internal.v1.shard_work_pb2 import WorkOnShardRequest
from codeq_server.auth.claims import WORKER_SCOPES, Claims
from codeq_server.core import reads
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.ids import Route, shard_of
from codeq_server.core.shard import ShardSettings
from codeq_server.core.status import Status
from codeq_server.services.part_links import LinkEndedError, LinksToOne, MemoryLink, PartLink
from codeq_server.services.relay import WorkerRelay
from codeq_server.services.serving import Serving
from codeq_server.services.stream_token import StreamToken
from codeq_server.services.streams import StreamRegistry, hello_of
from held_log import HeldRunner, turns, until
from stream_client import Client

CLAIMS = Claims("w", "acme", WORKER_SCOPES, frozenset({"*"}), "USER", is_admin=False)


async def no_renewal(_: object) -> Claims:
    raise Rejection(Reason.UNAUTHENTICATED, "invalid token")


class _DeadLink:
    """A link to a process that is gone, or that refuses it for the given reason."""

    def __init__(self, reason: Reason = Reason.SERVER_UNREACHABLE) -> None:
        self._reason = reason

    async def write(self, _: object) -> None:
        raise LinkEndedError

    async def done_writing(self) -> None:
        raise LinkEndedError

    async def read(self) -> None:
        raise Rejection(self._reason, "there is no way to this process")

    def cancel(self) -> None:
        """Does nothing."""


class _Link(MemoryLink):
    """A link in memory that a test can break from the side of the shard."""

    def __init__(self, serve: Callable[[Any], Awaitable[None]]) -> None:
        self.freeze = asyncio.Event()
        self.freeze.set()
        super().__init__(serve)

    async def write(self, request: Any) -> None:
        await self.freeze.wait()
        await super().write(request)


class Fleet:
    """The shards, and relays over them.

    Attributes:
        runners: The runner of each shard.
        servings: The Serving of each shard.
        registry: The streams of the process that serves the clients.
        opened: Number of links opened to each shard.
    """

    def __init__(self, count: int, *, free: bool = True) -> None:
        self.count = count
        self.runners = [HeldRunner(ShardSettings(route=Route(shard, count))) for shard in range(count)]
        for runner in self.runners:
            runner.log.free = free
        self.servings = [Serving(each, None, lease_seconds=60, artifact_bytes_max=0) for each in self.runners]
        self.registry: StreamRegistry = self.servings[0].streams
        self.opened = [0] * count
        self.token = StreamToken(CLAIMS, no_renewal, time.time)
        self.streams: dict[Client, asyncio.Task[None]] = {}
        self._links: list[list[_Link]] = [[] for _ in range(count)]
        self._dead: dict[int, Reason] = {}

    def open(self, shard: int) -> PartLink:
        """See `PartLinks.open`."""
        self.opened[shard] += 1
        if shard in self._dead:
            return _DeadLink(self._dead[shard])
        link = _Link(partial(self._serve, shard))
        self._links[shard].append(link)
        return link

    async def _serve(self, shard: int, call: Any) -> None:
        await self.servings[shard].work_part(self.token.again(), call, await hello_of(call, WorkOnShardRequest))

    def kill(self, shard: int, reason: Reason = Reason.SERVER_UNREACHABLE) -> None:
        """Breaks all links to a shard; none can be opened until `revive`, for the given reason."""
        self._dead[shard] = reason
        links, self._links[shard] = self._links[shard], []
        for link in links:
            link.cancel()

    def revive(self, shard: int) -> None:
        self._dead.pop(shard, None)

    def freeze(self, shard: int) -> None:
        """Makes a shard receive nothing more over its present links."""
        for link in self._links[shard]:
            link.freeze.clear()

    async def worker(self, *, settled: bool = True, only: int | None = None, **first: Any) -> Client:
        """Connects a worker, of one shard with `only`; with `settled`, waits until all its parts are connected."""
        client = Client("work")
        links = self if only is None else LinksToOne(self, only)
        hello, route = await client.read(), Route(0, self.count)
        relay = WorkerRelay(self.token, self.registry, 60, client, links, time.time, hello, route)
        before = [len(serving.parts) for serving in self.servings]
        self.streams[client] = asyncio.create_task(relay.run())
        if first:
            client.send(**first)
        await until(lambda: client.received)
        if settled:
            shards = range(self.count) if only is None else (only,)
            alive = [shard for shard in shards if shard not in self._dead]
            await until(lambda: all(len(self.servings[shard].parts) > before[shard] for shard in alive))
            await turns()
        return client

    async def break_off(self, client: Client) -> None:
        """Breaks the call of a client."""
        stream = self.streams.pop(client)
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)

    async def ended(self, client: Client) -> None:
        """Waits for the end of a stream that ends by itself."""
        await self.streams.pop(client)

    async def close(self) -> None:
        for client in list(self.streams):
            await self.break_off(client)
        for serving in self.servings:
            await serving.close()

    def create(self, shard: int, command: str = "a", *, priority: int = 0) -> str:
        """Creates a task in a shard."""
        runner = self.runners[shard]
        task_id, _ = create(runner.shard, "acme", command, b"1", priority, 0, 0, runner.now())
        runner.changed()
        return task_id

    def shard_of(self, task_id: str) -> int:
        return shard_of(task_id, self.count)

    def status(self, task_id: str) -> Status:
        runner = self.runners[shard_of(task_id, self.count)]
        return reads.get_task(runner.shard, "acme", task_id, runner.now()).status

    @property
    def claimed(self) -> int:
        """Tasks that have ever been leased."""
        return sum(runner.shard.totals.claimed for runner in self.runners)

    @property
    def leases(self) -> int:
        """Tasks that are leased."""
        return sum(len(runner.shard.deliveries) for runner in self.runners)


@contextlib.asynccontextmanager
async def fleet(count: int, *, free: bool = True) -> Any:
    """Yields shards, and closes them."""
    made = Fleet(count, free=free)
    try:
        yield made
    finally:
        for runner in made.runners:
            runner.log.free = True
            while runner.log._held:
                runner.log.release()
        await made.close()
