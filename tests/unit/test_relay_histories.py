"""Random histories of workers over several shards: no task is lost or given twice, and credits are never doubled."""

from __future__ import annotations

import asyncio
from collections import Counter

from codeq.v1 import task_pb2
from codeq_server.core.status import Status
from held_log import turns, until
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_fleet import Fleet, fleet
from stream_client import Client

SHARDS = 3
steps = st.lists(
    st.one_of(
        st.tuples(st.just("create"), st.integers(0, SHARDS - 1), st.integers(1, 12), st.integers(0, 9)),
        st.tuples(st.just("grant"), st.integers(0, 1), st.integers(1, 8)),
        st.tuples(st.just("settle"), st.integers(0, 1), st.integers(1, 10)),
        st.tuples(st.just("break"), st.integers(0, SHARDS - 1)),
        st.tuples(st.just("hold"), st.integers(0, SHARDS - 1)),
        st.tuples(st.just("free"), st.integers(0, SHARDS - 1)),
        st.tuples(st.just("turns"), st.integers(1, 30)),
    ),
    min_size=5,
    max_size=30,
)


class History:
    """Two workers, and what the test knows of them."""

    def __init__(self, shards: Fleet, clients: list[Client]) -> None:
        self.shards, self.clients = shards, clients
        self.granted = [0, 0]
        self.sent = [0, 0]
        self.created: list[str] = []
        self.broke = False

    def step(self, kind: str, number: int, *of: int) -> None:
        shards = self.shards
        if kind == "create":
            self.created += [shards.create(number, priority=of[1]) for _ in range(of[0])]
        elif kind == "grant":
            self.granted[number] += of[0]
            self.clients[number].send(add_credits=of[0])
        elif kind == "settle":
            self.settle(number, of[0])
        elif kind == "break":
            self.broke = True
            shards.kill(number)
            shards.revive(number)
        elif kind == "hold":
            shards.runners[number].log.free = False
        elif kind == "free":
            self.free(number)

    def settle(self, worker: int, count: int) -> None:
        tasks = self.clients[worker].tasks[self.sent[worker] :][:count]
        self.sent[worker] += len(tasks)
        kind = task_pb2.OUTCOME_KIND_COMPLETED
        self.clients[worker].send(
            outcomes=[
                task_pb2.Outcome(task_id=task.id, lease_token=task.lease_token, kind=kind, result=b"1")
                for task in tasks
            ]
        )

    def free(self, shard: int) -> None:
        log = self.shards.runners[shard].log
        log.free = True
        while log._held:
            log.release()

    def check(self) -> None:
        delivered = Counter(task.id for client in self.clients for task in client.tasks)
        assert [task_id for task_id, count in delivered.items() if count > 1] == []
        for client, granted in zip(self.clients, self.granted, strict=True):
            assert len(client.tasks) <= granted

    async def finish(self) -> None:
        """Lets everything go on; in the end each task has been delivered, except those that a broken link has lost."""
        for shard in range(SHARDS):
            self.free(shard)
        for worker in (0, 1):
            self.granted[worker] += 400
            self.clients[worker].send(add_credits=400)
        await until(lambda: not self.waiting())
        if not self.broke:
            await until(lambda: sum(len(client.tasks) for client in self.clients) == len(self.created))
        for worker in (0, 1):
            self.settle(worker, 1000)
        await until(lambda: [self.settled(worker) for worker in (0, 1)] == self.sent)

    def waiting(self) -> int:
        """Returns the number of tasks that wait for a worker."""
        return sum(self.shards.status(task_id) is Status.PENDING for task_id in self.created)

    def settled(self, worker: int) -> int:
        return sum(message.settled for message in self.clients[worker].received)


async def _run(history: list[tuple[str, int]]) -> None:
    async with fleet(SHARDS) as shards:
        run = History(shards, [await shards.worker(), await shards.worker()])
        for kind, number, *of in history:
            run.step(kind, number, *of)
            await turns(number if kind == "turns" else 3)
            run.check()
        await run.finish()
        await turns(100)
        run.check()
        if not run.broke:
            delivered = {task.id for client in run.clients for task in client.tasks}
            assert delivered == set(run.created)
            assert {shards.status(task_id) for task_id in run.created} <= {Status.COMPLETED}


@given(steps)
@settings(max_examples=20)
def test_no_task_is_lost_or_given_twice_and_credits_are_never_exceeded(history: list[tuple[str, int]]) -> None:
    asyncio.run(_run(history))
