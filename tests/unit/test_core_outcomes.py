"""Outcomes of deliveries: their effect on the task, who may settle, and repeated outcomes."""

from __future__ import annotations

import pytest
from codeq_internal.v1 import rows_pb2
from codeq_server.core import heartbeats, keys, outcomes
from codeq_server.core.backoff import BackoffPolicy
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.history import End
from codeq_server.core.model import Caller
from codeq_server.core.outcomes import ABANDONS_MAX, SHRINK_FROM
from codeq_server.core.status import Outcome, Status
from codeq_server.core.withdrawal import cancel
from driven_shard import TENANT, WORKER, DrivenShard

OUTCOMES = [Outcome.COMPLETED, Outcome.FAILED, Outcome.NACK, Outcome.ABANDON]


@pytest.fixture
def shard() -> DrivenShard:
    return DrivenShard()


def claimed(shard: DrivenShard, *, attempts: int = 0) -> tuple[str, int]:
    task_id = shard.create(attempts=attempts)
    assert shard.claim_ids(1) == [task_id]
    return task_id, shard.token(task_id)


def reason_of(shard: DrivenShard, task_id: str, token: int | None, by: Caller = WORKER) -> Reason:
    """Returns why an outcome is rejected, and checks that nothing changed."""
    before = shard.shard.batch.rows.copy()
    with pytest.raises(Rejection) as refused:
        shard.settle(task_id, token=token, by=by)
    assert shard.shard.batch.rows == before
    return refused.value.reason


# -- ends ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("result", [None, b"null", b'{"ok":true}', b"1" * 20_000])
def test_completed_task_keeps_the_result_as_sent(shard: DrivenShard, result: bytes | None) -> None:
    task_id, _ = claimed(shard)
    assert shard.settle(task_id, result=result).status is Status.COMPLETED
    view = shard.view(task_id)
    assert (view.status, view.result, view.error, view.worker) == (Status.COMPLETED, result, None, "w")
    assert view.finished_ms == shard.wall


def test_failed_task_ends_and_keeps_its_error(shard: DrivenShard) -> None:
    task_id, _ = claimed(shard)
    shard.settle(task_id, Outcome.FAILED, error="no such user")
    view = shard.view(task_id)
    assert (view.status, view.error, view.attempts) == (Status.FAILED, "no such user", 1)
    assert shard.claim(1) == []


def test_nack_with_a_delay_schedules_the_task(shard: DrivenShard) -> None:
    task_id, _ = claimed(shard)
    verdict = shard.settle(task_id, Outcome.NACK, delay=1500, error="busy")
    assert (verdict.status, verdict.delay_ms) == (Status.SCHEDULED, 1500)
    view = shard.view(task_id)
    assert (view.status, view.due_ms, view.error) == (Status.SCHEDULED, shard.wall + 1500, "busy")
    shard.pass_time(1500)
    assert [(d.task_id, d.attempts) for d in shard.claim(1)] == [(task_id, 2)]


def test_nack_without_a_delay_follows_the_backoff_policy() -> None:
    shard = DrivenShard(backoff_policy=BackoffPolicy.EXPONENTIAL, backoff_base_seconds=2)
    task_id, _ = claimed(shard)
    delays = []
    for _ in range(3):
        delays.append(shard.nack(task_id, None).delay_ms)
        shard.pass_time(delays[-1])
        shard.claim(1)
    assert delays == [4000, 8000, 16000]


@pytest.mark.parametrize("most", [1, 2, 5])
def test_nack_of_the_last_attempt_moves_the_task_to_the_dead_letter_queue(shard: DrivenShard, most: int) -> None:
    task_id = shard.create(attempts=most)
    for attempt in range(1, most + 1):
        assert [d.attempts for d in shard.claim(1)] == [attempt]
        status = shard.nack(task_id).status
        assert status is (Status.DLQ if attempt == most else Status.PENDING)
    assert shard.view(task_id).error == outcomes.MAX_ATTEMPTS_ERROR
    assert (shard.claim(1), shard.queue().dlq) == ([], 1)


