"""Admission: tenants take turns, and one tenant's flood never delays another by more than one share."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import pytest
from codeq_server.core.errors import Reason, Rejection
from codeq_server.engine.admission import CALL_COST, QUANTUM, TURN_COST, Admission
from held_log import HeldRunner, turns, until

FRAME_COST = CALL_COST + 64


class Gate(Admission):
    """An admission whose batch is full whenever the test sets `full`."""

    def __init__(self) -> None:
        self.full = False
        self.order: list[str] = []
        self.callers: list[asyncio.Task[None]] = []
        super().__init__(asyncio.get_running_loop(), lambda: self.full)

    def call(self, tenant: str, cost: int = FRAME_COST, count: int = 1) -> None:
        """Starts callers that enter and record the order of their turns."""
        self.callers += [asyncio.create_task(self._enter(tenant, cost)) for _ in range(count)]

    def cost_of(self, tenant: str, cost: int) -> int:
        """Returns the total cost of the tenant's callers that have entered."""
        return self.order.count(tenant) * cost

    async def _enter(self, tenant: str, cost: int) -> None:
        await self.enter(tenant, cost)
        self.order.append(tenant)

    async def reopened(self) -> None:
        """Makes room in the batch, and runs until nobody is in line."""
        self.full = False
        self.reopen()
        await until(lambda: all(caller.done() for caller in self.callers))


@pytest.fixture
async def gate() -> Gate:
    return Gate()


def passes_at_once(entering: Coroutine[object, object, None]) -> bool:
    """Returns whether a coroutine finishes without yielding."""
    try:
        entering.send(None)
    except StopIteration:
        return True
    entering.close()
    return False


async def test_enter_with_room_returns_without_yielding(gate: Gate) -> None:
    assert passes_at_once(gate.enter("acme", TURN_COST))


async def test_enter_waits_for_the_next_turn_once_the_current_one_is_spent(gate: Gate) -> None:
    await gate.enter("acme", TURN_COST)
    assert not passes_at_once(gate.enter("acme", CALL_COST))
    await turns(2)
    assert passes_at_once(gate.enter("acme", CALL_COST))


async def test_callers_that_enter_at_once_are_spread_over_event_loop_turns(gate: Gate) -> None:
    gate.call("acme", count=1000)
    most, before = 0, 0
    while len(gate.order) < 1000:
        await turns(1)
        most, before = max(most, len(gate.order) - before), len(gate.order)
    assert 0 < most <= TURN_COST // FRAME_COST + 1


async def test_caller_behind_another_tenants_flood_waits_for_only_one_share(gate: Gate) -> None:
    gate.full = True
    gate.call("flood", count=1000)
    await turns()
    gate.call("quiet", CALL_COST)
    await turns()
    assert len(gate) == 1001
    await gate.reopened()
    assert gate.order.index("quiet") <= QUANTUM // FRAME_COST + 1


async def test_caller_that_enters_during_a_flood_waits_for_only_one_share(gate: Gate) -> None:
    """The flood is refilled as it is served, like the flood of a stream."""
    gate.call("flood", count=300)
    for _ in range(20):
        await turns(1)
        before = len(gate.order)
        gate.call("quiet", CALL_COST)
        gate.call("flood", count=10)
        await until(lambda: gate.order[-1:] == ["quiet"] or gate.order[before:].count("quiet"))  # noqa: B023
        waited = gate.order[before:].index("quiet")
        assert waited <= (2 * TURN_COST + QUANTUM) // FRAME_COST + 1
    await gate.reopened()


async def test_tenants_with_large_and_small_frames_share_capacity_by_cost(gate: Gate) -> None:
    gate.full = True
    gate.call("large", 512, count=100)
    gate.call("small", 16, count=3000)
    await turns()
    gate.full = False
    gate.reopen()
    await until(lambda: gate.order.count("small") > 1500)
    assert abs(gate.cost_of("large", 512) - gate.cost_of("small", 16)) <= TURN_COST + 512
    await gate.reopened()


async def test_cost_of_single_large_frames_is_paid_off_in_later_rounds(gate: Gate) -> None:
    """A tenant with one entry in line at a time gets no more turns than a tenant with several."""

    async def one_by_one() -> None:
        for _ in range(20):
            await gate.enter("large", 8 * QUANTUM)
            gate.order.append("large")

    gate.full = True
    gate.call("small", 16, count=3000)
    gate.callers.append(asyncio.create_task(one_by_one()))
    await turns()
    gate.full = False
    gate.reopen()
    await until(lambda: gate.order.count("small") > 1000)
    assert gate.cost_of("large", 8 * QUANTUM) <= gate.cost_of("small", 16) + TURN_COST + 16 * QUANTUM
    await gate.reopened()


