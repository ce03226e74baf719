"""Batches stay within the size that a log accepts, however much progress their tasks carry."""

from __future__ import annotations

import pytest
from codeq_server.core.claims import claim
from codeq_server.core.heartbeats import report_progress
from codeq_server.core.model import Caller
from codeq_server.core.outcomes import settle
from codeq_server.core.status import Outcome
from codeq_server.core.timers import SLICE
from codeq_server.engine import due_work
from codeq_server.engine import runner as module
from held_log import HeldRunner, until

WORKER = Caller("acme", "w", "w")
PROGRESS = b'"' + b"x" * 10_000 + b'"'
TASKS = 1200


async def running(monkeypatch: pytest.MonkeyPatch, runner: HeldRunner) -> list[tuple[str, int]]:
    """Claims tasks and reports progress for them; returns their ids and tokens."""
    monkeypatch.setattr(module, "BATCH_BYTES_MAX", 1 << 20)
    monkeypatch.setattr(due_work, "TIMER_BYTES_MAX", 1 << 19)
    runner.log.free = True
    held: list[tuple[str, int]] = []
    for _ in range(TASKS):
        runner.create()
    while len(held) < TASKS:
        claimed = claim(runner.shard, WORKER, ["a"], 100, 1 << 30, 1000, runner.now())
        assert claimed is not None
        for delivered in claimed[1]:
            held.append((delivered.task_id, claimed[0].token))
            report_progress(runner.shard, WORKER, *held[-1], PROGRESS, None, runner.now())
        runner.changed()
        await runner.wait_durable()
    runner.log.batches.clear()
    return held


def largest(runner: HeldRunner) -> int:
    return max(sum(len(value or b"") for value in batch.rows.values()) for batch in runner.log.batches)


async def test_leases_that_expire_together_are_batched_by_the_size_of_their_progress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner = HeldRunner(window=4)
    await running(monkeypatch, runner)
    runner.clock.forward(5000)
    await until(lambda: not runner.shard.deliveries)
    await runner.wait_durable()
    assert largest(runner) < (1 << 19) + (SLICE + 256) * 2 * len(PROGRESS)
    assert len(runner.log.batches) > 1
    await runner.close()


async def test_callers_wait_for_the_next_batch_when_progress_fills_the_current_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner = HeldRunner(window=4)
    held = await running(monkeypatch, runner)
    for task_id, token in held:
        await runner.room("acme")
        settle(runner.shard, WORKER, task_id, token, Outcome.NACK, None, "no", 0, 0.5, runner.now())
        runner.changed()
    await runner.wait_durable()
    assert largest(runner) < (1 << 20) + 4 * len(PROGRESS)
    await runner.close()
