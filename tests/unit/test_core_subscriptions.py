"""Subscriptions in the core: when work becomes ready, and when subscriptions end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from codeq_internal.v1 import rows_pb2
from codeq_internal.v1.rows_pb2 import PolicyRow
from codeq_server.core import subscriptions
from codeq_server.core.errors import CorruptRows, Reason, Rejection
from codeq_server.core.purging import purge
from codeq_server.core.redrive import redrive_task
from codeq_server.core.status import Outcome
from codeq_server.core.subscriptions import Subscription, Wanted, find, renew, subscribe, unsubscribe
from codeq_server.core.withdrawal import cancel
from codeq_server.storage.check import check
from driven_shard import TENANT, DrivenShard

WANTED = Wanted("http://hooks.example/", ("a",), rows_pb2.SIGNAL_MODE_UNSPECIFIED, "", 5_000, 300_000)


def new_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


def subscribed(driven: DrivenShard, number: int = 1, *, tenant: str = TENANT, wanted: Wanted = WANTED) -> Subscription:
    return subscribe(driven.shard, new_id(number), tenant, "w", wanted, driven.now)


def became_ready(driven: DrivenShard) -> list[tuple[str, int]]:
    """Writes the open batch; returns command and depth of the queues in which work became ready."""
    sealed = driven.seal()
    readiness = driven.shard.in_flight[-1].readiness or []
    driven.write(sealed)
    return [(each.queue.command, each.ready) for each in readiness if each.became]


@pytest.fixture
def driven() -> DrivenShard:
    made = DrivenShard(retention_ms=100_000)
    subscribed(made)
    made.write()
    return made


def _create(driven: DrivenShard, _: list[str]) -> None:
    driven.create()


def _due(driven: DrivenShard, _: list[str]) -> None:
    driven.create(delay=1_000)
    driven.pass_time(1_000)


def _nack(driven: DrivenShard, held: list[str]) -> None:
    driven.nack(held[0])


def _abandon(driven: DrivenShard, held: list[str]) -> None:
    driven.settle(held[0], Outcome.ABANDON)


def _return(driven: DrivenShard, held: list[str]) -> None:
    driven.give_back(held[0])


def _expire(driven: DrivenShard, _: list[str]) -> None:
    driven.pass_time(60_000)


def _redrive(driven: DrivenShard, held: list[str]) -> None:
    driven.settle(held[0], Outcome.FAILED, error="no")
    redrive_task(driven.shard, TENANT, held[0], driven.now)


@pytest.mark.parametrize("act", [_create, _due, _nack, _abandon, _return, _expire, _redrive])
def test_work_becomes_ready_in_every_way(driven: DrivenShard, act: Callable[[DrivenShard, list[str]], None]) -> None:
    driven.create()
    held = driven.claim_ids()
    assert became_ready(driven) == []
    act(driven, held)
    assert became_ready(driven) == [("a", 1)]
    assert became_ready(driven) == []


def test_returned_task_becomes_ready_although_another_one_is_cancelled_in_the_same_batch(driven: DrivenShard) -> None:
    driven.create()
    other = driven.create()
    driven.create()
    held = driven.claim_ids()
    driven.write()
    driven.give_back(held[0])
    cancel(driven.shard, TENANT, other, "", driven.now)
    assert became_ready(driven) == [("a", 2)]


def test_paused_queue_becomes_ready_when_it_is_resumed(driven: DrivenShard) -> None:
    driven.create()
    driven.write()
    driven.shard.pause(driven.queue())
    assert became_ready(driven) == []
    driven.create()
    assert became_ready(driven) == []
    driven.shard.resume(driven.queue())
    assert became_ready(driven) == [("a", 2)]


def test_queue_becomes_ready_after_its_purge(driven: DrivenShard) -> None:
    driven.create()
    driven.write()
    purge(driven.shard, driven.queue(), driven.now)
    driven.write()
    driven.create()
    assert became_ready(driven) == []
    driven.run_due()
    assert became_ready(driven) == [("a", 1)]


def test_queue_becomes_ready_whenever_a_limit_of_its_policy_allows_more(driven: DrivenShard) -> None:
    for policy in (PolicyRow(rate_per_second=1, rate_burst=1), PolicyRow(max_consumers=1)):
        driven.shard.policies.put(TENANT, "a", policy, driven.wall)
        tasks = [driven.create(), driven.create()]
        assert became_ready(driven) == [("a", 2)]
        assert driven.claim_ids(9) == tasks[:1]
        assert became_ready(driven) == []
        driven.settle(tasks[0])
        driven.pass_time(1_000)
        assert became_ready(driven) == [("a", 1)]
        assert driven.claim_ids(9) == tasks[1:]
        driven.settle(tasks[1])
        driven.pass_time(1_000)
        assert became_ready(driven) == []


def test_work_that_is_gone_at_the_end_of_the_batch_did_not_become_ready(driven: DrivenShard) -> None:
    driven.create()
    driven.claim()
    assert became_ready(driven) == []


def test_claims_and_ends_are_no_edges(driven: DrivenShard) -> None:
    for _ in range(3):
        driven.create()
    assert became_ready(driven) == [("a", 3)]
    held = driven.claim_ids(1)
    assert became_ready(driven) == []
    driven.settle(held[0])
    assert became_ready(driven) == []


def test_tenants_without_subscriptions_are_not_looked_at(driven: DrivenShard) -> None:
    driven.create(tenant="other")
    sealed = driven.seal()
    assert driven.shard.in_flight[-1].readiness == []
    driven.write(sealed)
    unsubscribe(driven.shard, find(driven.shard, TENANT, new_id(1)))
    driven.create()
    sealed = driven.seal()
    assert driven.shard.in_flight[-1].readiness is None
    driven.write(sealed)


# -- the life of a subscription ----------------------------------------------------------------------------------


def test_subscription_ends_on_time_and_with_its_row(driven: DrivenShard) -> None:
    driven.pass_time(299_999)
    assert find(driven.shard, TENANT, new_id(1))
    driven.pass_time(1)
    with pytest.raises(Rejection) as caught:
        find(driven.shard, TENANT, new_id(1))
    assert caught.value.reason is Reason.SUBSCRIPTION_NOT_FOUND
    driven.write()
    assert (driven.keys(b"w"), driven.shard.subscriptions.count) == ([], 0)


def test_renewal_counts_from_now_and_can_change_the_time_to_live(driven: DrivenShard) -> None:
    subscription = find(driven.shard, TENANT, new_id(1))
    driven.pass_time(200_000)
    renew(driven.shard, subscription, 0, driven.now)
    driven.write()
    driven.pass_time(299_999)
    assert find(driven.shard, TENANT, new_id(1))
    renew(driven.shard, subscription, 10_000, driven.now)
    driven.write()
    driven.pass_time(10_000)
    assert driven.shard.subscriptions.count == 0


def test_subscriptions_survive_a_restart_with_their_time(driven: DrivenShard) -> None:
    driven.pass_time(100_000)
    wanted = Wanted("https://b.example/", (), rows_pb2.SIGNAL_MODE_GROUP, "g", 0, 10_000)
    subscribed(driven, 2, wanted=wanted)
    driven.write()
    before = {name: each.row() for name, each in driven.shard.subscriptions.by_tenant[TENANT].items()}
    driven.reopen()
    after = driven.shard.subscriptions.by_tenant[TENANT]
    assert {name: each.row() for name, each in after.items()} == before
    assert after[new_id(2)].wanted == wanted
    driven.pass_time(10_000)
    assert list(after) == [new_id(1)]
    driven.pass_time(190_000)
    assert driven.shard.subscriptions.by_tenant == {}
    driven.write()


def test_tenant_and_server_have_a_limit(driven: DrivenShard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "SUBSCRIPTIONS_PER_TENANT_MAX", 2)
    subscribed(driven, 2)
    with pytest.raises(Rejection) as caught:
        subscribed(driven, 3)
    assert caught.value.reason is Reason.LIMIT_REACHED
    monkeypatch.setattr(subscriptions, "SUBSCRIPTIONS_MAX", 3)
    subscribed(driven, 3, tenant="other")
    with pytest.raises(Rejection) as caught:
        subscribed(driven, 4, tenant="third")
    assert caught.value.reason is Reason.LIMIT_REACHED


def test_many_subscriptions_that_end_at_once_end_in_slices(driven: DrivenShard) -> None:
    for number in range(2, subscriptions.SLICE + 10):
        subscribed(driven, number)
    driven.write()
    driven.wall, driven.mono = driven.wall + 300_000, driven.mono + 300_000
    assert subscriptions.expire_subscriptions(driven.shard, driven.now)
    assert driven.shard.subscriptions.count == 9
    assert not subscriptions.expire_subscriptions(driven.shard, driven.now)
    driven.write()
    assert driven.keys(b"w") == []


@pytest.mark.parametrize("key", [b"w", b"w\x04acme", b"w\x04acme" + b"i" * 15, b"w\x04acme" + b"i" * 17])
def test_malformed_key_is_corruption(driven: DrivenShard, key: bytes) -> None:
    driven.store.write({key: b""})
    with pytest.raises(CorruptRows):
        driven.reopen()
    assert [str(each) for each in check(driven.store.scan(b"", b"\xff", 1 << 30))]


@pytest.mark.parametrize(
    "row",
    [
        rows_pb2.SubscriptionRow(ttl_ms=1, expires_ms=1),
        rows_pb2.SubscriptionRow(url="u", mode=rows_pb2.SIGNAL_MODE_GROUP, ttl_ms=1, expires_ms=1),
        rows_pb2.SubscriptionRow(url="u", group="g", ttl_ms=1, expires_ms=1),
        rows_pb2.SubscriptionRow(url="u", expires_ms=1),
        rows_pb2.SubscriptionRow(url="u", ttl_ms=2, expires_ms=1),
    ],
)
def test_checker_finds_contradictions_in_a_row(driven: DrivenShard, row: rows_pb2.SubscriptionRow) -> None:
    driven.store.write({find(driven.shard, TENANT, new_id(1)).key: row.SerializeToString()})
    assert len(list(check(driven.store.scan(b"", b"\xff", 1 << 30)))) == 1
