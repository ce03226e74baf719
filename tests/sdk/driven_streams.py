"""Servers with several shards, whose streams a test drives one message after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from codeq.v1 import worker_service_pb2 as pb
from scripted_server import READ_SECONDS_MAX, ScriptedServer, Work, delivery, settled, welcome_worker


class DrivenStream:
    """The server's side of one stream of a worker.

    Attributes:
        hello: The worker's hello.
        shard: The shard of the process that serves the stream.
        sent: Messages that the test has read.
    """

    def __init__(self, stream: Work, hello: pb.WorkerHello, shard: int) -> None:
        self.hello = hello
        self.shard = shard
        self.sent: list[pb.WorkRequest] = []
        self._stream = stream
        self._requests: asyncio.Queue[pb.WorkRequest | None] = asyncio.Queue()
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def next(self) -> pb.WorkRequest | None:
        """Returns the worker's next message; None: it has half-closed or left the stream."""
        request = await asyncio.wait_for(self._requests.get(), READ_SECONDS_MAX)
        if request is not None:
            self.sent.append(request)
        return request

    async def until(self, condition: Callable[[pb.WorkRequest], object]) -> pb.WorkRequest:
        """Returns the next message that meets a condition."""
        while True:
            request = await self.next()
            assert request is not None, "the stream is over"
            if condition(request):
                return request

    async def granted(self) -> int:
        """Returns the credits of the next message with some."""
        return (await self.until(lambda request: request.add_credits)).add_credits

    async def asked_back(self) -> int:
        """Returns the credits that the next message with such a request asks for."""
        return (await self.until(lambda request: request.return_credits)).return_credits

    async def outcomes(self, count: int = 1) -> list[str]:
        """Returns the ids of the tasks with the next outcomes, which it settles."""
        found: list[str] = []
        while len(found) < count:
            found += [each.task_id for each in (await self.until(lambda request: request.outcomes)).outcomes]
        await self._stream.write(settled(len(found)))
        return found

    async def over(self) -> list[pb.WorkRequest]:
        """Waits until the worker has half-closed or left the stream; returns its last messages."""
        before = len(self.sent)
        while await self.next() is not None:
            pass
        return self.sent[before:]

    async def write(self, response: pb.WorkResponse) -> None:
        await self._stream.write(response)

    async def deliver(self, *ids: str) -> None:
        await self._stream.write(delivery(*ids))

    async def give_back(self, count: int) -> None:
        await self._stream.write(pb.WorkResponse(returned_credits=count))

    def end(self, reason: str = "") -> None:
        """Ends the stream, with a reason of the error table or without."""
        self._end.set_result(reason)

    async def serve(self) -> None:
        reading = asyncio.create_task(self._read())
        try:
            await asyncio.wait((reading, self._end), return_when=asyncio.FIRST_COMPLETED)
            if self._end.done() and (reason := self._end.result()):
                await self._stream.abort(reason)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self) -> None:
        try:
            async for request in self._stream:
                self._requests.put_nowait(request)
        finally:  # gRPC cancels the reader of a broken call
            self._requests.put_nowait(None)


class ShardServer(ScriptedServer):
    """A server with several shards.

    Attributes:
        shards: Their number in each welcome.
        leads: The shard of the process to which a stream leads, by its number from 0.
    """

    def __init__(self, shards: int, leads: Callable[[int], int] | None = None, *, lease_seconds: int = 60) -> None:
        super().__init__(self._serve)
        self.shards = shards
        self.leads = leads or (lambda number: number % self.shards)
        self._lease_seconds = lease_seconds
        self._opened: asyncio.Queue[DrivenStream] = asyncio.Queue()

    async def next(self) -> DrivenStream:
        """Returns the next stream that a worker has opened, whether it keeps it or not."""
        return await asyncio.wait_for(self._opened.get(), READ_SECONDS_MAX)

    async def kept(self, count: int) -> list[DrivenStream]:
        """Returns the next streams over which a worker sends something, in the order of the shards that they chose."""
        found: list[DrivenStream] = []
        while len(found) < count:
            stream = await self.next()
            request = await stream.next()
            if request is not None:
                found.append(stream)
        return sorted(found, key=lambda stream: stream.hello.only_shard.shard)

    async def _serve(self, stream: Work) -> None:
        shard = self.leads(self.streams - 1)
        hello = await welcome_worker(stream, lease_seconds=self._lease_seconds, shard=shard, shards=self.shards)
        driven = DrivenStream(stream, hello, shard)
        self._opened.put_nowait(driven)
        await driven.serve()


def first_credits(streams: list[DrivenStream]) -> list[int]:
    """Returns the credits that the first message of each stream grants."""
    return [stream.sent[0].add_credits for stream in streams]
