"""Cancel: a task ends wherever it is, nothing claimable is left behind, and counters stay exact."""

from __future__ import annotations

import pytest
from codeq_server.core.errors import Rejection
from codeq_server.core.reads import TaskView
from codeq_server.core.status import Outcome
from codeq_server.core.windows import forget_others
from codeq_server.core.withdrawal import cancel
from driven_shard import TENANT, DrivenShard

RETENTION_MS = 1000


@pytest.fixture
def driven() -> DrivenShard:
    return DrivenShard(retention_ms=RETENTION_MS)


def cancelled(driven: DrivenShard, task_id: str, reason: str = "") -> TaskView:
    cancel(driven.shard, TENANT, task_id, reason, driven.now)
    return driven.view(task_id)


def counters(driven: DrivenShard) -> tuple[int, int, int]:
    queue = driven.queue()
    return queue.ready, queue.scheduled, queue.claimed


@pytest.mark.parametrize("way", ["pending", "queued again", "returned", "scheduled", "nacked with a delay", "claimed"])
def test_cancel_in_every_state_ends_the_task_and_leaves_no_rows_after_retention(driven: DrivenShard, way: str) -> None:
    task_id = driven.create(delay=500 if way == "scheduled" else 0)
    if way not in {"pending", "scheduled"}:
        driven.claim()
    if way == "queued again":
        driven.nack(task_id)
    elif way == "returned":
        driven.give_back(task_id)
    elif way == "nacked with a delay":
        driven.nack(task_id, 500)
    driven.write()
    view = cancelled(driven, task_id, "no need")
    assert (view.status.name, view.error, view.token, view.worker) == ("CANCELLED", "no need", None, None)
    assert view.finished_ms == driven.wall
    assert view.attempts == (way not in {"pending", "scheduled", "returned"})
    assert counters(driven) == (0, 0, 0)
    driven.write()
    assert driven.keys(b"dlu") == []
    driven.reopen()
    assert driven.status(task_id) == "CANCELLED"
    driven.pass_time(600)
    assert driven.claim() == []
    driven.pass_time(RETENTION_MS)
    driven.write()
    assert driven.keys(b"trsux") == []


def test_repeated_cancel_changes_nothing(driven: DrivenShard) -> None:
    task_id = driven.create()
    before = cancelled(driven, task_id)
    driven.write()
    driven.wall += 5
    assert cancelled(driven, task_id, "other") == before
    assert not driven.shard.batch


@pytest.mark.parametrize("end", [Outcome.COMPLETED, Outcome.FAILED])
def test_cancel_of_an_ended_task_is_rejected(driven: DrivenShard, end: Outcome) -> None:
    task_id = driven.create()
    driven.claim()
    driven.settle(task_id, end, error="x" if end is Outcome.FAILED else "")
    with pytest.raises(Rejection) as refused:
        cancelled(driven, task_id)
    assert refused.value.reason.name == "TASK_ENDED"
    assert driven.status(task_id) == end.name


def test_outcome_after_cancel_is_rejected_with_and_without_token(driven: DrivenShard) -> None:
    task_id = driven.create()
    driven.claim()
    token = driven.token(task_id)
    cancelled(driven, task_id)
    for said in (token, None):
        for outcome in list(Outcome)[1:]:
            with pytest.raises(Rejection) as refused:
                driven.settle(task_id, outcome, token=said, error="x" if outcome is Outcome.FAILED else "")
            assert refused.value.reason.name == "TASK_NOT_CLAIMED"
    with pytest.raises(Rejection):
        driven.heartbeat(task_id)


def test_nack_repeated_after_cancel_gets_its_first_verdict(driven: DrivenShard) -> None:
    task_id = driven.create()
    driven.claim()
    token = driven.token(task_id)
    verdict = driven.nack(task_id)
    cancelled(driven, task_id)
    again = driven.settle(task_id, Outcome.NACK, token=token, delay=0)
    assert (again.status, again.delay_ms) == (verdict.status, 0)


