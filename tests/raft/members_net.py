"""Members of a cluster in one process: real stores on disk, and a network that the test controls."""

from __future__ import annotations

import asyncio
import itertools
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from codeq_internal.v1 import raft_rows_pb2
from codeq_raft_core import read_conf_state
from codeq_server.core.batch import SealedBatch
from codeq_server.replication.raft.disk_identity import GROUP, prepare
from codeq_server.replication.raft.exports import SnapshotMaker
from codeq_server.replication.raft.leadership import LeaderLog
from codeq_server.replication.raft.log_rows import GroupKeys
from codeq_server.replication.raft.member import Member, MemberSettings
from codeq_server.replication.raft.network import Hello, Unanswered, Unwelcome
from codeq_server.replication.raft.ports import Made, Ticks
from codeq_server.storage.rocks import RocksStore

TICK_SECONDS = 0.01
TICKS = Ticks(election=25, heartbeat=2)
WAIT_SECONDS = 20.0


class Net:
    """Carries messages at once, except between isolated nodes."""

    def __init__(self) -> None:
        self.nodes: dict[int, MemberNode] = {}
        self.cut: set[frozenset[str]] = set()
        self.numbers = itertools.count()

    def isolate(self, name: str) -> None:
        """Cuts a node off from all others."""
        self.cut |= {frozenset((name, other.name)) for other in self.nodes.values() if other.name != name}

    def heal(self) -> None:
        """Lets every message through again."""
        self.cut.clear()

    def reaches(self, one: str, other: str) -> bool:
        return frozenset((one, other)) not in self.cut


class Port:
    """The network as one node sees it."""

    def __init__(self, net: Net, node: MemberNode) -> None:
        self._net, self._node = net, node

    def _target(self, to: int) -> MemberNode | None:
        target = self._net.nodes.get(to)
        return target if target is not None and self._net.reaches(self._node.name, target.name) else None

    def send(self, to: int, group: int, message: bytes) -> None:
        target = self._target(to)
        if target is None:
            self._node.loop.call_soon(self._node.member.unreachable, to)
        else:
            self._node.loop.call_soon(target.receive, group, message, self._node.member.hello())

    async def ask(self, name: str, address: str) -> Hello:
        """Returns the node at an address; each name has its own address."""
        for node in self._net.nodes.values():
            if node.address == address and node.name == name and self._net.reaches(self._node.name, name):
                return node.member.hello()
        raise Unanswered("nobody is there")

    def problem_of(self, name: str) -> str:
        return "" if self._net.reaches(self._node.name, name) else "cut off"

    def send_snapshot(self, to: int, group: int, message: bytes, folder: Path) -> None:
        self._node.tasks.add(self._node.loop.create_task(self._send(to, group, message, folder)))

    async def _send(self, to: int, group: int, message: bytes, folder: Path) -> None:
        target = self._target(to)
        try:
            if target is not None:
                # An installation moves files away, and several followers may be receiving the same ones.
                incoming = target.folder.parent / f"{target.name}-incoming-{next(self._net.numbers)}"
                await asyncio.to_thread(shutil.copytree, folder, incoming)
                await target.member.install(group, message, incoming)
        except Exception:  # noqa: BLE001 - whatever it is, the sender is told
            target = None
        self._node.member.snapshot_sent(group, to, target is not None)


