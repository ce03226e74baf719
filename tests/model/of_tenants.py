"""Tenants in the core and in the reference model: quotas of waiting tasks, usage, and what others see."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from codeq_internal.v1.rows_pb2 import LimitsRow
from codeq_server.core import reads, usage
from codeq_server.core.clock import Now
from codeq_server.core.errors import Rejection
from codeq_server.core.shard import Shard
from codeq_server.core.tenants import DEFAULT
from homes import Homes
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from named_work import TENANTS


class OfTenants(Homes):
    """Part of the state machine that drives core and model: what concerns tenants."""

    now: Callable[[], Now]

    @rule(name=st.sampled_from([*TENANTS, DEFAULT]), most=st.sampled_from([None, None, 0, 1, 3, 8]))
    def limit(self, name: str, most: int | None) -> None:
        """Sets a tenant's quota of waiting tasks, or the default; None: it is inherited."""
        usage.set_limits(self.shard, name, LimitsRow(waiting_tasks_max=most))
        self.model.quotas.pop(name, None)
        if most is not None:
            self.model.quotas[name] = most

    def check_limits(self, shard: Shard) -> None:
        for tenant in TENANTS:
            most = self.model.quotas.get(tenant, self.model.quotas.get(DEFAULT, 0))
            assert shard.tenants.limits_of(tenant).waiting_tasks_max == most

    def check_usage(self, shard: Shard) -> None:
        for tenant in TENANTS:
            used = usage.usage_of(shard, tenant)
            leased = sum(task.tenant == tenant and task.lease is not None for task in self.model.tasks.values())
            assert (used.waiting_tasks, used.leases) == (self.model.waits(tenant), leased)
            assert used.stored_bytes >= 0

    @precondition(lambda self: self.model.tasks)
    @rule(data=st.data())
    def hidden_from_others(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(list(self.model.tasks.values())))
        other = TENANTS[TENANTS[0] == task.tenant]
        if (other, task.task_id) in self.model.tasks:
            return
        with pytest.raises(Rejection, match="no task"):
            reads.get_task(self.shard, other, task.task_id, self.now())
