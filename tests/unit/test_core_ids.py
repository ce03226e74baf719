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


def fnv1a(text: str) -> int:
    """The hash as its authors define it."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


@given(st.text(max_size=50), st.integers(1, ids.SHARDS_MAX))
def test_shard_of_an_id_is_its_hash_modulo_the_number_of_shards(text: str, count: int) -> None:
    assert ids.shard_of(text, count) == fnv1a(text) % count


def test_shard_of_a_text_depends_on_no_more_than_an_id_or_a_key_may_have() -> None:
    longest = "k" * ids.HASHED_MAX
    assert len({ids.shard_of(longest[:-1] + last, 32) for last in "abcdefgh"}) > 1
    assert ids.shard_of(longest + "x" * 10_000, 32) == ids.shard_of(longest, 32)


@pytest.mark.parametrize("count", range(2, ids.SHARDS_MAX + 1))
def test_ids_lead_to_the_shard_that_made_them(count: int) -> None:
    for index in {0, 1, count - 1}:
        shard = DrivenShard(route=ids.Route(index, count))
        made = [shard.create() for _ in range(300)] + [shard.create(delay=60_000) for _ in range(300)]
        assert {ids.shard_of(task_id, count) for task_id in made} == {index}
        assert len(set(made)) == len(made)
        shard.write()
        shard.reopen()
        assert {shard.status(task_id) for task_id in made} == {"PENDING", "SCHEDULED"}
        assert shard.claim_ids(256) + shard.claim_ids(256) == made[:300]


def test_id_with_the_route_byte_of_another_shard_leads_to_no_task() -> None:
    shard = DrivenShard(route=ids.Route(1, 4))
    task_id = shard.create()
    for route in range(256):
        other = f"{task_id[:34]}{route:02x}"
        if other != task_id:
            with pytest.raises(Rejection) as refused:
                shard.view(other)
            assert refused.value.reason is Reason.TASK_NOT_FOUND


@pytest.mark.parametrize("name", ["", "acme\norder-42", "ä" * 300])
def test_derived_id_is_a_uuid_of_version_5(name: str) -> None:
    namespace = uuid.UUID("7d3b0a5e-4c38-5e0f-9c3e-5b1f6a0c9d27")
    value = ids.derived(namespace.bytes, name)
    assert (uuid.UUID(bytes=value), ids.uuid_text(value)) == (
        uuid.uuid5(namespace, name),
        str(uuid.uuid5(namespace, name)),
    )


@given(st.uuids(version=5), st.integers(2, ids.SHARDS_MAX))
def test_derived_id_is_changed_in_its_last_digits_only_if_it_leads_elsewhere(value: uuid.UUID, count: int) -> None:
    for index in range(count):
        led = ids.Route(index, count).lead(str(value))
        assert ids.shard_of(led, count) == index
        assert (led == str(value)) == (ids.shard_of(str(value), count) == index)
        assert led[:32] == str(value)[:32]
        assert str(uuid.UUID(led)) == led
