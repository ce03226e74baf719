"""Producers against a server that breaks, stalls and rejects on demand."""

from __future__ import annotations

import asyncio
import time

import codeq
import pytest
from codeq.producer_attempts import Attempts
from codeq.v1 import error_pb2
from codeq.v1 import producer_service_pb2 as pb
from scripted_server import Produce, ScriptedServer, ack, welcome_producer


async def accept_all(stream: Produce) -> None:
    """Welcomes the producer and accepts every frame until it half-closes."""
    await welcome_producer(stream)
    for frame in await stream.read_end():
        await stream.write(ack(frame))


async def accept_one_by_one(stream: Produce) -> None:
    """Like `accept_all`, but answers each frame while the stream is open."""
    await welcome_producer(stream)
    async for frame in stream:
        await stream.write(ack(frame))


async def test_create_returns_the_id_from_the_ack() -> None:
    async def script(stream: Produce) -> None:
        await welcome_producer(stream)
        frame = await stream.read()
        await stream.write(ack(frame))
        assert await stream.read_end() == []
        assert stream.token == "Bearer secret"
        task = frame.tasks[0]
        assert (task.command, task.payload, task.priority, task.delay_seconds) == ("X", b'"id-1"', 5, 3)

    async with ScriptedServer(script) as server, codeq.AsyncProducer(server.address, token="secret") as producer:
        assert await producer.create("X", "id-1", priority=5, delay=3) == '"id-1"'


async def test_creates_made_while_a_frame_is_in_flight_share_the_next_frame() -> None:
    frames: list[int] = []

    async def script(stream: Produce) -> None:
        await welcome_producer(stream, frames=1)
        first = await stream.read()
        received.set()
        await asyncio.wait_for(all_called.wait(), 10)
        await stream.write(ack(first))
        second = await stream.read()
        await stream.write(ack(second))
        frames.extend((len(first.tasks), len(second.tasks)))
        await stream.read_end()

    received, all_called = asyncio.Event(), asyncio.Event()
    async with ScriptedServer(script) as server, codeq.AsyncProducer(server.address) as producer:
        calls = [asyncio.create_task(producer.create("X", 0))]
        await asyncio.wait_for(received.wait(), 10)
        calls += [asyncio.create_task(producer.create("X", n)) for n in range(1, 32)]
        await asyncio.sleep(0)  # one turn, so that all have called
        all_called.set()
        assert await asyncio.gather(*calls) == [str(n) for n in range(32)]
    assert frames == [1, 31]


async def test_create_beyond_the_byte_window_waits_for_acks() -> None:
    async def script(stream: Produce) -> None:
        await welcome_producer(stream, size=2_500_000)
        taken = 0
        while taken < 2:
            taken += len((await stream.read()).tasks)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream.read(), 0.2)
        assert taken == 2
        await stream.abort("DRAINING")

    async with ScriptedServer(script, accept_one_by_one) as server, codeq.AsyncProducer(server.address) as producer:
        calls = [producer.create("X", str(n).encode() * 1_000_000) for n in range(3)]
        results = await asyncio.gather(*calls, return_exceptions=True)
    unknown = [result for result in results if isinstance(result, codeq.OutcomeUnknown)]
    assert len(unknown) == 2
    assert len([result for result in results if isinstance(result, str)]) == 1


async def test_broken_stream_leaves_sent_creates_unknown_and_sends_the_others_later() -> None:
    sent_later: list[bytes] = []

    async def breaking(stream: Produce) -> None:
        await welcome_producer(stream, frames=1)
        await stream.read()
        received.set()
        await asyncio.wait_for(second_called.wait(), 10)
        await stream.abort("OUTCOME_UNKNOWN")

    async def working(stream: Produce) -> None:
        await welcome_producer(stream)
        frame = await stream.read()
        sent_later.extend(task.payload for task in frame.tasks)
        await stream.write(ack(frame))
        await stream.read_end()

    received, second_called = asyncio.Event(), asyncio.Event()
    async with ScriptedServer(breaking, working) as server, codeq.AsyncProducer(server.address) as producer:
        first = asyncio.create_task(producer.create("X", 1))
        await asyncio.wait_for(received.wait(), 10)
        second = asyncio.create_task(producer.create("X", 2))
        await asyncio.sleep(0)
        second_called.set()
        with pytest.raises(codeq.OutcomeUnknown):
            await first
        assert await second == "2"
    assert sent_later == [b"2"]


