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
from codeq.v1 import producer_service_pb2, task_pb2, worker_service_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq.v1.queue_service_pb2 import ListQueuesRequest
from codeq_gateway.bodies import InFlight
from codeq_gateway.dispatch import Call
from codeq_gateway.links import Reach
from codeq_server.auth.authenticator import Authenticator
from codeq_server.core.errors import Reason, Rejection
from codeq_server.services import passing
from codeq_server.services.call_stream import CallStreams, ServerProbes
from codeq_server.services.calls import Calls
from codeq_server.services.grpc_front import PRODUCE, WORK, GrpcFront
from codeq_server.services.internal_callers import Owner
from codeq_server.services.leader_seeker import LeaderSeeker
from codeq_server.services.part_server import PartServer
from codeq_server.services.passing import PassingOn
from codeq_server.services.routing.router import Router
from codeq_server.services.serving import Serving
from codeq_server.services.shard_links import ShardLinks, Tries
from codeq_server.services.shard_table import ShardTable
from codeq_server.services.shards import PASSED_KEY
from held_log import HeldRunner, turns, until
from several_shards import BOUND, Installation, SomeTokens
from test_auditing import audited

SHARDS = 2
SECRET = "secret of the processes"
TASKS = "/codeq.v1.TaskService/"
QUEUES = "/codeq.v1.QueueService/ListQueues"

pytestmark = pytest.mark.timeout(60)


class Process:
    """The process of a shard at a node, with a port of its own.

    Attributes:
        leader: Name of the node that leads the group, as this process sees it; empty: unknown.
    """

    def __init__(self, nodes: Nodes, name: str, shard: int) -> None:
        self.leader = ""
        self._nodes, self._name, self._shard = nodes, name, shard
        self.calls = Calls(Authenticator(SomeTokens(), SomeTokens()), ShardTable(self._absence, _no_rows))
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
            self._count,
            nodes.note,
            self.calls.shards.current,
        )
        self.streams.register(self.server)
        PartServer(self.calls, self.owner, lambda _: None, nodes.note).register(self.server)
        front = GrpcFront(
            self.calls, InFlight(), lambda _: None, self._count, nodes.note, lambda *end: self._count(*end, 0, "", {})
        )
        front.register(self.server)
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

    def _count(self, method: str, code: str, _: float, request_id: str, __: Mapping[str, str]) -> None:
        self._nodes.counted.append((self._name, self._shard, method, code, request_id))

    def _absence(self) -> Rejection:
        metadata = {"leader": self.leader} if self.leader else {}
        return Rejection(Reason.NOT_LEADER, "this node does not lead", metadata=metadata)


async def _page() -> bytes:
    return b""


async def _no_rows() -> Serving:
    raise AssertionError("read from rows of a process that does not lead")


class Nodes:
    """Two nodes, each with a process per shard; all shards are in memory, so leaderships move at once.

    Attributes:
        counted: The calls and streams that processes counted: node, shard, method, code and request id.
    """

    def __init__(self) -> None:
        self.counted: list[tuple[str, int, str, str, str]] = []
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


async def test_refused_access_is_recorded_by_the_process_that_leads() -> None:
    async with nodes() as them:
        create = pb.CreateTaskRequest(spec=task_pb2.TaskSpec(command="b"))
        with pytest.raises(Rejection) as refused:
            await them.at["a", 1].calls.call(f"{TASKS}CreateTask", create, f"Bearer {BOUND}", origin="192.0.2.1:1")
        assert refused.value.reason is Reason.COMMAND_NOT_ALLOWED
        batches = [runner.log.batches for runner in them.installation.runners]
        await until(lambda: any(batches))
        records = [row for each in batches for batch in each for row in audited(batch)]
        assert [(row.subject, row.call, row.origin) for row in records] == [(BOUND, "CreateTask", "192.0.2.1:1")]


