"""A run of load on a cluster under faults, and its verdict: acknowledged, missing and duplicated tasks."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from cluster_client import Follower, Refused
from cluster_ledger import COMMANDS, Ledger
from cluster_load import Load
from cluster_process import ClusterProcess, NodeProcess
from codeq.v1 import queue_service_pb2 as queue_pb
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq.v1.cluster_service_pb2 import RaftGroup
from codeq_server.replication.raft.disk_identity import GROUP
from codeq_server.replication.raft.log_rows import Applied, GroupKeys, read_applied
from codeq_server.storage.check import check_store
from codeq_server.storage.reading import open_stored
from fired_schedules import Schedules
from server_process import LOG_TAIL_CHARS

PROGRESS_SECONDS_MAX: Final = 60.0
"""Time within which a healed cluster must acknowledge a call; generous, because the machine may be busy."""
DRAIN_SECONDS_MAX: Final = 180.0
SAME_SECONDS_MAX: Final = 60.0
POLL_SECONDS: Final = 0.05
PAGE: Final = 500
RESULTS_READ_MAX: Final = 300
READS_TOGETHER: Final = 16


@dataclass(slots=True)
class Verdict:
    """The outcome of a run.

    Attributes:
        acknowledged: Tasks whose create was acknowledged.
        ended: Tasks whose end was acknowledged.
        missing: Acknowledged tasks that are gone, or whose state contradicts an acknowledgment.
        doubled: Tasks that exist or ended twice.
        problems: A description of every broken promise.
        counts: Other counts.
    """

    acknowledged: int
    ended: int
    missing: list[str]
    doubled: list[str]
    problems: list[str]
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Whether no promise was broken."""
        return not (self.missing or self.doubled or self.problems)


