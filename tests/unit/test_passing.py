"""Processes of one shard at several nodes: calls and streams reach the one that leads, wherever they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc
import grpc.aio
import pytest
from codeq.v1 import producer_service_pb2, task_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq_gateway.bodies import InFlight
from codeq_gateway.links import Reach
from codeq_server.auth.authenticator import Authenticator
from codeq_server.core.errors import Reason, Rejection
from codeq_server.services import passing
from codeq_server.services.call_stream import CallStreams, ServerProbes
from codeq_server.services.calls import Calls
from codeq_server.services.grpc_front import PRODUCE, GrpcFront
from codeq_server.services.internal_callers import Owner
from codeq_server.services.leader_seeker import LeaderSeeker
from codeq_server.services.part_server import PartServer
from codeq_server.services.passing import PASSED_KEY, PassingOn
from codeq_server.services.routing.router import Router
from codeq_server.services.serving import Serving
from codeq_server.services.shard_links import ShardLinks
from codeq_server.services.shard_table import ShardTable
from held_log import until
from several_shards import Installation, SomeTokens

SHARDS = 2
SECRET = "secret of the processes"
TASKS = "/codeq.v1.TaskService/"

pytestmark = pytest.mark.timeout(60)


class Process:
    """The process of a shard at a node, with a port of its own.

    Attributes:
        leader: Name of the node that leads the group, as this process sees it; empty: unknown.
    """

    def __init__(self, nodes: Nodes, name: str, shard: int) -> None:
        self.leader = ""
        self._nodes, self._name, self._shard = nodes, name, shard
        self.calls = Calls(Authenticator(SomeTokens(), SomeTokens()), ShardTable(self._absence))
        self.owner = Owner(shard, SHARDS, SECRET, is_member=True)
        self.server = grpc.aio.server()
        probes = ServerProbes(lambda: (True, {}), _page, _page)
        self.streams = CallStreams(
            self.calls,
            InFlight(),
            [],
            self.owner,
            probes,
            lambda _: None,
            None,
            nodes.note,
            self.calls.shards.current,
        )
        self.streams.register(self.server)
        PartServer(self.calls, self.owner, lambda _: None, nodes.note).register(self.server)
        GrpcFront(self.calls, InFlight(), lambda _: None, None, nodes.note).register(self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"

    async def start(self) -> None:
        """Begins to serve, and to link with the others."""
        await self.server.start()
        places: Mapping[int, Mapping[str, str]] = {
            shard: {name: self._nodes.at[name, shard].address for name in "ab"} for shard in range(SHARDS)
        }
        self.links = ShardLinks(
            self.owner,
            [f"shard {shard}" for shard in range(SHARDS)],
            [""] * SHARDS,
            self.calls,
            seekers=[
                LeaderSeeker(self._name, {name: partial(Reach, address) for name, address in places[shard].items()})
                for shard in range(SHARDS)
            ],
        )
        self.calls.siblings, self.calls.passing = self.links, PassingOn(self.links)
        self.calls.router = Router(self.links, self.calls.charge, lambda: 0)

    async def stop(self) -> None:
        """Ends at once, as if it were killed."""
        await self.links.close()
        await self.server.stop(0)

    def present(self, serving: Serving | None) -> None:
        """Begins or ceases to lead."""
        self.calls.shards.present(serving)
        if serving is None:
            self.streams.part()

    def _absence(self) -> Rejection:
        metadata = {"leader": self.leader} if self.leader else {}
        return Rejection(Reason.NOT_LEADER, "this node does not lead", metadata=metadata)


async def _page() -> bytes:
    return b""


class Nodes:
    """Two nodes, each with a process per shard; all shards are in memory, so leaderships move at once."""

    def __init__(self) -> None:
        self.defects: list[BaseException] = []
        self.installation = Installation(SHARDS)
        self.servings = [calls.shards.current() for calls in self.installation.calls]
        self.at = {(name, shard): Process(self, name, shard) for name in "ab" for shard in range(SHARDS)}

    def note(self, _: str, problem: BaseException) -> None:
        self.defects.append(problem)

    def lead(self, shard: int, name: str) -> None:
        """Makes a node the leader of a group; empty: none is."""
        for node in "ab":
            process = self.at[node, shard]
            process.leader = name
            if process.calls.shards.serving is not None and node != name:
                process.present(None)
        if name:
            self.at[name, shard].present(self.servings[shard])

    async def call(self, name: str, shard: int, method: str, request: Any) -> Any:
        """Makes a call of a client of one process."""
        return await self.at[name, shard].calls.call(f"{TASKS}{method}", request, "Bearer acme", origin="127.0.0.1:1")

    async def create(self, name: str, shard: int, **fields: Any) -> str:
        request = pb.CreateTaskRequest(spec=task_pb2.TaskSpec(command="a", **fields))
        return str((await self.call(name, shard, "CreateTask", request)).task.id)


@asynccontextmanager
async def nodes() -> AsyncIterator[Nodes]:
    """Yields two nodes, of which each leads one group."""
    made = Nodes()
    for process in made.at.values():
        await process.start()
    made.lead(0, "a")
    made.lead(1, "b")
    await until(lambda: all(each.links.is_up(shard) for each in made.at.values() for shard in range(SHARDS)))
    try:
        yield made
    finally:
        for process in made.at.values():
            await process.stop()
    assert made.defects == []


async def test_call_at_any_process_reaches_the_leader_of_its_shard() -> None:
    async with nodes() as them:
        everywhere = [(name, shard) for name in "ab" for shard in range(SHARDS)]
        made = [await them.create(*at) for at in everywhere]
        made += [await them.create(*at, task_id=f"chosen-{at[0]}{at[1]}") for at in everywhere]
        assert {them.installation.shard_of(task_id) for task_id in made} == {0, 1}
        for at in everywhere:
            for task_id in made:
                assert (await them.call(*at, "GetTask", pb.GetTaskRequest(task_id=task_id))).task.id == task_id
        claimed = await them.call("b", 0, "ClaimTasks", pb.ClaimTasksRequest(count=100))
        assert {task.id for task in claimed.tasks} == set(made)


async def test_process_that_does_not_lead_prefers_its_own_node() -> None:
    async with nodes() as them:
        own = [await them.create("a", 1) for _ in range(4)]
        assert {them.installation.shard_of(task_id) for task_id in own} == {0}


async def test_calls_go_on_while_leaderships_move() -> None:
    async with nodes() as them:
        made = set[str]()
        for number in range(12):
            them.lead(number % SHARDS, "ab"[(number // SHARDS) % 2])
            calls = [them.create(name, shard, task_id=f"t{number}-{name}{shard}") for name, shard in them.at]
            made |= set(await asyncio.gather(*calls))
        assert len(made) == 12 * len(them.at)
        for task_id in made:
            assert (await them.call("a", 0, "GetTask", pb.GetTaskRequest(task_id=task_id))).task.id == task_id


async def test_call_in_flight_is_answered_although_its_link_moves() -> None:
    async with nodes() as them:
        log, links = them.installation.runners[0].log, them.at["b", 1].links
        log.free = False
        sent = len(log.batches)
        creating = asyncio.create_task(them.create("b", 1, task_id=chosen(them, 0)))
        await until(lambda: len(log.batches) > sent)
        them.at["a", 0].streams.part()
        await until(lambda: not links.is_up(0))
        await until(lambda: links.is_up(0))
        log.free = True
        log.release()
        assert await creating == chosen(them, 0)


async def test_calls_wait_for_a_leader_and_fail_if_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async with nodes() as them:
        them.lead(0, "")
        waiting = asyncio.create_task(them.create("b", 1, task_id=chosen(them, 0)))
        await until(lambda: not them.at["b", 1].links.is_up(0))
        them.lead(0, "b")
        assert await waiting == chosen(them, 0)
        monkeypatch.setattr(passing, "AGAIN_SECONDS", 0.1)
        for shard in range(SHARDS):
            them.lead(shard, "")
        await until(lambda: not them.at["b", 1].calls.passing.reaches_any)  # type: ignore[union-attr]
        with pytest.raises(Rejection, match="no shard has a leader") as refused:
            await them.create("b", 1)
        assert refused.value.reason is Reason.SERVER_UNREACHABLE


def chosen(them: Nodes, shard: int) -> str:
    """Returns an id that leads to a shard."""
    return next(name for number in range(99) if them.installation.shard_of(name := f"id-{number}") == shard)


async def test_stream_at_a_process_that_does_not_lead_is_passed_on_once() -> None:
    async with nodes() as them, grpc.aio.insecure_channel(them.at["a", 1].address) as channel:
        (task_id,) = await produced(channel)
        assert them.installation.shard_of(task_id) == 0  # that of the process of the same node that leads
        metadata = (("authorization", "Bearer acme"), (PASSED_KEY, "1"))
        refused: Any = channel.stream_stream(PRODUCE)(metadata=metadata)
        async with asyncio.timeout(5):
            assert await refused.code() is grpc.StatusCode.UNAVAILABLE


async def produced(channel: grpc.aio.Channel) -> list[str]:
    """Creates a task over a stream, and returns the ids of the acknowledged ones."""
    messages = producer_service_pb2
    stream: Any = channel.stream_stream(
        PRODUCE,
        request_serializer=messages.ProduceRequest.SerializeToString,
        response_deserializer=messages.ProduceResponse.FromString,
    )(metadata=(("authorization", "Bearer acme"),))
    await stream.write(messages.ProduceRequest(hello=messages.ProducerHello()))
    await stream.write(messages.ProduceRequest(tasks=[task_pb2.TaskSpec(command="a")]))
    await stream.done_writing()
    found: list[str] = []
    while (response := await stream.read()) is not grpc.aio.EOF:
        found += [task_id for ack in response.acks for task_id in ack.task_ids]
    return found


async def test_streams_that_are_passed_on_end_when_the_process_stops() -> None:
    async with nodes() as them, grpc.aio.insecure_channel(them.at["a", 1].address) as channel:
        stream: Any = channel.stream_stream(PRODUCE)(metadata=(("authorization", "Bearer acme"),))
        hello = producer_service_pb2.ProduceRequest(hello=producer_service_pb2.ProducerHello())
        await stream.write(hello.SerializeToString())
        await stream.read()
        passing_on = them.at["a", 1].calls.passing
        assert passing_on is not None
        passing_on.end()
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await stream.read()
        assert "the server is stopping" in str(ended.value.details())