async def test_stale_read_is_answered_by_the_process_that_leads() -> None:
    async with nodes() as them:
        task_id = await them.create("a", 1)
        read = pb.GetTaskRequest(task_id=task_id)
        for process in them.at.values():
            answer: Any = await process.calls.call(f"{TASKS}GetTask", read, "Bearer acme", stale=True)
            assert answer.task.id == task_id


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


async def test_calls_at_a_leader_that_stops_are_sent_to_the_next_one() -> None:
    async with nodes() as them:
        stopping = them.at["a", 0]
        stopping.calls.draining = True
        before = stopping.streams.frames
        routed = asyncio.create_task(them.create("b", 1, task_id=chosen(them, 0)))
        passed = asyncio.create_task(them.create("a", 1))
        await until(lambda: stopping.streams.frames > before + 4)
        assert not routed.done()
        assert not passed.done()
        them.lead(0, "b")
        assert await routed == chosen(them, 0)
        assert await passed


async def test_calls_that_wait_go_on_at_the_next_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    async with nodes() as them:
        task_id = await them.create("b", 1, task_id=chosen(them, 0))
        await them.call("b", 1, "ClaimTask", pb.ClaimTaskRequest())
        ends = them.installation.runners[0].ends
        links = them.at["b", 1].links
        # The time for which a call seeks a leader begins when it needs one, however long it has waited before.
        monkeypatch.setattr(passing, "AGAIN_SECONDS", 0)
        monkeypatch.setattr(links, "_patience", 0)
        request = pb.GetTaskResultRequest(task_id=task_id, wait_seconds=30)
        waiting = [asyncio.create_task(them.call(*at, "GetTaskResult", request)) for at in (("b", 1), ("a", 1))]
        await until(lambda: sum(map(len, ends.futures.values())) == len(waiting))
        monkeypatch.setattr(passing, "AGAIN_SECONDS", 30)
        monkeypatch.setattr(links, "_patience", 30)
        them.at["a", 0].calls.draining = True
        them.installation.runners[0].drain()
        them.lead(0, "b")
        done = pb.SubmitResultRequest(task_id=task_id, status=task_pb2.TASK_STATUS_COMPLETED, result=b"1")
        await them.call("b", 1, "SubmitResult", done)
        for each in waiting:
            assert (await each).task.id == task_id


async def test_call_that_is_sent_again_waits_for_what_is_left_of_its_time() -> None:
    request = pb.GetTaskResultRequest(task_id="t", wait_seconds=30)
    tries, waits = Tries(request), []
    for seconds in (12.5, 17.0, 60.0):
        tries._begun -= seconds
        waits.append(tries.next(6).wait_seconds)  # type: ignore[attr-defined]
    assert (waits, request.wait_seconds) == ([18, 1, 0], 30)


async def test_call_at_a_process_whose_leadership_ends_lets_others_run() -> None:
    async with nodes() as them:
        former = them.installation.runners[0]
        former.end(Rejection(Reason.NOT_LEADER, "it leads no more"))
        listing = asyncio.create_task(them.at["a", 0].calls.call(QUEUES, ListQueuesRequest(), "Bearer acme"))
        await turns()
        assert not listing.done()
        settings = former.shard.settings
        them.servings[0] = Serving(
            HeldRunner(settings, store=former.log.store, epoch=8), None, lease_seconds=60, artifact_bytes_max=0
        )
        them.lead(0, "a")
        await listing


def chosen(them: Nodes, shard: int) -> str:
    """Returns an id that leads to a shard."""
    return next(name for number in range(99) if them.installation.shard_of(name := f"id-{number}") == shard)


