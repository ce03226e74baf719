"""The offline checker finds every contradiction among callbacks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from codeq_internal.v1 import rows_pb2
from codeq_server.core import keys, tenant_keys
from codeq_server.core.callbacks import Call
from codeq_server.storage.check import check
from test_core_callbacks import CalledShard

Rows = dict[bytes, bytes]
Mutation = Callable[[Rows], None]


def rows_of_callbacks() -> Rows:
    """Returns the rows of four ended tasks, whose callbacks are delivered, waiting, given up and new."""
    driven = CalledShard()
    for _ in range(3):
        driven.end()
    for callback, status in zip(driven.take(), (200, 500, 404), strict=True):
        driven.answer(callback, Call(1, status, 1))
    driven.end()
    driven.write()
    return dict(driven.store.scan(b"", b"\xff", 1 << 30))


DELIVERED, WAITING, GAVE_UP, NEW = (keys.outbox_key(1, position) for position in (1, 2, 3, 4))


def edited(key: bytes, **fields: object) -> Mutation:
    def edit(rows: Rows) -> None:
        row = rows_pb2.OutboxRow.FromString(rows[key])
        for name, value in fields.items():
            setattr(row, name, value)
        rows[key] = row.SerializeToString()

    return edit


def outbox(**fields: int | bytes) -> Mutation:
    def edit(rows: Rows) -> None:
        row = rows_pb2.QueueRow.FromString(rows[keys.queue_key(1)])
        for name, value in fields.items():
            setattr(row.outbox, name, value)
        rows[keys.queue_key(1)] = row.SerializeToString()

    return edit


def hooked(count: int) -> Mutation:
    def edit(rows: Rows) -> None:
        row = rows_pb2.QueueRow.FromString(rows[keys.queue_key(1)])
        row.hooked = count
        rows[keys.queue_key(1)] = row.SerializeToString()

    return edit


def listing(position: int, listed: list[int]) -> Mutation:
    def edit(rows: Rows) -> None:
        key = keys.place_key(keys.lane_prefix(keys.STATES, 1, 9), position)
        state = rows_pb2.StateRow.FromString(rows[key])
        state.callbacks[:] = listed
        rows[key] = state.SerializeToString()

    return edit


def without(key: bytes) -> Mutation:
    return lambda rows: rows.pop(key) and None


def without_retry(rows: Rows) -> None:
    (key,) = [key for key in rows if key[:1] == keys.RETRIES]
    del rows[key]


def retry_at(time_ms: int, position: int) -> Mutation:
    def edit(rows: Rows) -> None:
        rows[keys.time_key(keys.RETRIES, 1, time_ms, keys.OUTBOX_LANE, position)] = b""

    return edit


MUTATIONS: dict[str, tuple[Mutation, str]] = {
    "delivered callback is due": (edited(DELIVERED, due_ms=5), "does not wait"),
    "new callback was attempted": (edited(NEW, attempts_total=1), "is new"),
    "callback of a task that did not end": (edited(NEW, status=1), "reports the status"),
    "more tries than attempts": (edited(DELIVERED, tries=2), "attempts"),
    "callback of another task": (edited(DELIVERED, home=9 << 48 | 2), "belongs to another task"),
    "callback of another end": (edited(DELIVERED, ended_lsn=99), "its callbacks report ends"),
    "callback is missing": (without(DELIVERED), "does not exist"),
    "callback is listed by no task": (listing(1, []), "is listed by no task"),
    "webhook without a callback": (listing(1, []), "its webhook has no callback"),
    "callbacks out of order": (listing(2, [2, 1]), "out of order"),
    "retry is missing": (without_retry, "is not in the index of retries"),
    "retry of a delivered callback": (retry_at(1 << 42, 1), "leads to no callback"),
    "retry for another time": (edited(WAITING, due_ms=5), "leads to no callback"),
    "mark past a new callback": (outbox(mark=4), "is not above the mark"),
    "mark past the tail": (outbox(mark=9), "before its mark"),
    "tail before the last callback": (outbox(tail=3, mark=3), "before its mark or its last callback"),
    "pending miscounted": (outbox(pending=1), "callbacks are pending"),
    "waiting miscounted": (outbox(retries=2), "callbacks are waiting"),
    "given up miscounted": (outbox(gave_up=0), "callbacks are given up"),
    "index before its mark": (outbox(retry_mark=b"\xff" * 8), "before the mark of the index"),
    "tasks with webhooks miscounted": (hooked(3), "hooked is 3"),
    "settings that set nothing": (lambda rows: rows.update({tenant_keys.endpoint_key("a", ""): b""}), "sets nothing"),
}


def test_consistent_callbacks_have_no_differences() -> None:
    assert list(check(sorted(rows_of_callbacks().items()))) == []


@pytest.mark.parametrize("name", MUTATIONS)
def test_contradiction_among_callbacks_is_reported(name: str) -> None:
    mutate, expected = MUTATIONS[name]
    rows = rows_of_callbacks()
    mutate(rows)
    found = [str(difference) for difference in check(sorted(rows.items()))]
    assert any(expected in each for each in found), found
