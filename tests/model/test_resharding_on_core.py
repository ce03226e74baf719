"""Random work, interrupted by changes of the number of shards: every task goes on with its id, its keys and its lease.

A machine has one shard. It is resharded to several and back to one; the checker examines every store on the way.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from codeq_server.core.errors import Rejection
from codeq_server.core.ids import parse_id
from codeq_server.core.lookup import find_home, key_of
from codeq_server.core.model import Name, TaskKey, id_of
from codeq_server.storage.resharding.reshard import reshard
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from search import search
from stored_rows import to_disk, to_memory
from test_checker_on_core import ShardMachine, task_tenant
from test_features_together import TogetherMachine, note_heirs
from test_keys_on_core import KeyedShardMachine
from tiny_limits import make_limits_tiny

EXAMPLES = 20
RESHARDS_MAX = 3
"""Changes of one life: each takes a second or more, and positions grow with each merge."""
MAY_END = {b"w", b"r", b"x", b"l"}
"""Tables of which rows are left out: subscriptions, and rows that list only tasks or deliveries that are gone."""
NUMBERS = ((2,), (4, 2), (3,), (2, 6, 4))


class Resharding(ShardMachine):
    """Changes the number of shards now and then, for a moment."""

    lasting = frozenset({b"m", b"n"})
    reshards = 0

    @precondition(lambda self: self.shard.queues and self.reshards < RESHARDS_MAX)
    @rule(numbers=st.sampled_from(NUMBERS))
    def reshard(self, numbers: tuple[int, ...]) -> None:
        self.write_all()
        if any(queue.purge is not None for queue in self.shard.queues.values()):
            return
        self.reshards += 1
        with TemporaryDirectory() as folder:
            path = Path(folder, "store")
            to_disk(self.store, path)
            tables = self.tables()
            for number in (*numbers, 1):
                reshard(path, number, free_bytes=lambda _: 1 << 40)
            self.store = to_memory(path)
        assert tables - self.tables() <= MAY_END, "a table was forgotten"
        waiting = {task: task_tenant(self.shard, task) for task in self.created}
        self.numbers = {}
        self.open()
        self.rename({task: self.key_now(tenant, task) for task, tenant in waiting.items()})

    def tables(self) -> set[bytes]:
        """Returns the tables that have rows."""
        return {key[:1] for key, _ in self.store.scan(b"", b"\xff", 1 << 30)}

    def key_now(self, tenant: str, task: TaskKey) -> TaskKey:
        try:
            return key_of(self.shard, *find_home(self.shard, tenant, id_of(task)))
        except Rejection:
            assert task in self.ended, "a task was lost"
            return task

    def rename(self, names: dict[TaskKey, TaskKey]) -> None:
        """Puts the present keys of tasks in the place of those from before."""
        self.created = {names[task]: lsn for task, lsn in self.created.items()}
        self.ended = {names[task]: lsn for task, lsn in self.ended.items()}
        self.redriven = [(lsn, names[task], ended) for lsn, task, ended in self.redriven]
        self.deliveries = [(names[task], caller, token) for task, caller, token in self.deliveries]

    @precondition(lambda self: any(isinstance(task, Name) for task in self.created))
    @rule(choice=st.integers(0, 60), digest=st.sampled_from([b"", b"d" * 16, b"o" * 16]))
    def create_again(self, choice: int, digest: bytes) -> None:
        everything = self.created
        named = [task for task in everything if isinstance(task, Name)]
        chosen = {task: everything[task] for task in named if parse_id(task.task_id) is None}
        if chosen:
            self.created = dict[TaskKey, int](chosen)
            super().create_again(choice, digest)
            self.created = everything


class ReshardedKeys(Resharding, KeyedShardMachine):
    """Tasks with keys."""

    lasting = KeyedShardMachine.lasting

    def rename(self, names: dict[TaskKey, TaskKey]) -> None:
        super().rename(names)
        self.keys = {names[task]: keys for task, keys in self.keys.items() if task in names}
        self.turns = [(lsn, names[task]) for lsn, task in self.turns if task in names]


class ReshardedTogether(ReshardedKeys, TogetherMachine):
    """Tasks with keys, webhooks and limits."""

    lasting = TogetherMachine.lasting


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("machine", [Resharding, ReshardedKeys, ReshardedTogether])
def test_tasks_survive_changes_of_the_number_of_shards(
    machine: type[Resharding], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_limits_tiny(monkeypatch)
    if issubclass(machine, TogetherMachine):
        note_heirs(monkeypatch)
    search(machine, EXAMPLES, steps=40, round_examples=EXAMPLES)
