"""Tasks that share a limit or an order are created in one shard, whichever process accepts them."""

from __future__ import annotations

from typing import Any

import pytest
from codeq.v1 import task_pb2, topic_service_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq_server.core.errors import Reason, Rejection
from several_shards import Installation

SHARDS = 4


@pytest.fixture
async def shards() -> Installation:
    return Installation(SHARDS)


async def put_policy(shards: Installation, **policy: Any) -> None:
    request = topic_service_pb2.PutTopicRequest(command="a", policy=topic_service_pb2.QueuePolicy(**policy))
    await shards.call(1, "/codeq.v1.TopicService/PutTopic", request)


async def created_in(shards: Installation, count: int = 16, **fields: Any) -> set[int]:
    """Creates tasks over all processes; returns the shards that have them."""
    return {shards.shard_of(await shards.create(number % SHARDS, **fields)) for number in range(count)}


async def test_tasks_without_keys_stay_where_they_were_accepted(shards: Installation) -> None:
    assert await created_in(shards) == set(range(SHARDS))


async def test_tasks_of_a_command_with_any_keys_share_a_shard(shards: Installation) -> None:
    for command in ("a", "b", "c", "d", "e"):
        keys = ({field: "k"} for field in ("ordering_key", "concurrency_key", "rate_key"))
        places = [await created_in(shards, command=command, **key) for key in keys]
        places.append(await created_in(shards, command=command, ordering_key="o", concurrency_key="c", rate_key="r"))
        assert len(set().union(*places)) == 1


async def test_commands_with_keys_spread_over_the_shards(shards: Installation) -> None:
    places = [await created_in(shards, 1, command=f"c{number}", ordering_key="o") for number in range(24)]
    assert set().union(*places) == set(range(SHARDS))


@pytest.mark.parametrize("policy", [{"max_consumers": 3}, {"rate_per_second": 5}])
async def test_queue_with_a_limit_of_its_own_lies_in_one_shard(shards: Installation, policy: dict[str, Any]) -> None:
    await put_policy(shards, **policy)
    place = await created_in(shards)
    assert len(place) == 1
    assert await created_in(shards, ordering_key="o") == place
    assert await created_in(shards, command="b") == set(range(SHARDS))


async def test_queue_with_keys_in_payloads_lies_in_one_shard(shards: Installation) -> None:
    await put_policy(shards, ordering_key_path="/customer")
    place = await created_in(shards, payload=b'{"customer": 1}')
    assert len(place) == 1
    assert await created_in(shards, payload=b'{"customer": 2}', concurrency_key="c") == place


@pytest.mark.parametrize("policy", [{"max_consumers": 3}, {"ordering_key_path": "/customer"}])
async def test_tasks_with_keys_stay_together_while_policies_change(
    shards: Installation, policy: dict[str, Any]
) -> None:
    place = await created_in(shards, ordering_key="o", idempotency_key="k")
    await put_policy(shards, **policy)
    assert await created_in(shards, ordering_key="o", idempotency_key="k") == place
    assert await created_in(shards, concurrency_key="c") == place
    await put_policy(shards, max_attempts=3)
    first = await shards.create(0, ordering_key="o", idempotency_key="k")
    assert {await shards.create(process, ordering_key="o", idempotency_key="k") for process in range(SHARDS)} == {first}
    assert await created_in(shards, ordering_key="p") == place


async def test_request_with_an_idempotency_key_is_recognized_in_the_shard_of_its_order(shards: Installation) -> None:
    for number in range(24):
        fields = {"idempotency_key": f"k{number}", "ordering_key": f"o{number}"}
        ids = {await shards.create(process, **fields) for process in range(SHARDS)}
        assert len(ids) == 1
        [task_id] = ids
        assert {shards.shard_of(task_id)} == await created_in(shards, 1, ordering_key=f"o{number}")
        found = await shards.call(0, "GetTask", pb.GetTaskRequest(task_id=task_id))
        assert found.task.id == task_id


async def test_chosen_id_that_leads_elsewhere_is_rejected_by_name(shards: Installation) -> None:
    [place] = await created_in(shards, ordering_key="o")
    for shard in range(SHARDS):
        [task_id] = shards.texts(f"mine-{shard}-", shard, 1)
        spec = task_pb2.TaskSpec(command="a", ordering_key="o", task_id=task_id)
        if shard == place:
            await shards.call(0, "CreateTask", pb.CreateTaskRequest(spec=spec))
            continue
        with pytest.raises(Rejection) as refused:
            await shards.call(0, "CreateTask", pb.CreateTaskRequest(spec=spec))
        assert refused.value.reason is Reason.INVALID_FIELD
        assert refused.value.violations[0][0] == "spec.task_id"
        batch = pb.BatchCreateTasksRequest(tasks=[task_pb2.TaskSpec(command="a"), spec])
        answers = (await shards.call(0, "BatchCreateTasks", batch)).results
        assert answers[0].task.id
        assert (answers[1].error.index, "leads to another shard" in answers[1].error.message) == (1, True)


async def test_atomic_batch_follows_the_keys_of_its_tasks(shards: Installation) -> None:
    [place] = await created_in(shards, ordering_key="o")
    specs = [task_pb2.TaskSpec(command="a"), task_pb2.TaskSpec(command="a", ordering_key="o")]
    for key in ("", "k1", "k2"):
        request = pb.BatchCreateTasksRequest(tasks=specs, atomic=True)
        if key:
            request.idempotency_key = key
        made = [await shards.call(process, "BatchCreateTasks", request) for process in range(SHARDS)]
        assert {shards.shard_of(answer.task.id) for each in made for answer in each.results} == {place}
        assert len({each.results[0].task.id for each in made}) == (1 if key else SHARDS)
    others = [
        command for command in "pqrstuvw" if await created_in(shards, 1, command=command, rate_key="r") != {place}
    ]
    specs.append(task_pb2.TaskSpec(command=others[0], rate_key="r"))
    with pytest.raises(Rejection) as refused:
        await shards.call(0, "BatchCreateTasks", pb.BatchCreateTasksRequest(tasks=specs, atomic=True))
    assert refused.value.violations[0][0] == "tasks[2]"
