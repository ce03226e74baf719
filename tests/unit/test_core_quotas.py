"""Quotas accept up to the limit and refuse beyond it, whatever was decided before in the same batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from accepted_tasks import create
from codeq_internal.v1 import rows_pb2
from codeq_server.core import names, purging, quotas, redrive, usage, withdrawal
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.limits import Limits
from codeq_server.core.model import Caller
from codeq_server.core.new_task import Naming, NewTask
from codeq_server.core.status import Outcome
from driven_shard import TENANT, DrivenShard


def limited(**quota: int) -> DrivenShard:
    return DrivenShard(limits=Limits(**quota), retention_ms=1_000, queue_idle_ms=2_000)


def set_limits(shard: DrivenShard, name: str = TENANT, **limits: int) -> None:
    usage.set_limits(shard.shard, name, rows_pb2.LimitsRow(**limits))  # type: ignore[arg-type]


def refused(call: Callable[[], object], quota: str, limit: int) -> None:
    with pytest.raises(Rejection) as caught:
        call()
    reason = Reason.TOO_MANY_QUEUES if quota == "queuesMax" else Reason.QUOTA_EXCEEDED
    assert caught.value.reason is reason
    assert caught.value.metadata == {"quota": quota, "limit": str(limit)}
    assert quota in caught.value.message


# -- waiting tasks -----------------------------------------------------------------------------------------------------


def test_waiting_tasks_are_accepted_up_to_the_quota_over_all_queues_and_kinds() -> None:
    shard = limited(waiting_tasks_max=4)
    shard.create("a")
    shard.create("b", delay=10_000)
    shard.write()
    shard.create("c", priority=9)
    shard.create("a", delay=1)
    refused(lambda: shard.create("d"), "waitingTasksMax", 4)
    assert (TENANT, "d") not in shard.shard.by_name
    shard.create("a", tenant="globex")  # another tenant has its own quota


def test_refusal_says_how_much_is_used_and_how_much_is_missing() -> None:
    shard = limited(waiting_tasks_max=1)
    shard.create()
    with pytest.raises(Rejection, match=r"tasks is 1 \(waitingTasksMax\): with 1 waiting there is no room for 2 more"):
        quotas.check_create(shard.shard, TENANT, 2, 0)
    set_limits(shard, waiting_tasks_max=0, stored_bytes_max=50)
    with pytest.raises(
        Rejection, match=r"bytes is 50 \(storedBytesMax\): with \d+ stored there is no room for 60 more"
    ):
        quotas.check_create(shard.shard, TENANT, 1, 60)


def test_room_is_known_at_once_when_a_task_stops_waiting() -> None:
    shard = limited(waiting_tasks_max=2)
    first, second = shard.create(), shard.create(delay=5_000)
    for leave in (
        lambda: shard.claim_ids(1),
        lambda: withdrawal.cancel(shard.shard, TENANT, second, "", shard.now),
    ):
        refused(shard.create, "waitingTasksMax", 2)
        leave()
        shard.create()
    refused(shard.create, "waitingTasksMax", 2)
    shard.settle(first)
    refused(shard.create, "waitingTasksMax", 2)  # a running task that ends makes no room


def test_tasks_that_the_server_puts_back_are_never_refused_but_count() -> None:
    shard = limited(waiting_tasks_max=1)
    returned = shard.create()
    shard.claim()
    nacked = shard.create()
    shard.claim()
    shard.create(delay=1_000)
    shard.give_back(returned)
    shard.nack(nacked)
    assert shard.queue().ready == 2
    refused(shard.create, "waitingTasksMax", 1)
    shard.pass_time(1_000)
    assert shard.queue().ready == 3
    assert len(shard.claim(3)) == 3
    shard.create()
    shard.settle(nacked, Outcome.FAILED, error="no")
    redrive.redrive_task(shard.shard, TENANT, nacked, shard.now)
    assert shard.queue().ready == 2
    refused(shard.create, "waitingTasksMax", 1)


def test_purged_tasks_make_room_as_they_end() -> None:
    shard = limited(waiting_tasks_max=3)
    for _ in range(3):
        shard.create()
    purging.purge(shard.shard, shard.queue(), shard.now)
    refused(shard.create, "waitingTasksMax", 3)
    shard.write()
    shard.run_due()
    shard.create()


def test_atomic_batch_is_refused_as_a_whole() -> None:
    shard = limited(waiting_tasks_max=3)
    shard.create()
    tasks = [NewTask("b", b"1") for _ in range(3)]
    refused(lambda: names.create_all(shard.shard, TENANT, tasks, None, shard.now), "waitingTasksMax", 3)
    assert (TENANT, "b") not in shard.shard.by_name
    assert len(names.create_all(shard.shard, TENANT, tasks[:2], None, shard.now)) == 2


def test_duplicate_is_answered_even_at_the_quota() -> None:
    shard = limited(waiting_tasks_max=1)
    task = NewTask("a", b"1", naming=Naming("k", b"d" * 16, b"m" * 16))
    batch = Naming("b", b"d" * 16, b"m" * 16)
    keyed = [NewTask("a", b"1", naming=Naming("b-0", b"d" * 16, b"m" * 16))]
    names.create(shard.shard, TENANT, task, shard.now)
    assert isinstance(names.create(shard.shard, TENANT, task, shard.now), names.Duplicate)
    refused(lambda: names.create_all(shard.shard, TENANT, keyed, batch, shard.now), "waitingTasksMax", 1)
    shard.claim()
    names.create_all(shard.shard, TENANT, keyed, batch, shard.now)
    assert [type(each) for each in names.create_all(shard.shard, TENANT, keyed, batch, shard.now)] == [names.Duplicate]


def test_whole_frame_skips_the_checks_only_if_all_of_it_fits() -> None:
    shard = limited(waiting_tasks_max=3, stored_bytes_max=10)
    shard.create(size=4)
    tight = [quotas.may_refuse(shard.shard, TENANT, tasks, size) for tasks, size in ((2, 6), (3, 6), (2, 7))]
    assert tight == [False, True, True]
    assert not quotas.may_refuse(limited().shard, TENANT, 1_000_000, 1 << 40)


# -- stored bytes ------------------------------------------------------------------------------------------------------


def test_stored_bytes_are_accepted_up_to_the_quota_and_results_count() -> None:
    shard = limited(stored_bytes_max=10)
    first = shard.create(size=4)
    shard.create(size=6)
    refused(lambda: shard.create(size=1), "storedBytesMax", 10)
    shard.claim()
    shard.settle(first, result=b"1" * 50)  # never refused
    assert usage.usage_of(shard.shard, TENANT).stored_bytes == 60
    refused(lambda: shard.create(size=1), "storedBytesMax", 10)


def test_other_stored_fields_of_a_task_count_too() -> None:
    shard = limited(stored_bytes_max=10)
    refused(
        lambda: names.create(shard.shard, TENANT, NewTask("a", b"1" * 4, kept=b"k" * 7), shard.now),
        "storedBytesMax",
        10,
    )
    names.create(shard.shard, TENANT, NewTask("a", b"1" * 4, kept=b"k" * 6), shard.now)


def test_removed_tasks_give_back_their_mean_size_and_the_last_one_everything() -> None:
    shard = limited(stored_bytes_max=30)
    sizes = [1, 10, 19]
    ids = [shard.create(size=size) for size in sizes]
    shard.claim(3)
    shard.settle(ids[0])
    shard.write()
    shard.pass_time(1_000)
    assert usage.usage_of(shard.shard, TENANT).stored_bytes == 20
    refused(lambda: shard.create(size=11), "storedBytesMax", 30)
    for task_id in ids[1:]:
        shard.settle(task_id)
    shard.write()
    shard.pass_time(1_000)
    assert usage.usage_of(shard.shard, TENANT).stored_bytes == 0
    shard.create(size=30)


# -- leases ------------------------------------------------------------------------------------------------------------


def test_claims_get_what_the_quota_leaves() -> None:
    shard = limited(leases_max=3)
    ids = [shard.create(command) for command in "aabbb"]
    assert len(shard.claim(2)) == 2
    assert len(shard.claim(9)) == 1
    assert shard.claim(1) == []
    refused(lambda: quotas.check_claim(shard.shard, TENANT), "leasesMax", 3)
    held = next(iter(shard.shard.deliveries))
    shard.settle(held)  # type: ignore[arg-type]
    quotas.check_claim(shard.shard, TENANT)
    assert len(shard.claim(9)) == 1
    assert len(ids) == 5


@pytest.mark.parametrize("way", ["complete", "nack", "give back", "cancel", "expire", "raise", "none"])
def test_tenant_at_its_quota_of_leases_is_fed_when_one_ends(way: str) -> None:
    shard = limited(leases_max=1)
    shard.create()
    shard.create()
    (held,) = shard.claim_ids(5, lease=5_000)
    assert shard.claim() == []
    assert shard.shard.starved == {TENANT}
    shard.shard.take_effects()
    match way:
        case "complete":
            shard.settle(held)
        case "nack":
            shard.nack(held, 60_000)
        case "give back":
            shard.give_back(held)
        case "cancel":
            withdrawal.cancel(shard.shard, TENANT, held, "", shard.now)
        case "expire":
            shard.pass_time(5_000)
        case "raise":
            set_limits(shard, leases_max=2)
        case _:
            shard.create()
    shard.shard.count()
    effects = shard.shard.take_effects()
    fed = [] if effects is None else list(effects.fed)
    assert fed == ([] if way == "none" else [TENANT])
    assert shard.shard.starved == ({TENANT} if way == "none" else set())
    assert len(shard.claim(1)) == (way != "none")


def test_leases_that_exceed_a_lowered_quota_stay() -> None:
    shard = limited()
    for _ in range(3):
        shard.create()
    ids = shard.claim_ids(2)
    set_limits(shard, leases_max=1)
    assert shard.claim() == []
    assert [shard.status(task_id) for task_id in ids] == ["CLAIMED", "CLAIMED"]
    shard.settle(ids[0])
    assert shard.claim() == []
    shard.settle(ids[1])
    assert len(shard.claim(2)) == 1


# -- queues ------------------------------------------------------------------------------------------------------------


def test_own_limit_of_queues_replaces_the_configured_one_both_ways() -> None:
    shard = limited(queues_max=2)
    set_limits(shard, queues_max=3)
    for command in "abc":
        shard.create(command)
    refused(lambda: shard.create("d"), "queuesMax", 3)
    set_limits(shard, queues_max=1)
    shard.create("c")
    refused(lambda: shard.create("d"), "queuesMax", 1)
    set_limits(shard, queues_max=0)
    shard.create("d")


def test_new_queues_are_counted_by_the_minute() -> None:
    shard = limited(new_queues_per_minute=2)
    shard.create("a")
    shard.pass_time(30_000)
    shard.create("b")
    refused(lambda: shard.create("c"), "newQueuesPerMinute", 2)
    tasks = [NewTask(command, b"1") for command in "cd"]
    shard.create("a")
    shard.create("c", tenant="globex")
    shard.pass_time(29_999)
    refused(lambda: shard.create("c"), "newQueuesPerMinute", 2)
    shard.pass_time(1)
    names.create_all(shard.shard, TENANT, tasks, None, shard.now)
    refused(lambda: shard.create("e"), "newQueuesPerMinute", 2)
    refused(
        lambda: names.create_all(shard.shard, "globex", [*tasks, NewTask("e", b"1")], None, shard.now),
        "newQueuesPerMinute",
        2,
    )


# -- mixes -------------------------------------------------------------------------------------------------------------


def test_quotas_hold_over_a_restart() -> None:
    shard = limited(waiting_tasks_max=3, stored_bytes_max=8, leases_max=1)
    for _ in range(3):
        shard.create()
    (held,) = shard.claim_ids()
    shard.create()
    shard.write()
    before = usage.usage_of(shard.shard, TENANT)
    shard.reopen()
    assert usage.usage_of(shard.shard, TENANT) == before
    refused(shard.create, "waitingTasksMax", 3)
    assert shard.claim() == []
    shard.settle(held)
    assert len(shard.claim()) == 1
    refused(shard.create, "storedBytesMax", 8)


def test_refusals_are_counted_by_quota_and_by_tenant() -> None:
    shard = limited(waiting_tasks_max=1)
    shard.create()
    for _ in range(2):
        refused(shard.create, "waitingTasksMax", 1)
    assert shard.shard.tenants.quota_refusals["waitingTasksMax"] == 2
    assert usage.usage_of(shard.shard, TENANT).quota_refused_total == 2
    assert usage.usage_of(shard.shard, "globex").quota_refused_total == 0


def test_tenants_without_quotas_are_not_counted_before_the_batch_is_sealed() -> None:
    shard = DrivenShard()
    create(shard.shard, TENANT, "a", b"1", 0, 0, 0, shard.now)
    shard.claim(by=Caller(TENANT, "w", "w"))
    assert shard.shard.batch.counted == {}
    used = shard.shard.directory.tenants[TENANT]
    assert (used.waiting, used.leases, used.stored_bytes) == (0, 0, 0)
    shard.write()
    assert (used.waiting, used.leases, used.stored_bytes) == (0, 1, 1)
