"""Producers of a server with several shards: a stream to the process of each, to which creates go in turn."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable

import codeq
import pytest
from codeq import producer_stream
from codeq.v1 import producer_service_pb2 as pb
from scripted_server import Produce, ScriptedServer, ack, welcome_producer
from waiting import eventually


class ShardServer(ScriptedServer):
    """A server whose streams lead to the processes of its shards, by their number from 0.

    Attributes:
        tasks: Number of tasks that each shard has got.
        closed: Number of streams that were half-closed, by shard.
        withheld: Shards that answer a frame only once `answers` is set.
        broken: Breaks the streams of a shard while it is set.
    """

    def __init__(self, shards: int, leads: Callable[[int], int] | None = None, *, frames: int = 256) -> None:
        super().__init__(self._serve)
        self._shards = shards
        self._leads = leads or (lambda number: number % shards)
        self._frames = frames
        self.tasks: Counter[int] = Counter()
        self.closed: Counter[int] = Counter()
        self.answers = asyncio.Event()
        self.answers.set()
        self.withheld: set[int] = set()
        self.broken: dict[int, asyncio.Event] = {}

    async def _serve(self, stream: Produce) -> None:
        shard = self._leads(self.streams - 1)
        broken = self.broken.setdefault(shard, asyncio.Event())
        if broken.is_set():
            await stream.abort("OUTCOME_UNKNOWN")
        await welcome_producer(stream, shard=shard, shards=self._shards, frames=self._frames)
        reading = asyncio.create_task(self._answer(stream, shard))
        breaks = asyncio.create_task(broken.wait())
        try:
            await asyncio.wait((reading, breaks), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                await stream.abort("OUTCOME_UNKNOWN")
            await reading
        finally:
            reading.cancel()
            breaks.cancel()

    async def _answer(self, stream: Produce, shard: int) -> None:
        async for frame in stream:
            self.tasks[shard] += len(frame.tasks)
            if shard in self.withheld:
                await self.answers.wait()
            await stream.write(ack(frame))
        self.closed[shard] += 1


async def spread_over(server: ShardServer, producer: codeq.AsyncProducer, shards: int) -> None:
    """Creates tasks until each shard has one."""
    while len(server.tasks) < shards:
        await producer.create("X", 0)
    server.tasks.clear()


async def test_creates_go_to_the_shards_in_turn() -> None:
    async with ShardServer(3) as server, codeq.AsyncProducer(server.address) as producer:
        await spread_over(server, producer, 3)
        for number in range(30):
            assert await producer.create("X", number) == str(number)
        assert server.tasks == {0: 10, 1: 10, 2: 10}
    assert server.closed == {0: 1, 1: 1, 2: 1}


async def test_creates_of_many_callers_go_to_the_shards_in_turn_frame_by_frame() -> None:
    async with ShardServer(2) as server, codeq.AsyncProducer(server.address) as producer:
        await spread_over(server, producer, 2)
        for _ in range(10):
            await asyncio.gather(*(producer.create("X", number) for number in range(16)))
        assert server.tasks == {0: 80, 1: 80}


async def test_creates_of_threads_go_to_all_shards() -> None:
    async with ShardServer(2) as server:

        def create() -> None:
            for number in range(50):
                producer.create("X", number)

        def create_with(producer: codeq.Producer) -> None:
            while len(server.tasks) < 2:
                producer.create("X", 0)
            threads = [threading.Thread(target=create) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            producer.close()

        producer = codeq.Producer(server.address)
        await asyncio.to_thread(create_with, producer)
        assert min(server.tasks.values()) > 20
    assert server.closed == {0: 1, 1: 1}


@pytest.mark.parametrize("shards", [0, 1, 33])
async def test_producer_keeps_its_one_stream(shards: int) -> None:
    """With one shard; a server has at most 32."""
    async with ShardServer(shards, lambda _: 0) as server, codeq.AsyncProducer(server.address) as producer:
        for number in range(20):
            await producer.create("X", number)
        assert server.streams == 1


async def test_producer_that_adds_keys_has_one_stream() -> None:
    async with ShardServer(2) as server, codeq.AsyncProducer(server.address, request_keys=True) as producer:
        for number in range(20):
            await producer.create("X", number)
        assert server.streams == 1


async def test_producer_with_several_addresses_has_one_stream() -> None:
    async with (
        ShardServer(2) as server,
        ShardServer(2) as other,
        codeq.AsyncProducer([server.address, other.address]) as producer,
    ):
        for number in range(20):
            await producer.create("X", number)
        assert (server.streams, other.streams) == (1, 0)


async def test_stream_is_kept_where_the_last_of_sixteen_connections_leads() -> None:
    assert producer_stream.TRIES_MAX == 16
    async with ShardServer(2, lambda _: 0) as server, codeq.AsyncProducer(server.address) as producer:
        await producer.create("X", 0)
        await eventually(lambda: server.streams == 1 + 16)
        for number in range(20):
            await producer.create("X", number)
        assert server.streams == 1 + 16


async def test_creates_go_over_the_other_streams_while_one_is_full_and_close_waits_for_all() -> None:
    async with ShardServer(2, frames=1) as server:
        producer = codeq.AsyncProducer(server.address)
        await spread_over(server, producer, 2)
        server.withheld, server.answers = {1}, asyncio.Event()
        waiting: list[asyncio.Task[str]] = []
        while not server.tasks[1]:
            waiting.append(asyncio.create_task(producer.create("X", 1)))
            await eventually(lambda: sum(server.tasks.values()) == len(waiting))
        for number in range(20):
            await producer.create("X", number)
        assert server.tasks[0] >= 20
        closing = asyncio.create_task(producer.close())
        await eventually(lambda: server.closed[0])
        assert not closing.done()
        server.answers.set()
        await closing
        await asyncio.gather(*waiting)
        assert server.closed == {0: 1, 1: 1}


async def test_creates_of_a_broken_stream_are_unknown_and_the_others_go_on() -> None:
    async with ShardServer(2) as server, codeq.AsyncProducer(server.address) as producer:
        await spread_over(server, producer, 2)
        server.withheld, server.answers = {1}, asyncio.Event()
        sent: list[asyncio.Task[str]] = []
        while not server.tasks[1]:
            sent.append(asyncio.create_task(producer.create("X", 1)))
            await eventually(lambda: sum(server.tasks.values()) == len(sent))
        server.broken[1].set()
        results = await asyncio.gather(*sent, return_exceptions=True)
        assert sum(isinstance(result, codeq.OutcomeUnknown) for result in results) == 1
        server.tasks.clear()
        for number in range(10):
            await producer.create("X", number)
        assert server.tasks[0] == 10
        server.broken[1] = asyncio.Event()
        server.withheld.clear()
        await spread_over(server, producer, 2)


async def test_keyed_create_of_a_broken_stream_is_sent_again() -> None:
    keys: list[str] = []

    class Breaking(ShardServer):
        async def _answer(self, stream: Produce, shard: int) -> None:
            async for frame in stream:
                keys.extend(task.idempotency_key for task in frame.tasks)
                if keys.count("k") == 1:
                    await stream.abort("OUTCOME_UNKNOWN")
                self.tasks[shard] += len(frame.tasks)
                await stream.write(ack(pb.ProduceRequest(tasks=frame.tasks)))

    async with Breaking(2) as server, codeq.AsyncProducer(server.address) as producer:
        await spread_over(server, producer, 2)
        assert await producer.create("X", 5, idempotency_key="k") == "5"
    assert keys.count("k") == 2
