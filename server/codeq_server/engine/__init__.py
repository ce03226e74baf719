"""Runs a shard: decides, group-commits, wakes waiters, runs timers. The only place that mixes core and asyncio."""