def test_nack_of_the_last_attempt_keeps_its_reason(shard: DrivenShard) -> None:
    task_id, _ = claimed(shard, attempts=1)
    shard.settle(task_id, Outcome.NACK, error="busy")
    assert (shard.status(task_id), shard.view(task_id).error) == ("DLQ", "busy")


def test_abandon_leaves_the_attempts_unchanged_up_to_a_hundred_times(shard: DrivenShard) -> None:
    task_id = shard.create(attempts=1)
    for _ in range(ABANDONS_MAX):
        assert [d.attempts for d in shard.claim(1)] == [1]
        assert shard.settle(task_id, Outcome.ABANDON).status is Status.PENDING
    shard.claim(1)
    assert shard.settle(task_id, Outcome.ABANDON).status is Status.DLQ
    assert ABANDONS_MAX == 100


def test_abandon_beyond_the_limit_uses_an_attempt_and_moves_the_task_to_the_tail(
    shard: DrivenShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "ABANDONS_MAX", 1)
    first, second = shard.create(), shard.create()
    for _ in range(2):
        assert shard.claim_ids(1) == [first]
        shard.settle(first, Outcome.ABANDON)
    assert shard.view(first).attempts == 1
    assert shard.claim_ids(2) == [second, first]


def test_abandon_with_a_delay_schedules_the_task_and_leaves_its_attempts_unchanged(shard: DrivenShard) -> None:
    task_id, _ = claimed(shard, attempts=1)
    verdict = shard.settle(task_id, Outcome.ABANDON, delay=1500)
    assert (verdict.status, verdict.delay_ms) == (Status.SCHEDULED, 1500)
    view = shard.view(task_id)
    assert (view.status, view.due_ms, view.attempts, view.error) == (Status.SCHEDULED, shard.wall + 1500, 0, None)
    assert [row.end for row in view.deliveries] == [End.ABANDONED]
    shard.write()
    shard.reopen()
    shard.pass_time(1499)
    assert shard.claim(1) == []
    shard.pass_time(1)
    assert [(d.task_id, d.attempts) for d in shard.claim(1)] == [(task_id, 1)]
    shard.settle(task_id)
    shard.write()


def test_abandon_with_a_delay_moves_the_task_to_the_tail(shard: DrivenShard) -> None:
    first, second = shard.create(), shard.create()
    assert shard.claim_ids(1) == [first]
    shard.settle(first, Outcome.ABANDON, delay=1)
    shard.pass_time(1)
    assert shard.claim_ids(2) == [second, first]


@pytest.mark.parametrize("outcome", [Outcome.NACK, Outcome.ABANDON])
def test_delay_of_more_than_twelve_hours_means_twelve_hours(shard: DrivenShard, outcome: Outcome) -> None:
    task_id, _ = claimed(shard)
    for _ in range(2):  # a repeat gets the same verdict
        verdict = shard.settle(task_id, outcome, delay=43_200_001)
        assert (verdict.status, verdict.delay_ms) == (Status.SCHEDULED, 43_200_000)
    assert shard.view(task_id).due_ms == shard.wall + 43_200_000


def test_abandon_with_a_delay_beyond_the_limit_uses_an_attempt_and_still_waits(
    shard: DrivenShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "ABANDONS_MAX", 1)
    task_id = shard.create(attempts=2)
    for attempts in (1, 1, 2):
        assert [d.attempts for d in shard.claim(1)] == [attempts]
        verdict = shard.settle(task_id, Outcome.ABANDON, delay=1000)
        shard.pass_time(1000)
    assert (verdict.status, verdict.delay_ms, shard.status(task_id)) == (Status.DLQ, 0, "DLQ")


def test_task_abandoned_with_a_delay_can_be_cancelled_and_expire(shard: DrivenShard) -> None:
    expiring, cancelled = shard.create(expire=2000), shard.create()
    shard.claim(2)
    for task_id in (expiring, cancelled):
        shard.settle(task_id, Outcome.ABANDON, delay=5000)
    cancel(shard.shard, TENANT, cancelled, "", shard.now)
    shard.pass_time(2000)
    assert (shard.status(expiring), shard.view(expiring).error, shard.status(cancelled)) == (
        "FAILED",
        "EXPIRED",
        "CANCELLED",
    )
    shard.write()
    assert (shard.keys(keys.DUE), shard.queue().scheduled) == ([], 0)


