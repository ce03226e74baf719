"""Workers of a tenant at its quota of leases wait, and are served again as soon as a lease ends."""

from __future__ import annotations

import pytest
from codeq.v1 import tenant_service_pb2
from codeq_internal.v1.rows_pb2 import LimitsRow
from codeq_server.auth.claims import WORKER_SCOPES, Claims
from codeq_server.core import usage
from codeq_server.core.claims import claim
from codeq_server.core.limits import Limits
from codeq_server.core.model import Caller
from codeq_server.core.outcomes import settle
from codeq_server.core.shard import ShardSettings
from codeq_server.core.status import Outcome
from codeq_server.engine.admission import QUEUES_PER_COST
from codeq_server.services.serving import Serving
from held_log import HeldRunner, turns, until

LEASE_MS = 60_000


class Worker:
    """A waiter that claims whenever it is woken, and waits again if it got nothing, as streams do."""

    def __init__(self, runner: HeldRunner, commands: list[str] | None = None, *, tenant: str = "acme") -> None:
        self.runner, self.commands, self.caller = runner, commands, Caller(tenant, "w", "w")
        self.woken = 0
        self.got: list[str] = []
        self.claim()

    def claim(self) -> None:
        claimed = claim(self.runner.shard, self.caller, self.commands, 1, 1 << 20, LEASE_MS, self.runner.now())
        self.runner.changed()
        if claimed is None:
            self.runner.waiting.wait(self, self.caller.tenant, self.commands)
        else:
            self.got += [str(delivered.task_id) for delivered in claimed[1]]

    def wake(self) -> None:
        self.woken += 1
        self.claim()

    def drain(self, _: object) -> None:
        raise AssertionError

    def complete(self) -> None:
        """Ends its last delivery."""
        runner = self.runner
        settle(runner.shard, self.caller, self.got[-1], None, Outcome.COMPLETED, None, "", None, 0.5, runner.now())
        runner.changed()


@pytest.fixture
async def runner() -> HeldRunner:
    runner = HeldRunner(ShardSettings(limits=Limits(leases_max=1)))
    runner.log.free = True
    return runner


async def test_waiting_worker_gets_the_lease_that_another_one_ended(runner: HeldRunner) -> None:
    ids = [runner.create("a"), runner.create("b")]
    first, second = Worker(runner), Worker(runner, ["b"])
    assert (first.got, second.got) == (ids[:1], [])
    first.complete()
    await until(lambda: second.got == ids[1:])
    assert runner._feeding == {}


async def test_waiting_workers_are_served_in_order_one_for_each_lease_that_ends(runner: HeldRunner) -> None:
    for _ in range(6):
        runner.create()
    workers = [Worker(runner) for _ in range(4)]
    assert [len(worker.got) for worker in workers] == [1, 0, 0, 0]
    for index in range(3):
        workers[index].complete()
        await turns()
        assert [len(worker.got) for worker in workers] == [1] * (index + 2) + [0] * (2 - index)
    assert [worker.woken for worker in workers] == [0, 1, 1, 1]


async def test_worker_that_lines_up_behind_others_gets_the_lease_that_they_leave(runner: HeldRunner) -> None:
    usage.set_limits(runner.shard, "acme", LimitsRow(leases_max=2))
    for _ in range(4):
        runner.create()
    *holders, first, late = [Worker(runner) for _ in range(4)]
    runner.waiting.leave(late)
    for holder in holders:
        holder.complete()
    assert runner.line_up(late, "acme", None)
    await turns()
    assert (len(first.got), len(late.got)) == (1, 1)


async def test_new_work_does_not_wake_the_workers_of_a_tenant_at_its_quota(runner: HeldRunner) -> None:
    runner.create()
    holder, *waiting = [Worker(runner) for _ in range(3)]
    for _ in range(3):
        runner.create()
        runner.changed()
        await turns()
    assert [worker.woken for worker in waiting] == [0, 0]
    other = Worker(runner, tenant="globex")
    runner.create(tenant="globex")
    runner.changed()
    await until(lambda: other.got)
    holder.complete()
    await until(lambda: any(worker.got for worker in waiting))


async def test_worker_of_another_queue_is_served_if_the_first_ready_queue_has_no_waiter(runner: HeldRunner) -> None:
    ids = [runner.create(command) for command in ("a", "b", "c")]
    holder, waiting = Worker(runner, ["a"]), Worker(runner, ["c"])
    holder.complete()
    await until(lambda: waiting.got == ids[2:])


async def test_tenant_pays_for_the_ready_queues_that_are_looked_through_for_a_waiter(runner: HeldRunner) -> None:
    for number in range(4 * QUEUES_PER_COST):
        runner.create(f"c{number}")
    waiting = Worker(runner, ["none"])
    runner._feeding["acme"] = runner.waiting.turn
    assert runner._feed("acme") == 4
    assert waiting.woken == 0


async def test_tenant_pays_for_the_queues_whose_usage_is_summed_up(runner: HeldRunner) -> None:
    for number in range(4 * QUEUES_PER_COST):
        runner.create(f"c{number}")
    runner.changed()
    await turns()
    serving = Serving(runner, None, lease_seconds=60, artifact_bytes_max=0)
    claims = Claims("p", "acme", WORKER_SCOPES, frozenset({"*"}), "USER", is_admin=False)
    response = await serving.handlers["/codeq.v1.TenantService/GetUsage"](claims, tenant_service_pb2.GetUsageRequest())
    assert isinstance(response, tenant_service_pb2.GetUsageResponse)
    assert response.tenant.usage.queues == 4 * QUEUES_PER_COST
    assert runner.admission._spent == 4


async def test_expired_lease_feeds_the_tenant(runner: HeldRunner) -> None:
    runner.create()
    runner.create()
    _, waiting = Worker(runner), Worker(runner)
    runner.clock.forward(LEASE_MS)
    runner._due.run()
    await until(lambda: waiting.got)


async def test_raised_quota_feeds_all_that_wait(runner: HeldRunner) -> None:
    for _ in range(3):
        runner.create()
    workers = [Worker(runner) for _ in range(3)]
    usage.set_limits(runner.shard, "acme", LimitsRow(leases_max=2))
    runner.changed()
    await turns()
    assert [len(worker.got) for worker in workers] == [1, 1, 0]
    usage.set_limits(runner.shard, "_default", LimitsRow(leases_max=0))
    usage.set_limits(runner.shard, "acme", LimitsRow())
    runner.changed()
    await until(lambda: workers[2].got)
