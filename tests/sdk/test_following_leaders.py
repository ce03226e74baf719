"""Clients, producers and workers of a cluster whose leaders change and die; their users notice nothing."""

from __future__ import annotations

import asyncio
import threading
import time

import codeq
import pytest
from codeq.v1 import error_pb2
from codeq.v1 import producer_service_pb2 as producer_pb
from codeq.v1 import worker_service_pb2 as worker_pb
from fronts import WORK, elect, fronts
from scripted_server import (
    Produce,
    ScriptedServer,
    Work,
    ack,
    answer_after_welcome,
    delivery,
    has_outcomes,
    settled,
    welcome_producer,
    welcome_worker,
)
from server_process import DEV_TOKEN, ServerProcess
from waiting import eventually
from worker_runs import running


def client_of(*addresses: str, timeout_seconds: float = 30.0) -> codeq.AsyncClient:
    return codeq.AsyncClient(addresses, token=DEV_TOKEN, timeout_seconds=timeout_seconds)


async def test_client_finds_the_leader_from_the_address_of_any_node(shared_server: ServerProcess) -> None:
    async with fronts(shared_server) as nodes, client_of(nodes[2].address) as client:
        task = await client.create("follow-any", {"n": 1})
        assert (await client.get(task.id)).payload == {"n": 1}
        assert nodes[2].calls == ["/codeq.v1.TaskService/CreateTask"]  # only once: the leader is remembered
        assert nodes[1].calls == []


async def test_sync_client_follows_leaders_too(shared_server: ServerProcess) -> None:
    async with fronts(shared_server) as nodes:
        elect(nodes, nodes[1])
        with codeq.Client([node.address for node in nodes], token=DEV_TOKEN) as client:
            await asyncio.to_thread(client.create, "follow-sync", 1)
            nodes[1].kills_itself = True
            creating = asyncio.create_task(asyncio.to_thread(client.create, "follow-sync", 2))
            await eventually(lambda: not nodes[1].leads)
            elect(nodes, nodes[2])
            assert (await creating).payload == 2
            assert (await asyncio.to_thread(client.queue, "follow-sync")).ready == 2


async def test_client_given_one_address_learns_the_others_and_survives_the_loss_of_the_first(
    shared_server: ServerProcess,
) -> None:
    async with fronts(shared_server) as nodes, client_of(nodes[0].address) as client:
        await client.create("follow-learned")
        await eventually(lambda: client._endpoint.servers.are_many)
        await nodes[0].kill()
        elect(nodes, nodes[2])
        assert (await client.queue("follow-learned")).ready == 1


async def test_create_without_a_key_makes_one_task_even_if_its_answer_is_lost(shared_server: ServerProcess) -> None:
    async with fronts(shared_server) as nodes, client_of(*(node.address for node in nodes)) as client:
        nodes[0].kills_itself = True
        creating = asyncio.create_task(client.create("follow-once", {"n": 1}))
        await eventually(lambda: not nodes[0].leads)
        elect(nodes, nodes[1])
        task = await creating
        assert (await client.queue("follow-once")).ready == 1
        assert (await client.get(task.id)).payload == {"n": 1}


async def test_batch_is_created_once_even_if_its_answer_is_lost(shared_server: ServerProcess) -> None:
    async with fronts(shared_server) as nodes, client_of(*(node.address for node in nodes)) as client:
        for command, atomic in (("follow-batch", False), ("follow-atomic", True)):
            leader = next(node for node in nodes if node.leads)
            leader.kills_itself = True
            tasks = [codeq.NewTask(command, number) for number in range(3)]
            creating = asyncio.create_task(client.create_batch(tasks, atomic=atomic))
            await eventually(lambda leader=leader: not leader.leads)
            elect(nodes, nodes[nodes.index(leader) + 1])
            made = await creating
            assert len({task.id for task in made if isinstance(task, codeq.Task)}) == 3
            assert (await client.queue(command)).ready == 3


async def test_outcome_with_a_lost_reply_is_retried_with_its_token(shared_server: ServerProcess) -> None:
    async with fronts(shared_server) as nodes, client_of(*(node.address for node in nodes)) as client:
        await client.create("follow-outcome")
        [task] = await client.claim(["follow-outcome"])
        nodes[0].kills_itself = True
        completing = asyncio.create_task(client.complete(task, {"ok": True}))
        await eventually(lambda: not nodes[0].leads)
        elect(nodes, nodes[1])
        assert (await completing).result == {"ok": True}


async def test_non_idempotent_call_skips_dead_nodes_and_fails_if_its_answer_is_lost(
    shared_server: ServerProcess,
) -> None:
    async with fronts(shared_server) as nodes, client_of(*(node.address for node in nodes)) as client:
        await client.create("follow-purge")
        await nodes[0].kill()
        elect(nodes, nodes[1])
        await client.purge_queue("follow-purge")
        nodes[1].kills_itself = True
        with pytest.raises(codeq.Unavailable):
            await client.purge_queue("follow-purge")
        assert sum("/codeq.v1.QueueService/PurgeQueue" in node.calls for node in nodes) == 1


async def test_call_without_a_leader_waits_for_an_election_until_its_deadline(
    shared_server: ServerProcess,
) -> None:
    async with fronts(shared_server) as nodes:
        addresses = [node.address for node in nodes]
        for node in nodes:
            node.leads, node.leader = False, ""
        async with client_of(*addresses, timeout_seconds=0.7) as hasty:
            started = time.monotonic()
            with pytest.raises((codeq.NotLeader, codeq.DeadlineExceeded)):  # the last answer, or no answer in time
                await hasty.create("follow-election")
            assert time.monotonic() - started < 5
        async with client_of(*addresses) as client:
            creating = asyncio.create_task(client.create("follow-election"))
            asked = sum(len(node.calls) for node in nodes)
            await eventually(lambda: sum(len(node.calls) for node in nodes) > asked + 2)
            elect(nodes, nodes[2])
            await creating
            assert (await client.queue("follow-election")).ready == 1


