"""The core against the reference model, with redrives and purges mixed into the lives of tasks."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from codeq_server.core import lookup, purging, redrive
from codeq_server.core.clock import Now
from codeq_server.core.expiry import EXPIRED
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from reference import Model, Task
from search import search
from test_core_against_model import COMMANDS, TENANTS, CoreBesideModel
from tiny_limits import make_limits_tiny

EXAMPLES_LEAST = 400


@dataclass
class PurgedModel(Model):
    """Also tracks the tasks that purges will end."""

    purging: set[tuple[str, str]] = field(default_factory=set)
    """Tenants and commands of queues."""
    doomed: set[tuple[str, str]] = field(default_factory=set)
    """Tenants and ids of tasks that were waiting when a purge was requested and have not ended yet."""

    def purge(self, tenant: str, command: str) -> None:
        waiting = [t for t in self.tasks.values() if t.status in {"PENDING", "SCHEDULED"}]
        doomed = {(t.tenant, t.task_id) for t in waiting if (t.tenant, t.command) == (tenant, command)}
        self.doomed |= doomed
        self.purging |= {(tenant, command)} if doomed else set()

    def cancel(self, tenant: str, task_id: str, reason: str, wall: int = 0) -> None:
        super().cancel(tenant, task_id, reason, wall)
        self.doomed.discard((tenant, task_id))


class ControlBesideModel(CoreBesideModel):
    """Redrives ended tasks, and purges queues."""

    model: PurgedModel

    def __init__(self) -> None:
        super().__init__()
        self.model, self.durable = PurgedModel(), PurgedModel()

    @precondition(lambda self: self.model.tasks)
    @rule(data=st.data())
    def redrive(self, data: st.DataObject) -> None:
        tasks = self.model.tasks.values()
        ended = [task for task in tasks if task.status in {"DLQ", "FAILED", "CANCELLED"}]
        task = data.draw(st.sampled_from(ended or list(tasks)))
        now = self.now()
        self.both(
            lambda: redrive.redrive_task(self.shard, task.tenant, task.task_id, now),
            lambda: self.model.redrive(task.tenant, task.task_id),
        )

    @rule(tenant=st.sampled_from(TENANTS), command=st.sampled_from(COMMANDS), closed=st.booleans())
    def purge(self, tenant: str, command: str, closed: bool) -> None:
        """Purges a queue; its streams close at the same time, and their tasks are given back just after the purge."""
        queue = self.shard.by_name.get((tenant, command))
        if queue is not None:
            purging.purge(self.shard, queue, self.now())
            self.model.purge(tenant, command)
            assert (queue.purge is not None) == ((tenant, command) in self.model.purging)
        for token in sorted(self.shard.claims) if closed else ():
            self.give_back(token)

    def held(self) -> set[tuple[str, str]]:
        return self.model.paused | self.model.purging

    def fallen_due(self, now: Now) -> list[Task]:
        return [task for task in super().fallen_due(now) if (task.tenant, task.task_id) not in self.model.doomed]

    def expire(self, now: Now, *, more: bool) -> None:
        """A task that expires while its queue is purged may end by expiry or by the purge."""
        for tenant, task_id in sorted(self.model.doomed):
            state = self.shard.state(*lookup.find_home(self.shard, tenant, task_id))
            if state is not None and state.ended_lsn and state.error == EXPIRED:
                self.model.doomed.discard((tenant, task_id))
            elif state is not None and state.ended_lsn:
                self.model.cancel(tenant, task_id, "PURGED")
        super().expire(now, more=more)

    def run_due(self, slices: int = 10_000) -> None:
        """Runs the timers; a purge ends exactly the tasks that were waiting when it was requested."""
        super().run_due(slices)
        for tenant, command in sorted(self.model.purging):
            if self.shard.by_name[tenant, command].purge is None:
                self.model.purging.discard((tenant, command))
                left = [self.model.tasks[key] for key in self.model.doomed]
                assert (tenant, command) not in {(task.tenant, task.command) for task in left}

    def drain(self) -> None:
        """Runs everything that is due, including purges."""
        super().drain()
        assert not self.model.purging


@pytest.mark.timeout(3600)
def test_core_matches_the_model_during_redrives_and_purges(monkeypatch: pytest.MonkeyPatch) -> None:
    make_limits_tiny(monkeypatch)
    search(ControlBesideModel, EXAMPLES_LEAST, steps=60)
