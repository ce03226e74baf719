"""Which tasks a claim takes, in the core and in the reference model: order, fairness, and limits of consumers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from codeq_internal.v1.rows_pb2 import PolicyRow
from codeq_server.core.clock import Now
from codeq_server.core.shard import Shard
from homes import Homes
from hypothesis import strategies as st
from hypothesis.stateful import rule
from named_work import COMMANDS, TENANTS
from reference import Task


class Choices(Homes):
    """Part of the state machine that drives core and model: what claims take."""

    now: Callable[[], Now]
    held: Callable[[], set[tuple[str, str]]]

    @rule(
        tenant=st.sampled_from(TENANTS),
        command=st.sampled_from(COMMANDS),
        most=st.sampled_from([0, 1, 2, 4]),
        lease=st.sampled_from([0, 0, 2]),
    )
    def put_policy(self, tenant: str, command: str, most: int, lease: int) -> None:
        """Sets how many tasks of a queue may be leased at a time (0: any number), and for how long (0: as asked)."""
        self.model.consumers[tenant, command], self.model.leases[tenant, command] = most, lease * 1000
        if most or lease:
            row = PolicyRow(max_consumers=most, default_lease_seconds=lease)
            self.shard.policies.put(tenant, command, row, self.now().wall_ms)
        else:
            self.shard.policies.delete(tenant, command)

    def check_policies(self, shard: Shard) -> None:
        for (tenant, command), most in self.model.consumers.items():
            policy = shard.policies.of(tenant, command)
            assert (policy.max_consumers if policy is not None else 0) == most
        assert shard.policies.leasing == {
            queue.number for name, queue in shard.by_name.items() if self.model.leases.get(name)
        }

    def check_choice(
        self, tenant: str, commands: Any, chosen: list[Task], count: int, lengths: dict[str, int] | None = None
    ) -> None:
        """A claim serves the highest priorities first, each command in order, and shares evenly among commands.

        With the lengths of the commands' leases, a claim takes only commands with the same one, and stops at the first
        task that it would have taken from another.
        """
        left = count
        length = lengths[chosen[0].command] if lengths and chosen else None
        free = {command: self.model.slots(tenant, command) for command in commands}
        for priority in range(9, -1, -1):
            going = [c for c in commands if (tenant, c) not in self.held()]
            waiting = {c: self.model.waiting(tenant, c, priority)[: free[c]] for c in going}
            passed = [c for c in going if lengths and length is not None and lengths[c] != length and waiting.pop(c)]
            going = list(waiting)
            here = [task for task in chosen if task.priority == priority]
            expected = min(left, sum(map(len, waiting.values())))
            assert len(here) == expected
            assert chosen[count - left :][:expected] == here
            left -= expected
            shares = {c: [task for task in here if task.command == c] for c in going}
            for command, share in shares.items():
                assert share == waiting[command][: len(share)]
                free[command] -= len(share)
            hungry = [len(share) for c, share in shares.items() if len(share) < len(waiting[c])]
            assert not hungry or max(len(share) for share in shares.values()) <= min(hungry) + 1
            if passed:
                break
        assert len(chosen) == count - left
