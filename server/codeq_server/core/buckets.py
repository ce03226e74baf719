"""Token buckets in whole numbers, and a bounded table of them. The caller passes the time.

A bucket's level is counted in units, of which a call that costs 1 takes UNIT: at n calls per minute, n units flow back
in each millisecond, so nothing is ever rounded.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from .limits import Rate

UNIT: Final = 60_000
"""Units of a cost of 1: one for each millisecond of a minute."""

BUCKETS_MAX = 100_000
"""Maximum number of buckets in a table."""

LOOKED_AT: Final = 4
"""Buckets that are examined for each new one, all in turn. Full ones are dropped: new ones are full as well."""


class Bucket:
    """A bucket, full at first.

    Attributes:
        rate: The rate in force when the bucket was last filled.
        reserved: Cost for which streams wait in line; a call may not overtake them.
    """

    __slots__ = ("_at_ms", "_level", "rate", "reserved")

    def __init__(self, rate: Rate, now_ms: int) -> None:
        self.rate = rate
        self.reserved = 0
        self._level = rate.burst * UNIT
        self._at_ms = now_ms

    def fill(self, rate: Rate, now_ms: int) -> None:
        """Adds what has flowed back since the last time; a lowered burst size takes effect at once."""
        self._level = min(rate.burst * UNIT, self._level + rate.per_minute * (now_ms - self._at_ms))
        self._at_ms = now_ms
        self.rate = rate

    def wait_ms(self, cost: int, ahead: int) -> int:
        """Returns the milliseconds until a cost is allowed; 0: it is allowed now.

        A cost above the burst size is allowed once the bucket is full.

        Args:
            cost: The cost.
            ahead: Cost that is to be allowed before.
        """
        missing = (min(cost, self.rate.burst) + ahead) * UNIT - self._level
        return 0 if missing <= 0 else -(-missing // self.rate.per_minute)

    def take(self, cost: int) -> None:
        """Takes a cost, and more than there is if need be; a negative one is given back."""
        self._level = min(self.rate.burst * UNIT, self._level - cost * UNIT)

    @property
    def spare(self) -> int:
        """Cost that may be taken without going into debt or overtaking anybody; never negative."""
        return max(0, self._level // UNIT - self.reserved)

    def needed_ms(self, now_ms: int) -> int:
        """Returns for how many milliseconds the bucket is needed: until everything taken has flowed back.

        A bucket that was filled just now is needed in any case, because its caller is about to take from it.
        """
        if self._at_ms == now_ms and self._level == self.rate.burst * UNIT:
            return 1
        missing = self.rate.burst * UNIT - self._level
        return self._at_ms - now_ms - (-missing // self.rate.per_minute)


class Buckets:
    """Buckets by key: the digest of a token, or the name of a tenant."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[bytes | str, Bucket] = OrderedDict()
        """The buckets; the next ones to be examined come first."""

    def __len__(self) -> int:
        """Returns the number of buckets."""
        return len(self._buckets)

    def get(self, key: bytes | str, rate: Rate, now_ms: int) -> Bucket:
        """Returns the bucket of a key, filled."""
        bucket = self._buckets.get(key)
        if bucket is None:
            self._make_room(now_ms)
            bucket = self._buckets[key] = Bucket(rate, now_ms)
        else:
            bucket.fill(rate, now_ms)
        return bucket

    def _make_room(self, now_ms: int) -> None:
        """Drops the full ones among the next buckets; if the table is still at its limit, the fullest of them."""
        buckets = self._buckets
        fullest: bytes | str = ""
        least_ms = -1
        for _ in range(min(LOOKED_AT, len(buckets))):
            key, bucket = buckets.popitem(last=False)
            left_ms = bucket.needed_ms(now_ms)
            if left_ms > 0:
                buckets[key] = bucket
                if least_ms < 0 or left_ms < least_ms:
                    fullest, least_ms = key, left_ms
        if len(buckets) >= BUCKETS_MAX:
            del buckets[fullest]
