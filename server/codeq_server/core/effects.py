"""Actions that decisions require of the core's caller, besides making their batch durable."""

from __future__ import annotations

from .deliveries import Holder
from .model import Queue, TaskKey
from .schedules import Schedule


class Effects:
    """Effects of decisions, handed over once. A shard without pending actions has no Effects object.

    Attributes:
        woken: Queues with new work.
        ended: Watched tasks that ended.
        fed: Tenants whose workers may lease tasks again.
        cancelled: Holder, id and lease token of tasks cancelled while a connected worker held them.
        gone_files: Home (as in keys) and name of files that no row refers to any more.
        unscheduled: Schedules whose further instants have to be computed.
        calls: Whether a callback is to be delivered.
    """

    __slots__ = ("calls", "cancelled", "ended", "fed", "gone_files", "unscheduled", "woken")

    def __init__(self) -> None:
        self.woken: dict[Queue, None] = {}
        self.ended: list[TaskKey] = []
        self.fed: dict[str, None] = {}
        self.cancelled: list[tuple[Holder, str, int]] = []
        self.gone_files: list[tuple[bytes, bytes]] = []
        self.unscheduled: list[Schedule] = []
        self.calls = False
