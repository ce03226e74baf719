"""Backoff: the documented table and the range of jitter."""

from __future__ import annotations

import pytest
from codeq_server.core.backoff import BackoffPolicy, backoff_ms
from hypothesis import given
from hypothesis import strategies as st

ALMOST_ONE = 1 - 2**-53
CAPS = [5, 10, 20, 40, 80, 160, 320, 640, 900, 900]
"""Delay in seconds after 0, 1, 2 … attempts, with a base of 5 s and a limit of 900 s."""

POLICIES = st.sampled_from(BackoffPolicy)
SECONDS = st.integers(1, 100_000)
ATTEMPTS = st.integers(0, 2_000)
RANDOM = st.floats(0, ALMOST_ONE)


@pytest.mark.parametrize(("attempts", "cap"), list(enumerate(CAPS)))
def test_exponential_backoff_matches_the_documented_table(attempts: int, cap: int) -> None:
    assert backoff_ms(BackoffPolicy.EXPONENTIAL, 5, 900, attempts, 0.5) == cap * 1000


@pytest.mark.parametrize(
    ("attempts", "seconds"), [(0, 5), (1, 5), (2, 10), (3, 15), (179, 895), (180, 900), (999, 900)]
)
def test_linear_backoff_grows_by_the_base_delay(attempts: int, seconds: int) -> None:
    assert backoff_ms(BackoffPolicy.LINEAR, 5, 900, attempts, 0.5) == seconds * 1000


@pytest.mark.parametrize(("base", "most", "seconds"), [(5, 900, 5), (5, 3, 3)])
def test_fixed_backoff_is_the_base_delay_up_to_the_limit(base: int, most: int, seconds: int) -> None:
    for attempts in (0, 1, 100):
        assert backoff_ms(BackoffPolicy.FIXED, base, most, attempts, 0.5) == seconds * 1000


@pytest.mark.parametrize(("attempts", "cap"), list(enumerate(CAPS)))
def test_jitter_covers_its_whole_range(attempts: int, cap: int) -> None:
    """Equal jitter ranges from half the cap to the cap, full jitter from zero to the cap."""
    for policy, least in ((BackoffPolicy.EXP_EQUAL_JITTER, cap * 500), (BackoffPolicy.EXP_FULL_JITTER, 0)):
        assert backoff_ms(policy, 5, 900, attempts, 0.0) == least
        assert backoff_ms(policy, 5, 900, attempts, ALMOST_ONE) == cap * 1000


def test_jitter_spreads_the_delays() -> None:
    delays = {backoff_ms(BackoffPolicy.EXP_FULL_JITTER, 5, 900, 3, n / 1000) for n in range(1000)}
    assert len(delays) > 990


@given(POLICIES, SECONDS, SECONDS, ATTEMPTS, RANDOM)
def test_backoff_is_never_negative_and_never_above_the_limit(
    policy: BackoffPolicy, base: int, most: int, attempts: int, random: float
) -> None:
    assert 0 <= backoff_ms(policy, base, most, attempts, random) <= most * 1000


@given(st.sampled_from([BackoffPolicy.FIXED, BackoffPolicy.LINEAR, BackoffPolicy.EXPONENTIAL]), SECONDS, ATTEMPTS)
def test_backoff_without_jitter_never_shrinks(policy: BackoffPolicy, base: int, attempts: int) -> None:
    assert backoff_ms(policy, base, 900, attempts, 0.5) <= backoff_ms(policy, base, 900, attempts + 1, 0.5)
