"""The life of a process: its listeners, the host of the shard, and the order in which it starts and stops."""
