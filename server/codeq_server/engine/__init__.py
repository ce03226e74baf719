"""Runs a shard: decides, commits in groups, wakes who waits, keeps time. The only place that mixes core and asyncio."""
