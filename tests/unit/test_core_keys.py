"""Keys: they sort by time and by place, and packed values are unpacked unchanged."""

from __future__ import annotations

from codeq_server.core import keys
from codeq_server.core.ids import EPOCH_MAX
from hypothesis import given
from hypothesis import strategies as st

U32 = st.integers(0, (1 << 32) - 1)
U48 = st.integers(0, (1 << 48) - 1)
U64 = st.integers(0, (1 << 64) - 1)
U16 = st.integers(0, (1 << 16) - 1)
LANE = st.integers(0, 15)

PLACES = st.tuples(U32, LANE, U48)
DUE = st.tuples(U32, U64, LANE, U48)
ENDED = st.tuples(U64, U64, U16)
DEAD = st.tuples(U32, U64, LANE, U48)


def place(of: tuple[int, int, int]) -> bytes:
    return keys.place_key(keys.lane_prefix(b"t", of[0], of[1]), of[2])


@given(PLACES, PLACES)
def test_place_keys_sort_by_place(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    assert keys.split_place_key(place(one)) == one
    assert (place(one) < place(other)) == (one < other)


@given(DUE, DUE)
def test_time_keys_sort_by_time_within_a_queue(
    one: tuple[int, int, int, int], other: tuple[int, int, int, int]
) -> None:
    key = keys.time_key(keys.DUE, *one)
    assert keys.split_time_key(key) == keys.split_time_key(key + b"value") == one
    assert keys.time_of(key) == one[1]
    assert len(key) == keys.TIME_KEY_BYTES
    assert (key < keys.time_key(keys.DUE, *other)) == (one < other)


@given(ENDED, ENDED)
def test_ended_keys_sort_by_time(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    assert keys.split_ended_key(keys.ended_key(*one)) == one
    assert (keys.ended_key(*one) < keys.ended_key(*other)) == (one < other)


@given(DEAD, DEAD)
def test_dead_keys_sort_by_time_within_a_queue(
    one: tuple[int, int, int, int], other: tuple[int, int, int, int]
) -> None:
    assert keys.split_time_key(keys.dead_key(*one)) == one
    assert (keys.dead_key(*one) < keys.dead_key(*other)) == (one < other)


@given(U64, U64)
def test_lease_keys_sort_by_token(one: int, other: int) -> None:
    assert (keys.lease_key(one) < keys.lease_key(other)) == (one < other)
    assert keys.extension_key(one)[1:] == keys.lease_key(one)[1:]


@given(U32)
def test_keys_of_other_tables_sort_outside_every_lane(queue: int) -> None:
    """A page of the last queue's last lane ends at the end of the table."""
    first, last = place((queue, 15, 0)), place((queue, 15, (1 << 48) - 1))
    assert first[:1] == last[:1] == b"t"
    assert last < b"u"
    assert keys.queue_key(queue) < b"r"


@given(LANE, U16, st.booleans())
def test_due_value_survives_a_round_trip(lane: int, attempts: int, has_state: bool) -> None:
    assert keys.split_due_value(keys.due_value(lane, attempts, has_state=has_state)) == (lane, attempts, has_state)


@given(LANE, U48, U16)
def test_pointer_survives_a_round_trip(lane: int, position: int, attempts: int) -> None:
    value = keys.pointer(lane, position, attempts)
    assert keys.split_pointer(value) == (lane, position, attempts)
    assert value[:1] == keys.POINTER


@given(LANE, U48)
def test_packed_home_survives_a_round_trip(lane: int, position: int) -> None:
    assert keys.unpack_home(keys.pack_home(lane, position)) == (lane, position)


@given(st.integers(0, EPOCH_MAX), U64, LANE, st.binary(min_size=1, max_size=50))
def test_home_contains_epoch_and_task_bytes(epoch: int, due_ms: int, lane: int, task: bytes) -> None:
    home = keys.home_head(epoch) + task
    parked = keys.parked_head(epoch, due_ms, lane) + task
    for value, kind in ((home, keys.HOME), (parked, keys.PARKED)):
        assert value[:1] == kind
        assert (keys.home_epoch(value), keys.task_bytes(value)) == (epoch, task)
    assert keys.split_parked(parked) == (due_ms, lane)
