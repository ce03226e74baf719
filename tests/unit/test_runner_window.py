"""A runner with several batches in flight, on a replicated log: order, failures, confirmations, ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest
from codeq_server.core.claims import claim
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.model import Caller
from codeq_server.core.shard import ShardSettings
from codeq_server.engine import runner as runner_module
from held_log import HeldRunner, turns, until

ELSEWHERE = Rejection(Reason.NOT_LEADER, "another node leads", metadata={"leader": "two", "leaderGrpc": "two:9092"})


async def reason_of(waiting: Awaitable[None] | None) -> Reason:
    assert waiting is not None
    with pytest.raises(Rejection) as refused:
        await waiting
    return refused.value.reason


async def sent(runner: HeldRunner) -> asyncio.Future[None]:
    """Sends a batch; returns a future that resolves when it is durable."""
    count = len(runner.log.batches)
    runner.create()
    reply = runner.durable()
    assert reply is not None
    await until(lambda: len(runner.log.batches) > count)
    return reply


def asked_for(runner: HeldRunner) -> list[Reason]:
    """Returns the rejection that a request made now gets."""
    reasons = []
    for ask in (runner.now, runner.durable, lambda: runner.room("acme").send(None)):
        with pytest.raises(Rejection) as refused:
            ask()
        reasons.append(refused.value.reason)
    return reasons


# -- order -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 2, 3])
async def test_window_bounds_the_batches_in_flight(window: int) -> None:
    runner = HeldRunner(window=window)
    replies = [await sent(runner) for _ in range(window)]
    runner.create()
    last = runner.durable()
    await turns()
    assert len(runner.log.batches) == window
    for number, reply in enumerate(replies):
        assert not reply.done()
        runner.log.release()
        await reply
        assert not any(later.done() for later in replies[number + 1 :])
    await until(lambda: len(runner.log.batches) == window + 1)
    assert last is not None
    assert not last.done()
    runner.log.release()
    await last
    assert not runner.shard.in_flight
    assert runner.commits.count == window + 1


@pytest.mark.parametrize("window", [2, 3])
async def test_full_window_collects_decisions_for_the_next_batch(window: int) -> None:
    runner = HeldRunner(window=window)
    for _ in range(window):
        await sent(runner)
    replies = []
    for _ in range(5):
        runner.create()
        runner.changed()
        replies.append(runner.durable())
        await turns()
    for _ in range(window + 1):
        runner.log.release()
        await turns()
    assert all(reply is not None and reply.done() for reply in replies)
    assert [batch.lsn for batch in runner.log.batches] == list(range(1, window + 2))


@pytest.mark.parametrize("window", [1, 2, 3, 8])
async def test_window_keeps_order_and_bound_under_random_decisions_and_ends(window: int) -> None:
    """The log itself asserts the bound."""
    chance = random.Random(window)
    runner = HeldRunner(window=window)
    order: list[int] = []
    replies = []
    for number in range(400):
        runner.create()
        runner.changed()
        reply = runner.durable()
        assert reply is not None
        reply.add_done_callback(lambda _, number=number: order.append(number))  # type: ignore[misc]
        replies.append(reply)
        await turns(chance.randint(0, 3))
        while runner.shard.in_flight and chance.random() < 0.5:
            runner.log.release()
            await turns(chance.randint(1, 3))
    while not replies[-1].done():
        if runner.shard.in_flight:
            runner.log.release()
        await turns(3)
    assert order == list(range(400))
    assert [batch.lsn for batch in runner.log.batches] == list(range(1, len(runner.log.batches) + 1))
    assert len(runner.log.store.scan(b"t", b"u", 1000)) == 400
    assert runner.fatal == []


@pytest.mark.parametrize("confirmed", [False, True])
async def test_read_waits_for_every_batch_in_flight_and_not_only_the_first(confirmed: bool) -> None:
    runner = HeldRunner(window=3)
    for _ in range(3):
        await sent(runner)
    if confirmed:
        runner.log.confirmation = asyncio.get_running_loop().create_future()
    read = runner.durable()
    assert read is not None
    if runner.log.confirmation is not None:
        runner.log.confirmation.set_result(None)
    for _ in range(2):
        runner.log.release()
        await turns()
        assert not read.done()
    runner.log.release()
    await read


async def test_close_waits_for_all_batches_in_flight_and_the_open_batch() -> None:
    runner = HeldRunner(window=3)
    for _ in range(3):
        await sent(runner)
    runner.create()
    closing = asyncio.ensure_future(runner.close())
    for _ in range(4):
        await turns()
        assert (runner.log.closed, closing.done()) == (0, False)
        runner.log.release()
    await closing
    assert (runner.log.closed, len(runner.log.batches)) == (1, 4)


# -- failures ----------------------------------------------------------------------------------------------------


async def test_failure_of_the_middle_batch_leaves_the_first_and_poisons_the_rest() -> None:
    runner = HeldRunner(window=3)
    first, middle, last = [await sent(runner) for _ in range(3)]
    runner.create()
    following = runner.durable()
    runner.log.release()
    await first
    problem = OSError("no space")
    runner.log.fail(problem)
    for reply in (middle, last, following):
        assert await reason_of(reply) is Reason.OUTCOME_UNKNOWN
    left = len(runner.log.batches)
    runner.log.release()
    runner.changed()
    await turns()
    assert len(runner.log.batches) == left
    assert asked_for(runner) == [Reason.OUTCOME_UNKNOWN] * 3
    assert (runner.fatal, runner.commits.count) == ([problem], 1)


async def test_rejected_append_ends_the_runner_without_a_failure() -> None:
    runner = HeldRunner(window=2)
    first, second = [await sent(runner) for _ in range(2)]
    runner.log.fail(ELSEWHERE.again())
    assert [await reason_of(first), await reason_of(second)] == [Reason.OUTCOME_UNKNOWN] * 2
    assert asked_for(runner) == [Reason.NOT_LEADER] * 3
    assert runner.fatal == []


async def test_cancelled_append_poisons_the_runner() -> None:
    runner = HeldRunner(window=2)
    reply = await sent(runner)
    runner.log._held[0][1].cancel()
    assert await reason_of(reply) is Reason.OUTCOME_UNKNOWN
    assert len(runner.fatal) == 1


# -- confirmations -----------------------------------------------------------------------------------------------


def confirmation_of(runner: HeldRunner) -> asyncio.Future[None]:
    confirmation: asyncio.Future[None] = runner.loop.create_future()
    runner.log.confirmation = confirmation
    return confirmation


async def test_durable_waits_for_a_confirmation_when_nothing_was_decided() -> None:
    runner = HeldRunner()
    confirmation = confirmation_of(runner)
    gone, there = runner.durable(), runner.durable()
    assert gone is not None
    assert there is not None
    gone.cancel()
    await turns()
    assert not confirmation.cancelled()
    assert not there.done()
    confirmation.set_result(None)
    await there
    assert runner._confirming == {}


async def test_durable_with_an_unsent_batch_needs_no_confirmation() -> None:
    """A committed batch proves that no other leader had decided anything when it was sent."""
    runner = HeldRunner()
    confirmation_of(runner)
    reply = await sent(runner)
    runner.log.release()
    await reply


@pytest.mark.parametrize("confirmed_first", [True, False])
async def test_durable_with_a_batch_in_flight_waits_for_batch_and_confirmation(*, confirmed_first: bool) -> None:
    """The batch may commit on acks older than the state in the reply, and another leader may have decided since."""
    runner = HeldRunner(window=2)
    await sent(runner)
    confirmation = confirmation_of(runner)
    reply = runner.durable()
    assert reply is not None
    steps: list[Callable[[], None]] = [lambda: confirmation.set_result(None), runner.log.release]
    if not confirmed_first:
        steps.reverse()
    steps[0]()
    await turns()
    assert not reply.done()
    steps[1]()
    await reply


async def test_rejected_confirmation_means_outcome_unknown_for_callers_with_a_batch_in_flight() -> None:
    runner = HeldRunner()
    idle = confirmation_of(runner)
    alone = runner.durable()
    await sent(runner)
    busy = confirmation_of(runner)
    beside = runner.durable()
    for confirmation in (idle, busy):
        confirmation.set_exception(ELSEWHERE.again())
    assert await reason_of(alone) is Reason.NOT_LEADER
    assert await reason_of(beside) is Reason.OUTCOME_UNKNOWN
    runner.log.confirmation = None
    reply = runner.durable()
    runner.log.release()
    assert reply is not None
    await reply
    assert runner.fatal == []


async def test_failed_confirmation_poisons_the_runner() -> None:
    runner = HeldRunner()
    confirmation = confirmation_of(runner)
    reply = runner.durable()
    problem = RuntimeError("defect")
    confirmation.set_exception(problem)
    assert await reason_of(reply) is Reason.OUTCOME_UNKNOWN
    assert runner.fatal == [problem]


# -- the end of a leadership -------------------------------------------------------------------------------------


async def test_end_rejects_later_requests_even_if_nothing_is_waiting() -> None:
    runner = HeldRunner()
    runner.end(ELSEWHERE)
    runner.end(Rejection(Reason.DRAINING, "again"))
    assert asked_for(runner) == [Reason.NOT_LEADER] * 3
    with pytest.raises(Rejection) as refused:
        runner.now()
    assert refused.value.metadata == ELSEWHERE.metadata
    assert refused.value is not ELSEWHERE
    assert runner.fail(RuntimeError("late")).reason is Reason.OUTCOME_UNKNOWN
    assert runner.fatal == []


async def test_end_before_the_commit_keeps_the_batch_out_of_the_log() -> None:
    runner = HeldRunner()
    runner.create()
    runner.changed()
    reply = runner.durable()
    runner.end(ELSEWHERE)
    assert await reason_of(reply) is Reason.OUTCOME_UNKNOWN
    await turns()
    assert runner.log.batches == []


@pytest.mark.parametrize("fails", [True, False])
async def test_end_with_batches_in_flight_ignores_their_outcomes(*, fails: bool) -> None:
    runner = HeldRunner(window=2)
    replies: list[asyncio.Future[None] | None] = [await sent(runner), await sent(runner)]
    runner.create()
    replies.append(runner.durable())
    runner.end(ELSEWHERE)
    for reply in replies:
        assert await reason_of(reply) is Reason.OUTCOME_UNKNOWN
    if fails:
        runner.log.fail(OSError("gone"))
    else:
        runner.log.release()
    await turns()
    await runner.close()
    assert (len(runner.log.batches), runner.log.closed, runner.fatal) == (2, 1, [])
    assert runner.commits.count == 0


async def test_end_reports_no_success_for_a_batch_that_became_durable_in_the_same_turn() -> None:
    runner = HeldRunner()
    reply = await sent(runner)
    runner.log.release()
    runner.end(ELSEWHERE)
    assert await reason_of(reply) is Reason.OUTCOME_UNKNOWN


async def test_end_rejects_callers_waiting_only_for_a_confirmation() -> None:
    runner = HeldRunner()
    confirmation = confirmation_of(runner)
    alone = runner.durable()
    await sent(runner)
    beside = runner.durable()
    runner.end(ELSEWHERE)
    confirmation.set_result(None)
    assert await reason_of(alone) is Reason.NOT_LEADER
    assert await reason_of(beside) is Reason.OUTCOME_UNKNOWN


async def test_end_rejects_callers_waiting_for_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "BATCH_ROWS_MAX", 1)
    runner = HeldRunner()
    await sent(runner)
    runner.create()
    runner.create()
    waiting = asyncio.ensure_future(runner.room("acme"))
    await turns()
    runner.end(ELSEWHERE)
    assert await reason_of(waiting) is Reason.NOT_LEADER


async def test_end_rejects_a_caller_waiting_for_a_task_to_end() -> None:
    runner = HeldRunner()
    watching = [runner.ends.watch("x"), runner.ends.watch("x")]
    runner.end(ELSEWHERE)
    assert [await reason_of(each) for each in watching] == [Reason.NOT_LEADER] * 2


async def test_end_stops_the_timers() -> None:
    runner = HeldRunner(ShardSettings())
    runner.log.free = True
    runner.create(delay=20)
    await runner.wait_durable()
    runner.create()
    assert claim(runner.shard, Caller("acme", "w", "w"), None, 1, 1 << 20, 20, runner.now()) is not None
    await runner.wait_durable()
    timer = runner._due.timer
    assert timer is not None
    runner.end(ELSEWHERE)
    assert timer.cancelled()
    left = len(runner.log.batches)
    runner.clock.forward(1000)
    runner.changed()
    assert runner._due.run() == 0
    await turns()
    assert len(runner.log.batches) == left
    assert runner.shard.queues[1].scheduled == 1
