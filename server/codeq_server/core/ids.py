"""Task ids: version 8 UUIDs that contain the location of the task's home row.

Fields, in the order of the hex digits: queue (32 bits) - epoch (bits 29..14) - version, epoch (bits 13..2) - variant,
epoch (bits 1..0), lane (4), position (bits 47..40) - position (bits 39..0), route (8). The route byte is unused so far:
a later version with several shards will choose it so that the id's hash leads to the shard that made it.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

EPOCH_BITS: Final = 30
EPOCH_MAX: Final = (1 << EPOCH_BITS) - 1
POSITION_MAX: Final = (1 << 48) - 1
ROUTE: Final = "00"

_FORM = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{10}" + ROUTE)


class TaskRef(NamedTuple):
    """The content of an id: the task's home place, and the epoch in which the task was created."""

    queue: int
    lane: int
    position: int
    epoch: int


def id_head(queue: int, lane: int, position: int, epoch: int) -> str:
    """Returns the part of an id that is the same for 2**40 positions of a lane in an epoch."""
    middle = (epoch & 3) << 12 | lane << 8 | position >> 40
    return f"{queue:08x}-{epoch >> 14:04x}-8{epoch >> 2 & 0xFFF:03x}-{0x8000 | middle:04x}-"


def make_id(head: str, position: int) -> str:
    """Returns the id of a position, given its `id_head`."""
    return f"{head}{position & 0xFFFFFFFFFF:010x}{ROUTE}"


def task_id(queue: int, lane: int, position: int, epoch: int) -> str:
    """Returns the id of the task with this home."""
    return make_id(id_head(queue, lane, position, epoch), position)


def parse_id(text: str) -> TaskRef | None:
    """Returns the content of an id, or None if the text does not have the form of an id."""
    if not _FORM.fullmatch(text):
        return None
    middle = int(text[19:23], 16)
    epoch = int(text[9:13], 16) << 14 | int(text[15:18], 16) << 2 | middle >> 12 & 3
    position = (middle & 0xFF) << 40 | int(text[24:34], 16)
    return TaskRef(int(text[:8], 16), middle >> 8 & 0xF, position, epoch)