class Run:
    """A cluster under load.

    Attributes:
        cluster: The cluster.
        ledger: Records of the cluster's clients.
        load: Its clients.
        schedules: Its schedules.
        members: Names of the intended members.
    """

    load_type: type[Load] = Load
    ledger_type: type[Ledger] = Ledger

    def __init__(
        self, cluster: ClusterProcess, seed: int, *, clocks_agree: bool = True, fill: int = 0, schedules: int = 0
    ) -> None:
        self.cluster = cluster
        self.ledger = self.ledger_type(clocks_agree=clocks_agree)
        self.members = set(cluster.nodes)
        self._seed, self._fill, self._schedules = seed, fill, schedules

    async def __aenter__(self) -> Self:
        await self.cluster.start_all()
        addresses = list(self.cluster.addresses("grpc_addr").values())
        self.load = self.load_type(addresses, self.ledger, self._seed, fill=self._fill)
        await self.load.prepare()
        self.load.start()
        await self.progress()
        self.schedules = Schedules(self.load.client, self.ledger, self._schedules)
        await self.schedules.put()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.load.close()

    async def until(self, condition: Callable[[], bool], what: str, seconds: float = PROGRESS_SECONDS_MAX) -> None:
        """Waits for a condition.

        Raises:
            AssertionError: The condition did not hold in time; the message ends with the nodes' logs.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            self.load.check()
            assert time.monotonic() < deadline, f"{what} did not happen in {seconds:.0f} s\n{self.cluster.logs}"
            await asyncio.sleep(POLL_SECONDS)

    async def progress(self) -> None:
        """Waits until a create and a delivery that begin now succeed."""
        now = time.monotonic()
        creates, receipts = self.ledger.creates, self.ledger.receipts
        await self.until(lambda: creates.first_after(now) is not None, "a create")
        await self.until(lambda: receipts.first_after(now) is not None, "a delivery")

    async def leader(self) -> str:
        """Returns the name of the node that leads, or leads the first of several groups."""
        if self.cluster.shards > 1:
            groups: dict[int, RaftGroup] = {}
            while 0 not in groups:
                groups = await self.cluster.leading(self.load.client)
            return groups[0].leader_id
        names = {address: name for name, address in self.cluster.addresses("grpc_addr").items()}
        with suppress(Refused):  # only a leader can say that the task does not exist
            await self.load.client.call("tasks", "GetTask", pb.GetTaskRequest(task_id="none"), again=True, seconds=60)
        return names[self.load.client.leader]

    async def well(self, *, spared: NodeProcess | None = None) -> None:
        """Starts nodes that are down; returns once all members vote, the leader knows them, and the cluster serves.

        Args:
            spared: Node that is not restarted, because the fault may have ended it for good.
        """
        if spared is None:
            await self.cluster.start_all()
        await self.progress()
        await self.cluster.all_vote(self.load.client, self.members)
        self.load.check()

    async def finish(self) -> Verdict:
        """Starts all nodes, drains the cluster, stops everything, and judges. The cluster is down afterwards."""
        await self.cluster.start_all()
        await self.progress()
        await self.load.stop_creating()
        await self._drain()
        found = await self._found()
        missing = self._missing(found)
        await self._judge_results()
        await self.schedules.judge()
        self.load.check()
        await self.load.close()
        await self._judge_stores()
        self.ledger.judge_leases()
        doubled = sorted(self.ledger.doubled | self._twice(found))
        counts = dict(self.ledger.counts)
        return Verdict(counts.pop("created", 0), counts.pop("ended", 0), missing, doubled, self.ledger.problems, counts)

    async def _drain(self) -> None:
        deadline = time.monotonic() + DRAIN_SECONDS_MAX
        while True:
            await self.load.settled()
            self.load.check()
            if not await self.load.left():
                break
            assert time.monotonic() < deadline, f"the queues were not drained in time\n{self.cluster.logs}"
            await asyncio.sleep(POLL_SECONDS)
        await self.load.settled()

    async def _found(self) -> dict[str, tuple[int, str]]:
        """Returns number and status of every existing task, by id."""
        found = {}
        page = ""
        while True:
            request = pb.ListTasksRequest(page_size=PAGE, page_token=page)
            answer, _ = await self.load.client.call("tasks", "ListTasks", request, again=True)
            for task in answer.tasks:
                if task.command not in COMMANDS:
                    continue  # a task of a schedule
                status = task_pb2.TaskStatus.Name(task.status).removeprefix("TASK_STATUS_")
                found[task.id] = (int(json.loads(task.payload)["n"]), status)
            page = answer.next_page_token
            if not page:
                return found

    def _missing(self, found: dict[str, tuple[int, str]]) -> list[str]:
        """Returns acknowledged tasks that are missing or in a wrong state."""
        gone = [task_id for task_id in self.ledger.by_id if task_id not in found]
        gone += [task_id for task_id in self.ledger.ends if task_id not in found]
        for task_id in gone:
            self.ledger.problem(f"I1: {task_id} was acknowledged and is gone")
        judged = [(task_id, self.ledger.judge_task(task_id, *what)) for task_id, what in found.items()]
        return sorted({*gone, *(task_id for task_id, good in judged if not good)})

    def _twice(self, found: dict[str, tuple[int, str]]) -> set[str]:
        """Returns tasks that come from a create that has already made another task."""
        first: dict[int, str] = {}
        twice = set()
        for task_id, (number, _) in found.items():
            if first.setdefault(number, task_id) != task_id:
                twice.add(task_id)
                self.ledger.problem(f"I5: create {number} made the tasks {first[number]} and {task_id}")
        return twice

    async def _judge_results(self) -> None:
        """Checks that acknowledged results are stored as sent."""
        ids = list(self.ledger.ends)[-RESULTS_READ_MAX:]

        async def read(task_id: str) -> None:
            end = self.ledger.ends[task_id]
            request = pb.GetTaskResultRequest(task_id=task_id)
            try:
                answer, _ = await self.load.client.call("tasks", "GetTaskResult", request, again=True)
            except Refused as refused:
                self.ledger.problem(f"I1: the result of {task_id} cannot be read: {refused}")
                return
            if answer.result.result != end.result:
                self.ledger.problem(f"I1: the result of {task_id} is {answer.result.result!r}, not {end.result!r}")

        for first in range(0, len(ids), READS_TOGETHER):
            await asyncio.gather(*map(read, ids[first : first + READS_TOGETHER]))

    async def _judge_stores(self) -> None:
        """Checks I6: each store is consistent, and all stores agree, entry by entry."""
        shards = [self.cluster.stores(shard) for shard in range(self.cluster.shards)]
        deadline = time.monotonic() + SAME_SECONDS_MAX
        while True:
            await asyncio.sleep(0.5)  # heartbeats bring the last commit to the followers
            self.cluster.kill()
            read = [{name: await asyncio.to_thread(applied, store) for name, store in each.items()} for each in shards]
            if all(len(set(each.values())) == 1 for each in read):
                break
            assert time.monotonic() < deadline, f"members do not agree: {read}\n{self.cluster.logs}"
            await self.cluster.start_all()
            await self._serving()
        for stores in shards:
            await self._judge_members(stores)

    async def _judge_members(self, stores: dict[str, Path]) -> None:
        """Checks the stores of one group."""
        hashes = {}
        for name, store in stores.items():
            differences, _ = await asyncio.to_thread(check_store, store)
            for difference in differences:
                self.ledger.problem(f"I6: {name}: {difference}")
            hashes[name] = await asyncio.to_thread(rows_hash, store)
        if len(set(hashes.values())) != 1:
            self.ledger.problem(f"I6: members have other rows in {stores}: {hashes}")

    async def _serving(self) -> None:
        """Waits until every shard has a leader: only they can say how long a queue is."""
        addresses = list(self.cluster.addresses("grpc_addr").values())
        async with Follower(addresses, self.load.client.token) as client:
            with suppress(Refused):
                request = queue_pb.GetQueueRequest(command=COMMANDS[0])
                await client.call("queues", "GetQueue", request, again=True, seconds=60)


def applied(store: Path) -> Applied:
    """Returns the last applied batch of a member whose store is closed."""
    with open_stored(store) as stored:
        value = stored.get(GroupKeys(GROUP).applied)
    return Applied() if value is None else read_applied(value)


def rows_hash(store: Path) -> str:
    """Returns a hash over all rows of a member except its log."""
    digest = hashlib.sha256()
    with open_stored(store) as stored:
        for key, value in stored.rows():
            digest.update(len(key).to_bytes(4, "big") + key + len(value).to_bytes(4, "big") + value)
    return digest.hexdigest()


def assert_clean(verdict: Verdict, cluster: ClusterProcess) -> None:
    """Fails with every broken promise and the last log lines of the nodes.

    Raises:
        AssertionError: A promise was broken.
    """
    problems = "\n".join(verdict.problems[:20])
    tails = "\n".join(f"--- {name}\n{node.log[-LOG_TAIL_CHARS:]}" for name, node in cluster.nodes.items())
    assert verdict.clean, f"missing {verdict.missing[:20]}, doubled {verdict.doubled[:20]}\n{problems}\n{tails}"
    assert verdict.acknowledged > 0
    assert verdict.ended > 0