@pytest.mark.parametrize("is_sync", [False, True])
async def test_only_keyed_creates_of_a_broken_stream_are_sent_again(is_sync: bool) -> None:
    async def breaking(stream: Produce) -> None:
        await welcome_producer(stream)
        await stream.read()

    tasks = [codeq.NewTask("X", 1, idempotency_key="k"), codeq.NewTask("X", 2), codeq.NewTask("X", 3, task_id="t")]

    def create_from_a_thread(address: str) -> list[str | codeq.CodeqError]:
        with codeq.Producer(address) as producer:
            return producer.create_batch(tasks)

    async with ScriptedServer(breaking, breaking, accept_one_by_one) as server:
        if is_sync:
            first, *others = await asyncio.to_thread(create_from_a_thread, server.address)
        else:
            async with codeq.AsyncProducer(server.address) as producer_of_loop:
                first, *others = await producer_of_loop.create_batch(tasks)
    assert first == "1"
    assert [type(other) for other in others] == [codeq.OutcomeUnknown] * 2


async def test_unanswered_keyed_create_ends_at_its_deadline_with_an_unknown_outcome() -> None:
    async def breaking(stream: Produce) -> None:
        await welcome_producer(stream)
        await stream.read()

    async with ScriptedServer(*[breaking] * 50) as server, codeq.AsyncProducer(server.address) as producer:
        with pytest.raises(codeq.OutcomeUnknown):
            await producer.create("X", 1, idempotency_key="k", timeout_seconds=0.5)


@pytest.mark.parametrize(
    "second", [codeq.Closed("closed"), codeq.Unauthenticated("no"), codeq.DeadlineExceeded("late")]
)
def test_failed_retry_of_a_keyed_create_leaves_its_outcome_unknown(second: codeq.CodeqError) -> None:
    attempts = Attempts([(b"t", True)])
    lost = codeq.OutcomeUnknown("lost")
    attempts.note([lost], may_repeat=True)
    assert attempts.waiting == [b"t"]
    attempts.note([second], may_repeat=True)
    assert (attempts.waiting, attempts.results) == ([], [lost])


def test_rejection_of_a_resent_keyed_create_is_final() -> None:
    attempts = Attempts([(b"t", True)])
    attempts.note([codeq.OutcomeUnknown("lost")], may_repeat=True)
    conflict = codeq.IdempotencyConflict("other request")
    attempts.note([conflict], may_repeat=True)
    assert (attempts.waiting, attempts.results) == ([], [conflict])


async def test_create_batch_is_split_at_the_task_limit_and_answered_in_order() -> None:
    sizes: list[int] = []

    async def script(stream: Produce) -> None:
        await welcome_producer(stream, tasks=3)
        for _ in range(3):
            frame = await stream.read()
            sizes.append(len(frame.tasks))
            answer = ack(frame)
            if len(sizes) == 2:
                answer.acks[0].task_ids[1] = ""
                answer.acks[0].errors.add(index=1, reason=error_pb2.ERROR_REASON_LIMIT_REACHED)
            await stream.write(answer)
        await stream.read_end()

    async with ScriptedServer(script) as server, codeq.AsyncProducer(server.address) as producer:
        tasks = [codeq.NewTask("X", object() if n == 0 else n) for n in range(8)]
        results = await producer.create_batch(tasks)
    assert sizes == [3, 3, 1]
    assert isinstance(results[0], codeq.InvalidField)  # never sent
    assert isinstance(results[5], codeq.LimitReached)
    assert [result for result in results if isinstance(result, str)] == ["1", "2", "3", "4", "6", "7"]


async def test_empty_create_batch_needs_no_server() -> None:
    async with codeq.AsyncProducer("127.0.0.1:1") as producer:
        assert await producer.create_batch([]) == []


async def test_create_without_a_server_ends_at_its_deadline_as_not_sent() -> None:
    async with codeq.AsyncProducer("127.0.0.1:1", timeout_seconds=30) as producer:
        begin = time.monotonic()
        with pytest.raises(codeq.DeadlineExceeded):
            await producer.create("X", timeout_seconds=0.3)
        assert 0.3 <= time.monotonic() - begin < 5


async def test_create_that_is_not_sent_in_time_says_why_there_is_no_stream() -> None:
    async def refusing(stream: Produce) -> None:
        await stream.abort("QUOTA_EXCEEDED", "no more streams")

    async with ScriptedServer(*[refusing] * 50) as server, codeq.AsyncProducer(server.address) as producer:
        with pytest.raises(
            codeq.DeadlineExceeded, match="not sent within the timeout: QUOTA_EXCEEDED: no more streams"
        ):
            await producer.create("X", timeout_seconds=0.5)


async def test_create_without_an_answer_ends_at_its_deadline_with_an_unknown_outcome() -> None:
    async def silent(stream: Produce) -> None:
        await welcome_producer(stream)
        await stream.read_end()

    async with ScriptedServer(silent) as server, codeq.AsyncProducer(server.address) as producer:
        later = asyncio.create_task(producer.create("X", timeout_seconds=60))
        await asyncio.sleep(0)  # one turn, so that it has called
        with pytest.raises(codeq.OutcomeUnknown):
            await producer.create("X", timeout_seconds=0.3)
        assert not later.done()
        later.cancel()
        with pytest.raises(asyncio.CancelledError):
            await later


