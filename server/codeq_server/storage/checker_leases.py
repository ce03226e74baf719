"""Checker rules about leases: which deliveries they list, and how they may be extended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from codeq_internal.v1 import rows_pb2

from codeq_server.core import keys
from codeq_server.core.claims import CLAIM_MAX

from .checker_homes import listed_homes, queues_match

TOKEN_COUNTER_BITS: Final = 34
"""Bits of a lease token below its epoch."""


class Slot(NamedTuple):
    """A delivery listed in a lease row."""

    token: int
    place: int
    attempts: int


class LeaseRows:
    """Rows "l" read so far, and the deliveries that state rows and homes have yet to confirm.

    Attributes:
        tokens: Tokens of all leases.
    """

    def __init__(self) -> None:
        self.tokens: set[int] = set()
        self._slots: dict[int, list[Slot]] = {}
        """Deliveries by home."""

    def row(self, key: bytes, value: bytes) -> Iterator[str]:
        """Processes a row; yields the problems that the row shows by itself."""
        token = keys.token_of(key)
        self.tokens.add(token)
        row = rows_pb2.LeaseRow.FromString(value)
        count = len(row.homes)
        if not 0 < count <= CLAIM_MAX:
            yield f"lists {count} deliveries"
        if len(row.places) not in {0, count} or len(row.attempts) not in {0, count}:
            yield "places or attempts do not match the homes"
            return
        if not queues_match(row.queues, row.homes):
            yield "queues do not match the homes"
        places: Sequence[int] = row.places or [0] * count
        attempts: Sequence[int] = row.attempts or [0] * count
        for index, home in enumerate(listed_homes(row.queues, row.homes)):
            self._slots.setdefault(home, []).append(Slot(token, places[index], attempts[index]))

    def extension(self, key: bytes, value: bytes) -> Iterator[str]:
        """Processes a row "x"; yields its problems."""
        row = rows_pb2.ExtensionRow.FromString(value)
        if keys.token_of(key) not in self.tokens:
            yield "extends a lease that has no row"
        if not len(row.homes) == len(row.lease_ms) == len(row.queues):
            yield "homes, lengths and queues do not match"

    def lists(self, home: int) -> bool:
        """Returns whether a lease lists a delivery of a home that is not yet confirmed."""
        return home in self._slots

    def take(self, home: int) -> list[Slot]:
        """Returns the deliveries of a home, and forgets them."""
        return self._slots.pop(home, [])
