"""Users of the Python SDK see no error while leaders are killed; no task is lost or created twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import codeq
import pytest
from cluster_client import Follower
from cluster_process import TOKEN, ClusterProcess

COMMAND = "sdk"
CALLERS = 32
KILLS = 3
CREATED_BETWEEN = 500
CALL_SECONDS = 60.0
WAIT_SECONDS_MAX = 90.0


class Users:
    """Callers of one producer and one client, and the handler of one worker.

    Attributes:
        created: Acknowledged ids by number.
        done: How often the handler received each number.
    """

    def __init__(self) -> None:
        self.created: dict[int, str] = {}
        self.done: Counter[int] = Counter()
        self.stop = asyncio.Event()
        self._number = 0

    def handle(self, task: codeq.Task) -> object:
        number = task.payload
        assert isinstance(number, int)
        self.done[number] += 1
        return number

    def next(self) -> int:
        self._number += 1
        return self._number

    async def produce(self, producer: codeq.AsyncProducer) -> None:
        while not self.stop.is_set():
            number = self.next()
            key = f"key-{number}" if number % 2 else None
            self.created[number] = await producer.create(
                COMMAND, number, idempotency_key=key, timeout_seconds=CALL_SECONDS
            )

    async def call(self, client: codeq.AsyncClient) -> None:
        while not self.stop.is_set():
            number = self.next()
            task = await client.create(COMMAND, number, idempotency_key=f"key-{number}")
            self.created[number] = task.id
            assert (await client.get(task.id)).id == task.id


async def until(condition: object, users: list[asyncio.Task[None]]) -> None:
    """Waits for a condition; raises any error that a user saw."""
    assert callable(condition)
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while not condition():
            for user in users:
                if user.done():
                    user.result()
            await asyncio.sleep(0.02)


@pytest.mark.timeout(300)
async def test_sdk_users_see_no_error_while_leaders_are_killed(tmp_path: Path) -> None:
    users = Users()
    with ClusterProcess(tmp_path) as cluster:
        addresses = list(cluster.addresses("grpc_addr").values())
        async with (
            Follower(addresses, TOKEN) as follower,
            codeq.AsyncProducer(addresses, token=TOKEN) as producer,
            codeq.AsyncClient(addresses, token=TOKEN, timeout_seconds=CALL_SECONDS) as client,
        ):
            await cluster.all_vote(follower)
            worker = codeq.AsyncWorker(addresses, token=TOKEN, concurrency=64, lease_seconds=10)
            working = asyncio.create_task(worker.run(users.handle, commands=[COMMAND], handle_signals=False))
            callers = [asyncio.create_task(users.produce(producer)) for _ in range(CALLERS)]
            callers += [asyncio.create_task(users.call(client)) for _ in range(4)]
            for _ in range(KILLS):
                enough = len(users.created) + CREATED_BETWEEN
                await until(lambda enough=enough: len(users.created) >= enough, [*callers, working])
                await cluster.all_vote(follower)
                (leader,) = [node for node in cluster.nodes.values() if node.grpc_addr == follower.leader]
                leader.kill()
                enough = len(users.created) + CREATED_BETWEEN
                await until(lambda enough=enough: len(users.created) >= enough, [*callers, working])
                await cluster.start_all()
            users.stop.set()
            await asyncio.gather(*callers)
            await until(lambda: set(users.created) <= set(users.done), [working])
            queue = await client.queue(COMMAND)
            worker.stop()
            await working
    assert len(set(users.created.values())) == len(users.created)
    assert set(users.done) == set(users.created)
    assert queue.ready == 0
