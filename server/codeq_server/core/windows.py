"""The windows of lanes: their heads in memory, read before they run dry and emptied when memory is short."""

from __future__ import annotations

import heapq
from collections import deque

from . import keys
from .model import NO_WINDOW, NOTHING_GONE, WINDOW_BYTES, WINDOW_ENTRY_BYTES, Entry, Lane
from .parsing import UNREADABLE, unreadable
from .shard import Shard

PAGE_MAX = 256
"""Maximum number of places read at once."""
PAGE_BYTES_MAX = 4 << 20
"""Target for the memory of a page of places; estimated from the previous page."""


def append(shard: Shard, lane: Lane, entry: Entry) -> None:
    """Gives a task the place after the lane's tail; the caller writes the row."""
    position = lane.tail = entry[0]
    if lane.loaded == position - 1 and shard.windows_bytes < shard.settings.window_bytes_max:
        size = len(entry[2]) + WINDOW_ENTRY_BYTES
        if lane.window is NO_WINDOW:
            lane.window = deque()
            size += WINDOW_BYTES
            shard.loaded_lanes[lane] = None
        lane.window.append(entry)
        lane.loaded = position
        lane.window_bytes += size
        shard.windows_bytes += size
    lane.ready += 1
    if lane.ready == 1:
        shard.became_ready(lane)


def put_back(shard: Shard, lane: Lane, position: int, target: tuple[int, int, int]) -> None:
    """Returns a task to a place before the lane's mark: the next claim takes it; the caller writes its state row.

    Args:
        shard: Shard that owns the task.
        lane: Lane of the place.
        position: Position of the place.
        target: Home lane, home position and attempts.
    """
    shard.batch.rows[keys.returned_key(lane.task_prefix, position)] = keys.pointer(*target)
    heapq.heappush(lane.returned, (position, *target))
    lane.ready += 1
    lane.queue.reshown += 1
    ring = lane.queue.ring
    if lane.ready == 1 or (ring is not None and lane.index in ring.sifting):
        shard.became_ready(lane)


def load(shard: Shard, lane: Lane, most: int) -> bool:
    """Reads the next places of a lane, at most `most`, into its empty window; returns whether it found a task."""
    window = lane.window if lane.window is not NO_WINDOW else deque()
    while lane.loaded < lane.tail:
        first, last = lane.loaded + 1, min(lane.loaded + min(lane.page, most), lane.tail)
        size, position = 0, first
        try:
            for position, value in shard.places(lane, first, last):
                if value[:1] == keys.DEAD:
                    continue
                if value[:1] == keys.POINTER:
                    window.append(Entry(position, "", b"", keys.split_pointer(value)))
                    size += WINDOW_ENTRY_BYTES
                else:
                    raw = keys.task_bytes(value)
                    window.append(Entry(position, lane.key_of(position, value), raw, None))
                    size += len(raw) + WINDOW_ENTRY_BYTES
        except UNREADABLE:
            raise unreadable(keys.place_key(lane.task_prefix, position)) from None
        lane.loaded = last
        if window:
            lane.page = max(1, min(PAGE_BYTES_MAX * len(window) // size, PAGE_MAX))
            if lane.window is NO_WINDOW:
                lane.window = window
                size += WINDOW_BYTES
            _charge(shard, lane, size)
            return True
        lane.mark = last
    return False


def leave_lane(shard: Shard, lane: Lane, position: int) -> None:
    """Removes a task from a place in a lane or from its returned tasks; the caller changes the place's row."""
    lane.ready -= 1
    if not lane.ready:
        emptied(shard, lane)
        return
    if position <= lane.mark or position <= lane.loaded:
        if lane.gone is NOTHING_GONE:
            lane.gone = set()
        lane.gone.add(position)
        prune(shard, lane)
    elif position == lane.mark + 1:
        lane.mark = lane.loaded = position


def emptied(shard: Shard, lane: Lane) -> None:
    """Unregisters a lane that lost its last pending task: nothing is waiting up to its tail."""
    queues = shard.ready[lane.queue.tenant][lane.index]
    if queues is not None:
        queues.pop(lane.queue, None)
    shard.windows_bytes -= lane.window_bytes
    lane.window_bytes = 0
    lane.mark = lane.loaded = lane.tail
    lane.window, lane.gone = NO_WINDOW, NOTHING_GONE
    if lane.returned:
        lane.returned.clear()
    shard.loaded_lanes.pop(lane, None)


def prune(shard: Shard, lane: Lane) -> None:
    """Drops tasks that no longer wait, so that a lane's first place and its first returned task hold waiting tasks."""
    gone, window, size = lane.gone, lane.window, 0
    while gone and lane.returned and lane.returned[0][0] in gone:
        gone.remove(heapq.heappop(lane.returned)[0])
    while gone and window and window[0].position in gone:
        entry = window.popleft()
        gone.remove(entry.position)
        lane.mark = entry.position
        size += len(entry.raw) + WINDOW_ENTRY_BYTES
    lane.window_bytes -= size
    shard.windows_bytes -= size


def forget(shard: Shard, lane: Lane) -> None:
    """Empties a lane's window; its places will be read again."""
    shard.windows_bytes -= lane.window_bytes
    lane.window = NO_WINDOW
    lane.window_bytes = 0
    lane.loaded = lane.mark
    if lane.gone:
        lane.gone = {position for position in lane.gone if position <= lane.mark}
    shard.loaded_lanes.pop(lane, None)


def forget_others(shard: Shard, keep: Lane) -> None:
    """Empties windows, those longest in memory first, until all are within the limit; `keep` is not emptied."""
    for lane in list(shard.loaded_lanes):
        if shard.windows_bytes <= shard.settings.window_bytes_max:
            return
        if lane is not keep:
            forget(shard, lane)


def _charge(shard: Shard, lane: Lane, size: int) -> None:
    """Counts the memory of a page read into a lane's window; empties other windows when over budget."""
    lane.window_bytes += size
    shard.windows_bytes += size
    shard.loaded_lanes[lane] = None
    if shard.windows_bytes > shard.settings.window_bytes_max:
        forget_others(shard, lane)
