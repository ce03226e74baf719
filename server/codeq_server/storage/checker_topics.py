"""Checker rules about policies of commands."""

from __future__ import annotations

from collections.abc import Iterator

from codeq_internal.v1 import rows_pb2

from codeq_server.core import tenant_keys
from codeq_server.core.policy import policy_of


def topic_problems(key: bytes, value: bytes, tick: rows_pb2.TickRow | None) -> Iterator[str]:
    """Yields the problems of a row "p", as of the last batch."""
    row = rows_pb2.TopicRow.FromString(value)
    if tenant_keys.topic_key(row.tenant, row.command) != key:
        yield "holds the policy of another command"
    if not row.version:
        yield "has version 0"
    if not row.created_ms <= row.updated_ms or (tick is not None and row.updated_ms > tick.wall_ms):
        yield f"was created at {row.created_ms} and changed at {row.updated_ms}"
    policy = policy_of(row.policy)
    if list(policy.tiers) != sorted(set(policy.tiers)):
        yield "has tiers out of order"
    if policy.tiers and policy.default_priority and policy.default_priority not in policy.tiers:
        yield f"has the default priority {policy.default_priority}, which is no tier"