def test_delivery_returned_by_the_server_does_not_count_as_an_abandon(
    shard: DrivenShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "ABANDONS_MAX", 1)
    task_id = shard.create(attempts=1)
    for _ in range(5):
        shard.claim(1)
        shard.give_back(task_id)
    shard.claim(1)
    assert shard.settle(task_id, Outcome.ABANDON).status is Status.PENDING
    assert shard.view(task_id).attempts == 0


# -- callers and tokens ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_outcome_with_a_stale_token_is_rejected(shard: DrivenShard, outcome: Outcome) -> None:
    task_id, old = claimed(shard)
    shard.nack(task_id)
    shard.claim(1)
    for token in (old - 1, old, shard.token(task_id) + 1):
        assert reason_of(shard, task_id, token) is Reason.STALE_LEASE_TOKEN
    with pytest.raises(Rejection):
        shard.settle(task_id, outcome, token=old - 1)
    assert shard.status(task_id) == "CLAIMED"


def test_outcome_from_another_tenant_finds_no_task(shard: DrivenShard) -> None:
    task_id, token = claimed(shard)
    for said in (token, None):
        assert reason_of(shard, task_id, said, Caller("globex", "w", "w")) is Reason.TASK_NOT_FOUND


def test_outcome_from_another_subject_is_rejected_even_with_the_token(shard: DrivenShard) -> None:
    task_id, token = claimed(shard)
    for said in (token, None):
        assert reason_of(shard, task_id, said, Caller(TENANT, "v", "v")) is Reason.NOT_LEASE_OWNER


def test_outcome_of_a_subject_that_is_spelled_like_a_named_worker_of_another_is_rejected(shard: DrivenShard) -> None:
    task_id = shard.create()
    shard.claim(1, by=Caller(TENANT, "w/1", "w"))
    for said in (shard.token(task_id), None):
        assert reason_of(shard, task_id, said, Caller(TENANT, "w/1", "w/1")) is Reason.NOT_LEASE_OWNER


def test_outcome_without_a_token_is_accepted_only_from_the_lease_holder(shard: DrivenShard) -> None:
    task_id = shard.create()
    shard.claim(1, by=Caller(TENANT, "w/1", "w"))
    assert reason_of(shard, task_id, None, Caller(TENANT, "w/2", "w")) is Reason.NOT_LEASE_OWNER
    assert shard.settle(task_id, by=Caller(TENANT, "w/1", "w")).status is Status.COMPLETED


def test_outcome_with_the_token_is_accepted_on_another_stream_of_the_subject(shard: DrivenShard) -> None:
    task_id = shard.create()
    shard.claim(1, by=Caller(TENANT, "w/1", "w"))
    verdict = shard.settle(task_id, token=shard.token(task_id), by=Caller(TENANT, "w/2", "w"))
    assert verdict.status is Status.COMPLETED


def test_outcome_of_a_waiting_task_is_rejected(shard: DrivenShard) -> None:
    task_id = shard.create()
    assert reason_of(shard, task_id, None) is Reason.TASK_NOT_CLAIMED
    assert reason_of(shard, task_id, 5) is Reason.STALE_LEASE_TOKEN


# -- repeated outcomes
# ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_repeated_outcome_gets_the_same_verdict(shard: DrivenShard, outcome: Outcome, *, reopened: bool) -> None:
    task_id, token = claimed(shard)
    error = "no" if outcome is Outcome.FAILED else ""
    first = shard.settle(task_id, outcome, token=token, error=error, delay=700)
    if reopened:
        shard.write()
        shard.reopen()
    changes = len(shard.shard.batch.rows)
    assert shard.settle(task_id, outcome, token=token, error=error, delay=700) == first
    assert len(shard.shard.batch.rows) == changes


@pytest.mark.parametrize("outcome", [Outcome.NACK, Outcome.ABANDON])
def test_outcome_with_a_delay_repeated_after_it_gets_the_same_verdict(shard: DrivenShard, outcome: Outcome) -> None:
    """The reply was lost; since then the task has become due, and another worker holds it."""
    task_id, token = claimed(shard)
    shard.settle(task_id, outcome, token=token, delay=700)
    shard.pass_time(700)
    for _ in range(2):
        verdict = shard.settle(task_id, outcome, token=token, delay=700)
        assert (verdict.status, verdict.delay_ms) == (Status.SCHEDULED, 700)
        shard.claim(1, by=Caller(TENANT, "v", "v"))


