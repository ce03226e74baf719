"""The runner: nothing is reported before it is durable, and nothing succeeds after a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import ModuleType

import pytest
from codeq_server.core.claims import claim
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.model import Caller
from codeq_server.core.outcomes import settle
from codeq_server.core.shard import ShardSettings
from codeq_server.core.status import Outcome
from codeq_server.engine import due_work
from codeq_server.engine import runner as runner_module
from held_log import HeldRunner, turns, until

WORKER = Caller("acme", "w", "w")


@pytest.fixture
async def runner() -> HeldRunner:
    return HeldRunner()


async def reason_of(waiting: Awaitable[None]) -> Reason:
    with pytest.raises(Rejection) as refused:
        await waiting
    return refused.value.reason


def refusal_of_now(runner: HeldRunner) -> Reason:
    with pytest.raises(Rejection) as refused:
        runner.now()
    return refused.value.reason


# -- durability --------------------------------------------------------------------------------------------------


async def test_durable_is_none_when_nothing_was_decided(runner: HeldRunner) -> None:
    assert runner.durable() is None


async def test_durable_waits_until_the_log_confirms(runner: HeldRunner) -> None:
    runner.create()
    reply = runner.durable()
    assert reply is not None
    await until(lambda: runner.log.batches)
    await turns()
    assert not reply.done()
    runner.log.release()
    await reply


async def test_durable_waits_for_a_batch_in_flight(runner: HeldRunner) -> None:
    """A reply without rows of its own may depend on changes that are not durable yet."""
    await runner.create_and_commit()
    reply = runner.durable()
    assert reply is not None
    await turns()
    assert not reply.done()
    runner.log.release()
    await reply
    assert len(runner.log.batches) == 1


async def test_durable_waits_for_the_next_commit_if_one_began_before_the_decision(runner: HeldRunner) -> None:
    """A decision made after the commit has begun needs the next commit."""
    await runner.create_and_commit()
    runner.create()
    runner.changed()
    reply = runner.durable()
    assert reply is not None
    runner.log.release()
    await until(lambda: len(runner.log.batches) == 2)
    await turns()
    assert not reply.done()
    runner.log.release()
    await reply


async def test_decisions_during_a_commit_are_collected_in_one_batch(runner: HeldRunner) -> None:
    await runner.create_and_commit()
    replies = []
    for _ in range(5):
        runner.create()
        runner.changed()
        replies.append(runner.durable())
    runner.log.release()
    await until(lambda: len(runner.log.batches) == 2)
    runner.log.release()
    for reply in replies:
        assert reply is not None
        await reply
    assert len(runner.log.batches) == 2
    assert [batch.lsn for batch in runner.log.batches] == [1, 2]


async def test_replies_are_released_in_order(runner: HeldRunner) -> None:
    order: list[int] = []

    async def reply(number: int) -> None:
        runner.create()
        await runner.wait_durable()
        order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(reply(number))
        await until(lambda: runner.log.batches)
        runner.log.release()
    assert order == list(range(10))


async def test_cancelled_waiter_does_not_affect_the_others(runner: HeldRunner) -> None:
    runner.create()
    gone, there = runner.durable(), runner.durable()
    assert gone is not None
    assert there is not None
    gone.cancel()
    await until(lambda: runner.log.batches)
    runner.log.release()
    await there


# -- failures ----------------------------------------------------------------------------------------------------


async def test_failed_commit_rejects_every_waiter_with_outcome_unknown(runner: HeldRunner) -> None:
    await runner.create_and_commit()
    current = runner.durable()
    runner.create()
    following = runner.durable()
    runner.log.fail(OSError("no space"))
    for reply in (current, following):
        assert reply is not None
        assert await reason_of(reply) is Reason.OUTCOME_UNKNOWN
    assert refusal_of_now(runner) is Reason.OUTCOME_UNKNOWN
    assert await reason_of(runner.wait_durable()) is Reason.OUTCOME_UNKNOWN
    runner.changed()
    await turns()
    assert len(runner.log.batches) == 1
    assert [str(problem) for problem in runner.fatal] == ["no space"]


async def test_failure_before_the_commit_keeps_a_partial_decision_out_of_the_log(runner: HeldRunner) -> None:
    """The commit of an earlier decision is already scheduled, and would include the partial decision."""
    runner.create()
    runner.changed()
    reply = runner.durable()
    runner.create()
    problem = RuntimeError("broke off")
    assert runner.fail(problem).reason is Reason.OUTCOME_UNKNOWN
    assert runner.fail(RuntimeError("again")).reason is Reason.OUTCOME_UNKNOWN
    runner.changed()
    assert reply is not None
    assert await reason_of(reply) is Reason.OUTCOME_UNKNOWN
    await turns()
    assert runner.log.batches == []
    assert runner.fatal == [problem]


async def test_failure_during_the_commit_keeps_a_partial_decision_out_of_the_log(runner: HeldRunner) -> None:
    await runner.create_and_commit()
    runner.create()
    runner.changed()
    runner.fail(RuntimeError("broke off"))
    runner.log.release()
    await turns()
    assert len(runner.log.batches) == 1


async def test_commit_that_cannot_be_sealed_rejects_every_waiter(runner: HeldRunner) -> None:
    runner.create()
    reply = runner.durable()
    runner.shard.queues[1].dlq = -1  # a row cannot hold it
    assert reply is not None
    assert await reason_of(reply) is Reason.OUTCOME_UNKNOWN
    assert len(runner.fatal) == 1


async def test_timer_that_fails_poisons_the_runner(runner: HeldRunner) -> None:
    runner.create()
    assert claim(runner.shard, WORKER, None, 1, 1 << 20, 1, runner.now()) is not None
    runner.changed()
    runner.shard.batch.rows.clear()  # the rows contradict memory
    runner.clock.forward(1)
    await until(lambda: runner.fatal)
    assert refusal_of_now(runner) is Reason.OUTCOME_UNKNOWN


async def test_room_rejects_its_callers_when_the_commit_fails(
    runner: HeldRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "BATCH_ROWS_MAX", 1)
    await runner.create_and_commit()
    runner.create()
    runner.create()
    runner.changed()
    waiting = asyncio.ensure_future(runner.room("acme"))
    await turns()
    runner.log.fail(OSError("no space"))
    assert await reason_of(waiting) is Reason.OUTCOME_UNKNOWN


# -- limits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "most"), [("BATCH_ROWS_MAX", 1), ("BATCH_BYTES_MAX", 100)])
async def test_room_waits_for_the_next_batch_when_the_current_one_is_full(
    runner: HeldRunner, monkeypatch: pytest.MonkeyPatch, limit: str, most: int
) -> None:
    monkeypatch.setattr(runner_module, limit, most)
    await runner.create_and_commit()
    runner.create(size=60)
    runner.create(size=60)
    runner.changed()
    waiting = asyncio.ensure_future(runner.room("acme"))
    await turns()
    assert not waiting.done()
    runner.log.release()
    await waiting
    assert len(runner.log.batches) == 2


async def test_room_counts_the_bytes_of_results(runner: HeldRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "BATCH_BYTES_MAX", 100)
    await runner.create_and_commit()
    claimed = claim(runner.shard, WORKER, None, 1, 1 << 20, 60_000, runner.now())
    assert claimed is not None
    task_id = claimed[1][0].task_id
    settle(runner.shard, WORKER, task_id, None, Outcome.COMPLETED, b"1" * 101, "", None, 0.5, runner.now())
    runner.changed()
    waiting = asyncio.ensure_future(runner.room("acme"))
    await turns()
    assert not waiting.done()
    runner.log.release()
    await waiting


# -- the end -----------------------------------------------------------------------------------------------------


async def test_close_commits_pending_decisions_and_closes_the_log(runner: HeldRunner) -> None:
    await runner.create_and_commit()
    runner.create()
    closing = asyncio.ensure_future(runner.close())
    await turns()
    assert refusal_of_now(runner) is Reason.DRAINING
    runner.log.release()
    await until(lambda: len(runner.log.batches) == 2)
    early = runner.log.closed
    runner.log.release()
    await closing
    assert (early, runner.log.closed) == (0, 1)


async def test_close_closes_the_log_even_if_the_last_commit_fails(runner: HeldRunner) -> None:
    await runner.create_and_commit()
    closing = asyncio.ensure_future(runner.close())
    await turns()
    problem = OSError("no space")
    runner.log.fail(problem)
    await closing
    assert (runner.fatal, runner.log.closed) == ([problem], 1)


# -- time --------------------------------------------------------------------------------------------------------


async def test_timer_matures_a_due_task_without_any_request(runner: HeldRunner) -> None:
    runner.log.free = True
    runner.create(delay=20)
    runner.changed()
    queue = runner.shard.queues[1]
    await turns()
    assert queue.scheduled == 1
    runner.clock.forward(20)
    await until(lambda: queue.ready)
    await until(lambda: len(runner.log.batches) == 2)


async def test_timer_requeues_the_task_when_its_lease_expires(runner: HeldRunner) -> None:
    runner.log.free = True
    runner.create()
    assert claim(runner.shard, WORKER, None, 1, 1 << 20, 20, runner.now()) is not None
    runner.changed()
    queue = runner.shard.queues[1]
    runner.clock.forward(20)
    await until(lambda: queue.ready)
    assert queue.claimed == 0


async def test_timer_is_reset_when_something_falls_due_earlier(runner: HeldRunner) -> None:
    runner.log.free = True
    runner.create(delay=3_600_000)
    runner.changed()
    runner.create(delay=20)
    runner.changed()
    runner.clock.forward(20)
    await until(lambda: runner.shard.queues[1].ready)


async def test_timer_that_fires_early_waits_again(runner: HeldRunner) -> None:
    """The event loop's clock and the shard's clock need not agree."""
    runner.log.free = True
    runner.create(delay=5)
    runner.changed()
    fired = runner._due.timer
    await until(lambda: runner._due.timer is not fired)
    queue = runner.shard.queues[1]
    assert queue.scheduled == 1
    runner.clock.forward(5)
    await until(lambda: queue.ready)


async def test_timer_notices_that_the_wall_clock_was_set_forward(
    runner: HeldRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task due in an hour matures without any call when the clock is set forward by an hour."""
    monkeypatch.setattr(due_work, "TIMER_MS_MAX", 5)
    runner.log.free = True
    runner.create(delay=3_600_000)
    runner.changed()
    await turns()
    runner.clock.wall += 3_600_000
    await until(lambda: runner.shard.queues[1].ready)


