"""The network between machines: messages are late, lost or duplicated; lines are cut in one or both directions."""

from __future__ import annotations

import asyncio
import contextvars
import random
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from cluster_oracle import Oracle
from codeq_server.replication.raft.network import Hello, Unanswered
from sim_loop import Process, SimLoop

if TYPE_CHECKING:
    from cluster_machine import Machine

_OUTSIDE = contextvars.Context()
DELAYS = (0.0, 0.0002, 0.0005, 0.002, 0.02)
TRIES = 6
"""Maximum number of resumptions of a broken transfer."""


class Net:
    """All lines.

    Attributes:
        machines: Machines by name.
        cuts: (from, to) of cut lines.
        loss: Share of messages that are lost.
        doubles: Share of messages that are duplicated.
        slowness: Factor of message delays.
        admits: Whether empty machines join by themselves.
    """

    def __init__(self, loop: SimLoop, chance: random.Random, oracle: Oracle, folder: Path) -> None:
        self.loop, self.chance, self.oracle, self.folder = loop, chance, oracle, folder
        self.machines: dict[str, Machine] = {}
        self.cuts: set[tuple[str, str]] = set()
        self.loss = self.doubles = 0.0
        self.slowness = 1.0
        self.folders = 0
        self.admits = False

    def cut(self, some: Iterable[str], others: Iterable[str], *, both: bool = True) -> None:
        """Cuts the lines from some machines to others and, with `both`, the lines back."""
        others = list(others)
        for one in some:
            for other in others:
                if one != other:
                    self.cuts.add((one, other))
                    if both:
                        self.cuts.add((other, one))

    def delay(self) -> float:
        """Returns the delay of a message."""
        return self.chance.choice(DELAYS) * self.slowness

    def passes(self, one: str, other: str) -> bool:
        """Returns whether a message gets through now."""
        return (one, other) not in self.cuts and (not self.loss or self.chance.random() >= self.loss)

    def new_folder(self) -> Path:
        """Returns the path of a folder that does not exist yet."""
        self.folders += 1
        return self.folder / str(self.folders)


class Port:
    """The network as seen by one life of a machine; see `replication.raft.network.Network`."""

    def __init__(self, net: Net, machine: Machine, process: Process, hello: Callable[[], Hello]) -> None:
        self._net, self._machine, self._process, self._hello = net, machine, process, hello
        self._last: dict[str, float] = {}
        self._transfers: dict[int, object] = {}

    def _target(self, raft_id: int) -> Machine | None:
        for machine in self._net.machines.values():
            if machine.disk.raft_id == raft_id:
                return machine
        return None

    def send(self, to: int, group: int, message: bytes) -> None:
        net = self._net
        net.oracle.sent(self._machine.disk, message)
        target = self._target(to)
        if target is None or not net.passes(self._machine.name, target.name):
            if net.chance.random() < 0.3:
                net.loop.call_later(0.05, self._machine.unreachable, to, context=self._process.context)
            return
        copies = 2 if net.doubles and net.chance.random() < net.doubles else 1
        for _ in range(copies):
            self._last[target.name] = at = max(self._last.get(target.name, 0.0), net.loop.time() + net.delay())
            content = group, message, self._hello()
            net.loop.call_at(at, self._arrive, target, target.process, to, content, context=_OUTSIDE)

    async def ask(self, name: str, address: str) -> Hello:
        """Returns the greeting of the machine at an address; each name has its own address."""
        target = self._net.machines.get(name)
        if target is None or address != f"{name}:7000" or target.server is None or not self._connected(target):
            raise Unanswered("no machine is there")
        await asyncio.sleep(self._net.delay())
        if target.server is None:
            raise Unanswered("it ended")
        hello: Hello = target.server.member.hello()
        return hello

    def problem_of(self, name: str) -> str:
        return "" if (self._machine.name, name) not in self._net.cuts else "cut off"

    def _arrive(self, target: Machine, process: Process | None, to: int, content: tuple[int, bytes, Hello]) -> None:
        # Messages in flight to a process that has died are lost with its connection.
        cut = (self._machine.name, target.name) in self._net.cuts
        if process is not None and process is target.process and target.disk.raft_id == to and not cut:
            net = self._net  # a frozen process notices this later
            net.loop.call_soon(target.server.member.receive, *content, context=process.context)

    def send_snapshot(self, to: int, group: int, message: bytes, folder: Path) -> None:
        self._net.oracle.sent(self._machine.disk, message)
        self._transfers[to] = token = object()
        self._process.start(self._transfer(to, group, message, folder, token))

    async def _transfer(self, to: int, group: int, message: bytes, folder: Path, token: object) -> None:
        ok = await self._carry(to, token) and await self._install(to, group, message, folder)
        if self._transfers.get(to) is token:
            del self._transfers[to]
            self._machine.server.member.snapshot_sent(group, to, ok)

    async def _carry(self, to: int, token: object) -> bool:
        """Transfers the files piece by piece; a broken transfer resumes where it stopped."""
        net, tries = self._net, TRIES
        pieces = net.chance.choice((1, 3, 8))
        while pieces:
            await asyncio.sleep(net.delay() + 0.001)
            target = self._target(to)
            if self._transfers.get(to) is not token:
                return False
            if target is not None and target.process is not None and self._connected(target):
                pieces -= 1
                continue
            net.oracle.audit.count("transfer broken")
            tries -= 1
            if not tries:
                return False
            await asyncio.sleep(net.chance.choice((0.05, 0.3)))
        return True

    def _connected(self, target: Machine) -> bool:
        net, me = self._net, self._machine.name
        return net.passes(me, target.name) and net.passes(target.name, me)

    async def _install(self, to: int, group: int, message: bytes, folder: Path) -> bool:
        net, target = self._net, self._target(to)
        if target is None or target.process is None or target.server is None:
            return False
        incoming = net.new_folder()
        shutil.copytree(folder, incoming)
        done: asyncio.Future[bool] = net.loop.create_future()

        async def install() -> None:
            try:
                await target.server.member.install(group, message, incoming)
            except Exception:  # noqa: BLE001 - any error is reported to the sender
                net.loop.call_soon(_settle, done, False, context=_OUTSIDE)
            else:
                net.loop.call_soon(_settle, done, True, context=_OUTSIDE)

        target.process.start(install())
        try:
            async with asyncio.timeout(3):
                ok = await done
        except TimeoutError:
            return False
        await asyncio.sleep(net.delay())
        return ok and self._connected(target)  # the answer may be lost


def _settle(done: asyncio.Future[bool], ok: bool) -> None:
    if not done.done():
        done.set_result(ok)
