"""Where a shard's rows are kept: ordered bytes, written in atomic batches and made durable on demand.

A `Store` knows nothing of what rows mean, but for two modules: `identity` says which store it is, and `check` proves
that its rows agree with each other.
"""
