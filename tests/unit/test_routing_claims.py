"""Claims over several shards: nothing waits unseen, and no task is given twice or left behind."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest
from codeq.v1 import queue_service_pb2 as queue_pb
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq_internal.v1 import shard_pb2
from codeq_server.core.errors import Reason, Rejection
from codeq_server.services.routing.claim_router import ROTATION, Pace
from codeq_server.services.shard_service import AWAIT_WORK, RETURN_TASKS
from held_log import turns, until
from several_shards import Installation

SHARDS = 3
QUICK = Pace(recheck=0.02, grace=0.02, pause_min=0.001, pause_max=0.004)


@pytest.fixture
async def shards() -> Installation:
    return Installation(SHARDS, QUICK)


async def idle(shards: Installation) -> None:
    """Returns once no call waits in any shard."""
    await until(lambda: not shards.waiting)


async def test_claim_of_one_task_is_made_in_the_shard_of_its_process_alone(shards: Installation) -> None:
    task_id = await shards.create(1)
    shards.made.clear()
    assert await shards.claim(1) == [task_id]
    assert shards.made == [(1, "ClaimTasks")]


@pytest.mark.parametrize("process", range(SHARDS))
@pytest.mark.parametrize("home", range(SHARDS))
async def test_claim_finds_the_only_task_whatever_its_shard(shards: Installation, process: int, home: int) -> None:
    task_id = await shards.create(home)
    response = await shards.call(process, "ClaimTask", pb.ClaimTaskRequest(commands=["a"]))
    assert response.task.id == task_id
    empty = await shards.call(process, "ClaimTask", pb.ClaimTaskRequest(commands=["a"]))
    assert not empty.HasField("task")


async def test_claim_of_several_tasks_is_filled_from_all_shards(shards: Installation) -> None:
    made = {await shards.create(number % SHARDS) for number in range(9)}
    first = await shards.claim(0, 7)
    assert (len(first), shards.leased) == (7, 7)
    rest = await shards.claim(0, 7)
    assert len(rest) == 2
    assert {*first, *rest} == made


async def test_claim_prefers_the_other_shard_with_the_highest_priority(shards: Installation) -> None:
    low, high = await shards.create(1, priority=3), await shards.create(2, priority=8)
    assert await shards.claim(0) == [high]
    assert await shards.claim(0) == [low]


async def test_claim_turns_to_the_shard_served_longest_ago(shards: Installation) -> None:
    for _ in range(3):
        await shards.create(1)
        await shards.create(2)
    served = [shards.shard_of((await shards.claim(0))[0]) for _ in range(6)]
    assert served in ([1, 2] * 3, [2, 1] * 3)


async def test_busy_shard_does_not_hide_work_of_others(shards: Installation) -> None:
    for _ in range(3 * ROTATION):
        await shards.create(0)
    hidden = await shards.create(2)
    found = [(await shards.claim(0))[0] for _ in range(2 * ROTATION)]
    assert hidden in found


@pytest.mark.parametrize("home", range(SHARDS))
async def test_waiting_claim_gets_work_from_any_shard_and_leaves_nothing(shards: Installation, home: int) -> None:
    claim = asyncio.ensure_future(shards.claim(0, 5, wait=20))
    await until(lambda: shards.waiting == SHARDS)
    task_id = await shards.create(home)
    assert await claim == [task_id]
    await idle(shards)
    assert shards.leased == 1


async def test_waiting_claim_sees_no_work_of_other_commands_and_paused_queues(shards: Installation) -> None:
    pause = queue_pb.PauseQueueRequest(command="a")
    await shards.call(0, "/codeq.v1.QueueService/PauseQueue", pause)
    claim = asyncio.ensure_future(shards.claim(0, wait=1, commands=("a",)))
    await until(lambda: shards.waiting == SHARDS)
    for shard in range(SHARDS):
        await shards.create(shard, "a")
        await shards.create(shard, "b")
    assert await claim == []
    await idle(shards)
    assert shards.leased == 0


async def test_waiting_claim_gets_a_task_that_falls_due_or_is_returned(shards: Installation) -> None:
    task_id = await shards.create(2)
    await shards.claim(2)
    claim = asyncio.ensure_future(shards.claim(0, wait=20))
    await until(lambda: shards.waiting == SHARDS)
    await shards.call(1, "AbandonTask", pb.AbandonTaskRequest(task_id=task_id))
    assert await claim == [task_id]


async def test_cancelled_wait_leaves_no_waiter_and_no_claim(shards: Installation) -> None:
    claim = asyncio.ensure_future(shards.claim(0, wait=20))
    await until(lambda: shards.waiting == SHARDS)
    claim.cancel()
    with suppress(asyncio.CancelledError):
        await claim
    await idle(shards)
    made = [await shards.create(shard) for shard in range(SHARDS)]
    await turns()
    assert shards.leased == 0
    assert set(await shards.claim(1, 9)) == set(made)


async def test_tasks_of_other_shards_are_returned_if_the_caller_leaves_halfway(shards: Installation) -> None:
    made = {await shards.create(shard) for shard in range(SHARDS)}
    shards.held = {(2, "ClaimTasks")}
    claim = asyncio.ensure_future(shards.claim(0, 9))
    await until(lambda: shards.leased == 2)
    await until(lambda: (2, "ClaimTasks") in shards.made)
    claim.cancel()
    with suppress(asyncio.CancelledError):
        await claim
    await until(lambda: not shards.leased)
    shards.held = set()
    found: set[str] = set()
    while found != made:  # the claim that was held gets its task first, and returns it
        found.update(await shards.claim(1, 9, wait=5))
    for runner in shards.runners:
        assert {delivery.attempts for _, delivery in runner.shard.deliveries.items()} == {0}


async def test_claim_whose_caller_leaves_before_it_is_durable_is_returned(shards: Installation) -> None:
    await shards.create(1)
    shards.runners[1].log.free = False
    claim = asyncio.ensure_future(shards.claim(0))
    await until(lambda: shards.leased)
    claim.cancel()
    with suppress(asyncio.CancelledError):
        await claim
    shards.runners[1].log.free = True
    while shards.runners[1].log._held:
        shards.runners[1].log.release()
    await until(lambda: not shards.leased)


async def test_hint_that_nobody_uses_wakes_the_next_waiter(shards: Installation) -> None:
    """Two questions wait in a shard, and behind them a claim: each hint is given, and the claim gets the task."""
    caller = "Bearer acme"
    calls = shards.calls[1]
    request = shard_pb2.AwaitWorkRequest(wait_ms=20_000)
    claims = calls.known(AWAIT_WORK, caller)
    assert claims is not None
    hints = [asyncio.ensure_future(calls.carry_out(AWAIT_WORK, claims, request, caller, here=True)) for _ in range(2)]
    await until(lambda: shards.waiting == 2)
    wanted = pb.ClaimTaskRequest(wait_seconds=20)
    claim = asyncio.ensure_future(calls.carry_out("/codeq.v1.TaskService/ClaimTask", claims, wanted, caller, here=True))
    await until(lambda: shards.waiting == 3)
    task_id = await shards.create(1, priority=4)
    response = await claim
    assert isinstance(response, pb.ClaimTaskResponse)
    assert response.task.id == task_id
    assert [str(await hint).strip() for hint in hints] == ["priority: 4"] * 2
    assert not shards.waiting


async def test_shard_that_is_down_costs_only_its_own_tasks(shards: Installation) -> None:
    hidden, other = await shards.create(2), await shards.create(1)
    shards.down = {2}
    assert await shards.claim(0, 5) == [other]
    assert await shards.claim(0, 5) == []
    claim = asyncio.ensure_future(shards.claim(0, 5, wait=20))
    await until(lambda: shards.waiting == 2)
    shards.down = set()
    assert await claim == [hidden]


async def test_hint_lost_on_the_way_only_delays_the_claim(shards: Installation) -> None:
    shards.held = {(2, "AwaitWork")}
    claim = asyncio.ensure_future(shards.claim(0, wait=20))
    await until(lambda: shards.waiting == 2)
    task_id = await shards.create(2)
    await until(lambda: shards.made.count((2, "AwaitWork")) > 3)
    assert not claim.done()
    shards.held = set()
    assert await claim == [task_id]


async def test_waiting_claim_ends_when_its_process_drains(shards: Installation) -> None:
    claim = asyncio.ensure_future(shards.claim(0, wait=20))
    await until(lambda: shards.waiting == SHARDS)
    shards.calls[0].draining = True  # ends the waits that begin now; the next line, those that have begun
    shards.runners[0].drain()
    with pytest.raises(Rejection) as refusal:
        await claim
    assert refusal.value.reason is Reason.DRAINING
    await idle(shards)


async def test_claim_goes_on_while_another_process_drains(shards: Installation) -> None:
    claim = asyncio.ensure_future(shards.claim(0, wait=20))
    await until(lambda: shards.waiting == SHARDS)
    shards.runners[2].drain()
    await turns()
    task_id = await shards.create(1)
    assert await claim == [task_id]


async def test_invalid_claim_is_rejected_before_any_shard_is_asked(shards: Installation) -> None:
    shards.made.clear()
    with pytest.raises(Rejection) as refusal:
        await shards.claim(0, 101)
    assert refusal.value.reason is Reason.INVALID_FIELD
    assert not shards.made


async def test_tasks_are_returned_only_to_their_own_claim(shards: Installation) -> None:
    task_id = await shards.create(1)
    claimed = (await shards.call(1, "ClaimTask", pb.ClaimTaskRequest())).task
    calls = shards.calls[1]
    for tenant, token in (("other", claimed.lease_token), ("acme", claimed.lease_token + 1)):
        claims = calls.known(RETURN_TASKS, f"Bearer {tenant}")
        assert claims is not None
        request = shard_pb2.ReturnTasksRequest(lease_token=token, task_ids=[task_id, "unknown"])
        await calls.carry_out(RETURN_TASKS, claims, request, f"Bearer {tenant}", here=True)
        assert shards.leased == 1
    claims = calls.known(RETURN_TASKS, "Bearer acme")
    assert claims is not None
    request = shard_pb2.ReturnTasksRequest(lease_token=claimed.lease_token, task_ids=[task_id])
    await calls.carry_out(RETURN_TASKS, claims, request, "Bearer acme", here=True)
    assert shards.leased == 0


@pytest.mark.parametrize("seed", range(6))
async def test_racing_claims_give_every_task_once_and_strand_none(seed: int) -> None:
    """Workers of all processes claim, wait and leave at random while tasks are created in random shards."""
    chance = random.Random(seed)
    shards = Installation(chance.randint(2, 5), QUICK)
    processes = len(shards.runners)
    made: set[str] = set()
    given: list[str] = []

    async def work() -> None:
        while len(given) < 60:
            count, process = chance.randint(1, 4), chance.randrange(processes)
            claim = asyncio.ensure_future(shards.claim(process, count, wait=chance.choice([0, 20])))
            if chance.random() < 0.3:
                await turns(chance.randrange(60))
                claim.cancel()
            elif len(given) >= 50:  # nothing may be left to wait for
                await asyncio.wait([claim], timeout=0.05)
                claim.cancel()
            else:
                await asyncio.wait([claim], timeout=1)
                claim.cancel()
            with suppress(asyncio.CancelledError):
                given.extend(await claim)
            await asyncio.sleep(0)

    async def produce() -> None:
        for _ in range(60):
            await turns(chance.randrange(20))
            fields = {"task_id": f"chosen-{len(made)}"} if chance.random() < 0.3 else {}
            made.add(await shards.create(chance.randrange(processes), **fields))

    async with asyncio.timeout(25):
        await asyncio.gather(produce(), *[work() for _ in range(7)])
    await idle(shards)
    assert sorted(given) == sorted(made)
    await until(lambda: shards.leased == 60)
    done = [pb.SubmitResultRequest(task_id=each, status=task_pb2.TASK_STATUS_COMPLETED) for each in given]
    response = await shards.call(0, "BatchSubmitResults", pb.BatchSubmitResultsRequest(results=done))
    assert not [answer for answer in response.results if answer.HasField("error")]
