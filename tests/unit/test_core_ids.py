"""Ids: every field survives a round trip, and no other text leads to a task."""

from __future__ import annotations

import uuid

import pytest
from codeq_server.core import ids
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.ids import TaskRef
from codeq_server.core.model import Lane, Queue
from driven_shard import DrivenShard
from hypothesis import given
from hypothesis import strategies as st

REFS = st.builds(
    TaskRef,
    queue=st.integers(0, (1 << 32) - 1),
    lane=st.integers(0, 15),
    position=st.integers(0, ids.POSITION_MAX),
    epoch=st.integers(0, ids.EPOCH_MAX),
)


@given(REFS)
def test_id_round_trip_keeps_every_field(ref: TaskRef) -> None:
    assert ids.parse_id(ids.task_id(*ref)) == ref


@given(REFS)
def test_id_is_a_version_8_uuid(ref: TaskRef) -> None:
    parsed = uuid.UUID(ids.task_id(*ref))
    assert (parsed.version, parsed.variant, str(parsed)) == (8, uuid.RFC_4122, ids.task_id(*ref))


@given(REFS.filter(lambda ref: ref.lane < 16))
def test_id_built_from_a_cached_lane_head_equals_the_full_id(ref: TaskRef) -> None:
    """A lane caches the head of its ids, across positions and epochs."""
    lane = Lane(Queue(ref.queue, "acme", "a"), ref.lane)
    lane.id_of(ref.position ^ 1 << 41, ref.epoch)
    assert lane.id_of(ref.position, ref.epoch) == ids.task_id(*ref)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00000001-0000-8001-8900-00000000010",
        "00000001-0000-8001-8900-0000000001000",
        "00000001-0000-8001-8900-000000000100\n",
        "00000001-0000-4001-8900-000000000100",
        "00000001-0000-8001-c900-000000000100",
        "00000001-0000-8001-890A-000000000100",
        "00000001000080018900000000000100",
        "{0000001-0000-8001-8900-000000000100}",
    ],
)
def test_text_that_is_not_an_id_is_not_parsed(text: str) -> None:
    assert ids.parse_id(text) is None


@pytest.mark.parametrize("position", range(len("00000001-0000-8001-8900-000000000100")))
def test_find_home_rejects_an_id_that_is_one_digit_off(position: int) -> None:
    """Each digit counts: a second id for one task would have neither its lease nor its waiters."""
    shard = DrivenShard()
    task_id = shard.create()
    shard.claim()
    for digit in set("0123456789abcdef-") - {task_id[position]}:
        with pytest.raises(Rejection) as refused:
            shard.view(task_id[:position] + digit + task_id[position + 1 :])
        assert refused.value.reason is Reason.TASK_NOT_FOUND
