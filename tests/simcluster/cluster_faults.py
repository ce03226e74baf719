"""Faults of a cluster: machines, disks, clocks and network lines."""

from __future__ import annotations

import asyncio

from cluster_machine import Machine
from cluster_members import Operator, voters_known_to
from cluster_net import Net
from cluster_oracle import applied_in
from sim_audit import Audit

HOUR_MS = 3_600_000
KINDS = (
    *("kill", "kill", "power", "power", "power of many", "power of all", "step", "stop"),
    *("cut", "cut", "heal", "heal", "loss", "clock", "slow disk", "freeze", "freeze", "old leader"),
    *("transfer", "transfer", "transfer", "add", "remove", "lose disk", "replace", "replace"),
)


class Faults:
    """Injects faults, and heals them at the end."""

    def __init__(self, net: Net, audit: Audit, operator: Operator) -> None:
        self.net, self.audit, self.operator = net, audit, operator
        self.chance = net.chance

    def _leader(self) -> Machine | None:
        leaders = [machine for machine in self.net.machines.values() if machine.term]
        return max(leaders, key=lambda machine: machine.term) if leaders else None

    def _someone(self) -> Machine:
        """Returns a random machine, often the leader."""
        leader = self._leader()
        if leader is not None and self.chance.random() < 0.5:
            return leader
        return self.chance.choice(list(self.net.machines.values()))

    async def strike(self) -> None:
        """Injects a fault."""
        net, chance = self.net, self.chance
        kind = chance.choice(KINDS)
        if kind in {"add", "remove", "lose disk", "replace", "transfer"}:
            self._change(kind)
        elif kind in {"kill", "power", "power of many", "power of all", "step", "stop"}:
            await self._end(kind)
        elif kind == "old leader":
            await self._outlive()
        else:
            self._disturb(kind)
        for machine in net.machines.values():
            if machine.server is None and chance.random() < 0.7:
                machine.start()
            elif machine.server is not None and chance.random() < 0.2:
                net.oracle.check(machine.disk)

    def _disturb(self, kind: str) -> None:
        """Disturbs lines, disks and clocks."""
        net, chance = self.net, self.chance
        match kind:
            case "cut":
                self._cut()
            case "heal":
                self._heal_lines()
            case "loss":
                net.loss, net.doubles = chance.choice(((0, 0), (0.02, 0.02), (0.2, 0.1)))
                net.slowness = chance.choice((1, 1, 5))
            case "clock":
                self._someone().wall_offset_ms += chance.choice((-HOUR_MS, HOUR_MS, -5000, 5000))
            case "slow disk":
                self._someone().slow_down(chance.choice((0.1, 1, 10)))
            case "freeze":
                self._freeze(self._someone())

    async def _end(self, kind: str) -> None:
        """Ends one or more processes at once."""
        chance, machines = self.chance, list(self.net.machines.values())
        match kind:
            case "power of many":
                await self._crash(chance.sample(machines, len(machines) // 2 + 1), power=True)
            case "power of all":
                await self._crash(machines, power=True)
            case "step":
                await self._crash_at(self._someone(), chance.randint(1, 60), power=chance.random() < 0.5)
            case "stop":
                await self._someone().stop()
            case _:
                await self._crash([self._someone()], power=kind == "power")

    def _change(self, kind: str) -> None:
        """Lets an operator change the members or the leader."""
        leader, operator = self._leader(), self.operator
        if leader is None:
            return
        match kind:
            case "add":
                operator.add(leader)
            case "remove":
                operator.remove(leader, self.chance.choice(list(self.net.machines)))
            case "lose disk":
                operator.lose_disk(leader, self.chance.choice(list(self.net.machines.values())))
            case "replace":
                operator.replace(leader)
            case _:
                self._transfer(leader)

    async def heal(self) -> None:
        """Ends every fault."""
        net = self.net
        self._heal_lines()
        net.loss = net.doubles = 0.0
        net.slowness = 1.0
        top = max(machine.top_offset_ms for machine in net.machines.values())
        for machine in net.machines.values():
            machine.slow_down(1)
            if machine.process is not None:
                machine.process.thaw()
            machine.wall_offset_ms = top
            if machine.server is None:
                machine.start()

    def repair(self) -> bool:
        """Asks the operator to replace a lost disk; returns whether no disk is missing."""
        leader = self._leader()
        if leader is not None:
            self.operator.replace(leader)
        return self.operator.lost is None

    def members_have(self, index: int) -> bool:
        """Returns whether every voter has applied the entries up to an index."""
        leader = self._leader()
        if leader is None:
            return False
        disks = {machine.disk.raft_id: machine.disk for machine in self.net.machines.values()}
        return all(
            voter in disks and applied_in(disks[voter].written).index >= index for voter in voters_known_to(leader)
        )

    def _freeze(self, machine: Machine) -> None:
        """Suspends a process for a while."""
        process = machine.process
        if process is not None and process.held is None:
            self.audit.count("freeze")
            process.freeze()
            self.net.loop.call_later(self.chance.choice((0.2, 1.5, 3)), process.thaw)

    async def _crash(self, machines: list[Machine], *, power: bool) -> None:
        for machine in machines:
            machine.crash(power=power)
        await asyncio.sleep(self.chance.choice((0, 0.05, 1)))

    async def _crash_at(self, machine: Machine, steps: int, *, power: bool) -> None:
        """Kills a process at the await that it reaches after this many callbacks."""
        process = machine.process
        if process is None:
            return
        process.steps = steps
        process.out_of_steps = lambda: machine.crash(power=power)
        await asyncio.sleep(0.2)
        process.steps = 0

    async def _outlive(self) -> None:
        """Isolates a leader and slows down its ticks while the others elect another one, so that it notices that late.

        The leader's clients leave first, so that it has no calls in flight, for which reads would wait.
        """
        leader = self._leader()
        if leader is not None:
            self.audit.count("old leader")
            self._heal_lines()
            leader.shun()
            await asyncio.sleep(self.chance.choice((0.05, 0.3)))
            self.net.cut([leader.name], self.net.machines)
            leader.starved = 6.0
            await asyncio.sleep(self.chance.choice((2, 4)))
            self._heal_lines()

    def _heal_lines(self) -> None:
        self.net.cuts.clear()
        for machine in self.net.machines.values():
            machine.starved, machine.shunned = 1.0, False

    def _cut(self) -> None:
        net, chance, names = self.net, self.chance, list(self.net.machines)
        kind = chance.choice(("leader", "one", "halves", "one way", "bridge"))
        self.audit.count(f"cut: {kind}")
        self._heal_lines()
        match kind:
            case "leader":
                leader = self._leader()
                if leader is not None:
                    net.cut([leader.name], names)
            case "one":
                net.cut([chance.choice(names)], names)
            case "halves":
                chance.shuffle(names)
                net.cut(names[: len(names) // 2], names[len(names) // 2 :])
            case "one way":
                net.cut([self._someone().name], names, both=False)
            case "bridge":
                chance.shuffle(names)
                middle = len(names) // 2
                net.cut(names[:middle], names[middle + 1 :])

    def _transfer(self, leader: Machine) -> None:
        if leader.process is not None:
            self.audit.count("transfer")
            member = leader.server.member
            others = member.others_active()
            if others:
                leader.process.run(member.hand_over, self.chance.choice(others))
