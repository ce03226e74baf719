"""The homes of tasks in random lives, to check that nothing is left there once the tasks are removed."""

from __future__ import annotations

from codeq_server.core import keys, lookup
from codeq_server.core.errors import Rejection
from codeq_server.core.shard import Shard
from codeq_server.storage.memory import MemoryStore
from reference import Model, Task

Home = tuple[int, int, int]
"""Queue, lane, position."""


class Homes:
    """Part of the state machine that drives core and model: homes."""

    model: Model
    shard: Shard
    store: MemoryStore

    def __init__(self) -> None:
        super().__init__()
        self.homes: dict[tuple[str, str], Home] = {}
        """Home of each task, by tenant and id."""
        self.removed: dict[Home, tuple[str, str]] = {}

    def note_homes(self, tenant: str, task_ids: list[str]) -> None:
        for task_id in task_ids:
            if (tenant, task_id) in self.model.tasks:
                self.homes[tenant, task_id] = self.home(self.model.tasks[tenant, task_id])

    def home(self, task: Task) -> Home:
        """Returns the home encoded in the id of a task."""
        lane, position = lookup.find_home(self.shard, task.tenant, task.task_id)
        return lane.queue.number, lane.index, position

    def exists(self, task: Task) -> bool:
        try:
            return self.home(task) == self.homes[task.tenant, task.task_id]
        except Rejection:
            return False

    def check_no_rows(self, home: Home) -> None:
        queue, lane, position = home
        for table in (b"t", b"s", b"u"):
            key = keys.place_key(keys.lane_prefix(table, queue, lane), position)
            value = self.store.get(key)
            assert value is None or value[:1] == keys.POINTER
