"""Samples where one thread uses the CPU.

A thread that samples another one gets its turn where that one gives up Python's lock, and so would see little but calls
that do: waiting for events, reading random numbers. Therefore the main thread takes its samples itself, in the handler
of a signal that comes after each interval of its CPU time.

Compiled functions have no frames of their own. The handler runs at the next step of interpreted code, which is that
of their caller or, if the caller is compiled as well, of whatever runs next.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import deque
from contextlib import ExitStack
from threading import Lock, Thread
from types import FrameType
from typing import Final

from .cpu_timer import cpu_timer
from .stacks import Ending, Frame, Measure, Profile, Stack

INTERVAL_NS: Final = 10_000_000
"""CPU time between two samples; one takes 15 to 90 µs, by the depth of the stack (`timeit` of `raise_signal`)."""
STUCK_NS: Final = 100_000_000
"""CPU time without a sample after which another thread takes one: no interpreted code has run."""
COLLECT_SECONDS: Final = 0.1
"""Time between two looks at the samples that the thread has taken."""
TAKEN_MAX: Final = 1_000
"""Maximum samples that wait to be collected; the time of dropped ones counts for the next one."""
DEPTH_MAX: Final = 128
"""Maximum frames of a stack; the outermost ones are left out."""
CPU: Final = Measure("cpu", "nanoseconds")
SAMPLES: Final = Measure("samples", "count")


class Sampler:
    """Samples one thread until `close`.

    If this is the main thread and creates the sampler, it takes its samples itself, and the sampler owns SIGPROF until
    `close`. Others are sampled from outside: Python handles signals in the main thread only.

    Args:
        thread: The thread, which runs until `close` and as long as `sample`.
    """

    def __init__(self, thread: Thread) -> None:
        self._thread = thread
        self._ident = thread.ident or 0
        self._taken: deque[tuple[Stack, int]] = deque(maxlen=TAKEN_MAX)
        self._sampling = Lock()
        self._handles = thread is threading.current_thread() is threading.main_thread()
        if self._handles:
            self._previous = signal.signal(signal.SIGPROF, self._take)
            signal.siginterrupt(signal.SIGPROF, False)  # noqa: FBT003 - takes no names

    def close(self) -> None:
        """Gives SIGPROF back, after the end of the profile in progress; called by the thread that made the sampler."""
        with self._sampling:
            if self._handles:
                self._handles = False
                signal.signal(signal.SIGPROF, self._previous or signal.SIG_DFL)

    def sample(self, seconds: float, stop: Ending) -> Profile:
        """Returns the CPU time of the thread by stack; called by another thread, one at a time.

        Each sample counts the CPU time that the thread has used since the one before. Where the system does not tell
        it, the time of a sample is the time that has passed.

        Args:
            seconds: Length of the profile.
            stop: Ends the profile early.
        """
        profile = Profile((SAMPLES, CPU), time.time_ns(), 0.0, INTERVAL_NS)
        began = time.monotonic()
        with self._sampling, ExitStack() as stack:
            is_timed = self._handles and stack.enter_context(cpu_timer(self._thread, signal.SIGPROF, INTERVAL_NS))
            self._record(profile, began + seconds, stop, is_timed=is_timed)
        profile.seconds = time.monotonic() - began
        return profile

    def _record(self, profile: Profile, until: float, stop: Ending, *, is_timed: bool) -> None:
        """Adds samples: those that the thread takes, if signals come, and those from outside that are due."""
        pause, due_ns = (COLLECT_SECONDS, STUCK_NS) if is_timed else (INTERVAL_NS / 1e9, 1)
        self._taken.clear()
        before = self._used_ns()
        while (left := until - time.monotonic()) > 0 and not stop.wait(min(pause, left)):
            before = self._collect(profile, before)
            used = self._used_ns()
            if used - before >= due_ns:
                frame = sys._current_frames().get(self._ident)  # noqa: SLF001 - documented, for this use
                self._taken.append((_stack_of(frame), used))
        self._collect(profile, before)

    def _collect(self, profile: Profile, before: int) -> int:
        """Adds the samples taken; returns the CPU time at the last one."""
        while self._taken:
            stack, used = self._taken.popleft()
            if stack and used > before:
                profile.add(stack, 1, used - before)
                before = used
        return before

    def _take(self, _: int, frame: FrameType | None) -> None:
        """Takes a sample in the thread itself."""
        self._taken.append((_stack_of(frame), time.thread_time_ns()))

    def _used_ns(self) -> int:
        if sys.platform == "linux":
            return time.clock_gettime_ns(time.pthread_getcpuclockid(self._ident))
        return time.monotonic_ns()


def _stack_of(frame: FrameType | None) -> Stack:
    frames: list[Frame] = []
    while frame is not None and len(frames) < DEPTH_MAX:
        code = frame.f_code
        frames.append(Frame(code.co_qualname, code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return tuple(frames)
