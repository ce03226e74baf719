"""Storage of a shard's rows: ordered bytes, written in atomic batches and made durable on demand.

A `Store` does not know what rows mean. Only two modules do: `identity` says which store it is, and `check` proves that
its rows agree with each other.
"""
