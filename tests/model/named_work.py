"""Work of the random lives with named tasks: idempotency keys, ids chosen by producers, keyed batches."""

from __future__ import annotations

from codeq_server.core import names
from codeq_server.core.new_task import Naming, NewTask
from hypothesis import strategies as st
from hypothesis.stateful import rule
from reference import Task

TENANTS = ("acme", "globex")
COMMANDS = ("a", "b", "c")


class NamedWork:
    """Rules of the state machine that drives core and model: named tasks."""

    @rule(
        tenant=st.sampled_from(TENANTS),
        kind=st.sampled_from(["chosen", "keyed", "keyed", "keyed batch", "batch", "double batch"]),
        number=st.integers(1, 3),
        command=st.sampled_from(COMMANDS[:2]),
        max_attempts=st.integers(1, 2),
        delay=st.sampled_from([0, 0, 500]),
        again=st.booleans(),
    )
    def create_named(
        self, tenant: str, kind: str, number: int, command: str, max_attempts: int, delay: int, again: bool
    ) -> None:
        """Creates named tasks, perhaps twice; there are few names, so most are already in use."""
        key, size = f"key {number}", 2 if kind.endswith("batch") else 1
        digest = f"{command} {max_attempts} {delay}".encode().ljust(16) if kind.startswith("keyed") else b""
        task_ids = [f"id-{number % 3 + index * (kind == 'batch')}" for index in range(size)]
        if digest:
            task_ids = [names.keyed_id(tenant, key, None if size == 1 else index) for index in range(size)]
        batch = Naming(names.keyed_id(tenant, key), digest) if kind == "keyed batch" else None
        now = self.now()
        due = now.wall_ms + delay if delay else 0
        wanted = [NewTask(command, b"1", 5, max_attempts, due, Naming(task_id, digest)) for task_id in task_ids]

        def core() -> list[tuple[str, bool] | None]:
            if size == 1:
                made = [names.create(self.shard, tenant, wanted[0], now)]
            else:
                made = names.create_all(self.shard, tenant, wanted, batch, now)
            return [each and (each.task_id, isinstance(each, names.Duplicate)) for each in made]

        def model() -> list[tuple[str, bool] | None]:
            whole = (batch.task_id, size) if batch else ("", 0)
            tasks = [Task(task_id, tenant, command, 5, max_attempts, b"1", digest, whole) for task_id in task_ids]
            made = self.model.create(tasks, due, now.wall_ms)
            return [each and (each.task_id, all(each is not task for task in tasks)) for each in made]

        for _ in range(2 if again else 1):
            self.both(core, model)
        self.note_homes(tenant, task_ids)
