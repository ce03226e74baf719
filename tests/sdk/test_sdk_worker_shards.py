"""Workers of a server with several shards: a stream for each, which share the places."""

from __future__ import annotations

import asyncio

import codeq
import pytest
from codeq import worker_opening, worker_streams
from codeq.endpoint import Endpoint
from codeq.v1 import error_pb2, task_pb2
from codeq.v1 import producer_service_pb2 as producer_pb
from codeq.v1 import worker_service_pb2 as pb
from codeq.worker_options import WorkerOptions
from driven_streams import DrivenStream, ShardServer, first_credits
from waiting import eventually
from worker_runs import running


class Holding:
    """A handler whose tasks end when the test says so."""

    def __init__(self) -> None:
        self.started: set[str] = set()
        self.cancelled: set[str] = set()
        self._may_end: dict[str, asyncio.Event] = {}

    async def __call__(self, task: codeq.Task) -> None:
        self.started.add(task.id)
        try:
            await self._may_end.setdefault(task.id, asyncio.Event()).wait()
        except asyncio.CancelledError:
            self.cancelled.add(task.id)
            raise

    async def run(self, *ids: str) -> None:
        """Waits until these tasks run."""
        await eventually(lambda: set(ids) <= self.started)

    def end(self, *ids: str) -> None:
        for each in ids or list(self._may_end):
            self._may_end[each].set()


async def finish(run: asyncio.Task[None], *streams: DrivenStream) -> None:
    """Ends streams as a server does after their half-close, and waits for the end of the stopped worker."""
    for stream in streams:
        await stream.over()
        stream.end()
    await asyncio.wait_for(run, 20)


async def test_worker_opens_a_stream_for_each_shard_and_divides_its_places() -> None:
    async with ShardServer(3) as server:
        worker = codeq.AsyncWorker(server.address, concurrency=14, window_bytes=3000)
        async with running(worker, Holding()) as run:
            first = await server.next()
            assert not first.hello.HasField("only_shard")
            assert await first.over() == []  # it granted nothing
            streams = await server.kept(3)
            for shard, stream in enumerate(streams):
                assert (stream.hello.only_shard.shard, stream.hello.only_shard.shards) == (shard, 3)
                assert stream.shard == shard
                assert stream.sent[0].add_credit_bytes == 1000
            assert first_credits(streams) == [5, 5, 4]
            assert worker.stats.streams == 1  # those first opened count as one
            streams[2].end()
            (again,) = await server.kept(1)
            assert (again.hello.only_shard.shard, again.sent[0].add_credits) == (2, 4)
            assert worker.stats.streams == 2
            worker.stop()
            await finish(run, streams[0], streams[1], again)


@pytest.mark.parametrize(("shards", "concurrency"), [(0, 65), (1, 65), (3, 11), (33, 1000)])
async def test_worker_keeps_its_one_stream(shards: int, concurrency: int) -> None:
    """With one shard, or fewer than four places for each; a server has at most 32."""
    async with ShardServer(shards, lambda _: 0) as server:
        worker = codeq.AsyncWorker(server.address, concurrency=concurrency)
        async with running(worker, lambda _: None) as run:
            stream = await server.next()
            first = await stream.next()
            assert not stream.hello.HasField("only_shard")
            assert first == pb.WorkRequest(add_credits=concurrency, add_credit_bytes=16 << 20)
            worker.stop()
            await finish(run, stream)
        assert stream.sent == [first, pb.WorkRequest(drain=True)]
        assert server.streams == 1


async def test_stream_is_kept_where_the_last_connection_leads_if_none_leads_to_the_process() -> None:
    async with ShardServer(2, lambda _: 0) as server:
        worker = codeq.AsyncWorker(server.address, concurrency=8)
        async with running(worker, lambda _: None) as run:
            streams = await server.kept(2)
            assert [stream.shard for stream in streams] == [0, 0]
            assert first_credits(streams) == [4, 4]
            assert server.streams == 1 + 1 + 16 + 1
            worker.stop()
            await finish(run, *streams)


async def test_pause_before_the_process_is_looked_for_again_doubles_up_to_five_minutes() -> None:
    options = WorkerOptions(name="", commands=(), concurrency=8, lease_seconds=60, window_bytes=1, drain_seconds=0.0)
    async with ShardServer(2, lambda _: 0) as server:
        endpoint = Endpoint.for_worker(server.address, None, None)
        opening = worker_opening.Opening(endpoint, options, pb.ShardChoice(shard=1, shards=2))
        for seconds in (10, 20, 40, 80, 160, 300, 300):
            await (await opening.open(())).channel.close()
            assert opening.look_seconds == seconds
        server.leads = lambda _: 1
        await (await opening.open(())).channel.close()
        assert opening.look_seconds == 0
        server.leads = lambda _: 0
        await (await opening.open(())).channel.close()
        assert opening.look_seconds == 10