@pytest.mark.parametrize("other", [{"result": b"2"}, {"result": None}, {"outcome": Outcome.NACK}])
def test_different_outcome_with_the_same_token_is_rejected(shard: DrivenShard, other: dict[str, object]) -> None:
    task_id, token = claimed(shard)
    shard.settle(task_id, token=token, result=b"1")
    with pytest.raises(Rejection) as refused:
        shard.settle(task_id, token=token, **other)  # type: ignore[arg-type]
    assert refused.value.reason is Reason.TASK_NOT_CLAIMED
    assert shard.view(task_id).result == b"1"


def test_outcome_repeated_by_another_subject_is_rejected(shard: DrivenShard) -> None:
    task_id, token = claimed(shard)
    shard.settle(task_id, token=token)
    assert reason_of(shard, task_id, token, Caller(TENANT, "v", "v")) is Reason.TASK_NOT_CLAIMED


def test_outcome_after_the_lease_expired_is_rejected(shard: DrivenShard) -> None:
    task_id, token = claimed(shard)
    shard.pass_time(60_000)
    assert reason_of(shard, task_id, token) is Reason.TASK_NOT_CLAIMED
    shard.claim(1)
    assert reason_of(shard, task_id, token) is Reason.STALE_LEASE_TOKEN


# -- heartbeats ------------------------------------------------------------------------------------------------------


def test_heartbeat_extends_the_lease_and_never_shortens_it(shard: DrivenShard) -> None:
    task_id, _ = claimed(shard)
    end = shard.mono + 60_000
    assert shard.heartbeat(task_id, 1000) == end
    shard.mono += 10_000
    assert shard.heartbeat(task_id) == shard.mono + 60_000
    assert shard.heartbeat(task_id, 90_000) == shard.mono + 90_000
    assert shard.heartbeat(task_id) == shard.mono + 90_000


def test_heartbeat_no_longer_than_the_lease_writes_no_row(shard: DrivenShard) -> None:
    task_id, _ = claimed(shard)
    shard.write()
    shard.mono += 10_000
    shard.heartbeat(task_id)
    shard.heartbeat(task_id, 50_000)
    assert not shard.shard.batch


def test_heartbeat_of_one_task_leaves_its_siblings_leases_unchanged(shard: DrivenShard) -> None:
    first, second = shard.create(), shard.create()
    shard.claim(2, lease=1000)
    shard.heartbeat(first, 5000)
    shard.pass_time(1000)
    assert (shard.status(first), shard.status(second)) == ("CLAIMED", "PENDING")
    shard.pass_time(4000)
    assert shard.status(first) == "PENDING"


def test_heartbeats_longer_than_the_lease_cost_the_same_for_every_task(shard: DrivenShard) -> None:
    """The claim's extension row is written once per batch, not once per task."""
    tasks = [shard.create() for _ in range(200)]
    shard.claim(200)
    shard.write()
    for task_id in tasks:
        shard.heartbeat(task_id, 90_000)
    assert shard.shard.batch
    assert not shard.shard.batch.rows
    shard.settle(tasks[0])
    shard.write()
    (key,) = shard.keys(b"x")
    value = shard.store.get(key)
    assert value is not None
    assert list(rows_pb2.ExtensionRow.FromString(value).lease_ms) == [90_000] * 199


def test_heartbeat_longer_than_the_lease_survives_a_restart(shard: DrivenShard) -> None:
    first, second = shard.create(), shard.create()
    shard.claim(2, lease=1000)
    shard.heartbeat(first, 5000)
    shard.write()
    for _ in range(2):
        shard.reopen()
        shard.pass_time(900)
        assert (shard.status(first), shard.status(second)) == ("CLAIMED", "CLAIMED")
    shard.pass_time(100)
    shard.write()
    assert shard.status(second) == "PENDING"
    shard.reopen()
    shard.pass_time(4999)
    assert shard.status(first) == "CLAIMED"
    shard.pass_time(1)
    shard.write()
    assert shard.status(first) == "PENDING"
    assert shard.keys(b"lx") == []


