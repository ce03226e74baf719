"""Queues appear with their first task and are removed after an idle period; their names can be reused."""

from __future__ import annotations

import pytest
from accepted_tasks import create
from codeq_internal.v1 import rows_pb2
from codeq_server.core import claims, idle, keys, reads
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.ids import parse_id
from codeq_server.core.limits import Limits
from codeq_server.core.listing import next_queue
from codeq_server.core.model import Caller
from codeq_server.core.redrive import cleanup, redrive_task
from driven_shard import TENANT, DrivenShard

IDLE_MS = 5_000
RETENTION_MS = 1_000


@pytest.fixture
def shard() -> DrivenShard:
    return DrivenShard(retention_ms=RETENTION_MS, queue_idle_ms=IDLE_MS)


def live_and_die(shard: DrivenShard, command: str = "a") -> str:
    """Creates and completes a task, and advances time until it is removed."""
    task_id = shard.create(command)
    assert shard.claim_ids(1, [command]) == [task_id]
    shard.settle(task_id)
    shard.write()
    shard.pass_time(RETENTION_MS)
    shard.write()
    return task_id


def number_of(task_id: str) -> int:
    ref = parse_id(task_id)
    assert ref is not None
    return ref.queue


def commands(shard: DrivenShard) -> list[str]:
    return [view.command for view in shard.list_queues()]


def test_queue_without_tasks_is_removed_from_memory_and_store(shard: DrivenShard) -> None:
    live_and_die(shard)
    shard.pass_time(IDLE_MS - 1)
    assert commands(shard) == ["a"]
    shard.pass_time(1)
    shard.write()
    assert shard.keys(b"q") == []
    assert (shard.shard.queues, shard.shard.by_name, shard.shard.ready) == ({}, {}, {})
    assert shard.shard.directory.tenants == {}
    assert shard.list_queues() == []
    assert shard.claim(1, ["a"]) == shard.claim() == []


def test_recreated_queue_gets_a_new_number_and_new_counters(shard: DrivenShard) -> None:
    first = live_and_die(shard)
    shard.pass_time(IDLE_MS)
    shard.write()
    shard.reopen()
    again = shard.create()
    shard.write()
    assert (number_of(first), number_of(again)) == (1, 2)
    assert (shard.queue().created_total, shard.queue().ready) == (1, 1)
    with pytest.raises(Rejection) as refused:
        shard.view(first)
    assert refused.value.reason is Reason.TASK_NOT_FOUND
    assert shard.claim_ids() == [again]


def test_queue_removed_and_recreated_in_one_batch_exists(shard: DrivenShard) -> None:
    live_and_die(shard)
    shard.pass_time(IDLE_MS)
    task_id = shard.create()
    shard.write()
    assert shard.keys(b"q") == [keys.queue_key(2)]
    shard.reopen()
    assert shard.claim_ids() == [task_id]


def test_queue_with_a_retained_task_stays() -> None:
    shard = DrivenShard(retention_ms=20 * IDLE_MS, queue_idle_ms=IDLE_MS)
    task_id = shard.complete_one()
    shard.write()
    shard.pass_time(10 * IDLE_MS)
    shard.write()
    assert (commands(shard), shard.status(task_id)) == (["a"], "COMPLETED")


def test_queue_that_is_used_again_is_not_removed(shard: DrivenShard) -> None:
    live_and_die(shard)
    shard.pass_time(IDLE_MS - 1)
    task_id = shard.create()
    shard.pass_time(IDLE_MS)
    shard.write()
    shard.pass_time(IDLE_MS)
    assert number_of(task_id) == 1
    assert shard.claim_ids() == [task_id]


def test_paused_queue_without_tasks_stays_until_it_is_resumed(shard: DrivenShard) -> None:
    live_and_die(shard)
    shard.shard.pause(shard.queue())
    shard.pass_time(2 * IDLE_MS)
    shard.write()
    shard.reopen()
    shard.pass_time(2 * IDLE_MS)
    assert [view.paused for view in shard.list_queues()] == [True]
    shard.shard.resume(shard.queue())
    shard.write()
    shard.pass_time(IDLE_MS - 1)
    assert commands(shard) == ["a"]
    shard.pass_time(1)
    assert commands(shard) == []


def test_unused_queue_is_removed_a_full_idle_period_after_a_restart(shard: DrivenShard) -> None:
    live_and_die(shard)
    shard.pass_time(IDLE_MS - 1)
    shard.reopen()
    shard.pass_time(IDLE_MS - 1)
    assert commands(shard) == ["a"]
    shard.pass_time(1)
    assert commands(shard) == []


def test_queue_number_is_not_reused_after_the_last_queue_is_removed(shard: DrivenShard) -> None:
    numbers = []
    for _ in range(3):
        numbers.append(number_of(live_and_die(shard)))
        shard.pass_time(IDLE_MS)
        shard.write()
        shard.reopen()
    assert numbers == [1, 2, 3]


