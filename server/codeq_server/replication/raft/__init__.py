"""Batches become durable on a majority of members: one Raft group for a shard, its log in the store of the rows."""
