"""Limits on the bytes of gRPC replies that clients have not read.

A client that opens no flow-control window leaves its replies in the server's memory. These limits, per connection and
in total, bound the bytes that its next calls may add, and those that reads in flight may. A client that reads its
replies meets them only if replies of that many bytes become ready at the same time; its rejected calls may be retried.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from codeq_server.core.errors import Reason, Rejection

COUNTED_BYTES: Final = 16 * 1024
"""Size from which a reply is counted; smaller replies are bounded by the number of calls."""

CONNECTION_BYTES_MAX: Final = 16 * 1024 * 1024
"""Number of unread bytes of a connection from which its calls are rejected."""

BYTES_MAX: Final = 64 * 1024 * 1024
"""Number of unread bytes of all connections from which calls on connections with unread replies are rejected."""


class UnreadReplies:
    """Counts the bytes of replies until gRPC has sent them or the client has disconnected."""

    def __init__(self) -> None:
        self._by_peer: Counter[str] = Counter()
        self._total = 0

    def refuse_more(self, peer: str) -> None:
        """Rejects a call while too many bytes are unread.

        Raises:
            Rejection: LIMIT_REACHED.
        """
        unread = self._by_peer.get(peer, 0)
        if unread >= CONNECTION_BYTES_MAX or (unread and self._total >= BYTES_MAX):
            raise Rejection(Reason.LIMIT_REACHED, "too many unread replies")

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