def test_opening_reports_a_queue_above_the_last_number(shard: DrivenShard) -> None:
    shard.create()
    shard.write()
    tick = rows_pb2.TickRow.FromString(shard.store.get(keys.TICK) or b"")
    tick.last_queue = 0
    shard.store.write({keys.TICK: tick.SerializeToString()})
    with pytest.raises(Exception, match="most recently opened"):
        shard.reopen()


def test_claim_that_outlives_one_of_its_queues_survives_a_restart(shard: DrivenShard) -> None:
    short, long = shard.create("a"), shard.create("b")
    assert set(shard.claim_ids(2, lease=3_600_000)) == {short, long}
    shard.settle(short)
    shard.write()
    shard.pass_time(RETENTION_MS)
    shard.write()
    shard.pass_time(IDLE_MS)
    shard.write()
    assert commands(shard) == ["b"]
    shard.reopen()
    assert (shard.status(long), list(shard.shard.deliveries)) == ("CLAIMED", [long])


def test_list_of_ended_tasks_may_outlive_the_queue_of_its_tasks() -> None:
    shard = DrivenShard(retention_ms=RETENTION_MS, dlq_retention_ms=20 * IDLE_MS, queue_idle_ms=IDLE_MS)
    task_id = shard.create(attempts=1)
    shard.claim()
    shard.nack(task_id)
    shard.write()
    redrive_task(shard.shard, TENANT, task_id, shard.now)
    shard.claim()
    shard.settle(task_id)
    shard.write()
    shard.pass_time(RETENTION_MS)
    shard.write()
    shard.pass_time(IDLE_MS)
    shard.write()
    assert (len(shard.keys(b"r")), shard.keys(b"q")) == (1, [])
    (listed,) = shard.keys(b"r")
    assert cleanup(shard.shard, listed, TENANT, shard.wall, 0, 9).removed == 0
    shard.create("b")
    shard.write()
    shard.reopen()
    shard.pass_time(20 * IDLE_MS)
    shard.write()
    assert shard.keys(b"r") == []


def test_many_unused_queues_are_removed_in_slices(shard: DrivenShard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "SLICE", 2)
    for command in "abcde":
        live_and_die(shard, command)
    shard.mono += IDLE_MS
    now = shard.now
    left = []
    while idle.retire(shard.shard, now):
        left.append(len(shard.shard.queues))
    shard.write()
    assert left == [3, 1]
    assert shard.shard.queues == {}


def test_queue_limit_applies_to_each_tenant_separately() -> None:
    shard = DrivenShard(limits=Limits(queues_max=2), retention_ms=RETENTION_MS, queue_idle_ms=IDLE_MS)
    shard.create("a")
    live_and_die(shard, "b")
    with pytest.raises(Rejection, match="queuesPerTenantMax") as refused:
        shard.create("c")
    assert refused.value.reason is Reason.TOO_MANY_QUEUES
    assert not shard.shard.batch
    for command in "cd":
        create(shard.shard, "globex", command, b"1", 0, 0, 0, shard.now)
    shard.pass_time(IDLE_MS)
    shard.create("c")
    shard.write()
    assert commands(shard) == ["a", "c"]


def test_list_queues_pages_in_order_while_queues_come_and_go(shard: DrivenShard) -> None:
    for command in ("m", "c", "x"):
        live_and_die(shard, command)
        create(shard.shard, "globex", command, b"1", 0, 0, 0, shard.now)
    shard.create("b")
    shard.create("z")

    def page(after: str, count: int) -> list[str]:
        return [view.command for view in reads.list_queues(shard.shard, TENANT, after, count)]

    assert page("", 3) == ["b", "c", "m"]
    shard.pass_time(IDLE_MS)
    shard.write()
    assert page("m", 3) == ["z"]
    assert page("", 3) == ["b", "z"]
    shard.create("y")
    shard.write()
    shard.reopen()
    assert page("b", 3) == ["y", "z"]
    assert page("zz", 3) == reads.list_queues(shard.shard, "nobody", "", 3) == []


def test_next_queue_visits_the_tenants_queues_in_number_order(shard: DrivenShard) -> None:
    live_and_die(shard, "a")
    create(shard.shard, "globex", "a", b"1", 0, 0, 0, shard.now)
    shard.create("b")
    shard.create("c")
    shard.pass_time(IDLE_MS)
    assert [next_queue(shard.shard, TENANT, None, number) for number in (1, 3, 4, 5)] == [3, 3, 4, None]
    assert [next_queue(shard.shard, TENANT, ["c"], number) for number in (1, 5)] == [4, None]
    assert next_queue(shard.shard, "nobody", None, 1) is None


def test_another_tenants_claim_sees_nothing_of_a_removed_queue(shard: DrivenShard) -> None:
    live_and_die(shard)
    shard.pass_time(IDLE_MS)
    assert claims.claim(shard.shard, Caller("globex", "w", "w"), None, 1, 1 << 20, 1000, shard.now) is None
