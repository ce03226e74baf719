"""A machine of a cluster: its disk, its clocks and, while its process is running, a group member that may serve."""

from __future__ import annotations

import asyncio
import contextvars
import json
import shutil
from collections.abc import Awaitable, Mapping
from contextlib import suppress

import sim_keys
from cluster_net import Net, Port
from cluster_oracle import KEYS, WatchedDisk
from codeq_internal.v1 import raft_rows_pb2
from codeq_server.core import recovery
from codeq_server.core.shard import Shard, ShardSettings
from codeq_server.engine.runner import ShardRunner
from codeq_server.node.leading import Leading, Opening
from codeq_server.replication.log import Log
from codeq_server.replication.raft.disk_identity import RAFT_ID_BYTES, prepare, raft_id_from
from codeq_server.replication.raft.log_rows import read_applied
from codeq_server.replication.raft.member import Member, MemberSettings
from codeq_server.replication.raft.network import Hello, Unwelcome
from codeq_server.replication.raft.ports import Made, Ticks
from codeq_server.services.calls import Calls
from codeq_server.services.serving import Serving
from codeq_server.services.shard_table import ShardTable
from codeq_server.storage.export import MANIFEST
from sim_audit import Audit
from sim_disk import DiskStore, export
from sim_loop import Process
from sim_node import LEASE_SECONDS, Node, Trust

TICK_SECONDS = 0.05
TICKS = Ticks(election=12, heartbeat=3)
MEET_TICKS = 6
"""Ticks between two greetings to the other machines."""
OUTSIDE = contextvars.Context()


