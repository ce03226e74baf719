"""Storage of a shard's rows: ordered bytes, written in atomic batches and made durable on demand.

A store does not interpret its rows, with two exceptions: `identity` says which store it is, and `check` proves that its
rows agree with each other. `store` lists the parts of a store; each user picks the parts that it needs.
"""
