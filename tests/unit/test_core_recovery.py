"""Opening a shard from its rows."""

from __future__ import annotations

from driven_shard import DrivenShard


def test_delivery_extended_and_ended_in_one_batch_leaves_no_extension_row_after_reopening() -> None:
    shard = DrivenShard()
    shard.create()
    shard.create()
    extended, other = shard.claim_ids(2, lease=1000)
    shard.write()
    shard.heartbeat(extended, 5000)
    shard.settle(extended)
    shard.write()
    shard.reopen()
    shard.settle(other)
    shard.write()
    assert shard.keys(b"lx") == []