async def test_producer_loses_and_duplicates_nothing_while_leaders_are_killed(shared_server: ServerProcess) -> None:
    made: list[str] = []
    enough = asyncio.Event()

    async def produce(producer: codeq.AsyncProducer) -> None:
        while not enough.is_set():
            made.append(await producer.create("follow-produce", len(made)))

    async with fronts(shared_server) as nodes:
        addresses = [node.address for node in nodes]
        async with codeq.AsyncProducer(addresses, token=DEV_TOKEN) as producer, asyncio.TaskGroup() as group:
            for _ in range(32):
                group.create_task(produce(producer))
            for leader in (nodes[1], nodes[2], nodes[0]) * 2:
                count = len(made) + 200
                await eventually(lambda count=count: len(made) >= count)
                former = next(node for node in nodes if node.leads)
                await former.kill()
                elect(nodes, leader)
                await former.start()
            enough.set()
        assert len(set(made)) == len(made)
        async with client_of(*addresses) as client:
            assert (await client.queue("follow-produce")).ready == len(made)


@pytest.mark.parametrize("reason", ["DRAINING", "NOT_LEADER"])
async def test_streams_move_to_the_leader_named_in_a_notice(reason: str) -> None:
    async def accept(stream: Produce) -> None:
        await welcome_producer(stream)
        async for frame in stream:
            await stream.write(ack(frame))

    async def refer_producer(stream: Produce) -> None:
        await welcome_producer(stream)
        await stream.write(producer_pb.ProduceResponse(notice=notice))
        for frame in await stream.read_end():
            await stream.write(ack(frame))

    async def refer_worker(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(worker_pb.WorkResponse(notice=notice))
        await stream.read_end()

    async with ScriptedServer(accept, answer_after_welcome) as leader, ScriptedServer(refer_producer) as former:
        number = error_pb2.ErrorReason.Value(f"ERROR_REASON_{reason}")
        notice = producer_pb.StreamNotice(reason=number, grace_ms=10_000, leader=leader.address)
        async with codeq.AsyncProducer(former.address) as producer:
            assert [await producer.create("X", number) for number in (1, 2)] == ["1", "2"]
        assert (former.streams, leader.streams) == (1, 1)
        async with ScriptedServer(refer_worker) as other:
            worker = codeq.AsyncWorker(other.address)
            async with running(worker, lambda _: None):
                await eventually(lambda: leader.streams == 2)
            assert other.streams == 1


@pytest.mark.parametrize("way", ["killed", "deposed"])
async def test_worker_keeps_handlers_running_and_settles_with_the_next_leader(
    shared_server: ServerProcess, way: str
) -> None:
    command = f"follow-{way}"
    release, started = threading.Event(), threading.Event()
    runs: list[int] = []

    def handle(task: codeq.Task) -> object:
        runs.append(task.attempts)
        started.set()
        assert release.wait(20)
        return {"lost": task.lost.is_set()}

    async with fronts(shared_server) as nodes:
        addresses = [node.address for node in nodes]
        worker = codeq.AsyncWorker(addresses, token=DEV_TOKEN, concurrency=2)
        async with client_of(*addresses) as client, running(worker, handle, command):
            task = await client.create(command)
            await eventually(started.is_set)
            if way == "killed":
                await nodes[0].kill()
            elect(nodes, nodes[1])
            if way == "deposed":
                nodes[0].depose(nodes[1].address)
            await eventually(lambda: WORK in nodes[1].calls)
            release.set()
            assert (await client.result(task.id, wait=20)).result == {"lost": False}
            await client.create(command)
            await eventually(lambda: worker.stats.settled == 2)
        assert (runs, worker.stats.lost, worker.stats.refused) == ([1, 1], 0, 0)


async def test_unsettled_outcome_is_resent_over_the_next_stream() -> None:
    unknown = [worker_pb.OutcomeError(number=1, reason=error_pb2.ERROR_REASON_OUTCOME_UNKNOWN)]
    sent: list[str] = []

    async def deposed(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.read()
        await stream.write(delivery("a"))
        sent.extend(each.task_id for each in (await stream.read_until(has_outcomes)).outcomes)
        await stream.write(settled(1, unknown))
        await stream.read_end()

    async def next_leader(stream: Work) -> None:
        await welcome_worker(stream)
        request = await stream.read_until(has_outcomes)
        sent.extend(f"{each.task_id} again with {each.lease_token}" for each in request.outcomes)
        await stream.write(settled(1))
        await stream.read_end()

    async with ScriptedServer(deposed, next_leader, answer_after_welcome) as server:
        worker = codeq.AsyncWorker(server.address)
        async with running(worker, lambda _: None):
            await eventually(lambda: worker.stats.settled == 1)
        assert sent == ["a", "a again with 7"]
        assert worker.stats.refused == 0


async def test_topology_lists_the_members(shared_server: ServerProcess) -> None:
    async with fronts(shared_server) as nodes, client_of(nodes[0].address) as client:
        topology = await client.topology()
        assert [member.grpc_address for member in topology.members] == [node.address for node in nodes]
    with codeq.Client(shared_server.producer_addr, token=DEV_TOKEN) as client_alone:
        assert client_alone.topology() == codeq.Topology(raft_enabled=False, leader_id="", members=())
