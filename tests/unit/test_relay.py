"""A worker's stream over several shards behaves as one over a single shard."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from codeq.v1 import error_pb2, task_pb2, worker_service_pb2
from codeq_server.auth.claims import Claims
from codeq_server.core.errors import Reason
from codeq_server.core.status import Status
from codeq_server.services import relay_part
from codeq_server.services.stream_token import StreamToken
from codeq_server.services.streams import rejection_in
from held_log import turns, until
from shard_fleet import CLAIMS, fleet, no_renewal
from stream_client import Client
from structlog.testing import capture_logs

COMPLETED = task_pb2.OUTCOME_KIND_COMPLETED


def done(task: task_pb2.Task) -> task_pb2.Outcome:
    return task_pb2.Outcome(task_id=task.id, lease_token=task.lease_token, kind=COMPLETED, result=b"1")


def settled(client: Client) -> int:
    return sum(message.settled for message in client.received)


def returned(client: Client) -> int:
    return sum(message.returned_credits for message in client.received)


def errors(client: Client) -> list[worker_service_pb2.OutcomeError]:
    return [error for message in client.received for error in message.outcome_errors]


async def test_worker_gets_the_tasks_of_all_shards_and_settles_them() -> None:
    async with fleet(3) as shards:
        made = {shards.create(shard) for shard in range(3) for _ in range(20)}
        client = await shards.worker(add_credits=100)
        await until(lambda: len(client.tasks) == 60)
        assert {task.id for task in client.tasks} == made
        client.send(outcomes=[done(task) for task in client.tasks])
        await until(lambda: settled(client) == 60)
        assert (errors(client), {shards.status(task_id) for task_id in made}) == ([], {Status.COMPLETED})
        client.half_close()
        await shards.ended(client)


async def test_worker_never_gets_more_tasks_than_its_credits() -> None:
    async with fleet(4) as shards:
        for shard in range(4):
            for _ in range(10):
                shards.create(shard)
        client = await shards.worker(add_credits=1)
        for granted in range(1, 12):
            await until(lambda: len(client.tasks) >= granted)  # noqa: B023 - awaited at once
            await turns(100)
            assert (len(client.tasks), shards.claimed) == (granted, granted)
            client.send(add_credits=1)


async def test_returned_credits_are_told_once_and_pay_for_no_task() -> None:
    async with fleet(2) as shards:
        client = await shards.worker(add_credits=10)
        await until(lambda: all(len(each.waiting) == 1 for each in shards.runners))
        client.send(return_credits=4)
        client.send(return_credits=3)
        await until(lambda: returned(client) == 7)
        for _ in range(6):
            shards.create(1)
        await until(lambda: len(client.tasks) == 3)
        await turns(100)
        client.send(return_credits=1)
        await until(lambda: client.received[-1].HasField("returned_credits"))
        assert (returned(client), len(client.tasks), shards.claimed) == (7, 3, 3)


async def test_credits_of_a_pull_in_flight_are_not_returned() -> None:
    async with fleet(2) as shards:
        client = await shards.worker()
        shards.runners[1].log.free = False
        await shards.runners[1].create_and_commit()  # so that the answer waits for the disk
        client.send(add_credits=1)
        await until(lambda: shards.runners[1].shard.deliveries)
        client.send(return_credits=1)
        await until(lambda: client.received[-1].HasField("returned_credits"))
        shards.runners[1].log.free = True
        shards.runners[1].log.release()
        await until(lambda: client.tasks)
        assert returned(client) == 0


async def test_worker_of_one_shard_gets_its_tasks_only() -> None:
    async with fleet(3) as shards:
        made = {shard: {shards.create(shard) for _ in range(5)} for shard in range(3)}
        client = await shards.worker(only=1, add_credits=20)
        await until(lambda: len(client.tasks) == 5)
        made[1].add(shards.create(1))
        await until(lambda: len(client.tasks) == 6)
        client.send(outcomes=[done(task) for task in client.tasks])
        await until(lambda: settled(client) == 6)
        assert ({task.id for task in client.tasks}, errors(client), shards.claimed) == (made[1], [], 6)


async def test_tasks_created_later_in_any_shard_reach_a_worker_that_waits() -> None:
    async with fleet(3) as shards:
        client = await shards.worker(add_credits=10)
        for shard in (2, 0, 1, 2):
            await until(lambda: all(len(each.waiting) == 1 for each in shards.runners))
            task_id = shards.create(shard)
            await until(lambda: client.tasks and client.tasks[-1].id == task_id)  # noqa: B023 - awaited at once


async def test_hint_that_overtakes_the_answer_to_a_pull_is_not_lost() -> None:
    async with fleet(2) as shards:
        client = await shards.worker()
        shards.runners[1].log.free = False
        await shards.runners[1].create_and_commit()  # so that the answer waits for the disk
        client.send(add_credits=10)
        await until(lambda: shards.runners[1].shard.deliveries)
        await turns(50)
        second = shards.create(1)
        await turns(50)
        shards.runners[1].log.free = True
        shards.runners[1].log.release()
        await until(lambda: len(client.tasks) == 2)
        assert client.tasks[-1].id == second


async def test_hint_that_one_worker_cannot_use_wakes_the_next() -> None:
    async with fleet(2) as shards:
        idle = await shards.worker(add_credits=1)
        shards.create(0)
        await until(lambda: idle.tasks)
        busy = await shards.worker(add_credits=1)
        await until(lambda: all(len(each.waiting) >= 1 for each in shards.runners))
        made = [shards.create(1)]
        await until(lambda: busy.tasks)
        made.append(shards.create(1))
        await turns(100)
        assert len(idle.tasks) + len(busy.tasks) == 2
        idle.send(add_credits=1)
        await until(lambda: len(idle.tasks) == 2)
        assert [idle.tasks[1].id, busy.tasks[0].id] == made[::-1]


async def test_outcomes_are_reported_in_the_order_of_the_client_and_errors_with_its_numbers() -> None:
    async with fleet(2, free=False) as shards:
        for runner in shards.runners:
            runner.log.free = True
        for shard in (0, 1):
            for _ in range(4):
                shards.create(shard)
        client = await shards.worker(add_credits=8)
        await until(lambda: len(client.tasks) == 8)
        of = [[task for task in client.tasks if shards.shard_of(task.id) == shard] for shard in (0, 1)]
        shards.runners[0].log.free = False
        bad = done(of[1][1])
        bad.lease_token += 1
        client.send(outcomes=[done(of[0][0]), done(of[1][0]), bad, done(of[0][1]), done(of[1][2])])
        await until(lambda: of[1][2].id not in shards.runners[1].shard.deliveries)
        await turns(100)
        assert settled(client) == 0  # the first one is not durable
        shards.runners[0].log.free = True
        shards.runners[0].log.release()
        await until(lambda: settled(client) == 5)
        assert [(error.number, error.task_id) for error in errors(client)] == [(3, of[1][1].id)]


async def test_outcomes_wait_for_a_shard_that_starts_again() -> None:
    async with fleet(2) as shards:
        made = [shards.create(shard) for shard in (0, 1, 1)]
        client = await shards.worker(add_credits=3)
        await until(lambda: len(client.tasks) == 3)
        shards.kill(1)
        await until(lambda: shards.opened[1] > 2)
        client.send(outcomes=[done(task) for task in client.tasks])
        await until(lambda: shards.status(made[0]) is Status.COMPLETED)
        await until(lambda: shards.opened[1] > 4)
        shards.revive(1)
        await until(lambda: settled(client) == 3)
        assert not errors(client)
        assert {shards.status(task_id) for task_id in made} == {Status.COMPLETED}


async def test_client_that_has_ended_leaves_its_outcomes_for_a_shard_that_starts_again() -> None:
    async with fleet(2) as shards:
        task_id = shards.create(1)
        client = await shards.worker(add_credits=1)
        await until(lambda: client.tasks)
        shards.kill(1)
        await until(lambda: shards.opened[1] > 1)
        client.send(outcomes=[done(client.tasks[0])])
        client.half_close()
        await until(lambda: shards.opened[1] > 3)
        shards.revive(1)
        await shards.ended(client)
        assert (settled(client), errors(client)) == (1, [])
        assert shards.status(task_id) is Status.COMPLETED


async def test_more_than_a_shard_that_is_down_may_hold_up_is_answered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_part, "HELD_BYTES_MAX", 1000)
    async with fleet(2) as shards:
        made = [shards.create(shard) for shard in (0, 1)]
        client = await shards.worker(add_credits=2)
        await until(lambda: len(client.tasks) == 2)
        shards.kill(1)
        await until(lambda: shards.opened[1] > 1)
        outcomes = [done(task) for task in client.tasks]
        for outcome in outcomes:
            outcome.result = b'"' + b"r" * 1000 + b'"'
        client.send(outcomes=outcomes)
        await until(lambda: settled(client) == 2)
        assert [error.task_id for error in errors(client)] == made[1:]


async def test_shard_that_is_down_costs_only_what_concerns_its_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_part, "HOLD_SECONDS", 0)
    async with fleet(3) as shards:
        for shard in range(3):
            shards.create(shard)
        client = await shards.worker(add_credits=3)
        await until(lambda: len(client.tasks) == 3)
        shards.kill(1)
        await until(lambda: shards.opened[1] > 1)
        await turns()
        client.send(outcomes=[done(task) for task in client.tasks])
        await until(lambda: settled(client) == 3)
        (error,) = errors(client)
        assert error.reason == error_pb2.ERROR_REASON_SERVER_UNREACHABLE
        assert shards.shard_of(error.task_id) == 1
        client.send(add_credits=2)
        shards.create(0)
        await until(lambda: len(client.tasks) == 4)
        shards.revive(1)
        shards.create(1)
        await until(lambda: len(client.tasks) == 5)


async def test_shard_that_refuses_a_token_which_is_valid_here_is_logged_once() -> None:
    with capture_logs() as lines:
        async with fleet(2) as shards:
            shards.kill(1, Reason.UNAUTHENTICATED)
            client = await shards.worker(add_credits=1)
            await until(lambda: shards.opened[1] > 2)
            shards.create(0)
            await until(lambda: client.tasks)
    told = [(line["event"], line["shard"]) for line in lines if line["log_level"] == "error"]
    assert told == [("stream_refused_by_shard", 1)]


async def test_outcome_that_a_shard_does_not_answer_is_unknown() -> None:
    async with fleet(2) as shards:
        shards.create(1)
        client = await shards.worker(add_credits=1)
        await until(lambda: client.tasks)
        shards.runners[1].log.free = False
        client.send(outcomes=[done(client.tasks[0])])
        await until(lambda: not shards.runners[1].shard.deliveries)
        shards.kill(1)
        await until(lambda: settled(client) == 1)
        assert [error.reason for error in errors(client)] == [error_pb2.ERROR_REASON_OUTCOME_UNKNOWN]


async def test_credits_of_a_pull_that_broke_are_used_for_other_shards() -> None:
    async with fleet(2) as shards:
        shards.runners[1].log.free = False
        client = await shards.worker(add_credits=10)
        for _ in range(10):
            shards.create(1)
        await until(lambda: shards.runners[1].shard.deliveries)
        shards.kill(1)
        for _ in range(10):
            shards.create(0)
        await until(lambda: len(client.tasks) == 10)
        await turns(100)
        assert {shards.shard_of(task.id) for task in client.tasks} == {0}


async def test_one_shard_that_does_not_answer_leaves_credits_for_the_others() -> None:
    async with fleet(2) as shards:
        shards.runners[1].log.free = False
        for shard in (0, 1):
            for _ in range(100):
                shards.create(shard)
        client = await shards.worker()
        client.send(add_credits=50)
        await until(lambda: shards.runners[1].shard.deliveries)
        await until(lambda: len(client.tasks) == 25)


async def test_half_close_gives_back_the_leases_in_all_shards() -> None:
    async with fleet(3) as shards:
        made = [shards.create(shard) for shard in range(3) for _ in range(3)]
        client = await shards.worker(add_credits=9)
        await until(lambda: len(client.tasks) == 9)
        client.send(outcomes=[done(client.tasks[0])])
        client.half_close()
        await shards.ended(client)
        assert (settled(client), shards.leases) == (1, 0)
        assert sorted(shards.status(task_id) for task_id in made) == sorted([Status.PENDING] * 8 + [Status.COMPLETED])


async def test_broken_call_keeps_the_leases_of_delivered_tasks() -> None:
    async with fleet(2) as shards:
        for shard in (0, 1):
            shards.create(shard)
        client = await shards.worker(add_credits=5)
        await until(lambda: len(client.tasks) == 2)
        await shards.break_off(client)
        assert (shards.leases, len(shards.registry), len(shards.servings[1].parts)) == (2, 0, 0)
        assert [len(runner.waiting) for runner in shards.runners] == [0, 0]


async def test_broken_call_gives_back_at_once_what_the_client_did_not_get() -> None:
    async with fleet(2) as shards:
        client = await shards.worker()
        client.reads = False
        for shard in (0, 1):
            for _ in range(1200):
                shards.create(shard)
        client.send(add_credits=65_536)
        await until(lambda: shards.leases > 1000)
        await turns(100)
        ahead = shards.leases
        assert ahead < 2400  # a client that does not read stops the pulls
        await shards.break_off(client)
        assert shards.leases < ahead
        sent = shards.leases
        client = await shards.worker(add_credits=65_536)
        await until(lambda: len(client.tasks) == 2400 - sent)


async def test_drain_stops_the_deliveries_but_not_the_outcomes() -> None:
    async with fleet(2) as shards:
        shards.create(0)
        client = await shards.worker(add_credits=5)
        await until(lambda: client.tasks)
        client.send(drain=True)
        await until(lambda: not any(len(runner.waiting) for runner in shards.runners))
        shards.create(1)
        await turns(100)
        assert len(client.tasks) == 1
        client.send(outcomes=[done(client.tasks[0])])
        await until(lambda: settled(client) == 1)


async def test_client_hears_once_that_the_server_drains() -> None:
    async with fleet(2) as shards:
        client = await shards.worker(add_credits=5)
        for serving in shards.servings:
            serving.drain(1000)
        await until(lambda: client.notices)
        await turns(100)
        assert [notice.reason for notice in client.notices] == [error_pb2.ERROR_REASON_DRAINING]
        client.half_close()
        await shards.ended(client)


async def test_higher_priority_is_pulled_first_once_it_is_known() -> None:
    async with fleet(2) as shards:
        for _ in range(3):
            shards.create(0, priority=1)
            shards.create(1, priority=8)
        client = await shards.worker(add_credits=2)
        await until(lambda: len(client.tasks) == 2)
        for granted in (3, 4):
            client.send(add_credits=1)
            await until(lambda: len(client.tasks) == granted)  # noqa: B023 - awaited at once
        assert [task.priority for task in client.tasks[2:]] == [8, 8]


async def test_heartbeats_and_cancels_reach_the_shard_and_the_client() -> None:
    async with fleet(2) as shards:
        for shard in (0, 1):
            shards.create(shard)
        client = await shards.worker(add_credits=2)
        await until(lambda: len(client.tasks) == 2)
        beats = [worker_service_pb2.Heartbeat(task_id=task.id, lease_token=task.lease_token) for task in client.tasks]
        beats.append(worker_service_pb2.Heartbeat(task_id="gone", lease_token=1))
        client.send(heartbeats=beats)
        await until(lambda: sum(len(message.extended) + len(message.lost) for message in client.received) == 3)
        assert {grant.task_id for message in client.received for grant in message.extended} == {
            task.id for task in client.tasks
        }


async def test_fresh_token_reaches_every_shard() -> None:
    async with fleet(2) as shards:
        shown: list[object] = []

        async def validate(token: object) -> Claims:
            shown.append(token)
            return CLAIMS

        shards.token = StreamToken(CLAIMS, validate, time.time, "old")
        client = await shards.worker(add_credits=1)
        client.send(token="fresh")
        await until(lambda: shown == ["fresh"] * 3)  # the process that serves the client, and both parts
        shards.create(1)
        await until(lambda: client.tasks)


async def test_token_that_expires_ends_the_stream_after_one_notice() -> None:
    async with fleet(2) as shards:
        shards.create(1)
        shards.token = StreamToken(replace(CLAIMS, expires_at=time.time() + 0.5), no_renewal, time.time, "old")
        client = await shards.worker(add_credits=1)
        await until(lambda: client.tasks)
        with pytest.raises(BaseExceptionGroup) as ended:
            await shards.ended(client)
        refusal = rejection_in(ended.value)
        assert refusal is not None
        assert refusal.reason is Reason.UNAUTHENTICATED
        assert [notice.reason for notice in client.notices] == [error_pb2.ERROR_REASON_UNAUTHENTICATED]
        assert shards.leases == 1  # as after a broken call