@pytest.mark.parametrize(
    ("module", "limit"), [(runner_module, "BATCH_ROWS_MAX"), (due_work, "TIMER_ROWS_MAX")], ids=["callers", "timers"]
)
async def test_timer_waits_for_the_next_batch_when_the_current_one_is_full(
    runner: HeldRunner, monkeypatch: pytest.MonkeyPatch, module: ModuleType, limit: str
) -> None:
    monkeypatch.setattr(module, limit, 1)
    await runner.create_and_commit()
    runner.create()
    runner.create(delay=5)
    runner.changed()
    runner.clock.forward(5)
    assert runner._due.timer is not None
    await until(lambda: runner._due.timer is None)
    await turns()
    queue = runner.shard.queues[1]
    assert queue.scheduled == 1
    runner.log.free = True
    runner.log.release()
    await until(lambda: queue.ready == 3)


async def test_timer_removes_ended_tasks() -> None:
    runner = HeldRunner(ShardSettings(retention_ms=20))
    runner.log.free = True
    runner.create()
    claimed = claim(runner.shard, WORKER, None, 1, 1 << 20, 60_000, runner.now())
    assert claimed is not None
    settle(runner.shard, WORKER, claimed[1][0].task_id, None, Outcome.COMPLETED, None, "", None, 0.5, runner.now())
    await runner.wait_durable()
    runner.clock.forward(20)
    await until(lambda: runner.log.store.scan(b"r", b"u", 10) == [])


