"""Faults of a cluster that need root, a compiler or network namespaces."""

from __future__ import annotations

import asyncio
import os
import shutil
import struct
import time
from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from cluster_process import ClusterProcess, NodeProcess
from fault_kinds import Bridge, Cut, Fault, IsolateLeader, LoseOneWay, Partition, SplitOne
from fault_run import Run
from host_tools import run as run_command
from namespaces import Namespaces
from power_loss import Disk
from power_loss import build as build_power_loss

SOURCE: Final = Path(__file__).with_name("preloaded_faults.c")
HOUR_SECONDS: Final = 3600
DISK_BYTES: Final = 256 << 20
LEFT_BYTES: Final = 1 << 20
END_SECONDS_MAX: Final = 60.0


def build(directory: Path) -> Path:
    """Compiles the fault library and returns its path."""
    library = directory / "preloaded_faults.so"
    run_command("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", library, SOURCE)
    return library


class InNamespaces(Partition):
    """A partition by namespaces: packets are lost, as on a real network."""

    needs_root = True

    def cluster(self, directory: Path) -> ClusterProcess:
        self.spaces = self.stack.enter_context(Namespaces(["node-1", "node-2", "node-3"]))

        def place(name: str) -> dict[str, object]:
            return {"host": self.spaces.hosts[name], "prefix": self.spaces.prefix(name)}

        return ClusterProcess(directory, place=place)

    @asynccontextmanager
    async def cut(self, lost: Cut) -> AsyncIterator[None]:
        """See `Partition.cut`."""
        rules: dict[str, list[str]] = {}
        for source, target in lost:
            rules.setdefault(target, []).append(f"ip saddr {self.spaces.hosts[source]}")
        await asyncio.to_thread(self.spaces.drop, rules)
        try:
            yield
        finally:
            await asyncio.to_thread(self.spaces.drop, {})


class NetIsolateLeader(InNamespaces, IsolateLeader):
    """The leader is cut off from all other nodes (namespaces)."""

    name = "net-isolate-leader"


class NetSplitOne(InNamespaces, SplitOne):
    """A random node is cut off from all others (namespaces)."""

    name = "net-split-2-1"


class NetLoseOneWay(InNamespaces, LoseOneWay):
    """Messages from one node to another, or to all others, are lost (namespaces)."""

    name = "net-lose-one-way"


class NetBridge(InNamespaces, Bridge):
    """Two nodes do not reach each other, but a third one reaches both (namespaces)."""

    name = "net-bridge"


class NetLoss(InNamespaces):
    """Packets between nodes are lost at a rate of 5 %, even while a leader is killed."""

    name = "net-loss-5"
    rounds = 10
    rounds_of_run = 10

    async def strike(self, run: Run) -> None:
        await run.well()
        struck = time.monotonic()
        hosts = self.spaces.hosts
        loss = "numgen random mod 100 < 5"
        rules = {name: [f"ip saddr {hosts[other]} {loss}" for other in hosts if other != name] for name in hosts}
        await asyncio.to_thread(self.spaces.drop, rules)
        await asyncio.sleep(5)
        await run.progress()
        self.note_gap(run, struck)
        if self.chance.random() < 0.5:
            run.cluster.nodes[await run.leader()].kill()
            await run.progress()
            await run.cluster.start_all()
            await run.progress()
        await asyncio.to_thread(self.spaces.drop, {})


class PowerLoss(Fault):
    """The power fails on all nodes at once: unsynced data is lost."""

    name = "power-loss"
    rounds = 30
    rounds_of_run = 10
    flags: tuple[str, ...] = ()

    def cluster(self, directory: Path) -> ClusterProcess:
        self._folder, self._number = directory, 0
        library = build_power_loss(directory)
        self._disks: dict[str, Disk] = {}

        def place(name: str) -> dict[str, object]:
            disk = self._disks[name] = Disk(directory / "disks-0" / name, library)
            return {"env": disk.env, "store": disk.root / "store"}

        return ClusterProcess(directory, place=place, flags=self.flags)

    async def strike(self, run: Run) -> None:
        await asyncio.sleep(self.chance.uniform(0.3, 2))
        struck = time.monotonic()
        run.cluster.kill()
        await asyncio.to_thread(self.lose, run.cluster)
        await run.cluster.start_all()
        await run.progress()
        self.note_gap(run, struck)

    def lose(self, cluster: ClusterProcess) -> None:
        """Gives each node a disk with its synced data."""
        self._number += 1
        for name, node in cluster.nodes.items():
            disk = self._disks[name].after_power_loss(self._folder / f"disks-{self._number}" / name)
            self._disks[name] = disk
            node.configure(**disk.env)
            node.move(disk.root / "store")
        shutil.rmtree(self._folder / f"disks-{self._number - 1}")


class PowerLossWithoutSync(PowerLoss):
    """Like power-loss, with fsync off: it must lose acknowledged data, which proves that power-loss can fail."""

    name = "power-loss-no-fsync"
    rounds = rounds_of_run = 1
    flags = ("--no-fsync",)
    must_break = True


class Preloaded(Fault):
    """A fault injected by the preloaded library."""

    def cluster(self, directory: Path) -> ClusterProcess:
        self.library = build(directory)
        self.folder = directory
        return ClusterProcess(directory, place=self.place)

    @abstractmethod
    def place(self, name: str) -> dict[str, object]:
        """Returns the node's special settings."""