async def test_create_with_a_rejected_token_fails_and_the_next_one_requests_a_new_token() -> None:
    async def script(stream: Produce) -> None:
        if stream.token == "Bearer old":
            await stream.abort("UNAUTHENTICATED")
        await accept_one_by_one(stream)

    token = "old"
    async with (
        ScriptedServer(script) as server,
        codeq.AsyncProducer(server.address, token=lambda: token) as producer,
    ):
        with pytest.raises(codeq.Unauthenticated):
            await producer.create("X", 1)
        token = "new"
        assert await producer.create("X", 2) == "2"


async def test_stream_whose_token_expires_is_reopened_with_a_fresh_one() -> None:
    async def expiring(stream: Produce) -> None:
        await welcome_producer(stream)
        await stream.abort("UNAUTHENTICATED")

    async with (
        ScriptedServer(expiring, accept_one_by_one) as server,
        codeq.AsyncProducer(server.address, token=lambda: "fresh") as producer,
    ):
        try:
            task_id = await producer.create("X", 1)
        except codeq.OutcomeUnknown:  # it was in flight when the token expired
            task_id = await producer.create("X", 1)
        assert task_id == "1"
        assert server.streams == 2


async def test_drain_notice_moves_the_producer_without_loss() -> None:
    async def stopping(stream: Produce) -> None:
        await welcome_producer(stream)
        frame = await stream.read()
        notice = pb.StreamNotice(reason=error_pb2.ERROR_REASON_DRAINING, grace_ms=10_000)
        await stream.write(pb.ProduceResponse(notice=notice))
        rest = await stream.read_end()
        await stream.write(ack(frame, *rest))

    async with ScriptedServer(stopping, accept_one_by_one) as server, codeq.AsyncProducer(server.address) as producer:
        assert await producer.create("X", 1) == "1"
        assert await producer.create("X", 2) == "2"
        assert server.streams == 2


async def test_ack_that_matches_no_frame_ends_the_stream() -> None:
    async def lying(stream: Produce) -> None:
        await welcome_producer(stream)
        await stream.read()
        await stream.write(pb.ProduceResponse(acks=[pb.FrameAck(task_ids=["a", "b"])]))
        await stream.read_break(pb.ProduceResponse())

    async with ScriptedServer(lying, accept_one_by_one) as server, codeq.AsyncProducer(server.address) as producer:
        with pytest.raises(codeq.OutcomeUnknown):
            await producer.create("X", 1)
        assert await producer.create("X", 2) == "2"


async def test_create_cancelled_before_sending_is_not_sent() -> None:
    sent: list[bytes] = []

    async def script(stream: Produce) -> None:
        await welcome_producer(stream, frames=1)
        first = await stream.read()
        received.set()
        await asyncio.wait_for(cancelled.wait(), 10)
        await stream.write(ack(first))
        second = await stream.read()
        sent.extend(task.payload for task in second.tasks)
        await stream.write(ack(second))
        await stream.read_end()

    received, cancelled = asyncio.Event(), asyncio.Event()
    async with ScriptedServer(script) as server, codeq.AsyncProducer(server.address) as producer:
        first = asyncio.create_task(producer.create("X", 1))
        await asyncio.wait_for(received.wait(), 10)
        given_up = asyncio.create_task(producer.create("X", 2))
        third = asyncio.create_task(producer.create("X", 3))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        cancelled.set()
        assert [await first, await third] == ["1", "3"]
    assert sent == [b"3"]


async def test_close_waits_for_pending_answers_and_rejects_later_creates() -> None:
    async with ScriptedServer(accept_all) as server:
        producer = codeq.AsyncProducer(server.address)
        calls = [asyncio.create_task(producer.create("X", n)) for n in range(3)]
        await asyncio.sleep(0)
        await producer.close()
        assert await asyncio.gather(*calls) == ["0", "1", "2"]
        with pytest.raises(codeq.Closed):
            await producer.create("X")
        await producer.close()


async def test_sync_producer_used_by_many_threads_shares_one_stream() -> None:
    async with ScriptedServer(accept_one_by_one) as server:
        with codeq.Producer(server.address) as producer:
            calls = [asyncio.to_thread(producer.create, "X", n) for n in range(64)]
            assert sorted(await asyncio.gather(*calls), key=int) == [str(n) for n in range(64)]
            batch = await asyncio.to_thread(producer.create_batch, [codeq.NewTask("X", n) for n in range(100)])
            assert batch == [str(n) for n in range(100)]
            assert server.streams == 1
            await asyncio.to_thread(producer.close)
        with pytest.raises(codeq.Closed):
            await asyncio.to_thread(producer.create, "X")
