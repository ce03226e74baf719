"""Limits of a tenant over several shards: each enforces an even part, and operators see the whole."""

from __future__ import annotations

import pytest
from codeq_server.core.limits import NO_LIMITS, Limits, Overrides, Rate, share_of
from codeq_server.core.tenants import DEFAULT, Tenants
from hypothesis import given
from hypothesis import strategies as st

QUOTAS = ("waiting_tasks_max", "stored_bytes_max", "leases_max", "streams_max")
RATES = ("producer", "worker", "admin", "producer_token", "worker_token", "admin_token")


def own(name: str, value: int) -> Overrides:
    """Returns limits of a tenant of which one is its own."""
    return tuple(value if each == name else None for each in Limits._fields)


@given(st.integers(0, 1 << 50), st.integers(2, 32))
def test_parts_of_a_quota_are_even_and_exceed_the_whole_by_less_than_one_each(quota: int, shards: int) -> None:
    for name in QUOTAS:
        part = getattr(share_of(NO_LIMITS._replace(**{name: quota}), shards), name)
        assert quota <= part * shards < quota + shards
        assert (part == 0) == (quota == 0)  # 0 means no limit


@given(st.integers(0, 10**9), st.integers(0, 10**6), st.integers(2, 32))
def test_rates_are_divided_and_bursts_are_not(per_minute: int, burst: int, shards: int) -> None:
    for name in RATES:
        part: Rate = getattr(share_of(NO_LIMITS._replace(**{name: Rate(per_minute, burst)}), shards), name)
        assert part.burst == burst
        assert per_minute <= part.per_minute * shards < per_minute + shards


@pytest.mark.parametrize("shards", [1, 4])
def test_operators_see_the_whole_limits_and_shards_enforce_their_part(shards: int) -> None:
    tenants = Tenants(Limits(waiting_tasks_max=100), shards)
    assert tenants.whole_limits_of("acme").waiting_tasks_max == 100
    assert tenants.limits_of("acme").waiting_tasks_max == 100 // shards
    tenants.put("acme", own("waiting_tasks_max", 8))
    assert tenants.whole_limits_of("acme").waiting_tasks_max == 8
    assert tenants.limits_of("acme").waiting_tasks_max == 8 // shards
    tenants.put(DEFAULT, own("leases_max", 40))
    assert tenants.whole_limits_of("acme").leases_max == 40
    assert tenants.limits_of("acme").leases_max == 40 // shards