async def test_what_was_passed_on_is_not_passed_on_again() -> None:
    async with nodes() as them, grpc.aio.insecure_channel(them.at["a", 0].address) as channel:
        for process in them.at.values():
            process.calls.shards.present(None)  # without telling the others
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(passing, "AGAIN_SECONDS", 600)
            call = Call(f"{TASKS}GetTask", pb.GetTaskRequest(task_id="t"), "Bearer acme", "", 600)
            async with asyncio.timeout(5):
                assert await them.at["a", 1].links.sent(0, call) is None
            for process in them.at.values():
                process.streams.part()
            await until(lambda: not them.at["a", 0].calls.passing.reaches_any)  # type: ignore[union-attr]
            metadata = (("authorization", "Bearer acme"), (PASSED_KEY, "1"))
            refused: Any = channel.stream_stream(PRODUCE)(metadata=metadata)
            async with asyncio.timeout(5):
                assert await refused.code() is grpc.StatusCode.UNAVAILABLE


async def test_calls_and_streams_that_are_passed_on_count_where_they_arrived() -> None:
    async with nodes() as them, grpc.aio.insecure_channel(them.at["a", 1].address) as channel:
        get: Any = channel.unary_unary(f"{TASKS}GetTask", request_serializer=pb.GetTaskRequest.SerializeToString)
        metadata = (("authorization", "Bearer acme"), ("x-request-id", "r1"))
        with pytest.raises(grpc.aio.AioRpcError, match="missing"):
            await get(pb.GetTaskRequest(task_id="missing"), metadata=metadata)
        await produced(channel)
        await until(lambda: len(them.counted) > 1)
        assert them.counted == [("a", 1, f"{TASKS}GetTask", "NOT_FOUND", "r1"), ("a", 1, PRODUCE, "OK", "")]


async def test_stream_at_a_process_that_does_not_lead_reaches_one_that_does() -> None:
    async with nodes() as them, grpc.aio.insecure_channel(them.at["a", 1].address) as channel:
        (task_id,) = await produced(channel)
        assert them.installation.shard_of(task_id) == 0  # that of the process of the same node that leads


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


@pytest.mark.parametrize(("half_closes", "status"), [(False, "CLAIMED"), (True, "PENDING")])
async def test_worker_keeps_its_leases_if_its_call_breaks_but_not_if_it_half_closes(
    half_closes: bool,
    status: str,
) -> None:
    async with nodes() as them, grpc.aio.insecure_channel(them.at["a", 1].address) as channel:
        task_id = await them.create("a", 0)
        stream: Any = channel.stream_stream(
            WORK,
            request_serializer=worker_service_pb2.WorkRequest.SerializeToString,
            response_deserializer=worker_service_pb2.WorkResponse.FromString,
        )(metadata=(("authorization", "Bearer acme"),))
        hello = worker_service_pb2.WorkerHello(commands=["a"])
        await stream.write(worker_service_pb2.WorkRequest(hello=hello, add_credits=1))
        while not (await stream.read()).tasks:
            pass
        if half_closes:
            await stream.done_writing()
            while await stream.read() is not grpc.aio.EOF:
                pass
        else:
            stream.cancel()
        await until(lambda: WORK in {method for _, _, method, _, _ in them.counted})
        await until(lambda: not any(len(serving.streams) + len(serving.parts) for serving in them.servings))
        view = await them.call("a", 0, "GetTask", pb.GetTaskRequest(task_id=task_id))
        assert task_pb2.TaskStatus.Name(view.task.status) == f"TASK_STATUS_{status}"


class Broken:
    """A call of a client that broke: reading ends as if the client had half-closed, and writing is cancelled."""

    async def read(self) -> object:
        return grpc.aio.EOF

    async def write(self, _: object) -> None:
        raise asyncio.CancelledError


async def test_end_of_a_broken_call_is_not_passed_on_as_a_half_close() -> None:
    async with nodes() as them, grpc.aio.insecure_channel(them.at["a", 0].address) as channel:
        stream: Any = channel.stream_stream(WORK)(metadata=(("authorization", "Bearer acme"),))
        with pytest.raises(asyncio.CancelledError):
            await passing._send(Broken(), stream, passing._Answers(Broken()), b"")
        hello = worker_service_pb2.WorkRequest(hello=worker_service_pb2.WorkerHello(commands=["a"]))
        await stream.write(hello.SerializeToString())  # still open
        await stream.done_writing()


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