async def test_stream_moves_to_the_process_of_its_shard_without_losing_a_task(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_opening, "LOOK_SECONDS_MIN", 0.01)
    async with ShardServer(2, lambda _: 0) as server:
        worker, handler = codeq.AsyncWorker(server.address, concurrency=8), Holding()
        async with running(worker, handler) as run:
            first, stream = await server.kept(2)
            assert await stream.asked_back() == 4
            await stream.deliver("a")  # crossed the request
            await stream.give_back(1)
            assert await stream.asked_back() == 2
            await stream.deliver("b")
            await stream.give_back(0)  # the server asks a process for a task with the last one
            assert await stream.asked_back() == 1
            server.leads = lambda _: 1
            await stream.give_back(1)
            assert await stream.over() == []
            (moved,) = await server.kept(1)
            assert (moved.hello.only_shard.shard, moved.shard, moved.sent[0].add_credits) == (1, 1, 2)
            assert {each.task_id for each in moved.sent[0].heartbeats} == {"a", "b"}
            await handler.run("a", "b")
            handler.end()
            assert sorted(await moved.outcomes(2)) == ["a", "b"]
            assert not handler.cancelled
            worker.stop()
            await finish(run, first, moved)
    assert caplog.records == []  # nothing broke


async def test_credits_of_a_shard_without_work_are_returned_for_one_that_has_some() -> None:
    async with ShardServer(2) as server:
        worker, handler = codeq.AsyncWorker(server.address, concurrency=8), Holding()
        async with running(worker, handler) as run:
            busy, idle = await server.kept(2)
            await busy.deliver("1", "2", "3", "4")
            assert await idle.asked_back() == 2
            await idle.give_back(2)
            assert await busy.granted() == 2
            await busy.deliver("5", "6")
            assert await idle.asked_back() == 1  # one stays
            await idle.give_back(0)  # the server was asking for a task with it
            assert await idle.asked_back() == 1
            await idle.give_back(1)
            assert await busy.granted() == 1
            await busy.deliver("7")
            await idle.deliver("8")
            await handler.run(*"12345678")
            handler.end()
            assert sorted(await busy.outcomes(7)) == list("1234567")
            assert await idle.outcomes() == ["8"]
            worker.stop()
            await finish(run, busy, idle)
    for stream in (busy, idle):
        assert len([each for request in stream.sent for each in request.outcomes]) in {1, 7}


async def test_credits_that_were_spent_meanwhile_are_not_granted_to_another_shard() -> None:
    async with ShardServer(2) as server:
        worker, handler = codeq.AsyncWorker(server.address, concurrency=8), Holding()
        async with running(worker, handler) as run:
            busy, other = await server.kept(2)
            await busy.deliver("1", "2", "3", "4")
            assert await other.asked_back() == 2
            await other.deliver("5", "6", "7")  # crossed the request: only one credit was left
            await other.give_back(1)
            assert await busy.granted() == 1
            await busy.deliver("8")
            await handler.run(*"12345678")
            handler.end()
            await busy.outcomes(5)
            await other.outcomes(3)
            worker.stop()
            await finish(run, busy, other)


async def test_free_place_goes_to_the_shard_with_fewer_if_both_have_work() -> None:
    async with ShardServer(2) as server:
        worker, handler = codeq.AsyncWorker(server.address, concurrency=8), Holding()
        async with running(worker, handler) as run:
            busy, other = await server.kept(2)
            await busy.deliver("1", "2", "3", "4")
            for count in (2, 1):
                assert await other.asked_back() == count
                await other.give_back(count)
                assert await busy.granted() == count
                await busy.deliver(*(f"more {count} {number}" for number in range(count)))
            await other.deliver("other")
            await handler.run("more 2 0", "more 2 1", "more 1 0", "other")  # seven and one
            handler.end("1")
            assert await other.granted() == 1
            told = await busy.until(lambda request: request.outcomes)
            assert (told.outcomes[0].task_id, told.add_credits) == ("1", 0)
            await busy.write(pb.WorkResponse(settled=1))
            handler.end()
            await busy.outcomes(6)
            await other.outcomes(1)
            worker.stop()
            await finish(run, busy, other)


async def test_outcome_and_progress_and_renewal_go_over_the_stream_that_delivered_the_task() -> None:
    async with ShardServer(2, lease_seconds=1) as server:
        worker, handler = codeq.AsyncWorker(server.address, concurrency=8, lease_seconds=1), Holding()
        async with running(worker, handler) as run:
            streams = await server.kept(2)
            for stream, task_id in zip(streams, "ab", strict=True):
                await stream.deliver(task_id)
            await handler.run("a", "b")
            for stream in streams:
                await stream.until(lambda request: request.heartbeats)
            handler.end()
            for stream, task_id in zip(streams, "ab", strict=True):
                assert await stream.outcomes() == [task_id]
            await eventually(lambda: worker.stats.settled == 2)
            worker.stop()
            await finish(run, *streams)
    for stream, task_id in zip(streams, "ab", strict=True):
        renewed = {each.task_id for request in stream.sent for each in request.heartbeats}
        assert renewed == {task_id}
        assert [each.task_id for request in stream.sent for each in request.outcomes] == [task_id]


