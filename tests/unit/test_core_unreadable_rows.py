"""Rows that cannot be read are named by their keys, at the start and later."""

from __future__ import annotations

import pytest
from codeq_server.core import ids, keys
from codeq_server.core.errors import CorruptRows
from codeq_server.core.outcomes import Outcome
from codeq_server.storage.check import check
from driven_shard import DrivenShard

GARBAGE = b"\xff\xff\xff"


def worked_shard() -> tuple[DrivenShard, str]:
    """Returns a shard with a task that waits after a nack, one that is claimed, and one that ended."""
    driven = DrivenShard()
    first, _, third = driven.create(), driven.create(), driven.create()
    driven.claim_ids(3)
    driven.nack(first)
    driven.settle(third)
    driven.heartbeat(next(iter(driven.shard.deliveries)), 600_000)
    driven.write()
    return driven, first


def state_key(task_id: str) -> bytes:
    ref = ids.parse_id(task_id)
    assert ref is not None
    return keys.place_key(keys.lane_prefix(b"s", ref.queue, ref.lane), ref.position)


@pytest.mark.parametrize("table", [b"q", b"l", b"x", keys.TICK])
def test_open_unreadable_row_is_named(table: bytes) -> None:
    driven, _ = worked_shard()
    key = next(key for key in driven.keys(table[:1]) if key.startswith(table))
    driven.store.write({key: GARBAGE})
    with pytest.raises(CorruptRows) as refused:
        driven.reopen()
    assert refused.value.key == key
    assert key in [found.key for found in check(driven.store.scan(b"", b"\xff", 1 << 30))]


def test_read_unreadable_state_is_named() -> None:
    driven, task_id = worked_shard()
    driven.store.write({state_key(task_id): GARBAGE})
    with pytest.raises(CorruptRows) as refused:
        driven.view(task_id)
    assert refused.value.key == state_key(task_id)


def test_outcome_over_unreadable_state_is_named() -> None:
    driven, task_id = worked_shard()
    (claimed,) = driven.claim_ids(1)
    assert claimed == task_id
    driven.write()
    driven.store.write({state_key(task_id): GARBAGE})
    with pytest.raises(CorruptRows) as refused:
        driven.settle(task_id, Outcome.NACK, delay=0)
    assert refused.value.key == state_key(task_id)


def test_sweep_over_unreadable_list_is_named() -> None:
    driven, _ = worked_shard()
    (key,) = driven.keys(b"r")
    driven.store.write({key: GARBAGE})
    with pytest.raises(CorruptRows) as refused:
        driven.pass_time(driven.settings.retention_ms + 1000)
    assert refused.value.key == key