class Server:
    """One life of a machine's process; the host of its member."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self._loop = machine, machine.loop
        process = machine.process
        assert process is not None
        self._store = DiskStore(machine.disk)
        row = prepare(self._store, raft_id_from(machine.chance.randbytes(RAFT_ID_BYTES)), machine.name)
        settings = MemberSettings(
            machine.name,
            machine.peers,
            machine.bootstrap,
            TICKS,
            http={},
            grpc={name: name for name in machine.net.machines},
            admits=(lambda name: f"{name}:7000") if machine.net.admits else None,
        )
        self.member = Member(self._store, row, settings, machine.chance.randbytes, self, machine.broke)
        opening = Opening(1, lambda: machine.clock()[0] // 1000, self._load, self._serve)
        self.leading = Leading(self._store, opening, self._present, machine.broke)
        self.calls = Calls(Trust(), ShardTable(self.member.refusal))
        self.serving: Serving | None = None
        self._ticks = 0
        self.port = Port(machine.net, machine, process, self.member.hello)
        self.member.start(self.port)
        self._tick()

    # -- the host of the member ----------------------------------------------------------------------------------------

    def lead(self, term: int) -> None:
        self.leading.begin(self.member, term)

    def follow(self) -> None:
        self.leading.end(self.member)

    def members_changed(self) -> None:
        """Does nothing: every machine knows the addresses of the others."""

    def leader_changed(self) -> None:
        """Does nothing: no client asks a machine for the leader."""

    def make_snapshot(self) -> Awaitable[Made]:
        return self._make_snapshot()

    async def _make_snapshot(self) -> Made:
        return await self._loop.run_in_executor(None, self._export)

    def _export(self) -> Made:
        keys = (KEYS.applied, KEYS.conf_state, KEYS.members)
        checkpoint, files = self._machine.net.new_folder(), self._machine.net.new_folder()
        self._store.checkpoint(checkpoint)
        export(checkpoint, files, keys)
        shutil.rmtree(checkpoint)
        values = json.loads((files / MANIFEST).read_text())["values"]
        applied, conf_state, members = (bytes.fromhex(values[key.hex()]) for key in keys)
        index, term, lsn = read_applied(applied)
        data = raft_rows_pb2.SnapshotData(lsn=lsn, members=raft_rows_pb2.MembersRow.FromString(members))
        return Made(files, index, term, conf_state, data.SerializeToString())

    # -- serving -------------------------------------------------------------------------------------------------------

    def _load(self, epoch: int) -> Shard:
        machine = self._machine
        shard = recovery.open_shard(self._store, machine.settings, epoch, *machine.clock())
        sim_keys.set_limits(shard, shard.at(*machine.clock()))
        return shard

    def _serve(self, shard: Shard, log: Log) -> Serving:
        machine = self._machine
        runner = ShardRunner(shard, log, machine.clock, machine.chance.random, machine.broke)
        runner.changed()
        return Serving(runner, None, lease_seconds=LEASE_SECONDS, artifact_bytes_max=0, outgoing=machine.outgoing)

    def _present(self, serving: Serving | None) -> None:
        if serving is not None:
            group = self.member.group
            assert group is not None
            self._machine.net.oracle.serves(self._machine.disk, group.leading_term)
        self.serving = serving
        self.calls.shards.present(serving)

    # -- time and end --------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        machine = self._machine
        self._loop.call_later(TICK_SECONDS * machine.tick_rate * machine.starved, self._tick)
        if self._ticks % MEET_TICKS == 0:
            machine.greet()
        self._ticks += 1
        self.member.tick()

    async def stop(self) -> None:
        """Shuts down gracefully."""
        self.calls.draining = True
        await self.leading.drain(self.member, 1000)
        for stream in list(self._machine.streams):
            stream.stop()
        self.leading.end(self.member)
        await self.leading.close()
        await self.member.close()


class Machine(Node):
    """A machine.

    Attributes:
        tick_rate: Length of the machine's ticks, as a factor.
        shunned: Whether clients that follow leaders stay away.
        starved: Additional factor for the length of ticks while other work uses the CPU.
    """

    def __init__(
        self,
        net: Net,
        name: str,
        peers: Mapping[str, str],
        audit: Audit,
        settings: ShardSettings,
        *,
        bootstrap: bool,
    ) -> None:
        super().__init__(net.loop, net.chance, audit, settings)
        self.net, self.name, self.peers, self.bootstrap = net, name, peers, bootstrap
        self.disk: WatchedDisk = WatchedDisk(net.chance, net.oracle, name)
        self.starved = 1.0
        self.shunned = False
        self.tick_rate = net.chance.uniform(0.95, 1.05)
        self.mono_offset_ms = net.chance.randrange(1 << 40)
        net.machines[name] = self

    def serve(self) -> Server:
        return Server(self)

    @property
    def term(self) -> int:
        """Returns the term in which the machine serves; 0: it does not serve."""
        server = self.server
        return server.member.group.leading_term if server is not None and server.serving is not None else 0

    def start(self) -> None:
        """Starts the process."""
        self.net.oracle.check(self.disk)
        super().start()
        self.net.oracle.started(self.disk)

    def greet(self) -> None:
        """Introduces this machine to the others."""
        for name, other in self.net.machines.items():
            if name != self.name and self.server is not None and self.net.passes(self.name, name):
                hello = self.server.member.hello()
                self.loop.call_later(self.net.delay(), other.met, hello, other.process, context=OUTSIDE)

    def met(self, hello: Hello, process: Process | None) -> None:
        """Handles a greeting."""
        if process is not None and process is self.process and self.server is not None:
            self.loop.call_soon(self._meet, self.server, hello, context=process.context)

    @staticmethod
    def _meet(server: Server, hello: Hello) -> None:
        with suppress(Unwelcome):
            server.member.met(hello, f"{hello.name}:7000")

    def unreachable(self, raft_id: int) -> None:
        """Handles the detected loss of a message."""
        if self.server is not None:
            self.server.member.unreachable(raft_id)

    def shun(self) -> None:
        """Makes the machine's clients leave, and keeps others away."""
        self.shunned = True
        for stream in list(self.streams):
            stream.break_off()

    def empty(self) -> None:
        """Replaces the disk with an empty one."""
        self.crash(power=True)
        self.audit.count("disk emptied")
        self.disk = WatchedDisk(self.net.chance, self.net.oracle, self.name)

    async def stop(self) -> None:
        """Shuts the process down gracefully: leadership is transferred to another member."""
        server, process = self.server, self.process
        if server is None or process is None:
            return
        self.audit.count("stop")
        await asyncio.wait([process.start(server.stop())], timeout=5)
        self.crash(power=self.chance.random() < 0.5)