async def test_outcome_of_a_broken_stream_is_sent_again_over_the_next_one_of_its_shard() -> None:
    async with ShardServer(2) as server:
        worker = codeq.AsyncWorker(server.address, concurrency=8)
        async with running(worker, lambda _: None) as run:
            kept, broken = await server.kept(2)
            await broken.deliver("a")
            await broken.until(lambda request: request.outcomes)
            broken.end("OUTCOME_UNKNOWN")
            (again,) = await server.kept(1)
            assert again.hello.only_shard.shard == 1
            assert [each.task_id for each in again.sent[0].outcomes] == ["a"]
            assert again.sent[0].add_credits == 4
            await again.write(pb.WorkResponse(settled=1))
            worker.stop()
            await finish(run, kept, again)
    assert not any(request.outcomes for request in kept.sent)
    assert (worker.stats.settled, worker.stats.refused) == (1, 0)


async def test_cancelled_and_lost_tasks_stop_on_their_own_stream_only() -> None:
    async with ShardServer(2) as server:
        worker, handler = codeq.AsyncWorker(server.address, concurrency=8), Holding()
        async with running(worker, handler) as run:
            streams = await server.kept(2)
            for stream, ids in zip(streams, ("ab", "cd"), strict=True):
                await stream.deliver(*ids)
            await handler.run(*"abcd")
            await streams[0].write(pb.WorkResponse(cancelled=[pb.LostLease(task_id="a", lease_token=7)]))
            await streams[1].write(pb.WorkResponse(lost=[pb.LostLease(task_id="d", lease_token=7)]))
            await eventually(lambda: handler.cancelled == {"a", "d"})
            handler.end("b", "c")
            assert await streams[0].outcomes() == ["b"]
            assert await streams[1].outcomes() == ["c"]
            worker.stop()
            await finish(run, *streams)
    assert worker.stats.lost == 2


async def test_stream_whose_process_shuts_down_moves_alone() -> None:
    notice = producer_pb.StreamNotice(reason=error_pb2.ERROR_REASON_DRAINING, grace_ms=10_000)
    async with ShardServer(2) as server:
        worker, handler = codeq.AsyncWorker(server.address, concurrency=8), Holding()
        async with running(worker, handler) as run:
            kept, left = await server.kept(2)
            await left.deliver("a")
            await handler.run("a")
            await left.write(pb.WorkResponse(notice=notice))
            await left.over()
            (again,) = await server.kept(1)
            assert [each.task_id for each in again.sent[0].heartbeats] == ["a"]
            assert again.sent[0].add_credits == 3
            handler.end()
            assert await again.outcomes() == ["a"]
            worker.stop()
            await finish(run, kept, again)
    assert not handler.cancelled


async def test_rejection_for_good_of_one_stream_ends_the_worker() -> None:
    async with ShardServer(2) as server:
        worker, handler = codeq.AsyncWorker(server.address, concurrency=8), Holding()
        run = asyncio.create_task(worker.run(handler, handle_signals=False))
        streams = await server.kept(2)
        await streams[0].deliver("a")
        await handler.run("a")
        streams[1].end("COMMAND_NOT_ALLOWED")
        with pytest.raises(codeq.CommandNotAllowed):
            await asyncio.wait_for(run, 20)
        assert handler.cancelled == {"a"}


async def test_stop_drains_all_streams() -> None:
    async with ShardServer(2) as server:
        worker, handler = codeq.AsyncWorker(server.address, concurrency=8), Holding()
        async with running(worker, handler) as run:
            streams = await server.kept(2)
            for stream, task_id in zip(streams, "ab", strict=True):
                await stream.deliver(task_id)
            await handler.run("a", "b")
            worker.stop()
            for stream in streams:
                await stream.until(lambda request: request.drain)
            await streams[1].deliver("late")  # crossed the drain
            late = await streams[1].until(lambda request: request.outcomes)
            assert late.outcomes[0].kind == task_pb2.OUTCOME_KIND_ABANDON
            await streams[1].write(pb.WorkResponse(settled=1))
            handler.end("b")
            assert await streams[1].outcomes() == ["b"]
            await streams[1].over()
            streams[1].end()
            assert not run.done()
            handler.end("a")
            assert await streams[0].outcomes() == ["a"]
            await finish(run, streams[0])


