"""Stream frames are sent once everything they depend on is durable, and never if that fails."""

from __future__ import annotations

import asyncio

import pytest
from codeq_server.core.errors import Reason, Rejection
from codeq_server.services.outbox import Outbox
from held_log import HeldRunner, until


async def test_frame_is_not_sent_if_its_batch_fails_right_after_the_previous_one_succeeds() -> None:
    runner = HeldRunner(window=2)
    outbox: Outbox[str] = Outbox(runner)
    sent: list[str] = []

    async def send(frames: list[str]) -> None:
        sent.extend(frames)

    running = asyncio.ensure_future(outbox.run(send))
    for frame in ("one", "two"):
        count = len(runner.log.batches)
        runner.create()
        outbox.put(frame)
        await until(lambda count=count: len(runner.log.batches) > count)
    runner.log.release()
    runner.log.fail(Rejection(Reason.NOT_LEADER, "another leads"))
    with pytest.raises(Rejection) as refused:
        await running
    assert refused.value.reason is Reason.OUTCOME_UNKNOWN
    assert sent == ["one"]
