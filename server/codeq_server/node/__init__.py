"""The life of a process: what it listens on, what hosts the shard, and the order in which it starts and stops."""
