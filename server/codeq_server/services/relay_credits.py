"""The credits of a worker's stream over several shards.

The credits stay here: each is held, is in a pull that a shard has not answered, or was spent on a delivered task. So
their sum is always what the client has granted, whatever the shards do.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from .delivering import FRAME_BYTES_MAX, FRAME_TASKS_MAX
from .work import CREDIT_BYTES_MAX, check_credits

TASK_BYTES_MAX: Final = 2 << 20
"""Bytes by which the last task of a pull may exceed what the pull allows; no task is larger."""
UNKNOWN_PRIORITY: Final = 10
"""Priority of the work of a shard that was not asked yet: it is asked first."""


class Pull(NamedTuple):
    """What to ask a shard for: a maximum of tasks, and bytes after which no further one is given."""

    shard: int
    tasks: int
    room: int


class _Share:
    """What is known of a shard.

    Attributes:
        is_open: Whether it can be asked.
        is_ready: Whether it may have tasks.
        priority: Highest priority of these tasks, as far as it is known.
        served: Turn in which it was asked last.
        pulling: Credits in its pull; 0: no pull is in flight.
        reserved: Bytes that the pull may use.
        is_hinted: Whether the shard has got tasks since it carried out the pull, whose answer is still on its way.
    """

    __slots__ = ("is_hinted", "is_open", "is_ready", "priority", "pulling", "reserved", "served")

    def __init__(self) -> None:
        self.is_open = self.is_ready = self.is_hinted = False
        self.priority = UNKNOWN_PRIORITY
        self.served = self.pulling = self.reserved = 0


class Credits:
    """Spreads credits over shards that have tasks.

    The shard with the highest priority is asked first, then the one asked longest ago. A pull never takes all credits
    while other shards may have tasks, unless there is only one credit: a shard that does not answer would stop the
    deliveries of all others.

    Attributes:
        held: Credits that are in no pull.

    Args:
        shards: Number of shards.
    """

    def __init__(self, shards: int) -> None:
        self.held = 0
        self._bytes: int | None = None
        """Bytes that the client accepts, less those reserved for pulls; None: it does not count them."""
        self._shares = [_Share() for _ in range(shards)]
        self._turn = 0

    @property
    def pulling(self) -> int:
        """Credits in pulls."""
        return sum([share.pulling for share in self._shares])

    def add(self, count: int, size: int) -> None:
        """Adds what the client has granted.

        Raises:
            Rejection: INVALID_FIELD.
        """
        if count or size:
            check_credits(self.held + self.pulling, count, size)
        self.held += count
        if size:
            reserved = sum([share.reserved for share in self._shares])
            self._bytes = min((self._bytes or 0) + size, CREDIT_BYTES_MAX - reserved)

    def open(self, shard: int) -> None:
        """Notes that a shard can be asked."""
        share = self._shares[shard]
        share.is_open = share.is_ready = True
        share.priority = UNKNOWN_PRIORITY

    def is_pulling(self, shard: int) -> bool:
        """Returns whether a pull to a shard is in flight."""
        return self._shares[shard].pulling > 0

    def close(self, shard: int) -> None:
        """Notes that a shard must not be asked any more; a pull in flight may still be answered."""
        self._shares[shard].is_open = False

    def lose(self, shard: int) -> None:
        """Takes back the credits of a pull that will not be answered."""
        self.close(shard)
        self._end_pull(self._shares[shard], 0, 0)

    def hint(self, shard: int, priority: int) -> None:
        """Notes that a shard may have tasks, the first of this priority.

        A hint overtakes answers, which wait for the disk. One that arrives during a pull is later than its claim.
        """
        share = self._shares[shard]
        share.is_ready, share.priority = True, priority
        share.is_hinted = share.pulling > 0

    def answer(self, shard: int, count: int, size: int, *, is_ready: bool, priority: int) -> None:
        """Notes the answer to a pull.

        Args:
            shard: The shard.
            count: Number of tasks delivered.
            size: Bytes of these tasks.
            is_ready: Whether the shard may have more tasks.
            priority: The highest priority of these.
        """
        share = self._shares[shard]
        if not share.is_hinted:
            share.is_ready, share.priority = is_ready, priority
        self._end_pull(share, count, size)

    def next(self) -> Pull | None:
        """Returns the next pull, whose credits are taken; None: there is nobody to ask, or nothing to ask for."""
        if not self.held:
            return None
        room, reserved = self._room()
        if room <= 0:
            return None
        ready = [number for number, share in enumerate(self._shares) if self._can_ask(share)]
        if not ready:
            return None
        top = max([self._shares[number].priority for number in ready])
        equals = [number for number in ready if self._shares[number].priority == top]
        shard = min(equals, key=self._served)
        sharers = len(equals) + (len(equals) < len(ready))
        count = min(FRAME_TASKS_MAX, -(-self.held // sharers))
        self._turn += 1
        share = self._shares[shard]
        share.served, share.pulling, share.reserved = self._turn, count, reserved
        self.held -= count
        if self._bytes is not None:
            self._bytes -= reserved
        return Pull(shard, count, room)

    def _room(self) -> tuple[int, int]:
        """Returns the bytes for the next pull, and how many to reserve for it: together, only one task is too many."""
        free = self._bytes
        if free is None:
            return FRAME_BYTES_MAX, 0
        if free > TASK_BYTES_MAX:
            room = min(FRAME_BYTES_MAX, free - TASK_BYTES_MAX)
            return room, room + TASK_BYTES_MAX
        if self.pulling:
            return 0, 0
        return min(FRAME_BYTES_MAX, free), free

    def _can_ask(self, share: _Share) -> bool:
        return share.is_open and share.is_ready and not share.pulling

    def _served(self, shard: int) -> int:
        return self._shares[shard].served

    def _end_pull(self, share: _Share, count: int, size: int) -> None:
        self.held += share.pulling - count
        if self._bytes is not None:
            self._bytes = max(0, self._bytes + share.reserved - size)
        share.pulling = share.reserved = 0
        share.is_hinted = False
