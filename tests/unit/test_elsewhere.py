"""A producer's stream over several shards: tasks with keys and ids go to their shards, and acks stay in order."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from codeq.v1 import error_pb2, task_pb2
from codeq.v1 import producer_service_pb2 as pb
from codeq_gateway.bodies import InFlight
from codeq_server.auth.claims import WORKER_SCOPES, Claims
from codeq_server.core import names
from codeq_server.services.stream_token import StreamToken
from held_log import turns, until
from several_shards import Installation, InstalledShards
from shard_fleet import no_renewal
from stream_client import Client

CLAIMS = Claims("acme", "acme", WORKER_SCOPES, frozenset({"*"}), "USER", is_admin=False)


class Producer:
    """A producer connected to the process of shard 0."""

    def __init__(self, installation: Installation) -> None:
        self.client = Client("produce")
        serving = installation.calls[0].shards.current()
        token = StreamToken(CLAIMS, no_renewal, time.time, "acme")
        shards = InstalledShards(installation, 0)
        self.stream = asyncio.create_task(serving.produce(token, self.client, InFlight(), shards))

    def send(self, *specs: dict[str, Any]) -> None:
        self.client.send(tasks=[task_pb2.TaskSpec(command="a", payload=b"1", **spec) for spec in specs])

    @property
    def acks(self) -> list[pb.FrameAck]:
        return [ack for message in self.client.received for ack in message.acks]

    async def acked(self, count: int) -> list[pb.FrameAck]:
        await until(lambda: len(self.acks) == count)
        return self.acks

    async def close(self) -> None:
        self.client.half_close()
        await self.stream


async def test_tasks_go_to_the_shards_of_their_ids_and_all_others_stay() -> None:
    installation = Installation(3)
    producer = Producer(installation)
    chosen = [installation.texts("t", shard, 1)[0] for shard in range(3)]
    keys = [f"k{number}" for number in range(6)]
    producer.send({}, *({"task_id": text} for text in chosen), *({"idempotency_key": key} for key in keys), {})
    (ack,) = await producer.acked(1)
    assert list(ack.task_ids[1:4]) == chosen
    assert list(ack.task_ids[4:10]) == [names.keyed_id("acme", key) for key in keys]
    assert [installation.shard_of(ack.task_ids[index]) for index in (0, 10)] == [0, 0]
    assert (list(ack.errors), list(ack.duplicates)) == ([], [])
    for shard, runner in enumerate(installation.runners):
        created = [task_id for task_id in ack.task_ids if installation.shard_of(task_id) == shard]
        assert runner.shard.totals.created == len(created) > 0
    await producer.close()


async def test_frames_without_keys_make_no_call_to_other_shards() -> None:
    installation = Installation(2)
    producer = Producer(installation)
    for _ in range(5):
        producer.send({}, {"priority": 3}, {"delay_seconds": 3})
    await producer.acked(5)
    assert installation.made == []
    await producer.close()


async def test_duplicates_and_errors_have_the_indexes_of_their_frames() -> None:
    installation = Installation(3)
    producer = Producer(installation)
    ids = [installation.texts("t", shard, 1)[0] for shard in (2, 1, 0)]
    specs = [{"idempotency_key": f"k{number}"} for number in range(6)]
    producer.send(*specs)
    producer.send(*({"task_id": task_id} for task_id in ids))
    producer.send({"priority": 77}, *specs[::-1], *({"task_id": task_id} for task_id in ids), {"task_id": "a b"})
    first, _, ack = await producer.acked(3)
    assert list(ack.task_ids) == ["", *list(first.task_ids)[::-1], "", "", "", ""]
    assert list(ack.duplicates) == list(range(1, 7))
    invalid, taken = error_pb2.ERROR_REASON_INVALID_FIELD, error_pb2.ERROR_REASON_TASK_ID_TAKEN
    assert [(error.index, error.reason) for error in ack.errors] == [
        (0, invalid),
        (7, taken),
        (8, taken),
        (9, taken),
        (10, invalid),
    ]
    await producer.close()


async def test_acks_keep_the_order_of_the_frames_while_another_shard_is_slow() -> None:
    installation = Installation(2)
    installation.runners[1].log.free = False
    producer = Producer(installation)
    away = installation.texts("t", 1, 3)
    producer.send({"task_id": away[0]})
    producer.send({})
    await until(lambda: installation.runners[1].shard.in_flight)
    producer.send({"task_id": away[1]})
    producer.send({"task_id": away[2]})
    await turns(100)
    assert producer.acks == []
    installation.runners[1].log.free = True
    installation.runners[1].log.release()
    acks = await producer.acked(4)
    assert [list(ack.task_ids) for ack in acks[:1] + acks[2:]] == [[text] for text in away]
    assert len(installation.made) == 2  # the last two frames share a call
    await producer.close()


async def test_large_frame_travels_in_several_calls() -> None:
    installation = Installation(2)
    producer = Producer(installation)
    away = installation.texts("t", 1, 2500)
    producer.send(*({"task_id": task_id} for task_id in away))
    (ack,) = await producer.acked(1)
    assert list(ack.task_ids) == away
    assert installation.made == [(1, "CreateOnShard")] * 3
    assert await installation.claim(1, 5) == away[:5]  # first in, first out
    await producer.close()


async def test_shard_that_is_down_gives_errors_for_its_tasks_only() -> None:
    installation = Installation(2)
    producer = Producer(installation)
    installation.down.add(1)
    away, here = installation.texts("t", 1, 1)[0], installation.texts("t", 0, 1)[0]
    producer.send({"task_id": away}, {"task_id": here}, {})
    (ack,) = await producer.acked(1)
    assert list(ack.task_ids)[:2] == ["", here]
    assert [(error.index, error.reason) for error in ack.errors] == [(0, error_pb2.ERROR_REASON_SERVER_UNREACHABLE)]
    installation.down.clear()
    producer.send({"task_id": away})
    assert list((await producer.acked(2))[1].task_ids) == [away]
    await producer.close()
