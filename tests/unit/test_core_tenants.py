"""Limits of tenants: which are in force, where they are stored; and usage, which outlives queues and restarts."""

from __future__ import annotations

import pytest
from codeq.v1 import tenant_service_pb2 as pb
from codeq_internal.v1 import rows_pb2
from codeq_server.core import keys, redrive, tenant_keys, tenants, usage
from codeq_server.core.errors import CorruptRows, Reason, Rejection
from codeq_server.core.limits import INHERITED, NO_LIMITS, Limits, Rate
from codeq_server.core.status import Outcome
from codeq_server.core.tenants import DEFAULT, Tenants
from codeq_server.core.usage import overrides_of
from codeq_server.storage.check import check
from driven_shard import TENANT, DrivenShard


def put(shard: DrivenShard, name: str, **limits: object) -> None:
    usage.set_limits(shard.shard, name, rows_pb2.LimitsRow(**limits))  # type: ignore[arg-type]


def live_and_go(shard: DrivenShard, command: str = "a") -> None:
    """Creates and completes a task, and waits until its queue is removed."""
    task_id = shard.create(command)
    shard.claim(1, [command])
    shard.settle(task_id, result=b"12345")
    for ms in (0, 1_000, 2_000):
        shard.write()
        shard.pass_time(ms)
    shard.write()
    assert (TENANT, command) not in shard.shard.by_name


@pytest.fixture
def shard() -> DrivenShard:
    return DrivenShard(retention_ms=1_000, queue_idle_ms=2_000, limits=Limits(queues_max=7, leases_max=5))


# -- limits ------------------------------------------------------------------------------------------------------------


def test_fields_of_limits_are_those_of_the_proto_in_the_order_of_their_numbers() -> None:
    fields = pb.TenantLimits.DESCRIPTOR.fields
    assert [(field.number, field.name) for field in fields] == list(enumerate(Limits._fields, 1))
    rates = [field.name for field in fields if field.message_type is not None]
    assert rates == [name for name in Limits._fields if isinstance(getattr(NO_LIMITS, name), Rate)]
    quotas = [field.json_name for field in fields if field.message_type is None]
    assert sorted(quotas) == sorted(tenants.QUOTAS)


def test_row_of_limits_has_the_wire_form_of_the_public_message() -> None:
    public, row = pb.TenantLimits.DESCRIPTOR.fields, rows_pb2.LimitsRow.DESCRIPTOR.fields
    assert [(f.number, f.name, f.type, f.has_presence) for f in public] == [
        (f.number, f.name, f.type, f.has_presence) for f in row
    ]
    public, row = pb.RateLimit.DESCRIPTOR.fields, rows_pb2.RateRow.DESCRIPTOR.fields
    assert [(f.number, f.name, f.type) for f in public] == [(f.number, f.name, f.type) for f in row]


def test_every_limit_is_read_from_its_row() -> None:
    row = rows_pb2.LimitsRow()
    wanted: list[Rate | int] = []
    for number, field in enumerate(row.DESCRIPTOR.fields, 100):
        if field.message_type is not None:
            getattr(row, field.name).CopyFrom(rows_pb2.RateRow(requests_per_minute=number, burst_size=number * 1000))
            wanted.append(Rate(number, number * 1000))
        else:
            setattr(row, field.name, number << 30)
            wanted.append(number << 30)
    assert overrides_of(row) == tuple(wanted)
    zero = rows_pb2.LimitsRow(leases_max=0, producer=rows_pb2.RateRow())
    assert overrides_of(zero) == (Rate(0, 0), *INHERITED[1:8], 0, *INHERITED[9:])
    assert overrides_of(rows_pb2.LimitsRow()) == INHERITED


def test_own_limit_comes_before_the_stored_default_and_that_before_the_configuration(shard: DrivenShard) -> None:
    put(shard, DEFAULT, leases_max=3, streams_max=4)
    put(shard, TENANT, leases_max=0, producer=rows_pb2.RateRow(requests_per_minute=60, burst_size=2))
    of = shard.shard.tenants.limits_of
    assert of(TENANT) == Limits(producer=Rate(60, 2), queues_max=7, leases_max=0, streams_max=4)
    assert of("globex") == Limits(queues_max=7, leases_max=3, streams_max=4)
    put(shard, DEFAULT, streams_max=9)
    assert (of(TENANT).streams_max, of(TENANT).leases_max, of("globex").leases_max) == (9, 0, 5)
    put(shard, TENANT)
    assert of(TENANT) == of("globex") == Limits(queues_max=7, leases_max=5, streams_max=9)


def test_limits_are_recovered_once_they_are_written(shard: DrivenShard) -> None:
    put(shard, DEFAULT, leases_max=3)
    put(shard, TENANT, queues_max=1)
    before = shard.shard.tenants.limits_of(TENANT)
    shard.write()
    put(shard, TENANT, queues_max=2)  # not written
    shard.reopen()
    assert shard.shard.tenants.limits_of(TENANT) == before == Limits(queues_max=1, leases_max=3)
    assert shard.shard.tenants.limits_of("globex") == Limits(queues_max=7, leases_max=3)


def test_version_rises_with_each_change(shard: DrivenShard) -> None:
    seen = [shard.shard.tenants.version]
    for name in (TENANT, DEFAULT, TENANT):
        put(shard, name, leases_max=len(seen))
        seen.append(shard.shard.tenants.version)
    assert sorted(set(seen)) == seen


