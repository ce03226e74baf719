"""Reads on a follower: they show the follower's rows while the rows change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from codeq.v1 import queue_service_pb2, task_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq_server.auth.authenticator import Authenticator
from codeq_server.config import Settings, load
from codeq_server.core.errors import Reason, Rejection
from codeq_server.node import stale
from codeq_server.node.opening import load_shard, make_serving
from codeq_server.node.stale import StaleViews
from codeq_server.replication.local import LocalLog
from codeq_server.services.calls import Calls
from codeq_server.services.serving import Serving
from codeq_server.services.shard_table import ShardTable
from codeq_server.storage.identity import next_identity, save
from codeq_server.storage.rocks import RocksStore
from tenant_tokens import TenantTokens

TASKS = "/codeq.v1.TaskService/"


def _broke(problem: BaseException) -> None:
    raise AssertionError(problem)


def elsewhere() -> Rejection:
    return Rejection(Reason.NOT_LEADER, "another node leads")


class Node:
    """A node whose rows a leader writes, and whose calls go to a server that is not the leader."""

    def __init__(self, settings: Settings, path: Path) -> None:
        self.store = RocksStore(path, fsync=True)
        identity = next_identity(self.store, 1, 0, bytes(range(16)))
        save(self.store, identity)
        shard = load_shard(settings, self.store, identity.epoch)
        self.serving: Serving = make_serving(settings, shard, LocalLog(self.store), None, _broke)
        self.views = StaleViews(settings, self.store, 64, path.parent / "views")
        tokens = Authenticator(TenantTokens(), TenantTokens())
        self.leader, self.follower = (
            Calls(tokens, ShardTable(elsewhere)),
            Calls(tokens, ShardTable(elsewhere, self.views.current)),
        )
        self.leader.shards.present(self.serving)

    async def create(self) -> str:
        request = pb.CreateTaskRequest(spec=task_pb2.TaskSpec(command="a", payload=b"1"))
        made = await self.leader.call(f"{TASKS}CreateTask", request, "Bearer tenant")
        assert isinstance(made, pb.CreateTaskResponse)
        return made.task.id

    async def read(self, task_id: str, *, stale: bool = True) -> pb.GetTaskResponse:
        request = pb.GetTaskRequest(task_id=task_id)
        told = await self.follower.call(f"{TASKS}GetTask", request, "Bearer tenant", stale=stale)
        assert isinstance(told, pb.GetTaskResponse)
        return told


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(load(None, {}, {}, True), tmp_path / "store")
    yield node
    await node.views.close()
    await node.serving.close()


async def test_stale_read_distinguishes_waiting_and_claimed_tasks(node: Node) -> None:
    waiting, claimed = await node.create(), await node.create()
    request = pb.ClaimTaskRequest(commands=["a"])
    await node.leader.call(f"{TASKS}ClaimTask", request, "Bearer tenant")
    assert (await node.read(waiting)).task.status == task_pb2.TASK_STATUS_CLAIMED
    assert (await node.read(claimed)).task.status == task_pb2.TASK_STATUS_PENDING


async def test_read_that_does_not_allow_stale_data_is_rejected(node: Node) -> None:
    task_id = await node.create()
    with pytest.raises(Rejection) as refused:
        await node.read(task_id, stale=False)
    assert refused.value.reason is Reason.NOT_LEADER


async def test_write_is_rejected_even_if_stale_reads_are_allowed(node: Node) -> None:
    request = pb.CreateTaskRequest(spec=task_pb2.TaskSpec(command="a", payload=b"1"))
    with pytest.raises(Rejection) as refused:
        await node.follower.call(f"{TASKS}CreateTask", request, "Bearer tenant", stale=True)
    assert refused.value.reason is Reason.NOT_LEADER


async def test_view_is_a_snapshot_and_a_later_view_shows_new_rows(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    await node.read(await node.create())
    later = await node.create()
    monkeypatch.setattr(stale, "AGE_SECONDS", 0.0)
    with pytest.raises(Rejection) as unknown:
        await node.read(later)
    assert unknown.value.reason is Reason.TASK_NOT_FOUND
    await node.views.close()
    assert (await node.read(later)).task.id == later
    queues = await node.follower.call(
        "/codeq.v1.QueueService/ListQueues", queue_service_pb2.ListQueuesRequest(), "Bearer tenant", stale=True
    )
    assert isinstance(queues, queue_service_pb2.ListQueuesResponse)
    assert queues.queues[0].ready == 2


async def test_waiting_read_is_left_to_the_leader(node: Node) -> None:
    task_id = await node.create()
    for seconds, reason in ((0, Reason.RESULT_NOT_FOUND), (1, Reason.NOT_LEADER)):
        request = pb.GetTaskResultRequest(task_id=task_id, wait_seconds=seconds)
        with pytest.raises(Rejection) as refused:
            await node.follower.call(f"{TASKS}GetTaskResult", request, "Bearer tenant", stale=True)
        assert refused.value.reason is reason


async def test_new_view_goes_on_with_the_rate_limits_of_the_one_before(tmp_path: Path) -> None:
    rates = {"RATE_LIMIT": '{"admin": {"requestsPerMinute": 1, "burstSize": 2}}'}
    node = Node(load(None, rates, {}, True), tmp_path / "store")

    async def listed() -> None:
        name, request = "/codeq.v1.QueueService/ListQueues", queue_service_pb2.ListQueuesRequest()
        await node.follower.call(name, request, "Bearer tenant", stale=True)
        node.views._good_until = 0.0

    await listed()
    await listed()
    with pytest.raises(Rejection) as refused:
        await listed()
    assert refused.value.reason is Reason.RATE_LIMITED
    await node.views.close()
    await node.serving.close()
