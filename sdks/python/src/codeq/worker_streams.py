"""The streams of a worker: one, or one for each shard of a server that has several.

The first stream is over all shards. Once a welcome names another number of shards than the streams were made for, new
ones replace them: the old ones take no more tasks, and end when they have none left. All belong to one event loop.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from codeq.endpoint import Endpoint
from codeq.logs import log
from codeq.v1 import worker_service_pb2 as pb
from codeq.worker_opening import Opening
from codeq.worker_options import Executor, WorkerOptions
from codeq.worker_places import Places
from codeq.worker_stats import WorkerStats
from codeq.worker_stream import WorkerStream

SHARDS_MAX: Final = 32
"""Maximum number of shards for which there are streams; a server has no more."""

PLACES_MIN: Final = 4
"""Number of places for each shard below which one stream is better: a stream without work keeps a place."""

REPLACE_SECONDS_MIN: Final = 10.0
"""How long streams of single shards are kept at least, in case two servers have different numbers of shards."""


class WorkerStreams:
    """One worker's connections to the server. `run`, `stop` and all of its state belong to one event loop."""

    def __init__(self, endpoint: Endpoint, options: WorkerOptions, executor: Executor, stats: WorkerStats) -> None:
        self._endpoint = endpoint
        self._options = options
        self._executor = executor
        self._stats = stats
        self._loop = asyncio.get_running_loop()
        self._places = Places()
        self._stop_at: float | None = None
        self._shards = 1
        self._made_at = self._loop.time()
        self._streams = [self._stream(None, options.window_bytes)]
        self._streams[0].part.places = options.concurrency
        self._working: dict[asyncio.Task[None], WorkerStream] = {}

    def stop(self, drain_seconds: float, cause: str = "") -> None:
        """Stops taking tasks, and ends `run` once the running tasks have ended, at the latest after the given seconds.

        Args:
            drain_seconds: Time for running tasks to finish.
            cause: Signal that a user sent, and can repeat to stop at once; empty: none.
        """
        if cause and (running := self._places.running) and drain_seconds > 0:
            tasks = f"{running} task" if running == 1 else f"{running} tasks"
            log.warning("draining %s for up to %g s; %s again to stop now", tasks, drain_seconds, cause)
        self._executor.give_back()
        at = self._loop.time() + drain_seconds
        self._stop_at = at if self._stop_at is None else min(at, self._stop_at)
        for stream in self._streams:
            stream.stop(self._stop_at)

    async def run(self) -> None:
        """Works until stopped, reconnecting as needed.

        Raises:
            Unauthenticated, PermissionDenied, InvalidField, Unsupported: Reconnecting cannot help.
        """
        try:
            self._work(self._streams[0])
            while self._working:
                ended, _ = await asyncio.wait(self._working, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    stream = self._working.pop(task)
                    self._streams.remove(stream)
                    self._places.remove(stream.part)
                    task.result()
        finally:
            for task in self._working:
                task.cancel()
            await asyncio.gather(*self._working, return_exceptions=True)
            self._executor.end()

    def _work(self, stream: WorkerStream) -> None:
        self._working[asyncio.create_task(stream.run(), name="codeq-worker")] = stream

    def _stream(self, choice: pb.ShardChoice | None, window_bytes: int) -> WorkerStream:
        options = replace(self._options, window_bytes=window_bytes)
        opening = Opening(self._endpoint, options, choice)
        return WorkerStream(self._endpoint, options, self._executor, self._stats, opening, self._places, self._welcomed)

    def _welcomed(self, shards: int) -> None:
        """Replaces the streams if the server has another number of shards than they were made for."""
        wanted = shards if 1 < shards <= min(SHARDS_MAX, self._options.concurrency // PLACES_MIN) else 1
        is_new = self._shards > 1 and self._loop.time() - self._made_at < REPLACE_SECONDS_MIN
        if wanted == self._shards or is_new or self._stop_at is not None:
            return
        self._shards, self._made_at = wanted, self._loop.time()
        replaced = list(self._streams)
        for shard in range(wanted):
            choice = pb.ShardChoice(shard=shard, shards=wanted) if wanted > 1 else None
            stream = self._stream(choice, self._options.window_bytes // wanted)
            self._streams.append(stream)
            self._work(stream)
        for stream in replaced:
            self._places.retire(stream.part)