def test_row_without_limits_and_totals_is_deleted(shard: DrivenShard) -> None:
    put(shard, TENANT, leases_max=1)
    shard.write()
    assert shard.keys(keys.TENANTS) == [b"nacme"]
    put(shard, TENANT)
    shard.write()
    assert shard.keys(keys.TENANTS) == []


def test_only_so_many_tenants_have_limits_of_their_own(shard: DrivenShard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenants, "TENANT_LIMITS_MAX", 2)
    put(shard, "one", leases_max=1)
    put(shard, "two", leases_max=1)
    with pytest.raises(Rejection) as refused:
        put(shard, "three", leases_max=1)
    assert refused.value.reason is Reason.LIMIT_REACHED
    put(shard, "two", leases_max=2)
    put(shard, DEFAULT, leases_max=1)
    put(shard, "one")
    put(shard, "three", leases_max=1)


def test_refusals_of_only_so_many_tenants_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenants, "REFUSED_TENANTS_MAX", 2)
    counted = Tenants()
    for name in ("a", "b", "a", "c", "a"):
        counted.note_rate_limited(name)
    assert [counted.refused(name).by_rate for name in "abc"] == [3, 0, 1]


def test_opening_and_the_checker_report_an_unreadable_row(shard: DrivenShard) -> None:
    shard.create()
    shard.write()
    shard.store.write({tenant_keys.tenant_key(TENANT): b"\x0a\x02\x08"})
    with pytest.raises(CorruptRows):
        shard.reopen()
    found = [str(each) for each in check(shard.store.scan(b"", b"\xff", 1 << 30))]
    assert ["n " + TENANT.encode().hex() in each for each in found] == [True]


# -- usage -------------------------------------------------------------------------------------------------------------


def test_totals_outlive_queues_and_restarts(shard: DrivenShard) -> None:
    live_and_go(shard)
    live_and_go(shard, "b")
    failed = shard.create("c", size=3)
    shard.claim(1, ["c"])
    shard.nack(failed)
    shard.claim(1, ["c"])
    shard.write()
    for _ in range(2):
        used = usage.usage_of(shard.shard, TENANT)
        assert (used.created_total, used.delivered_total, used.completed_total) == (3, 4, 2)
        assert (used.accepted_bytes_total, used.stored_bytes, used.queues, used.leases) == (17, 3, 1, 1)
        shard.reopen()


def test_redriven_failures_stay_in_the_totals(shard: DrivenShard) -> None:
    task_id = shard.create()
    for failures in (1, 2):
        shard.claim()
        shard.settle(task_id, Outcome.FAILED, error="no")
        redrive.redrive_task(shard.shard, TENANT, task_id, shard.now)
        assert (usage.usage_of(shard.shard, TENANT).failed_total, shard.queue().failed_total) == (failures, 0)
    shard.write()
    shard.reopen()
    assert usage.usage_of(shard.shard, TENANT).failed_total == 2


def test_limits_and_totals_share_a_row_and_neither_loses_the_other(shard: DrivenShard) -> None:
    put(shard, TENANT, leases_max=2)
    live_and_go(shard)
    put(shard, TENANT, leases_max=3)
    shard.write()
    shard.reopen()
    assert usage.usage_of(shard.shard, TENANT).created_total == 1
    assert shard.shard.tenants.limits_of(TENANT).leases_max == 3
    put(shard, TENANT)
    shard.write()
    assert usage.usage_of(shard.shard, TENANT).created_total == 1


def test_queue_that_never_had_a_task_leaves_no_row(shard: DrivenShard) -> None:
    queue = shard.shard.open_queue(TENANT, "a")
    shard.shard.pause(queue)
    shard.write()
    shard.shard.resume(queue)
    shard.write()
    shard.pass_time(2_000)
    shard.write()
    assert (shard.shard.queues, shard.keys(b"n")) == ({}, [])


def test_tenant_without_queues_leaves_memory(shard: DrivenShard) -> None:
    live_and_go(shard)
    shard.pass_time(60_000)  # until the lease would have ended
    core = shard.shard
    assert (core.directory.tenants, core.ready, core.queues, core.by_name) == ({}, {}, {}, {})
    assert (core.tenants.own, core.lease_ends.tenants, core.starved) == ({}, {}, set())


def test_list_pages_over_tenants_in_memory_and_in_rows(shard: DrivenShard, monkeypatch: pytest.MonkeyPatch) -> None:
    live_and_go(shard)  # acme: only in a row
    shard.create(tenant="bolt")
    put(shard, "core", leases_max=1)
    put(shard, DEFAULT, leases_max=1)
    put(shard, "gone", leases_max=1)
    shard.create(tenant="dawn")
    shard.create("b", tenant="dawn")
    shard.write()
    put(shard, "gone")
    put(shard, "ebb", leases_max=1)  # not written
    expected = ["acme", "bolt", "core", "dawn", "ebb"]
    for size in range(1, 7):
        found: list[str] = []
        after = ""
        while True:
            page, after = usage.list_tenants(shard.shard, after, size)
            assert len(page) <= size
            found += page
            if not after:
                break
        assert found == expected, size
    monkeypatch.setattr(usage, "PAGE_QUEUES_MAX", 1)
    assert usage.list_tenants(shard.shard, "", 9) == (["acme", "bolt"], "bolt")
    assert usage.list_tenants(shard.shard, "bolt", 9) == (["core", "dawn"], "dawn")
    assert usage.list_tenants(shard.shard, "dawn", 9) == (["ebb"], "")