class MemberNode:
    """A node: a store in a folder, its member, and its leadership, if any."""

    def __init__(self, net: Net, folder: Path, name: str, peers: dict[str, str], *, bootstrap: bool, seed: int) -> None:
        self.net, self.folder, self.name, self.peers = net, folder, name, peers
        self.address = f"{name}:7000"
        self.bootstrap = bootstrap
        self.admits: Callable[[str], str] | None = None
        self.chance = random.Random(seed)
        self.loop = asyncio.get_running_loop()
        self.tasks: set[asyncio.Task[None]] = set()
        self.term = 0
        self.leaderships: list[int] = []
        self.log: LeaderLog | None = None
        self.problems: list[BaseException] = []
        self._ticker: asyncio.TimerHandle | None = None

    def start(self) -> MemberNode:
        """Opens the store and joins the group."""
        self.store = RocksStore(self.folder, fsync=True, log=True)
        row = prepare(self.store, self.chance.getrandbits(62) + 1, self.name)
        settings = MemberSettings(self.name, self.peers, self.bootstrap, TICKS, admits=self.admits)
        self.member = Member(self.store, row, settings, self.chance.randbytes, self, self.problems.append)
        snapshots = self.folder.parent / f"{self.name}-snapshots"
        if snapshots.exists():  # the threads of the last life may go on in it
            snapshots.rename(f"{snapshots}-{next(self.net.numbers)}")
        self.maker = SnapshotMaker(self.store, GroupKeys(GROUP), snapshots)
        self.port = Port(self.net, self)
        self.member.start(self.port)
        self.net.nodes[row.raft_id] = self
        self._tick()
        return self

    async def stop(self) -> None:
        """Stops without notice; pending writes still reach the disk."""
        self.net.nodes.pop(self.member.row.raft_id, None)
        if self._ticker is not None:
            self._ticker.cancel()
        await self.member.close()

    def receive(self, group: int, message: bytes, sender: Hello) -> None:
        if self.member.row.raft_id in self.net.nodes:
            self.member.receive(group, message, sender)

    def _tick(self) -> None:
        self._ticker = self.loop.call_later(TICK_SECONDS, self._tick)
        for other in self.net.nodes.values():
            if other is not self and self.net.reaches(self.name, other.name):
                with suppress(Unwelcome):
                    self.member.met(other.member.hello(), other.address)
        self.member.tick()

    # -- the host of the member --------------------------------------------------------------------------------------

    def lead(self, term: int) -> None:
        assert self.member.group is not None
        assert not self.term
        self.term = term
        self.leaderships.append(term)
        self.log = LeaderLog(self.member.group.leadership, term)

    def follow(self) -> None:
        assert self.term
        self.term = 0

    def members_changed(self) -> None:
        return

    def leader_changed(self) -> None:
        return

    async def make_snapshot(self) -> Made:
        return await self.maker.make()

    # -- for tests ---------------------------------------------------------------------------------------

    def batch(self, lsn: int, rows: dict[bytes, bytes | None]) -> SealedBatch:
        """Returns a batch that follows the previous one."""
        return SealedBatch(lsn, lsn - 1, 1, 0, rows)

    @property
    def lsn(self) -> int:
        """Number of the last batch given to the disk."""
        assert self.member.group is not None
        return self.member.group.applied.lsn

    async def write(self, rows: dict[bytes, bytes | None]) -> None:
        """Makes rows durable through the log of this leader."""
        assert self.log is not None
        await self.log.append(self.batch(self.lsn + 1, rows))


class Cluster:
    """Nodes that found a cluster together."""

    def __init__(self, folder: Path, names: str = "abc", seed: int = 1) -> None:
        self.net, self.folder, self.seeds = Net(), folder, itertools.count(seed)
        self.peers = {name: f"{name}:7000" for name in names}
        self.nodes = {name: self.node(name, bootstrap=name == names[0]) for name in names}

    def node(self, name: str, *, bootstrap: bool = False) -> MemberNode:
        """Returns a new node, not yet started."""
        return MemberNode(self.net, self.folder / name, name, self.peers, bootstrap=bootstrap, seed=next(self.seeds))

    async def __aenter__(self) -> Self:
        for node in self.nodes.values():
            node.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in list(self.net.nodes.values()):
            await node.stop()
        problems = [problem for node in self.nodes.values() for problem in node.problems]
        assert not problems, problems

    async def until(self, condition: Callable[[], object]) -> None:
        """Waits until a condition holds."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition():  # noqa: ASYNC110 - what is waited for is state of the members
                await asyncio.sleep(TICK_SECONDS / 2)

    async def leader(self, *, beside: MemberNode | None = None) -> MemberNode:
        """Returns the node that leads and serves."""

        def leaders() -> list[MemberNode]:
            return [node for node in self.net.nodes.values() if node.term and node is not beside]

        await self.until(leaders)
        return leaders()[0]

    async def hand_over(self, is_done: Callable[[], object], *, to: MemberNode | None = None) -> None:
        """Asks whoever leads to hand over until a condition holds: on a busy machine, a transfer may fail.

        Args:
            is_done: The condition.
            to: The node that is to lead; None: any other one.
        """
        target = 0 if to is None else to.member.row.raft_id

        def is_done_or_asked_again() -> object:
            if is_done():
                return True
            for node in self.net.nodes.values():
                if node is not to and node.term:
                    node.member.hand_over(target)
            return False

        await self.until(is_done_or_asked_again)

    async def voters(self, count: int) -> None:
        """Waits until every running node knows this many voters, and no change of votes is in progress."""

        def all_know() -> bool:
            groups = [node.member.group for node in self.net.nodes.values()]
            confs = [read_conf_state(group.conf_state) for group in groups if group is not None]
            known = [len(conf.voters) == count and not conf.voters_outgoing for conf in confs]
            return len(known) == len(groups) and all(known)

        await self.until(all_know)

    async def invite(self, leader: MemberNode, node: MemberNode) -> None:
        """Waits until the leader has made a node a voter."""
        assert leader.member.membership is not None
        invitation = raft_rows_pb2.Invitation(name=node.name, address=f"{node.name}:7000")
        await leader.member.membership.propose(raft_rows_pb2.MembersChange(invited=[invitation]), [])

        def is_voter() -> bool:
            group = leader.member.group
            return group is not None and node.member.row.raft_id in read_conf_state(group.conf_state).voters

        await self.until(is_voter)
