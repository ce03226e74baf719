"""Streams at a rate limit are slowed, never refused. The buckets' clock and that of the timers are set by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from codeq.v1 import task_pb2
from codeq_gateway.bodies import InFlight
from codeq_server.auth.claims import NEVER, WORKER_SCOPES, Claims
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.limits import NO_LIMITS, Limits, Rate
from codeq_server.core.shard import ShardSettings
from codeq_server.core.tenants import Tenants
from codeq_server.engine.rate_line import LOOK_MS_MAX
from codeq_server.services.rate_limits import FRAMES, GROUPED_MS, Limited
from codeq_server.services.serving import Serving
from codeq_server.services.stream_token import StreamToken
from held_log import HeldRunner, turns, until
from scripted_validator import clocked, in_clocked_loop
from stream_client import Client

SLOW = Rate(60, 10)
"""One task per second, ten at once."""
CLAIMS = Claims("w", "acme", WORKER_SCOPES, frozenset({"*"}), "USER", is_admin=False)


class Desk:
    """A served shard with streams."""

    def __init__(self, limits: Limits) -> None:
        self.runner = HeldRunner(ShardSettings(limits=limits))
        self.runner.log.free = True
        self.serving = Serving(self.runner, None, lease_seconds=600, artifact_bytes_max=0)
        self.streams: dict[Client, asyncio.Task[None]] = {}

    async def open(self, kind: str, key: bytes = b"1", tenant: str = "acme") -> Client:
        client = Client(kind)
        token = StreamToken(replace(CLAIMS, tenant_id=tenant, token_key=key), _no_renewal, lambda: 0.0)
        serve = (
            self.serving.produce(token, client, InFlight()) if kind == "produce" else self.serving.work(token, client)
        )
        self.streams[client] = asyncio.create_task(serve)
        await until(lambda: client.received)
        return client

    async def close(self, client: Client) -> None:
        """Breaks a stream off."""
        stream = self.streams.pop(client)
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)

    async def passes(self, ms: int) -> None:
        """Lets time pass for the buckets and their timers."""
        self.runner.clock.forward(ms)
        clocked().forward(ms / 1000)
        await turns(60)

    def create(self, count: int, tenant: str = "acme") -> None:
        for _ in range(count):
            self.runner.create(tenant=tenant)
        self.runner.changed()

    @property
    def created(self) -> int:
        return self.runner.shard.totals.created

    def hits(self, scope: str) -> int:
        operation = {"producer": "create_task", "worker": "claim"}[scope]
        return self.serving.rates.hits[Limited(scope, operation)]


async def _no_renewal(_: str) -> Claims:
    raise Rejection(Reason.UNAUTHENTICATED, "invalid token")


@asynccontextmanager
async def desk_with(limits: Limits) -> AsyncIterator[Desk]:
    desk = Desk(limits)
    try:
        yield desk
    finally:
        for client in list(desk.streams):
            await desk.close(client)


def frame(count: int) -> list[task_pb2.TaskSpec]:
    return [task_pb2.TaskSpec(command="a", payload=b"1")] * count


def done(task: task_pb2.Task) -> task_pb2.Outcome:
    kind = task_pb2.OUTCOME_KIND_COMPLETED
    return task_pb2.Outcome(task_id=task.id, lease_token=task.lease_token, kind=kind, result=b"1")


def settled(client: Client) -> int:
    return sum(message.settled for message in client.received)


def test_frame_waits_for_its_cost_and_meanwhile_nothing_more_is_read() -> None:
    async def test() -> None:
        async with desk_with(Limits(producer_token=SLOW)) as desk:
            client = await desk.open("produce")
            for count in (10, 5, 1):
                client.send(tasks=frame(count))
            await desk.passes(0)
            assert (desk.created, client.unread, desk.hits("producer")) == (10, 1, 1)
            await desk.passes(4_999)
            assert (desk.created, client.unread) == (10, 1)
            await desk.passes(1)
            assert (desk.created, client.unread, desk.hits("producer")) == (15, 0, 2)
            await desk.passes(999)
            assert desk.created == 15
            await desk.passes(1)
            assert (desk.created, desk.hits("producer")) == (16, 2)
            assert [len(ack.task_ids) for message in client.received for ack in message.acks] == [10, 5, 1]

    in_clocked_loop(test())


def test_frame_above_the_burst_size_passes_when_the_bucket_is_full_and_leaves_a_debt() -> None:
    async def test() -> None:
        async with desk_with(Limits(producer_token=SLOW)) as desk:
            client = await desk.open("produce")
            for count in (1, 25, 1):
                client.send(tasks=frame(count))
            await desk.passes(0)
            await desk.passes(999)
            assert desk.created == 1
            await desk.passes(1)
            assert desk.created == 26
            await desk.passes(15_999)
            assert desk.created == 26
            await desk.passes(1)
            assert desk.created == 27

    in_clocked_loop(test())


def test_stream_that_ends_while_its_frame_waits_is_not_charged() -> None:
    async def test() -> None:
        async with desk_with(Limits(producer_token=SLOW, producer=Rate(6, 10))) as desk:
            first, second = [await desk.open("produce") for _ in range(2)]
            first.send(tasks=frame(9))
            await desk.passes(0)
            first.send(tasks=frame(10))
            await desk.passes(0)
            second.send(tasks=frame(2))
            await desk.passes(9_000)  # the first waits for its tenant now, and has taken from its token
            await desk.close(first)
            assert (desk.created, desk.hits("producer")) == (9, 2)
            await desk.passes(1_000)
            assert desk.created == 11

    in_clocked_loop(test())


def test_new_stream_has_no_frame_for_free() -> None:
    async def test() -> None:
        async with desk_with(Limits(producer_token=SLOW)) as desk:
            for _ in range(20):
                client = await desk.open("produce")
                client.send(tasks=frame(10))
                await desk.passes(0)
                await desk.close(client)
            assert desk.created == 10

    in_clocked_loop(test())


def test_streams_of_a_tenant_share_its_bucket_in_the_order_in_which_they_began_to_wait() -> None:
    async def test() -> None:
        async with desk_with(Limits(producer=SLOW)) as desk:
            clients = [await desk.open("produce", b"%d" % number) for number in range(4)]
            for client in clients:
                client.send(tasks=frame(10))
            await desk.passes(0)
            for second in range(1, 4):
                await desk.passes(9_999)
                assert desk.created == 10 * second
                await desk.passes(1)
                assert desk.created == 10 * second + 10
                assert [len(client.received) for client in clients] == [2] * (second + 1) + [1] * (3 - second)
            assert not desk.serving.rates._lines

    in_clocked_loop(test())


def test_stream_of_another_tenant_does_not_wait() -> None:
    async def test() -> None:
        async with desk_with(Limits(producer=SLOW, worker=SLOW)) as desk:
            busy = [await desk.open("produce", b"%d" % number) for number in range(3)]
            for client in busy:
                client.send(tasks=frame(500))
            await desk.passes(0)
            assert desk.created == 500
            quiet = await desk.open("produce", b"q", "umbrella")
            quiet.send(tasks=frame(10))
            await desk.passes(0)
            assert desk.created == 510
            for tenant, key in (("acme", b"1"), ("umbrella", b"q")):
                worker = await desk.open("work", key, tenant)
                worker.send(add_credits=500)
                await desk.passes(0)
                assert len(worker.tasks) == 10

    in_clocked_loop(test())


def test_worker_gets_what_the_rate_allows_and_the_rest_when_it_refills() -> None:
    async def test() -> None:
        async with desk_with(Limits(worker_token=SLOW)) as desk:
            desk.create(13)
            client = await desk.open("work")
            client.send(add_credits=100)
            await desk.passes(0)
            assert (len(client.tasks), desk.hits("worker")) == (10, 1)
            for second in (1, 2, 3):
                await desk.passes(999)
                assert len(client.tasks) == 9 + second
                await desk.passes(1)
                assert len(client.tasks) == 10 + second
            assert desk.hits("worker") == 3  # none is left, so the stream waits for work
            await desk.passes(5_000)
            desk.create(7)
            await desk.passes(0)
            assert (len(client.tasks), desk.hits("worker")) == (18, 4)

    in_clocked_loop(test())


def test_deliveries_at_a_high_rate_are_grouped() -> None:
    async def test() -> None:
        async with desk_with(Limits(worker=Rate(600_000, 300))) as desk:
            desk.create(500)
            client = await desk.open("work")
            client.send(add_credits=1000)
            await desk.passes(0)
            assert len(client.tasks) == 300
            await desk.passes(GROUPED_MS - 1)
            assert len(client.tasks) == 300
            await desk.passes(1)
            assert len(client.tasks) == 400
            await desk.passes(GROUPED_MS)
            assert (len(client.tasks), desk.hits("worker")) == (500, 2)

    in_clocked_loop(test())


def test_worker_at_its_limit_settles_extends_and_is_told() -> None:
    async def test() -> None:
        async with desk_with(Limits(worker_token=Rate(1, 1))) as desk:
            desk.create(2)
            client = await desk.open("work")
            client.send(add_credits=2)
            await desk.passes(0)
            [task] = client.tasks
            client.send(heartbeats=[{"task_id": task.id, "lease_token": task.lease_token}])
            client.send(progress=[{"task_id": task.id, "lease_token": task.lease_token, "progress": b"1"}])
            client.send(outcomes=[done(task)])
            await desk.passes(0)
            assert settled(client) == 1
            assert len([each for message in client.received for each in message.extended]) == 1
            assert len(client.tasks) == 1

    in_clocked_loop(test())


def test_worker_that_leaves_while_it_waits_takes_nothing_along() -> None:
    async def test() -> None:
        async with desk_with(Limits(worker=SLOW)) as desk:
            desk.create(12)
            first, second = [await desk.open("work", b"%d" % number) for number in range(2)]
            first.send(add_credits=100)
            await desk.passes(0)
            second.send(add_credits=100)
            await desk.passes(500)
            await desk.close(first)
            await desk.passes(500)
            assert (len(first.tasks), len(second.tasks)) == (10, 1)
            assert desk.runner.fatal == []

    in_clocked_loop(test())


def test_delivery_that_was_waited_for_is_given_back_if_another_worker_took_the_task() -> None:
    async def test() -> None:
        async with desk_with(Limits(worker_token=Rate(60, 1))) as desk:
            desk.create(2)
            first, second = [await desk.open("work") for _ in range(2)]
            for client in (first, second):
                client.send(add_credits=10)
                await desk.passes(0)
            await desk.passes(1_000)
            assert (len(first.tasks), len(second.tasks)) == (2, 0)
            await desk.passes(1_000)  # the second may deliver now, but nothing is left
            desk.create(1)
            await desk.passes(0)
            assert len(first.tasks) + len(second.tasks) == 3

    in_clocked_loop(test())


def test_workers_that_wait_for_the_rate_leave_the_line_at_once_when_no_work_is_left() -> None:
    async def test() -> None:
        async with desk_with(Limits(worker=Rate(60, 1))) as desk:
            clients = [await desk.open("work", b"%d" % number) for number in range(9)]
            for client in clients:
                client.send(add_credits=1)
            desk.create(1)
            await desk.passes(0)
            desk.create(1)
            await desk.passes(0)
            await desk.passes(1_000)
            assert sum(len(client.tasks) for client in clients) == 2
            await desk.passes(1_000)
            assert not desk.serving.rates._lines
            desk.serving.rates.check(Limited("worker", "claim"), CLAIMS, 1)

    in_clocked_loop(test())


def test_cost_that_a_stream_gives_back_to_its_token_goes_to_the_next_stream_at_once() -> None:
    async def test() -> None:
        async with desk_with(Limits(producer_token=Rate(1, 10), producer=Rate(60, 20))) as desk:
            first, second, other = [await desk.open("produce", key) for key in (b"1", b"1", b"2")]
            other.send(tasks=frame(20))
            await desk.passes(0)
            first.send(tasks=frame(10))
            await desk.passes(0)
            second.send(tasks=frame(2))
            await desk.passes(2_500)  # the first waits for the tenant, and the second for the token of both
            await desk.close(first)
            await desk.passes(0)
            assert desk.created == 22

    in_clocked_loop(test())


def test_workers_at_the_quota_of_leases_take_turns_even_if_one_asks_for_more_with_each_outcome() -> None:
    async def test() -> None:
        async with desk_with(Limits(leases_max=2)) as desk:
            desk.create(40)
            clients = [await desk.open("work", b"%d" % number) for number in range(3)]
            for client in clients:
                client.send(add_credits=2)
                await desk.passes(0)
            ended = 0
            while ended < 30:
                (task, holder), *_ = [(task, c) for c in clients for task in c.tasks[settled(c) :]]
                holder.send(outcomes=[done(task)], add_credits=1)
                await desk.passes(0)
                ended += 1
                assert len(desk.runner.shard.deliveries) == 2
            assert min(len(client.tasks) for client in clients) >= 8

    in_clocked_loop(test())


def test_worker_at_the_quota_of_leases_does_not_wait_for_the_rate() -> None:
    async def test() -> None:
        async with desk_with(Limits(worker_token=Rate(60, 1), leases_max=1)) as desk:
            desk.create(2)
            worker = await desk.open("work")
            worker.send(add_credits=2)
            await desk.passes(0)
            assert (len(worker.tasks), desk.hits("worker")) == (1, 0)
            await desk.passes(1_000)
            worker.send(outcomes=[done(worker.tasks[0])])
            await desk.passes(0)
            assert (len(worker.tasks), desk.hits("worker")) == (2, 0)

    in_clocked_loop(test())


def test_calls_do_not_overtake_streams_that_wait_but_those_that_have_left() -> None:
    async def test() -> None:
        async with desk_with(Limits(producer_token=SLOW)) as desk:
            claims, create = replace(CLAIMS, token_key=b"1"), Limited("producer", "create_task")
            client = await desk.open("produce")
            client.send(tasks=frame(5))
            await desk.passes(0)
            client.send(tasks=frame(10))
            await desk.passes(0)
            with pytest.raises(Rejection) as caught:
                desk.serving.rates.check(create, claims, 1)
            assert caught.value.metadata["retryAfterSeconds"] == "6"  # 5 are there, 10 go to the frame
            await desk.close(client)
            for _ in range(5):
                desk.serving.rates.check(create, claims, 1)

    in_clocked_loop(test())


def test_changed_limit_reaches_a_stream_that_waits() -> None:
    async def test() -> None:
        async with desk_with(Limits(producer_token=Rate(1, 10), worker_token=Rate(1, 1))) as desk:
            producer, worker = await desk.open("produce"), await desk.open("work")
            producer.send(tasks=frame(10))
            producer.send(tasks=frame(10))
            worker.send(add_credits=20)
            await desk.passes(0)
            assert (desk.created, len(worker.tasks)) == (10, 1)
            desk.runner.shard.tenants = Tenants(Limits(producer_token=Rate(600, 10)))
            await desk.passes(LOOK_MS_MAX)
            assert (desk.created, len(worker.tasks)) == (20, 20)
            desk.runner.shard.tenants = Tenants(NO_LIMITS)
            producer.send(tasks=frame(10))
            await desk.passes(0)
            assert desk.created == 30

    in_clocked_loop(test())


def test_end_of_the_leadership_ends_streams_that_wait() -> None:
    async def test() -> None:
        async with desk_with(Limits(producer_token=SLOW, worker_token=SLOW)) as desk:
            producer, worker = await desk.open("produce"), await desk.open("work")
            producer.send(tasks=frame(100))
            producer.send(tasks=frame(10))
            worker.send(add_credits=100)
            await desk.passes(0)
            desk.serving.end(Rejection(Reason.NOT_LEADER, "another node leads"))
            for _ in range(10):
                await desk.passes(100)
            assert all(stream.done() for stream in desk.streams.values())
            assert (desk.created, len(worker.tasks)) == (100, 10)
            await desk.passes(200_000)
            assert desk.created == 100

    in_clocked_loop(test())


def test_stream_whose_frame_waits_for_the_rate_does_not_hold_up_a_server_that_stops() -> None:
    async def test() -> None:
        async with desk_with(Limits(producer_token=SLOW)) as desk:
            client = await desk.open("produce")
            for _ in range(2):
                client.send(tasks=frame(10))
            await desk.passes(0)
            desk.serving.drain(60_000)
            await desk.passes(0)
            stream = desk.streams[client]
            assert stream.done()
            assert isinstance(problem := stream.exception(), BaseExceptionGroup)
            assert [each.reason for each in problem.exceptions if isinstance(each, Rejection)] == [Reason.DRAINING]
            acks = [ack for message in client.received for ack in message.acks]
            assert (desk.created, len(acks)) == (10, 1)  # the first frame was acknowledged before the end
            with pytest.raises(Rejection, match="stopping"):
                await desk.serving.rates.wait(FRAMES, replace(CLAIMS, token_key=b"1"), 10)

    in_clocked_loop(test())


def test_token_renewed_on_a_stream_is_charged_from_then_on() -> None:
    async def test() -> None:
        runner = HeldRunner(ShardSettings(limits=Limits(producer_token=SLOW)))
        runner.log.free = True
        serving = Serving(runner, None, lease_seconds=600, artifact_bytes_max=0)
        client = Client("produce")

        async def renewed(_: str) -> Claims:
            return replace(CLAIMS, token_key=b"2")

        token = StreamToken(replace(CLAIMS, token_key=b"1", expires_at=NEVER), renewed, lambda: 0.0)
        stream = asyncio.create_task(serving.produce(token, client, InFlight()))
        client.send(tasks=frame(10))
        client.send(tasks=frame(10), token="fresh")
        client.send(tasks=frame(1))
        await until(lambda: runner.shard.totals.created == 20)
        await turns()
        assert runner.shard.totals.created == 20
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)

    in_clocked_loop(test())