@pytest.mark.parametrize("window", [1, 1 << 20])
@pytest.mark.parametrize("gone", [[0], [0, 1], [2], [1, 2, 3], [4], [0, 2, 4], [3, 1, 0], [0, 1, 2, 3]])
def test_cancel_of_waiting_tasks_keeps_the_order_and_count_of_the_others(window: int, gone: list[int]) -> None:
    driven = DrivenShard(window_bytes_max=window)
    ids = [driven.create() for _ in range(5)]
    driven.write()
    for index in gone:
        cancelled(driven, ids[index])
        rest = [task_id for task_id in ids if driven.status(task_id) == "PENDING"]
        assert driven.queue().ready == len(rest)
    driven.write()
    heads = driven.list_queues()[0].heads
    assert len(heads) == 1
    assert driven.claim_ids(9) == rest
    driven.write()
    assert driven.shard.windows_bytes == 0
    assert not driven.queue().lane(9).gone


def test_cancel_of_every_task_in_a_lane_drops_its_window(driven: DrivenShard) -> None:
    ids = [driven.create() for _ in range(4)]
    for task_id in reversed(ids):
        cancelled(driven, task_id)
    lane = driven.queue().lane(9)
    assert (lane.mark, lane.ready, len(lane.window), lane.gone, driven.shard.windows_bytes) == (4, 0, 0, set(), 0)
    after = driven.create()
    assert driven.claim_ids(3) == [after]
    driven.write()


def test_eviction_skips_a_task_cancelled_in_the_middle_of_the_window(driven: DrivenShard) -> None:
    ids = [driven.create() for _ in range(4)]
    cancelled(driven, ids[1])
    driven.shard.settings = DrivenShard(window_bytes_max=0).settings
    forget_others(driven.shard, driven.queue("a").lane(0))
    assert not driven.queue().lane(9).gone
    assert driven.claim_ids(9) == [ids[0], ids[2], ids[3]]


def test_cancel_of_a_scheduled_task_does_not_affect_others_due_at_the_same_time(driven: DrivenShard) -> None:
    ids = [driven.create(delay=100) for _ in range(3)]
    cancelled(driven, ids[1])
    driven.pass_time(100)
    assert driven.claim_ids(9) == [ids[0], ids[2]]
    assert driven.shard.due.entries == 0
    driven.write()


def test_cancel_of_one_of_many_deliveries_leaves_the_others_alone(driven: DrivenShard) -> None:
    ids = [driven.create() for _ in range(3)]
    driven.claim(3)
    driven.write()
    cancelled(driven, ids[0])
    driven.write()
    driven.reopen()
    assert set(driven.shard.deliveries) == set(ids[1:])


def test_cancel_notifies_the_worker_that_holds_the_task(driven: DrivenShard) -> None:
    class Told:
        def __init__(self) -> None:
            self.said: list[tuple[str, int]] = []

        def cancelled(self, task_id: str, token: int) -> None:
            self.said.append((task_id, token))

    told = Told()
    task_id = driven.create()
    driven.claim()
    claim = driven.shard.deliveries[task_id].claim
    claim.holder = told
    cancelled(driven, task_id)
    assert driven.shard.affect().cancelled == [(told, task_id, claim.token)]


def test_cancel_of_an_unknown_task_is_not_found(driven: DrivenShard) -> None:
    task_id = driven.create()
    with pytest.raises(Rejection) as refused:
        cancel(driven.shard, "globex", task_id, "", driven.now)
    assert refused.value.reason.name == "TASK_NOT_FOUND"
    assert driven.status(task_id) == "PENDING"


def test_paused_queue_delivers_nothing_until_resumed_and_then_all_in_order(driven: DrivenShard) -> None:
    first = driven.create()
    driven.shard.pause(driven.queue())
    second, other = driven.create(), driven.create("b")
    later = driven.create(delay=50)
    driven.pass_time(50)
    driven.write()
    driven.shard.take_effects()
    driven.reopen()
    assert driven.claim_ids(9) == [other]
    assert [view.paused for view in driven.list_queues()] == [True, False]
    driven.shard.resume(driven.queue())
    assert list(driven.shard.affect().woken) == [driven.queue()]
    assert driven.claim_ids(9) == [first, second, later]
    driven.write()


def test_cancel_in_a_paused_queue_leaves_it_paused(driven: DrivenShard) -> None:
    task_id = driven.create()
    driven.shard.pause(driven.queue())
    cancelled(driven, task_id)
    left = driven.create()
    assert driven.claim() == []
    driven.shard.resume(driven.queue())
    assert driven.claim_ids(9) == [left]


def test_repeated_pause_changes_nothing(driven: DrivenShard) -> None:
    driven.create()
    driven.shard.pause(driven.queue())
    driven.write()
    driven.shard.pause(driven.queue())
    assert not driven.shard.batch