async def test_callers_of_one_tenant_enter_in_order(gate: Gate) -> None:
    gate.full = True
    order: list[int] = []

    async def enter(number: int) -> None:
        await gate.enter("acme", FRAME_COST)
        order.append(number)

    gate.callers = [asyncio.create_task(enter(number)) for number in range(50)]
    await turns()
    await gate.reopened()
    assert order == list(range(50))


async def test_cancelled_caller_leaves_the_line(gate: Gate) -> None:
    gate.full = True
    gate.call("acme", count=3)
    await turns()
    gate.callers[1].cancel()
    await turns()
    assert len(gate) == 2
    await gate.reopened()
    assert len(gate.order) == 2


async def test_work_pushed_again_while_waiting_runs_once(gate: Gate) -> None:
    done = []

    def work() -> int:
        done.append(1)
        return 1

    gate.push("acme", work)
    gate.push("acme", work)
    await turns()
    assert done == [1]
    gate.push("acme", work)
    await turns()
    assert done == [1, 1]


async def test_endlessly_pushed_work_blocks_neither_the_loop_nor_other_tenants(gate: Gate) -> None:
    done = 0

    def endless() -> int:
        nonlocal done
        done += 1
        gate.push("acme", endless)
        return QUANTUM

    gate.push("acme", endless)
    await turns(2)
    before = done
    gate.call("quiet")
    await turns(3)
    assert gate.order == ["quiet"]
    assert done - before <= 4 * (TURN_COST // QUANTUM + 1)


async def test_charge_counts_against_the_current_turn(gate: Gate) -> None:
    await gate.enter("acme", CALL_COST)
    gate.charge("acme", TURN_COST)
    assert not passes_at_once(gate.enter("acme", CALL_COST))


async def test_quiet_tenant_gets_room_before_one_that_floods_a_full_batch() -> None:
    """A thousand frames of one tenant wait for the next batch, but a single later call still gets into it."""
    runner = HeldRunner()
    decided: list[str] = []

    async def create(tenant: str, cost: int, count: int) -> None:
        await runner.room(tenant, cost)
        for _ in range(count):
            runner.create(tenant=tenant)
        runner.changed()
        decided.append(tenant)

    await runner.create_and_commit()
    async with asyncio.TaskGroup() as group:
        for _ in range(1000):
            group.create_task(create("flood", FRAME_COST, 64))
        await until(runner.admission._is_full)
        await turns()
        before = len(decided)
        group.create_task(create("quiet", CALL_COST, 1))
        await turns()
        assert len(decided) == before
        runner.log.free = True
        runner.log.release()
        await until(lambda: "quiet" in decided)
        assert decided.index("quiet") - before <= QUANTUM // FRAME_COST + 1
        assert runner.shard.by_name["quiet", "a"].created_total == 1
        assert len(runner.log.batches) == 2
    assert len(decided) == 1001


async def test_waiters_of_different_tenants_are_woken_in_turn() -> None:
    """The queues of two tenants get work at the same time; the quiet tenant's waiter is not woken last."""
    runner = HeldRunner()
    runner.log.free = True
    woken: list[str] = []

    class Waiter:
        def __init__(self, tenant: str) -> None:
            self.tenant = tenant
            runner.waiting.wait(self, tenant, ["a"])

        def wake(self) -> None:
            woken.append(self.tenant)

        def drain(self, _: Rejection) -> None:
            woken.append("drained")

    for tenant in ("flood", "quiet"):
        waiters = [Waiter(tenant) for _ in range(1000 if tenant == "flood" else 1)]
        runner.create(tenant=tenant)
        assert len(waiters) > 0
    runner.changed()
    await until(lambda: "quiet" in woken)
    assert woken.index("quiet") <= QUANTUM // CALL_COST + 1
    await until(lambda: len(woken) == 1001)


async def test_failed_commit_rejects_every_caller_waiting_for_room() -> None:
    runner = HeldRunner()
    await runner.create_and_commit()
    await runner.room("acme", 100 * TURN_COST)
    waiting = [asyncio.ensure_future(runner.room("acme")) for _ in range(3)]
    runner.fail(RuntimeError("broke off"))
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(result, Rejection)
        assert result.reason is Reason.OUTCOME_UNKNOWN
    assert len(runner.admission) == 0
