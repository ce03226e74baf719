"""Callbacks in the core: rows of ended tasks with a webhook, their attempts, and what depends on them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from codeq_internal.v1 import rows_pb2
from codeq_server.core import callbacks, ids, keys, lookup, receivers
from codeq_server.core.callbacks import Call, Callback
from codeq_server.core.endpoints import ENDPOINTS_MAX, FAILING_MAX
from codeq_server.core.errors import Rejection
from codeq_server.core.outcomes import Outcome
from codeq_server.core.redrive import cleanup, redrive_task
from driven_shard import TENANT, DrivenShard

URL = "https://example.com/hook"
RETENTION_MS = 10_000
DELAYS_MS = (2_000, 4_000)
OK = Call(1, 200, 5)


class CalledShard(DrivenShard):
    """A shard with tasks that have a webhook."""

    def __init__(self, **settings: object) -> None:
        super().__init__(retention_ms=RETENTION_MS, **settings)

    def end(self, outcome: Outcome = Outcome.COMPLETED, **fields: object) -> str:
        """Creates a task, ends it and writes the batch; returns its id."""
        task_id = self.create(webhook=URL, attempts=1)
        self.claim()
        self.settle(task_id, outcome, **fields)  # type: ignore[arg-type]
        self.write()
        return task_id

    def take(self, *, again: bool = False, room: int = 100) -> list[Callback]:
        take = callbacks.take_again if again else callbacks.take_first
        found: list[Callback] = []
        while (turn := take(self.shard, lambda _: room, self.now)) is not None:
            found += turn[1]
        return found

    def answer(self, callback: Callback, call: Call = OK, delays_ms: Sequence[int] = DELAYS_MS) -> str:
        return callbacks.settle(self.shard, callback, call, delays_ms, 0.5, self.now)

    def rows(self, task_id: str) -> list[rows_pb2.OutboxRow]:
        found = callbacks.callbacks_at(self.shard, *lookup.find_home(self.shard, TENANT, task_id))
        return [row for _, row in found]


@pytest.fixture
def driven() -> CalledShard:
    return CalledShard()


def test_end_costs_one_row_and_so_does_the_delivery(driven: CalledShard) -> None:
    def rows_of_an_end(webhook: str) -> int:
        task_id = driven.create(webhook=webhook)
        driven.claim()
        driven.write()
        driven.settle(task_id)
        sealed = driven.seal()
        driven.write(sealed)
        return len(sealed.rows)

    plain = rows_of_an_end("")
    assert rows_of_an_end(URL) == plain + 1
    (callback,) = driven.take()
    driven.answer(callback)
    sealed = driven.seal()
    driven.write(sealed)
    assert {key[:1] for key in sealed.rows} == {keys.OUTBOX, keys.QUEUES, keys.META}
    assert driven.rows(callback.task_id)[0].state == rows_pb2.CALLBACK_STATE_DELIVERED


def test_queue_without_webhooks_reads_no_home_when_a_task_ends(
    driven: CalledShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = driven.complete_one()
    assert not driven.queue().hooked
    assert driven.queue().outbox is None
    assert driven.status(task_id) == "COMPLETED"
    driven.write()
    assert driven.keys(b"oy") == []


def test_callback_tells_how_the_task_ended(driven: CalledShard) -> None:
    done = driven.end(result=b'{"a": 1.50}')
    failed = driven.end(Outcome.FAILED, error="no")
    one, other = driven.take()
    assert (one.task_id, one.status.name, one.result, one.error) == (done, "COMPLETED", b'{"a": 1.50}', "")
    assert (other.task_id, other.status.name, other.result, other.error) == (failed, "FAILED", None, "no")
    assert one.url == URL
    assert one.attempt == 1
    assert len({one.delivery_id, other.delivery_id, done, failed}) == 4


def test_callbacks_of_several_shards_have_different_ids() -> None:
    given = set()
    for route in (None, ids.Route(1, 3), ids.Route(2, 3)):
        driven = CalledShard(route=route)
        driven.end()
        (callback,) = driven.take()
        given.add(callback.delivery_id)
    assert len(given) == 3


def test_failed_attempts_are_repeated_by_the_schedule_with_jitter_on_top_and_then_given_up(driven: CalledShard) -> None:
    task_id = driven.end()
    (callback,) = driven.take()
    for attempt, delay_ms in enumerate(DELAYS_MS, 1):
        assert driven.answer(callback, Call(1, 503, 9)) == "retried"
        driven.write()
        wait_ms = delay_ms + delay_ms // 20
        assert driven.rows(task_id)[0].due_ms == driven.now.wall_ms + wait_ms
        driven.pass_time(wait_ms - 1)
        assert driven.take(again=True) == []
        driven.pass_time(1)
        (again,) = driven.take(again=True)
        assert (again.delivery_id, again.attempt) == (callback.delivery_id, attempt + 1)
        callback = again
    assert driven.answer(callback, Call(1, 0, 9, "x" * 300)) == "gave_up"
    driven.write()
    row = driven.rows(task_id)[0]
    assert [each.status for each in row.attempts] == [503, 503, 0]
    assert len(row.attempts[-1].error) == callbacks.ERROR_CHARACTERS_KEPT
    outbox = driven.queue().outbox
    assert outbox is not None
    assert (outbox.pending, outbox.gave_up) == (0, 1)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, "delivered") for status in (200, 204, 299)),
        *((status, "retried") for status in (0, 408, 425, 429, 500, 599)),
        *((status, "gave_up") for status in (301, 400, 404, 410)),
    ],
)
def test_status_decides_what_follows(driven: CalledShard, status: int, outcome: str) -> None:
    driven.end()
    (callback,) = driven.take()
    assert driven.answer(callback, Call(1, status, 1)) == outcome
    driven.write()


@pytest.mark.parametrize(("asked_ms", "waits_ms"), [(1_000, 2_000), (60_000, 60_000), (10**9, 3_600_000)])
def test_receiver_may_ask_for_a_longer_wait_of_up_to_an_hour(driven: CalledShard, asked_ms: int, waits_ms: int) -> None:
    task_id = driven.end()
    (callback,) = driven.take()
    driven.answer(callback, Call(1, 429, 1, "", asked_ms))
    assert driven.rows(task_id)[0].due_ms == driven.now.wall_ms + waits_ms + waits_ms // 20


def test_waiting_for_a_busy_receiver_is_no_attempt(driven: CalledShard) -> None:
    task_id = driven.end()
    (callback,) = driven.take()
    callbacks.put_off(driven.shard, callback, 700, driven.now)
    driven.write()
    driven.pass_time(700)
    (again,) = driven.take(again=True)
    assert again.attempt == 1
    assert driven.rows(task_id)[0].attempts_total == 0


def test_what_was_under_way_at_a_crash_is_attempted_again(driven: CalledShard) -> None:
    driven.end()
    driven.end()
    first, second = driven.take()
    driven.answer(first, Call(1, 500, 1))
    driven.write()
    driven.reopen()
    (again,) = driven.take()
    assert again.delivery_id == second.delivery_id
    driven.pass_time(2_100)
    assert [each.delivery_id for each in driven.take(again=True)] == [first.delivery_id]
    driven.write()
    driven.reopen()  # the retry was taken, and its attempt is lost
    assert driven.take(again=True) == []
    driven.pass_time(callbacks.LEASE_MS)
    assert [each.delivery_id for each in driven.take(again=True)] == [first.delivery_id]


def test_tenant_without_room_gets_its_turn_later(driven: CalledShard) -> None:
    driven.end()
    assert callbacks.take_first(driven.shard, lambda _: 0, driven.now) == (driven.queue(), [])
    assert callbacks.take_first(driven.shard, lambda _: 9, driven.now) is None
    callbacks.give_turns(driven.shard, driven.queue())
    assert len(driven.take()) == 1


def test_sweep_keeps_a_task_until_its_callback_is_settled(driven: CalledShard) -> None:
    task_id, plain = driven.end(), driven.complete_one()
    driven.write()
    driven.pass_time(RETENTION_MS + 1)
    driven.write()
    assert driven.status(task_id) == "COMPLETED"
    with pytest.raises(Rejection):
        driven.view(plain)
    (callback,) = driven.take()
    driven.answer(callback)
    driven.write()
    driven.pass_time(3_600_000)
    driven.write()
    with pytest.raises(Rejection):
        driven.view(task_id)
    assert driven.keys(b"oyst") == []


def test_cleanup_leaves_a_task_whose_callback_is_pending(driven: CalledShard) -> None:
    task_id = driven.end()
    (key,) = driven.keys(keys.ENDED)
    driven.pass_time(1)
    assert cleanup(driven.shard, key, TENANT, driven.now.wall_ms, 0, 10).removed == 0
    (callback,) = driven.take()
    driven.answer(callback)
    assert cleanup(driven.shard, key, TENANT, driven.now.wall_ms, 0, 10).removed == 1
    driven.write()
    with pytest.raises(Rejection):
        driven.view(task_id)


def test_redriven_task_reports_each_of_its_ends_with_its_own_status(driven: CalledShard) -> None:
    task_id = driven.end(Outcome.FAILED, error="first")
    redrive_task(driven.shard, TENANT, task_id, driven.now)
    driven.write()
    driven.claim()
    driven.settle(task_id, result=b"2")
    driven.write()
    told = [(each.status.name, each.error, each.result) for each in driven.take()]
    assert told == [("FAILED", "first", None), ("COMPLETED", "", b"2")]


def test_task_keeps_the_callbacks_of_its_last_ten_ends(driven: CalledShard) -> None:
    task_id = driven.end(Outcome.FAILED, error="0")
    for number in range(1, 13):
        redrive_task(driven.shard, TENANT, task_id, driven.now)
        driven.claim()
        driven.settle(task_id, Outcome.FAILED, error=f"{number}")
        driven.write()
    assert [each.error for each in driven.take()] == [f"{number}" for number in range(3, 13)]


def test_callback_that_was_given_up_is_replayed_with_its_id_and_all_its_retries(driven: CalledShard) -> None:
    task_id = driven.end()
    (callback,) = driven.take()
    driven.answer(callback, Call(1, 404, 1))
    row = driven.rows(task_id)[0]
    assert callbacks.replay(driven.shard, callback.queue, callback.position, row, driven.now)
    driven.write()
    driven.pass_time(1)
    (again,) = driven.take(again=True)
    assert (again.delivery_id, again.attempt) == (callback.delivery_id, 2)
    assert driven.answer(again, Call(1, 500, 1)) == "retried"
    assert driven.rows(task_id)[0].tries == 1
    driven.write()


def test_delivered_callback_is_not_replayed(driven: CalledShard) -> None:
    task_id = driven.end()
    (callback,) = driven.take()
    driven.answer(callback)
    row = driven.rows(task_id)[0]
    assert not callbacks.replay(driven.shard, callback.queue, callback.position, row, driven.now)


def test_secrets_of_an_endpoint_come_before_those_for_all_and_survive_a_restart(driven: CalledShard) -> None:
    receivers.set_secrets(driven.shard, TENANT, "", ["for all of them"], driven.now)
    receivers.set_secrets(driven.shard, TENANT, URL, ["new one of this", "old one of this"], driven.now)
    receivers.pause_host(driven.shard, TENANT, "example.com:443", driven.now, paused=True)
    driven.write()
    driven.reopen()
    endpoints = driven.shard.endpoints
    assert endpoints.secrets(TENANT, URL) == ["new one of this", "old one of this"]
    assert endpoints.secrets(TENANT, f"{URL}/2") == ["for all of them"]
    assert endpoints.secrets("globex", URL) == []
    assert endpoints.is_paused(TENANT, "example.com:443")
    receivers.set_secrets(driven.shard, TENANT, URL, [], driven.now)
    receivers.pause_host(driven.shard, TENANT, "example.com:443", driven.now, paused=False)
    driven.write()
    assert len(driven.keys(keys.ENDPOINTS)) == 1


def test_tenant_has_settings_for_at_most_a_thousand_endpoints(driven: CalledShard) -> None:
    for number in range(ENDPOINTS_MAX):
        receivers.pause_host(driven.shard, TENANT, f"h{number}:443", driven.now, paused=True)
    with pytest.raises(Rejection, match="1000"):
        receivers.set_secrets(driven.shard, TENANT, "", ["a secret of some length"], driven.now)
    receivers.pause_host(driven.shard, TENANT, "h0:443", driven.now, paused=False)
    receivers.set_secrets(driven.shard, TENANT, "", ["a secret of some length"], driven.now)


def test_host_is_paused_once_every_attempt_has_failed_for_the_time(driven: CalledShard) -> None:
    def note(*, delivered: bool, host: str = "example.com:443") -> bool:
        found = receivers.note_attempt(
            driven.shard, TENANT, host, driven.now, delivered=delivered, disable_after_ms=60_000
        )
        driven.write()
        return found

    assert not note(delivered=True)
    assert driven.keys(keys.ENDPOINTS) == []
    assert not note(delivered=False)
    driven.reopen()
    driven.pass_time(59_999)
    assert not note(delivered=False)
    assert not note(delivered=True)  # the time begins anew
    assert driven.keys(keys.ENDPOINTS) == []
    assert not note(delivered=False)
    driven.pass_time(60_000)
    assert not note(delivered=False, host="other.example.com:443")
    assert not driven.shard.endpoints.is_paused(TENANT, "example.com:443")
    assert note(delivered=False)
    assert not note(delivered=False)
    assert driven.shard.endpoints.is_paused(TENANT, "example.com:443")
    receivers.pause_host(driven.shard, TENANT, "example.com:443", driven.now, paused=False)
    assert not note(delivered=False)


def test_failing_hosts_leave_room_for_the_settings_of_a_tenant(driven: CalledShard) -> None:
    for number in range(FAILING_MAX + 1):
        receivers.note_attempt(driven.shard, TENANT, f"h{number}:1", driven.now, delivered=False, disable_after_ms=1)
    assert len(driven.shard.endpoints.of(TENANT)) == FAILING_MAX
    receivers.set_secrets(driven.shard, TENANT, "", ["a secret of some length"], driven.now)


def test_hastened_callback_is_due_at_once_and_its_attempts_go_on_counting(driven: CalledShard) -> None:
    task_id = driven.end()
    (callback,) = driven.take()
    driven.answer(callback, Call(1, 500, 5))
    driven.write()
    (row,) = driven.rows(task_id)
    callbacks.hasten(driven.shard, callback.queue, callback.position, row, driven.now)
    driven.write()
    assert driven.take(again=True) == []
    driven.pass_time(1)
    (again,) = driven.take(again=True)
    assert again.attempt == 2
    assert driven.rows(task_id)[0].tries == 1