async def test_second_stop_gives_back_the_running_tasks_of_all_streams() -> None:
    async with ShardServer(2) as server:
        worker, handler = codeq.AsyncWorker(server.address, concurrency=8), Holding()
        async with running(worker, handler) as run:
            streams = await server.kept(2)
            for stream, task_id in zip(streams, "ab", strict=True):
                await stream.deliver(task_id)
            await handler.run("a", "b")
            worker.stop()
            worker.stop()
            await finish(run, *streams)
    assert handler.cancelled == {"a", "b"}
    assert not any(request.outcomes for stream in streams for request in stream.sent)


async def test_tasks_above_their_limit_go_back_over_their_own_streams_when_the_worker_stops() -> None:
    async with ShardServer(2) as server:
        worker, handler = codeq.AsyncWorker(server.address, concurrency=8), Holding()
        worker.task("X", limit=1)(handler)
        run = asyncio.create_task(worker.run(handle_signals=False))
        streams = await server.kept(2)
        await streams[0].deliver("a")
        await handler.run("a")
        for stream, task_id in zip(streams, "bc", strict=True):
            await stream.deliver(task_id)
        await eventually(lambda: worker.stats.received == 3)
        worker.stop()
        for stream, task_id in zip(streams, "bc", strict=True):
            assert await stream.outcomes() == [task_id]
        handler.end()
        assert await streams[0].outcomes() == ["a"]
        await finish(run, *streams)


@pytest.fixture
def replaced_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker_streams.REPLACE_SECONDS_MIN == 10
    monkeypatch.setattr(worker_streams, "REPLACE_SECONDS_MIN", 0.0)


@pytest.mark.usefixtures("replaced_at_once")
async def test_streams_start_over_when_the_number_of_shards_changes_and_running_tasks_go_on() -> None:
    async with ShardServer(2) as server:
        worker, handler = codeq.AsyncWorker(server.address, concurrency=12), Holding()
        async with running(worker, handler) as run:
            streams = await server.kept(2)
            await streams[0].deliver("a", "b")
            await handler.run("a", "b")
            server.shards = 3
            for stream in streams:
                stream.end("DRAINING")
            opened = [stream for stream in await server.kept(4) if stream.sent]
            (old,) = [stream for stream in opened if stream.hello.only_shard.shards == 2]
            new = [stream for stream in opened if stream.hello.only_shard.shards == 3]
            assert {each.task_id for each in old.sent[0].heartbeats} == {"a", "b"}
            assert old.sent[0].add_credits == 0
            assert sum(first_credits(new)) == 12 - 2
            assert {stream.shard for stream in new} == {0, 1, 2}
            handler.end("a")
            assert await old.outcomes() == ["a"]
            handler.end("b")
            assert await old.outcomes() == ["b"]
            assert await old.over() == []
            worker.stop()
            await finish(run, *new)
    assert sum(request.add_credits for stream in new for request in stream.sent) == 12
    assert not handler.cancelled


@pytest.mark.usefixtures("replaced_at_once")
async def test_streams_become_one_when_the_server_has_one_shard_again() -> None:
    async with ShardServer(2) as server:
        worker = codeq.AsyncWorker(server.address, concurrency=8)
        async with running(worker, lambda _: None) as run:
            streams = await server.kept(2)
            server.shards = 1
            for stream in streams:
                stream.end("DRAINING")
            (one,) = await server.kept(1)
            assert not one.hello.HasField("only_shard")
            assert one.sent[0].add_credits == 8
            worker.stop()
            await finish(run, one)


async def test_servers_with_different_numbers_of_shards_do_not_make_a_worker_start_over_all_the_time() -> None:
    numbers = iter([2, 2])
    async with ShardServer(2) as server:

        def leads(number: int) -> int:
            server.shards = next(numbers, 3)
            return 0

        server.leads = leads
        worker = codeq.AsyncWorker(server.address, concurrency=12)
        async with running(worker, lambda _: None) as run:
            streams = await server.kept(2)
            assert server.streams <= 4  # one more than needed, if that of shard 1 was the first to be opened
            worker.stop()
            await finish(run, *streams)


async def test_streams_go_to_the_nodes_of_their_shards_and_to_others_while_a_node_is_away() -> None:
    async with ShardServer(2, lambda _: 0) as first:
        async with ShardServer(2, lambda _: 1) as second:
            worker = codeq.AsyncWorker([first.address, second.address], concurrency=8)
            run = asyncio.create_task(worker.run(lambda _: None, handle_signals=False))
            (zero,) = await first.kept(1)
            (one,) = await second.kept(1)
            assert (zero.hello.only_shard.shard, one.hello.only_shard.shard) == (0, 1)
        (moved,) = await first.kept(1)
        assert (moved.hello.only_shard.shard, moved.sent[0].add_credits) == (1, 4)
        worker.stop()
        await finish(run, zero, moved)