class SyncError(Preloaded):
    """fsync fails on one node, which is the leader in every other round: that node ends, and sends nothing more."""

    name = "fsync-error"

    def place(self, name: str) -> dict[str, object]:
        root = self.folder / name
        return {
            "env": {
                "LD_PRELOAD": str(self.library),
                "FAULTS_ROOT": str(root.resolve()),
                "FAULTS_SYNC": str(self.folder / f"{name}-fails"),
            }
        }

    async def strike(self, run: Run) -> None:
        await run.well()
        leader = await run.leader()
        others = [name for name in run.cluster.nodes if name != leader]
        name = leader if self.chance.random() < 0.5 else self.chance.choice(others)
        node, flag = run.cluster.nodes[name], self.folder / f"{name}-fails"
        struck = time.monotonic()
        flag.touch()
        await ended(run, node)
        await self.until_elsewhere(run, struck, node.grpc_addr)
        flag.unlink()
        node.spawn()


class DiskHangs(Preloaded):
    """The leader's fsync hangs for a while, during which another node must lead."""

    name = "disk-hangs"

    def place(self, name: str) -> dict[str, object]:
        root = self.folder / name
        return {
            "env": {
                "LD_PRELOAD": str(self.library),
                "FAULTS_ROOT": str(root.resolve()),
                "FAULTS_HANG": str(self.folder / f"{name}-hangs"),
            }
        }

    async def strike(self, run: Run) -> None:
        await run.well()
        leader = await run.leader()
        node, flag = run.cluster.nodes[leader], self.folder / f"{leader}-hangs"
        struck = time.monotonic()
        flag.touch()
        await self.until_elsewhere(run, struck, node.grpc_addr)
        await asyncio.sleep(self.chance.uniform(0, 3))
        flag.unlink()
        await run.progress()


class DiskFull(Fault):
    """The disk of one node, the leader's in every other round, fills up: that node ends."""

    name = "disk-full"
    needs_root = True
    fill = 2000

    def cluster(self, directory: Path) -> ClusterProcess:
        self._folder = directory

        def place(name: str) -> dict[str, object]:
            disk = directory / f"disk-{name}"
            disk.mkdir()
            run_command("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", disk)
            self.stack.callback(run_command, "umount", "-l", disk)
            return {"env": {"DISK_RESERVE_BYTES": "0"}, "store": disk / "store"}

        return ClusterProcess(directory, place=place)

    async def strike(self, run: Run) -> None:
        await run.well()
        leader = await run.leader()
        others = [name for name in run.cluster.nodes if name != leader]
        name = leader if self.chance.random() < 0.5 else self.chance.choice(others)
        node, disk = run.cluster.nodes[name], self._folder / f"disk-{name}"
        struck = time.monotonic()
        ballast = disk / "ballast"
        free = os.statvfs(disk)
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_frsize - LEFT_BYTES))
        await ended(run, node)
        await self.until_elsewhere(run, struck, node.grpc_addr)
        ballast.unlink()
        node.spawn()


class ClockJump(Preloaded):
    """The clock of one node is an hour ahead or behind for a while; that node may become the leader."""

    name = "clock-1-h"
    clocks_agree = False

    def place(self, name: str) -> dict[str, object]:
        self.shift(name, 0)
        return {"env": {"LD_PRELOAD": str(self.library), "FAULTS_CLOCK": str(self.folder / f"{name}-clock")}}

    async def strike(self, run: Run) -> None:
        await run.well()
        name = self.chance.choice(list(run.cluster.nodes))
        struck = time.monotonic()
        self.shift(name, self.chance.choice([-HOUR_SECONDS, HOUR_SECONDS]))
        await asyncio.sleep(self.chance.uniform(0, 1))
        leader = await run.leader()
        if leader != name or self.chance.random() < 0.3:
            run.cluster.nodes[leader].kill()
        await run.progress()
        await asyncio.sleep(self.chance.uniform(0, 2))
        self.shift(name, 0)
        await run.progress()
        self.note_gap(run, struck)

    def shift(self, name: str, seconds: int) -> None:
        """Sets a node's clock ahead by this many seconds; the node may be running."""
        # Written in place, because the node has this very file open.
        file = os.open(self.folder / f"{name}-clock", os.O_WRONLY | os.O_CREAT)
        os.write(file, struct.pack("q", seconds))
        os.close(file)


class FiringClockJump(ClockJump):
    """The clock of one node is an hour ahead or behind for a while, and schedules fire each second."""

    name = "firing-clock-1-h"
    rounds = 100
    schedules = 30


async def ended(run: Run, node: NodeProcess) -> None:
    """Waits for a node to end by itself, as it must after its disk has failed."""
    await run.until(lambda: not node.is_running, f"the end of {node.name}", END_SECONDS_MAX)
    assert node.wait() == 1, f"{node.name} ended with {node.wait()}\n{node.log[-3000:]}"


HOST_FAULTS: tuple[type[Fault], ...] = (
    NetIsolateLeader,
    NetSplitOne,
    NetLoseOneWay,
    NetBridge,
    NetLoss,
    PowerLoss,
    PowerLossWithoutSync,
    SyncError,
    DiskHangs,
    DiskFull,
    ClockJump,
    FiringClockJump,
)
"""Faults that need a compiler; some also need root and nftables."""
