"""Token buckets: exact, compared with a model in fractions; and their bounded table."""

from __future__ import annotations

from fractions import Fraction

import pytest
from codeq_server.core import buckets
from codeq_server.core.buckets import Bucket, Buckets
from codeq_server.core.limits import Rate
from hypothesis import given
from hypothesis import strategies as st

RATES = st.builds(Rate, st.integers(1, 1_000_000_000), st.integers(1, 1000))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.integers(0, 100_000)),
        st.tuples(st.just("call"), st.integers(1, 3000)),
        st.tuples(st.just("deliver"), st.integers(1, 300)),
        st.tuples(st.just("rate"), RATES),
    ),
    max_size=60,
)


@given(RATES, STEPS)
def test_bucket_matches_a_model_in_fractions(rate: Rate, steps: list[tuple[str, int | Rate]]) -> None:
    now, level, bucket = 0, Fraction(rate.burst), Bucket(rate, 0)
    for kind, value in steps:
        if isinstance(value, Rate):
            rate = value
            level = min(level, Fraction(rate.burst))
        elif kind == "pass":
            now += value
            level = min(Fraction(rate.burst), level + Fraction(value * rate.per_minute, 60_000))
        bucket.fill(rate, now)
        if isinstance(value, int) and kind in {"call", "deliver"}:
            missing = min(value, rate.burst) - level
            wait = bucket.wait_ms(value, 0)
            assert (wait > 0) is (missing > 0)
            if wait:
                assert (wait - 1) * rate.per_minute < missing * 60_000 <= wait * rate.per_minute
            if not wait or kind == "deliver":
                bucket.take(value)
                level -= value
        assert bucket.spare == max(0, level // 1)
        assert bucket.needed_ms(now) > 0
        full_at = now + bucket.needed_ms(now)
        missing = rate.burst - level
        assert missing == 0 or (full_at - now - 1) * rate.per_minute < missing * 60_000
        assert missing * 60_000 <= (full_at - now) * rate.per_minute
        assert bucket.needed_ms(full_at) <= 0


def test_full_bucket_allows_more_than_its_burst_size_and_then_has_a_debt() -> None:
    bucket = Bucket(Rate(60, 10), 0)
    assert bucket.wait_ms(25, 0) == 0
    bucket.take(25)
    assert bucket.wait_ms(1, 0) == 16_000
    bucket.fill(Rate(60, 10), 16_000)
    assert bucket.wait_ms(1, 0) == 0


def test_lowered_burst_size_takes_effect_at_once_and_a_raised_one_is_not_a_gift() -> None:
    bucket = Bucket(Rate(60, 10), 0)
    bucket.fill(Rate(60, 3), 0)
    assert bucket.spare == 3
    bucket.fill(Rate(60, 100), 0)
    assert bucket.spare == 3


def test_cost_given_back_never_overfills_the_bucket() -> None:
    bucket = Bucket(Rate(60, 10), 0)
    bucket.take(4)
    bucket.fill(Rate(60, 10), 2_000)
    bucket.take(-4)
    assert bucket.spare == 10


def test_call_waits_for_the_cost_that_streams_have_reserved() -> None:
    bucket = Bucket(Rate(60, 10), 0)
    bucket.take(10)
    bucket.reserved = 5
    assert bucket.wait_ms(1, 0) == 1_000
    assert bucket.wait_ms(1, bucket.reserved) == 6_000
    bucket.fill(bucket.rate, 5_000)
    assert bucket.spare == 0


def test_new_buckets_drop_full_ones_and_keep_the_others() -> None:
    table, rate = Buckets(), Rate(60, 10)
    for number in range(100):
        table.get(b"%d" % number, rate, 0).take(10 if number % 2 else 1)
    for number in range(1000):
        table.get(f"new-{number}", rate, 1_000 + number // 10)  # by now all that took 1 are full
    kept = [number for number in range(1, 100, 2) if table.get(b"%d" % number, rate, 1_100).spare == 1]
    assert kept == list(range(1, 100, 2))
    assert len(table) <= 2 * len(kept)


def test_bucket_just_looked_up_is_not_dropped_for_the_next_one() -> None:
    table, rate = Buckets(), Rate(60, 10)
    table.get(b"token", rate, 0)
    table.get("tenant", rate, 0)
    table.get(b"token", rate, 0).take(10)
    assert table.get(b"token", rate, 0).spare == 0
    token = table.get(b"token", rate, 20_000)
    for number in range(10):
        table.get(f"other-{number}", rate, 20_000)
    token.take(10)
    assert table.get(b"token", rate, 20_000).spare == 0


def test_table_at_its_limit_drops_the_fullest_of_the_next_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "BUCKETS_MAX", 10)
    table, rate = Buckets(), Rate(60, 10)
    for number in range(10):
        table.get(b"%d" % number, rate, 0).take(2 if number == 1 else 10)
    for number in range(1000):
        table.get(f"new-{number}", rate, 0).take(10)
        assert len(table) == 10
    assert table.get(b"1", rate, 0).spare == 10  # dropped: it is a new one
