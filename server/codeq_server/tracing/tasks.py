"""Tasks whose spans are to be exported.

Only tasks whose trace is sampled by their producer have spans, so nothing happens for other tasks. Tasks wait for the
exporter as they are, and become spans in its thread (`task_encoding.py`), which costs the server far less than spans
made by the SDK.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import getrandbits
from typing import Final

from opentelemetry.trace import SpanContext, TraceFlags

from codeq_server.core.traces import TracedTask

from .faults import Faults

_SAMPLED: Final = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


class EndedTask:
    """A task that ended, as the SDK's processor of spans takes it: like a span that is sampled.

    Attributes:
        task: The task.
        ids: Random 128 bits: the ids of its two spans.
    """

    __slots__ = ("ids", "task")

    context: Final = _SAMPLED

    def __init__(self, task: TracedTask) -> None:
        self.task: Final = task
        self.ids: Final = getrandbits(128)


class TaskSpans:
    """Hands tasks that ended to the exporter.

    Args:
        put: Takes a task, and does not wait.
    """

    def __init__(self, put: Callable[[EndedTask], None]) -> None:
        self._put = put
        self._faults = Faults()

    def take(self, ended: Sequence[TracedTask]) -> None:
        """Hands tasks over. Never raises: what `put` raises is logged once, and costs only spans."""
        try:
            for task in ended:
                self._put(EndedTask(task))
        except Exception as problem:  # noqa: BLE001 - the shard's runner must go on
            self._faults.log(problem)
