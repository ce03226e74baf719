"""Records where memory is allocated that is still in use at the end of a while.

Only Python's own allocations are seen, not those of the store, of gRPC and of compiled extensions.
"""

from __future__ import annotations

import time
import tracemalloc
from typing import Final

from .stacks import Ending, Frame, Measure, Profile

FRAMES: Final = 16
"""Frames recorded of each allocation; more would make the server slower still."""
OBJECTS: Final = Measure("inuse_objects", "count")
SPACE: Final = Measure("inuse_space", "bytes")


def record(seconds: float, stop: Ending) -> Profile:
    """Returns the memory allocated in the next seconds and still in use then, by stack.

    Meanwhile each allocation costs several times as much. If the process traces its allocations from the start on
    (PYTHONTRACEMALLOC), those of its whole life are returned, at once.

    Args:
        seconds: How long allocations are recorded.
        stop: Ends the recording early.
    """
    profile = Profile((OBJECTS, SPACE), time.time_ns(), 0.0)
    began = time.monotonic()
    is_tracing = tracemalloc.is_tracing()
    if not is_tracing:
        tracemalloc.start(FRAMES)
    try:
        if not is_tracing:
            stop.wait(seconds)
        snapshot = tracemalloc.take_snapshot()
    finally:
        if not is_tracing:
            tracemalloc.stop()
    for trace in snapshot.traces:
        stack = tuple(Frame("", frame.filename, frame.lineno) for frame in reversed(trace.traceback))
        profile.add(stack, 1, trace.size)
    profile.seconds = time.monotonic() - began
    return profile
