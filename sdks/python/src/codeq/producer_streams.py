"""The streams of a producer: one, or one to the process of each shard of a server that has several.

A process keeps the tasks that it accepts, so the creates go to the streams in turn. Tasks with keys have shards of
their own, to which any process passes them on, so a producer that adds keys has one stream.
"""

from __future__ import annotations

import asyncio
from typing import Final

from codeq.endpoint import Endpoint
from codeq.producer_creates import Creates
from codeq.producer_frames import Job
from codeq.producer_stream import ProducerStream

CLOSE_SECONDS_MAX: Final = 5.0
"""Maximum time that `close` waits for the server once every call in flight has ended."""

SHARDS_MAX: Final = 32
"""Maximum number of shards for which there are streams; a server has no more."""


class ProducerStreams:
    """One producer's connections to the server, opened when there is something to send. Bound to one event loop."""

    def __init__(self, endpoint: Endpoint, client_name: str, *, adds_keys: bool) -> None:
        self.loop = asyncio.get_running_loop()
        self._endpoint = endpoint
        self._client_name = client_name
        self._adds_keys = adds_keys
        self._creates = Creates()
        self._others: list[asyncio.Task[None]] = []
        self._task = asyncio.create_task(self._run(), name="codeq-producer")

    def submit(self, job: Job) -> None:
        """Queues a job with at least one item; it ends by its deadline."""
        self._creates.submit(job)

    def refuse(self) -> None:
        """Stops accepting jobs; later jobs fail with Closed."""
        self._creates.refuse()

    async def close(self) -> None:
        """Stops accepting jobs, waits for the accepted jobs (bounded by their deadlines), and ends the streams."""
        self.refuse()
        left = max(0.0, self._creates.last_deadline() - self.loop.time())
        try:
            await asyncio.wait((self._task,), timeout=left + CLOSE_SECONDS_MAX)
        finally:
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        first = ProducerStream(self._endpoint, self._client_name, self._creates, self._welcomed)
        try:
            await first.run(keeps_open=lambda: bool(self._others))
            await asyncio.gather(*self._others)
        finally:
            for other in self._others:
                other.cancel()
            await asyncio.gather(*self._others, return_exceptions=True)
            self._creates.end()

    def _welcomed(self, shard: int, shards: int) -> None:
        """Opens a stream for each of the other shards."""
        adds_keys = self._adds_keys or self._endpoint.servers.are_many
        if self._others or not 1 < shards <= SHARDS_MAX or adds_keys:
            return
        for other in range(shards):
            if other != shard:
                place = other, shards
                stream = ProducerStream(self._endpoint, self._client_name, self._creates, lambda *_: None, place)
                working = stream.run(keeps_open=lambda: True)
                self._others.append(asyncio.create_task(working, name="codeq-producer"))
