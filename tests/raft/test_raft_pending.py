"""Waiters for a group's decisions are notified once, and correctly."""

from __future__ import annotations

import asyncio

import pytest
from codeq_server.core.errors import Reason, Rejection
from codeq_server.replication.raft.pending import Pending


def elsewhere() -> Rejection:
    return Rejection(Reason.NOT_LEADER, "another node leads")


@pytest.fixture
async def pending() -> Pending:
    return Pending(asyncio.get_running_loop(), elsewhere)


async def told(future: asyncio.Future[None]) -> str:
    """Returns the outcome that is reported to a waiter."""
    try:
        async with asyncio.timeout(20):
            await future
    except Rejection as rejection:
        return rejection.reason.name
    return "done"


async def test_proposal_completes_when_its_entry_is_applied_in_its_term(pending: Pending) -> None:
    futures = [pending.proposed(index, 3) for index in (5, 6, 7, 8)]
    pending.applied([(4, 3, True), (5, 3, True), (6, 4, True), (7, 3, False)])
    assert [await told(future) for future in futures[:3]] == ["done", "NOT_LEADER", "NOT_LEADER"]
    assert not futures[3].done()
    assert pending.proposals == 1


async def test_every_waiter_is_notified_once_when_leadership_is_lost(pending: Pending) -> None:
    asked: list[bytes] = []
    answered = pending.ask(True, asked.append)
    await asyncio.sleep(0)
    unanswered = pending.ask(True, asked.append)
    await asyncio.sleep(0)
    pending.answered(9, asked[0])
    waiting = [pending.proposed(5, 3), answered, unanswered, pending.ask(True, asked.append)]
    pending.fail()
    assert [await told(future) for future in waiting] == ["NOT_LEADER"] * 4
    pending.applied([(5, 3, True)])
    pending.answered(9, asked[1])
    pending.reached(9)
    assert len(asked) == 2
    assert pending.proposals == 0


async def test_reads_of_one_turn_share_a_read_index(pending: Pending) -> None:
    asked: list[bytes] = []
    first, second = pending.ask(True, asked.append), pending.ask(True, asked.append)
    assert first is second
    assert asked == []
    await asyncio.sleep(0)
    third = pending.ask(True, asked.append)
    await asyncio.sleep(0)
    assert len(set(asked)) == 2
    pending.answered(7, asked[0])
    pending.answered(9, asked[1])
    pending.reached(6)
    assert not first.done()
    pending.reached(8)
    assert (await told(first), third.done()) == ("done", False)
    pending.reached(9)
    assert await told(third) == "done"


async def test_read_after_a_loss_of_leadership_is_independent_of_earlier_reads(pending: Pending) -> None:
    asked: list[bytes] = []
    before = pending.ask(True, asked.append)
    pending.fail()
    after = pending.ask(True, asked.append)
    await asyncio.sleep(0)
    assert len(asked) == 1
    pending.answered(1, asked[0])
    pending.reached(1)
    assert [await told(before), await told(after)] == ["NOT_LEADER", "done"]


async def test_read_on_a_follower_is_rejected_at_once(pending: Pending) -> None:
    asked: list[bytes] = []
    assert await told(pending.ask(False, asked.append)) == "NOT_LEADER"
    await asyncio.sleep(0)
    assert asked == []


async def test_cancelled_waiter_does_not_affect_others(pending: Pending) -> None:
    gone, there = pending.proposed(5, 3), pending.proposed(6, 3)
    gone.cancel()
    pending.applied([(5, 3, True), (6, 3, True)])
    assert await told(there) == "done"
    pending.proposed(7, 3).cancel()
    pending.fail()
