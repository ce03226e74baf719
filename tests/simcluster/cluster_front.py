"""The cluster as seen by its clients: they call one of the machines, and follow redirects."""

from __future__ import annotations

import asyncio
from typing import Any

from cluster_machine import Machine
from cluster_net import Net
from codeq.v1 import task_service_pb2
from codeq_server.core.errors import Reason, Rejection
from google.protobuf.message import Message
from sim_audit import Audit
from sim_clients import World
from sim_node import Lost, Stream, tenant_of

HOPS = 4
"""Maximum number of machines tried per call."""


class Front:
    """Replaces the node for clients; see `sim_node.Node`."""

    def __init__(self, net: Net, audit: Audit) -> None:
        self.net, self.audit, self.loop = net, audit, net.loop
        self._known: dict[str, str] = {}
        """The leader, as known to each holder of a token."""

    def mono_ms(self) -> int:
        """Returns the time of the clock by which promises to clients are measured, in milliseconds."""
        return int(self.loop.time() * 1000)

    def _machine(self, holder: str) -> Machine:
        machines = {name: machine for name, machine in self.net.machines.items() if not machine.shunned}
        known = self._known.get(holder, "")
        if known not in machines or self.net.chance.random() < 0.05:
            known = self.net.chance.choice(list(machines))
        return machines[known]

    async def call(
        self, holder: str, method: str, request: Message, patience: float = 8.0, *, doubled: float = 0.05
    ) -> Any:
        """Returns the answer of a call; see `Node.call`."""
        for _ in range(HOPS):
            machine = self._machine(holder)
            try:
                return await machine.call(holder, method, request, patience, doubled=doubled)
            except Lost:
                self._known.pop(holder, None)
                raise
            except Rejection as refusal:
                if refusal.reason is not Reason.NOT_LEADER:
                    raise
                self._sent_on(holder, refusal)
                last = refusal
            await asyncio.sleep(self.net.chance.choice((0.01, 0.2)))
        raise last

    def open(self, holder: str, kind: str) -> Stream:
        """Opens a stream; see `Node.open`."""
        machine = self._machine(holder)
        if machine.term == 0:
            self._known.pop(holder, None)
        return machine.open(holder, kind)

    async def look(self, world: World, holder: str) -> None:
        """Reads tasks that clients know of, first from machines that consider themselves the leader."""
        chance, machines = self.net.chance, self.net.machines
        while world.asking:
            serving = [machine for machine in machines.values() if machine.term]
            await asyncio.sleep(0.02 if len(serving) > 1 else 0.15)
            told = [task for task in self.audit.tasks.values() if task.told and task.asked.tenant == tenant_of(holder)]
            if not told:
                continue
            told.sort(key=lambda task: task.told_at)
            machine = chance.choice(serving or list(machines.values()))
            request = task_service_pb2.GetTaskRequest(task_id=chance.choice(told[-4:]).task_id)
            try:
                await machine.call(holder, "TaskService/GetTask", request, patience=0.5)
            except (Lost, Rejection):
                continue
            self.audit.count("looked")

    def _sent_on(self, holder: str, refusal: Rejection) -> None:
        leader = refusal.metadata.get("leaderGrpc", "")
        if leader:
            self._known[holder] = leader
        else:
            self._known.pop(holder, None)
