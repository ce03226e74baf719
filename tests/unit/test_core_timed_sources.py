"""Every source announces its due work in time, and counts the work it did."""

from __future__ import annotations

from collections.abc import Callable

import computed_instants
import pytest
from codeq_internal.v1 import rows_pb2
from codeq_server.core import timers
from codeq_server.core.clock import Now
from codeq_server.core.firing import FIRE_COST
from codeq_server.core.key_rings import KeyPolicy
from codeq_server.core.purging import purge
from codeq_server.core.subscriptions import Wanted, subscribe
from driven_shard import TENANT, DrivenShard
from key_limits import limit_keys


def _lease(driven: DrivenShard) -> int:
    driven.create()
    driven.claim(lease=1000)
    return 1000


def _scheduled(driven: DrivenShard) -> int:
    driven.create(delay=1000)
    return 1000


def _expiring(driven: DrivenShard) -> int:
    driven.create(expire=1000)
    return 1000


def _ended(driven: DrivenShard) -> int:
    driven.complete_one()
    return 5000


def _idle(driven: DrivenShard) -> int:
    driven.shard.open_queue("acme", "a")
    return 7000


def _purged(driven: DrivenShard) -> int:
    driven.create()
    driven.write()
    driven.pass_time(0)
    purge(driven.shard, driven.queue(), driven.now)
    return 0


def _audited(driven: DrivenShard) -> int:
    driven.shard.audit.record(rows_pb2.AuditRow(), driven.now)
    return 6000


def _subscribed(driven: DrivenShard) -> int:
    wanted = Wanted("http://hooks.example/", (), rows_pb2.SIGNAL_MODE_UNSPECIFIED, "", 0, 10_000)
    subscribe(driven.shard, "00000000-0000-4000-8000-000000000001", "acme", "w", wanted, driven.now)
    return 10_000


def _at_instants(driven: DrivenShard) -> int:
    computed_instants.put(driven.shard, driven.now, every="1s")
    return 1000


def _keyed(driven: DrivenShard) -> int:
    limit_keys(driven.shard, TENANT, "a", KeyPolicy(rate_per_second=1, rate_burst=1), driven.now)
    driven.create()
    driven.create()
    driven.claim(2)
    return 1000


KINDS: dict[str, tuple[Callable[[DrivenShard], int], int]] = {
    "lease": (_lease, 1),
    "scheduled task": (_scheduled, 1),
    "expiring task": (_expiring, 1),
    "ended task": (_ended, 1),
    "idle queue": (_idle, 0),
    "purge": (_purged, 1),
    "audit record": (_audited, 0),
    "subscription": (_subscribed, 0),
    "schedule": (_at_instants, FIRE_COST),
    "rate of a queue": (_keyed, 0),
}


@pytest.mark.parametrize(("prepare", "cost"), KINDS.values(), ids=KINDS.keys())
def test_work_of_every_source_is_announced_executed_and_counted(
    prepare: Callable[[DrivenShard], int], cost: int
) -> None:
    driven = DrivenShard(retention_ms=5000, queue_idle_ms=7000, audit_retention_ms=6000)
    watch = timers.Watch(driven.shard)
    assert watch.is_quiet(_in(driven, 1 << 40))
    due_ms = prepare(driven)
    driven.write()
    assert timers.next_wake(driven.shard, driven.now) == due_ms
    assert watch.is_quiet(_in(driven, due_ms)) is (due_ms > 0)
    assert not watch.is_quiet(_in(driven, due_ms + 1))
    before = timers.worked(driven.shard)
    driven.wall, driven.mono = driven.wall + due_ms, driven.mono + due_ms
    driven.run_due()
    assert timers.worked(driven.shard) - before == cost
    assert timers.next_wake(driven.shard, driven.now) != 0


def test_every_source_is_tested() -> None:
    assert len(KINDS) == len(timers.SOURCES)


def _in(driven: DrivenShard, ms: int) -> Now:
    now = driven.now
    return Now(now.wall_ms + ms, now.mono_ms + ms)