# -- the ends of tasks -------------------------------------------------------------------------------------------


async def test_watch_resolves_only_when_the_task_ends(runner: HeldRunner) -> None:
    runner.log.free = True
    task_id, other = runner.create(), runner.create()
    claim(runner.shard, WORKER, None, 2, 1 << 20, 60_000, runner.now())
    watching = [runner.ends.watch(task_id), runner.ends.watch(task_id)]
    for ended in (other, task_id):
        assert not any(future.done() for future in watching)
        settle(runner.shard, WORKER, ended, None, Outcome.COMPLETED, None, "", None, 0.5, runner.now())
        runner.changed()
    assert all(future.done() for future in watching)


async def test_unwatch_end_forgets_the_task_with_its_last_watcher(runner: HeldRunner) -> None:
    first, second = runner.ends.watch("x"), runner.ends.watch("x")
    runner.ends.unwatch("x", first)
    runner.ends.unwatch("x", first)
    assert runner.shard.watched == {"x"}
    runner.ends.unwatch("x", second)
    assert runner.shard.watched == set()
    assert runner.ends.futures == {}


async def test_drain_ends_the_wait_for_a_tasks_end(runner: HeldRunner) -> None:
    watching = runner.ends.watch("x")
    runner.drain()
    assert await reason_of(watching) is Reason.DRAINING
