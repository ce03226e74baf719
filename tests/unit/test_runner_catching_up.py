"""A runner whose clock has been moved catches up at once: no timer needs to fire."""

from __future__ import annotations

import asyncio

import pytest
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.shard import ShardSettings
from codeq_server.core.timers import SLICE
from held_log import HeldRunner, turns

DELAY = 3_600_000


async def delayed(count: int) -> HeldRunner:
    """Returns a runner with delayed tasks."""
    runner = HeldRunner(ShardSettings())
    runner.log.free = True
    for _ in range(count):
        runner.create(delay=DELAY)
    await runner.wait_durable()
    return runner


@pytest.mark.parametrize("count", [1, 3 * SLICE])
async def test_everything_due_is_done_and_durable_afterwards(count: int) -> None:
    runner = await delayed(count)
    queue = runner.shard.queues[1]
    runner.clock.forward(DELAY - 1)
    await runner.catch_up()
    assert queue.scheduled == count
    runner.clock.forward(1)
    await runner.catch_up()
    assert queue.scheduled == 0
    assert not runner.shard.batch
    assert not runner.shard.in_flight


async def test_catching_up_waits_for_the_log() -> None:
    runner = await delayed(1)
    runner.log.free = False
    runner.clock.forward(DELAY)
    waiting = asyncio.ensure_future(runner.catch_up())
    await turns()
    assert not waiting.done()
    runner.log.release()
    await waiting


async def test_runner_that_has_ended_does_not_catch_up() -> None:
    runner = await delayed(1)
    runner.end(Rejection(Reason.NOT_LEADER, "another node leads"))
    runner.clock.forward(DELAY)
    with pytest.raises(Rejection):
        await runner.catch_up()
    assert runner.shard.queues[1].scheduled == 1
