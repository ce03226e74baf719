"""Makes batches durable on a majority of members: one Raft group per shard, its log in the store of the rows."""
