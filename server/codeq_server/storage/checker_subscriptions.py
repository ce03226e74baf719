"""Checker rules about subscriptions."""

from __future__ import annotations

from collections.abc import Iterator

from codeq_internal.v1 import rows_pb2

from codeq_server.core import tenant_keys


def subscription_problems(key: bytes, value: bytes) -> Iterator[str]:
    """Yields the problems of a subscription's row, which refers to no other row."""
    tenant_keys.split_subscription_key(key)
    row = rows_pb2.SubscriptionRow.FromString(value)
    if not row.url:
        yield "has no URL"
    if (row.mode == rows_pb2.SIGNAL_MODE_GROUP) != bool(row.group):
        yield "has a group without the mode of groups, or that mode without a group"
    if not row.ttl_ms or row.expires_ms < row.created_ms + row.ttl_ms:
        yield "ends before its time to live is over"