@pytest.mark.parametrize(
    ("by", "stale", "reason"),
    [
        (Caller("globex", "w", "w"), False, Reason.TASK_NOT_FOUND),
        (Caller(TENANT, "v", "v"), False, Reason.NOT_LEASE_OWNER),
        (WORKER, True, Reason.STALE_LEASE_TOKEN),
    ],
)
def test_heartbeat_from_another_holder_is_rejected(
    shard: DrivenShard, by: Caller, reason: Reason, *, stale: bool
) -> None:
    task_id, token = claimed(shard)
    with pytest.raises(Rejection) as refused:
        heartbeats.heartbeat(shard.shard, by, task_id, token - stale, None, shard.now)
    assert refused.value.reason is reason


def test_heartbeat_of_an_ended_task_is_rejected(shard: DrivenShard) -> None:
    task_id, token = claimed(shard)
    shard.settle(task_id)
    for said, reason in ((token, Reason.TASK_NOT_CLAIMED), (token + 1, Reason.STALE_LEASE_TOKEN)):
        with pytest.raises(Rejection) as refused:
            heartbeats.heartbeat(shard.shard, WORKER, task_id, said, None, shard.now)
        assert refused.value.reason is reason


# -- lease rows, tokens, restarts --------------------------------------------------------------------------------------


def test_lease_row_lists_only_remaining_deliveries_when_most_have_ended(shard: DrivenShard) -> None:
    """One slow task among many must not make every startup read the places of the others."""
    tasks = [shard.create() for _ in range(4 * SHRINK_FROM)]
    shard.claim(len(tasks))
    for task_id in tasks[:-3]:
        shard.settle(task_id)
    shard.write()
    (key,) = shard.keys(b"l")
    value = shard.store.get(key)
    assert value is not None
    assert len(rows_pb2.LeaseRow.FromString(value).homes) < SHRINK_FROM
    shard.reopen()
    assert sorted(shard.shard.deliveries) == sorted(tasks[-3:])
    for task_id in tasks[-3:]:
        shard.settle(task_id)
    shard.write()
    assert shard.keys(b"l") == []


def test_shortened_lease_row_lists_no_delivery_of_another_claim(shard: DrivenShard) -> None:
    tasks = [shard.create() for _ in range(4 * SHRINK_FROM)]
    shard.claim(len(tasks))
    shard.nack(tasks[0])
    assert shard.claim_ids(1, lease=1000) == tasks[:1]
    for task_id in tasks[1:-1]:
        shard.settle(task_id)
    shard.write()
    shard.reopen()
    assert sorted(shard.shard.deliveries) == sorted([tasks[0], tasks[-1]])
    assert shard.shard.deliveries[tasks[0]].claim.lease_ms == 1000


def test_lease_tokens_keep_growing_across_restarts_that_lost_a_batch(shard: DrivenShard) -> None:
    """A worker may have seen the lost batch's token, so neither that token nor the task's id may be reused."""
    kept = shard.create()
    shard.write()
    seen: list[int] = []
    lost: list[str] = []
    for _ in range(3):
        shard.claim(1)
        seen.append(shard.token(kept))
        lost.append(shard.create())
        shard.seal()
        shard.reopen()
    assert seen == sorted(set(seen))
    assert len({*lost, kept}) == 4
    for task_id in lost:
        with pytest.raises(Rejection):
            shard.view(task_id)


def test_restart_finds_each_task_in_exactly_one_place(shard: DrivenShard) -> None:
    """Two lease rows list a task that was nacked and claimed again; only the later row counts."""
    first, slow = shard.create(), shard.create()
    shard.claim(2)
    shard.nack(first)
    shard.claim(1)
    token = shard.token(first)
    shard.write()
    assert len(shard.keys(b"l")) == 2
    shard.reopen()
    assert shard.token(first) == token
    assert (shard.queue().claimed, sorted(shard.shard.deliveries)) == (2, sorted([first, slow]))
    assert shard.claim(2) == []
