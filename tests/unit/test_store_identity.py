"""A store knows its identity, and each opening raises its epoch."""

from __future__ import annotations

import pytest
from codeq_internal.v1 import rows_pb2
from codeq_server.core import ids, keys
from codeq_server.storage.errors import StoreDamaged, StoreFailed, StoreFormat
from codeq_server.storage.identity import next_identity, save
from codeq_server.storage.memory import MemoryStore

RANDOM = bytes(range(16))


def stored(**fields: object) -> MemoryStore:
    row = rows_pb2.IdentityRow(format=1, num_shards=1, cluster_id=RANDOM, epoch=10)
    for name, value in fields.items():
        setattr(row, name, value)
    store = MemoryStore()
    save(store, row)
    return store


def test_next_identity_of_a_new_store_takes_its_epoch_from_the_clock() -> None:
    store = MemoryStore()
    identity = next_identity(store, 1, 1_750_000_007, RANDOM)
    assert identity == rows_pb2.IdentityRow(
        format=keys.FORMAT, shard=0, num_shards=1, cluster_id=RANDOM, epoch=218_750_000
    )
    assert store.get(keys.IDENTITY) is None


def test_next_identity_of_a_known_store_keeps_its_id_and_raises_the_epoch() -> None:
    identity = next_identity(stored(), 1, 0, bytes(16))
    assert identity.cluster_id == RANDOM
    assert identity.epoch == 11


def test_epoch_rises_even_if_a_store_is_reopened_at_the_same_clock_time() -> None:
    store = MemoryStore()
    epochs = []
    for _ in range(3):
        identity = next_identity(store, 1, 800, RANDOM)
        save(store, identity)
        epochs.append(identity.epoch)
    assert epochs == [100, 101, 102]


def test_error_about_a_newer_format_names_both_formats() -> None:
    with pytest.raises(StoreFormat, match=f"format {keys.FORMAT + 1}.* {keys.FORMAT};"):
        next_identity(stored(format=keys.FORMAT + 1), 1, 0, RANDOM)


def test_different_number_of_shards_is_rejected() -> None:
    with pytest.raises(StoreFormat, match="numShards to 1"):
        next_identity(stored(), 2, 0, RANDOM)


def test_different_shard_is_rejected() -> None:
    with pytest.raises(StoreFormat):
        next_identity(stored(shard=1, num_shards=2), 2, 0, RANDOM)


@pytest.mark.parametrize("value", [b"\xff\xff", b""])
def test_unreadable_identity_is_reported_as_damage(value: bytes) -> None:
    store = MemoryStore()
    store.write({keys.IDENTITY: value})
    with pytest.raises(StoreDamaged):
        next_identity(store, 1, 0, RANDOM)


def test_rows_without_an_identity_are_reported_as_damage() -> None:
    store = MemoryStore()
    store.write({keys.TICK: b""})
    with pytest.raises(StoreDamaged):
        next_identity(store, 1, 0, RANDOM)


def test_next_identity_fails_after_the_last_epoch() -> None:
    with pytest.raises(StoreFailed):
        next_identity(stored(epoch=ids.EPOCH_MAX), 1, 0, RANDOM)
