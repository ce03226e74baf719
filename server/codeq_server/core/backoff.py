"""Delays after a failed delivery, by the documented formulas; random numbers are passed in as an argument."""

from __future__ import annotations

from enum import Enum
from typing import Final

_EXPONENT_MAX: Final = 40


class BackoffPolicy(Enum):
    """How the delay grows with the number of deliveries."""

    FIXED = "fixed"
    LINEAR = "linear"
    EXPONENTIAL = "exponential"
    EXP_EQUAL_JITTER = "exp_equal_jitter"
    EXP_FULL_JITTER = "exp_full_jitter"


def backoff_ms(policy: BackoffPolicy, base_seconds: int, max_seconds: int, attempts: int, random: float) -> int:
    """Returns the delay in milliseconds after `attempts` deliveries.

    Args:
        policy: How the delay grows.
        base_seconds: Delay of the first step, at least 1.
        max_seconds: Largest delay, at least 1.
        attempts: Deliveries so far, including the failed one.
        random: Uniform in [0, 1).
    """
    base, most = base_seconds * 1000, max_seconds * 1000
    if policy is BackoffPolicy.FIXED:
        return min(base, most)
    if policy is BackoffPolicy.LINEAR:
        return min(base * max(1, attempts), most)
    cap = min(base << min(max(attempts, 0), _EXPONENT_MAX), most)
    if policy is BackoffPolicy.EXPONENTIAL:
        return cap
    if policy is BackoffPolicy.EXP_EQUAL_JITTER:
        return cap // 2 + int(random * (cap // 2 + 1))
    return int(random * (cap + 1))
