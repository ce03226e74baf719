"""Replies over gRPC that their clients do not read: how many bytes of them are kept.

A client that opens no window for a reply leaves it in our memory. What its next calls may add is bounded here, for each
connection and for all together; who reads notices nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from codeq_server.core.errors import Reason, Rejection

COUNTED_BYTES: Final = 16 * 1024
"""Bytes from which on a reply is counted; smaller ones are bounded by the number of calls."""

CONNECTION_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bytes of unread replies of a connection from which on its calls are refused."""

BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes of unread replies of all connections from which on those that have any are refused."""


class UnreadReplies:
    """Counts the bytes of replies from when they are made until gRPC has sent them, or their client has left."""

    def __init__(self) -> None:
        self._by_peer: Counter[str] = Counter()
        self._total = 0

    def refuse_more(self, peer: str) -> None:
        """Refuses a call while too much is unread.

        Raises:
            Rejection: LIMIT_REACHED.
        """
        unread = self._by_peer.get(peer, 0)
        if unread >= CONNECTION_BYTES_MAX or (unread and self._total >= BYTES_MAX):
            raise Rejection(Reason.LIMIT_REACHED, "too many replies wait to be read")

    def hold(self, context: Any, size: int) -> None:
        """Counts a reply until its call is over."""
        peer = context.peer()
        self._by_peer[peer] += size
        self._total += size

        def release(_: Any) -> None:
            self._total -= size
            self._by_peer[peer] -= size
            if not self._by_peer[peer]:
                del self._by_peer[peer]

        context.add_done_callback(release)
