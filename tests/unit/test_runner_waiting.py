"""Workers waiting for work: they are woken in order of arrival, once each, at a constant cost."""

from __future__ import annotations

import time

import pytest
from codeq_server.core.claims import claim
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.model import Caller, Queue
from codeq_server.core.outcomes import give_back
from codeq_server.core.status import Outcome
from codeq_server.engine.waiting import WaitingRoom
from held_log import HeldRunner, turns, until

Named = list[str] | None


class Worker:
    """A waiter that claims one task each time it is woken, and waits again if configured to do so."""

    def __init__(self, runner: HeldRunner, commands: Named, *, again: bool = False, tenant: str = "acme") -> None:
        self.runner, self.commands, self.again, self.tenant = runner, commands, again, tenant
        self.woken = 0
        self.got: list[str] = []
        self.wait()

    def wait(self) -> None:
        self.runner.waiting.wait(self, self.tenant, self.commands)

    def wake(self) -> None:
        self.woken += 1
        caller = Caller(self.tenant, "w", "w")
        claimed = claim(self.runner.shard, caller, self.commands, 1, 1 << 20, 60_000, self.runner.now())
        self.got += [delivered.task_id for delivered in claimed[1]] if claimed else []
        self.runner.changed()
        if self.again:
            self.wait()

    def drain(self, _: Rejection) -> None:
        self.got.append("drained")


class Glutton(Worker):
    """A waiter that never claims."""

    def wake(self) -> None:
        self.woken += 1
        self.wait()


@pytest.fixture
async def runner() -> HeldRunner:
    runner = HeldRunner()
    runner.log.free = True
    return runner


async def test_wake_lets_the_first_waiter_claim_a_new_task(runner: HeldRunner) -> None:
    first, second = Worker(runner, ["a"]), Worker(runner, ["a"])
    task_id = runner.create("a")
    runner.changed()
    await turns()
    assert (first.got, first.woken, second.woken) == ([task_id], 1, 0)
    assert len(runner.waiting) == 1


@pytest.mark.parametrize("commands", [["a"], None, ["b", "a"]])
async def test_wake_finds_waiters_for_one_several_and_all_commands(runner: HeldRunner, commands: Named) -> None:
    worker = Worker(runner, commands)
    runner.create("a")
    runner.changed()
    await until(lambda: worker.got)
    assert len(runner.waiting) == 0


async def test_wake_serves_waiters_for_some_and_for_all_commands_in_order_of_arrival(runner: HeldRunner) -> None:
    """A worker that names no commands is not served after workers that name a command and wait again at once."""
    named, every = Worker(runner, ["a"], again=True), Worker(runner, None, again=True)
    for _ in range(6):
        runner.create("a")
        runner.changed()
        await turns()
    assert (len(named.got), len(every.got)) == (3, 3)


async def test_wake_with_fewer_waiters_than_tasks_wakes_each_waiter_once(runner: HeldRunner) -> None:
    workers = [Worker(runner, ["a"], again=True) for _ in range(3)]
    for _ in range(5):
        runner.create("a")
    runner.changed()
    await turns(1)
    assert [worker.woken for worker in workers] == [1, 1, 1]


async def test_wake_tries_the_next_waiter_if_one_claims_nothing(runner: HeldRunner) -> None:
    glutton, worker = Glutton(runner, ["a"]), Worker(runner, ["a"])
    runner.create("a")
    runner.changed()
    await until(lambda: worker.got)
    assert glutton.woken == 1


async def test_wake_tries_only_waiters_for_the_queue(runner: HeldRunner) -> None:
    strangers = [Worker(runner, ["b"]), Worker(runner, None, tenant="globex"), Worker(runner, ["a"], tenant="globex")]
    runner.create("a")
    runner.changed()
    await turns()
    assert [worker.woken for worker in strangers] == [0, 0, 0]
    assert runner.shard.queues[1].ready == 1
    assert runner.shard.effects is None


async def test_wake_lets_the_next_waiter_claim_a_returned_task(runner: HeldRunner) -> None:
    first, second = Worker(runner, ["a"]), Worker(runner, ["a"])
    task_id = runner.create("a")
    runner.changed()
    await until(lambda: first.got)
    delivery = runner.shard.deliveries.pop(task_id)
    give_back(runner.shard, delivery, task_id, Outcome.BY_SERVER, runner.now())
    runner.changed()
    await until(lambda: second.got == [task_id])


async def test_leave_removes_the_waiter_everywhere(runner: HeldRunner) -> None:
    worker = Worker(runner, ["a", "b", "a"])
    runner.waiting.leave(worker)
    runner.waiting.leave(worker)
    runner.create("b")
    runner.changed()
    await turns()
    assert worker.woken == 0
    assert (len(runner.waiting), runner.waiting._rooms) == (0, {})


async def test_drain_notifies_every_waiter_and_empties_the_waiting_room(runner: HeldRunner) -> None:
    workers = [Worker(runner, ["a"]), Worker(runner, None), Worker(runner, ["b", "c"], tenant="globex")]
    runner.waiting.drain(Rejection(Reason.DRAINING, "stop"))
    assert [worker.got for worker in workers] == [["drained"]] * 3
    assert (len(runner.waiting), runner.waiting._rooms) == (0, {})


async def test_caller_that_waits_again_keeps_its_turn(runner: HeldRunner) -> None:
    first, second = Worker(runner, ["a"]), Worker(runner, ["a"])
    first.wait()
    runner.create("a")
    runner.changed()
    await until(lambda: first.got)
    assert second.woken == 0


def test_cost_of_a_wake_depends_on_claimable_tasks_and_not_on_waiters() -> None:
    """The time to deliver a single task does not grow with the number of waiters."""
    queue = Queue(1, "acme", "a")
    lane = queue.lane(0)

    class Taker:
        def __init__(self, room: WaitingRoom) -> None:
            self.room = room

        def wake(self) -> None:
            lane.ready -= 1
            self.room.wait(self, "acme", ["a"])

        def drain(self, _: Rejection) -> None:
            self.room.leave(self)

    def seconds_of(waiters: int) -> float:
        room = WaitingRoom()
        for _ in range(waiters):
            room.wait(Taker(room), "acme", ["a"])
        started = time.process_time()
        for _ in range(3000):
            lane.ready += 1
            assert room.wake(queue, room.turn)
        return time.process_time() - started

    few = min(seconds_of(10) for _ in range(3))
    assert min(seconds_of(20_000) for _ in range(3)) < 5 * few
