"""Streams and waits end when their token expires; streams get a notice first, and a fresh token extends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from codeq.options.v1 import options_pb2
from codeq.v1 import error_pb2, task_pb2, task_service_pb2
from codeq_gateway.bodies import InFlight
from codeq_server.auth.authenticator import Authenticator
from codeq_server.auth.claims import Claims, Token
from codeq_server.core.errors import Reason, Rejection
from codeq_server.services.calls import Calls
from codeq_server.services.serving import Serving
from codeq_server.services.shard_table import ShardTable
from codeq_server.services.stream_token import LOOK_SECONDS, NOTICE_SECONDS, StreamToken
from held_log import HeldRunner, turns, until
from scripted_validator import NOW, Nobody, ScriptedValidator, clocked, in_clocked_loop, token_of
from stream_client import Client

LIFE = 300.0
KINDS = ["produce", "work"]


class Desk:
    """A served shard, a validator and one stream with the token "first"."""

    def __init__(self, kind: str, **tokens: Token) -> None:
        self.runner = HeldRunner()
        self.runner.log.free = True
        self.serving = Serving(self.runner, None, lease_seconds=600, artifact_bytes_max=0)
        self.validator = ScriptedValidator(**tokens)
        self.client = Client(kind)
        self.authenticator = authenticator = Authenticator(self.validator, self.validator, clock=clocked().wall)
        principal = options_pb2.PRINCIPAL_PRODUCER if kind == "produce" else options_pb2.PRINCIPAL_WORKER

        async def validate(token: str) -> Claims:
            return await authenticator.authenticate(f"Bearer {token}", principal)

        async def serve() -> None:
            claims = await validate("first")
            token = StreamToken(claims, validate, clocked().wall, "first", authenticator.revocations)
            await (
                self.serving.produce(token, self.client, InFlight())
                if kind == "produce"
                else self.serving.work(token, self.client)
            )

        self.stream = asyncio.create_task(serve())

    async def forward(self, seconds: float) -> None:
        clocked().forward(seconds)
        await turns()

    async def refusal(self) -> Rejection:
        """Returns why the stream ended."""
        async with asyncio.timeout(10):
            with pytest.raises(ExceptionGroup) as caught:
                await self.stream
        (problem,) = caught.value.exceptions
        assert isinstance(problem, Rejection)
        return problem


@asynccontextmanager
async def streaming(kind: str, **tokens: Token) -> AsyncIterator[Desk]:
    desk = Desk(kind, **tokens)
    try:
        await until(lambda: desk.client.received or desk.stream.done())
        yield desk
    finally:
        desk.stream.cancel()
        await asyncio.gather(desk.stream, return_exceptions=True)


def expiring(seconds: float = LIFE, **changes: Any) -> Token:
    return token_of(expires_at=NOW + seconds, **changes)


@pytest.mark.parametrize("kind", KINDS)
def test_stream_whose_token_expires_gets_a_notice_and_then_ends(kind: str) -> None:
    async def test() -> None:
        async with streaming(kind, first=expiring()) as desk:
            await desk.forward(LIFE - NOTICE_SECONDS - 1)
            assert desk.client.notices == []
            await desk.forward(1)
            (notice,) = desk.client.notices
            assert notice.reason == error_pb2.ERROR_REASON_UNAUTHENTICATED
            assert abs(notice.grace_ms - NOTICE_SECONDS * 1000) <= 1000
            await desk.forward(NOTICE_SECONDS - 1)
            assert not desk.stream.done()
            await desk.forward(1)
            refusal = await desk.refusal()
            assert (refusal.reason, refusal.message) == (Reason.UNAUTHENTICATED, "the token has expired")
            assert refusal.metadata == {"expiredAt": "2027-01-15T08:05:00Z"}
            assert len(desk.client.notices) == 1
            assert len(desk.serving.streams) == 0

    in_clocked_loop(test())


@pytest.mark.parametrize("kind", KINDS)
def test_fresh_token_keeps_the_stream_open_until_its_own_expiry(kind: str) -> None:
    async def test() -> None:
        async with streaming(kind, first=expiring(), second=expiring(2 * LIFE)) as desk:
            await desk.forward(LIFE - NOTICE_SECONDS)
            desk.client.send(token="second")
            await turns()
            await desk.forward(LIFE)
            assert len(desk.client.notices) == 2
            assert not desk.stream.done()
            await desk.forward(NOTICE_SECONDS)
            assert (await desk.refusal()).metadata == {"expiredAt": "2027-01-15T08:10:00Z"}

    in_clocked_loop(test())


@pytest.mark.parametrize("kind", KINDS)
def test_fresh_token_that_never_expires_ends_the_expiry_watch(kind: str) -> None:
    async def test() -> None:
        async with streaming(kind, first=expiring(), second=token_of()) as desk:
            desk.client.send(token="second")
            await turns()
            await desk.forward(100 * LIFE)
            assert (desk.client.notices, desk.stream.done()) == ([], False)

    in_clocked_loop(test())


@pytest.mark.parametrize("kind", KINDS)
def test_stream_with_a_token_that_never_expires_gets_no_notice_and_ends_as_usual(kind: str) -> None:
    async def test() -> None:
        async with streaming(kind, first=token_of()) as desk:
            await desk.forward(100 * LIFE)
            assert desk.client.notices == []
            desk.client.half_close()
            async with asyncio.timeout(10):
                await desk.stream

    in_clocked_loop(test())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "fresh",
    [None, expiring(subject="other"), expiring(tenant="other"), expiring(-1)],
    ids=["rejected", "another subject", "another tenant", "expired"],
)
def test_unacceptable_fresh_token_ends_the_stream(kind: str, fresh: Token | None) -> None:
    async def test() -> None:
        tokens = {"first": expiring()} | ({} if fresh is None else {"second": fresh})
        async with streaming(kind, **tokens) as desk:
            desk.client.send(token="second")
            assert (await desk.refusal()).reason is Reason.UNAUTHENTICATED

    in_clocked_loop(test())


@pytest.mark.parametrize("kind", KINDS)
def test_fresh_token_that_cannot_be_validated_now_is_requested_again(kind: str) -> None:
    async def test() -> None:
        async with streaming(kind, first=expiring(), second=expiring(2 * LIFE)) as desk:
            await desk.forward(LIFE - NOTICE_SECONDS)
            desk.validator.trouble = OSError("no route to the issuer")
            desk.client.send(token="second")
            await turns()
            assert not desk.stream.done()
            desk.validator.trouble = None
            await desk.forward(NOTICE_SECONDS / 2)
            assert len(desk.client.notices) == 2
            desk.client.send(token="second")
            await turns()
            await desk.forward(LIFE - NOTICE_SECONDS / 2)
            assert not desk.stream.done()
            await desk.forward(NOTICE_SECONDS)
            assert (await desk.refusal()).metadata == {"expiredAt": "2027-01-15T08:10:00Z"}

    in_clocked_loop(test())


@pytest.mark.parametrize("kind", KINDS)
def test_stream_ends_when_its_token_expires_if_fresh_tokens_cannot_be_validated(kind: str) -> None:
    async def test() -> None:
        async with streaming(kind, first=expiring(), second=expiring(2 * LIFE)) as desk:
            desk.validator.trouble = OSError("no route to the issuer")
            for _ in range(3):
                desk.client.send(token="second")
                await turns()
            await desk.forward(LIFE)
            assert (await desk.refusal()).metadata == {"expiredAt": "2027-01-15T08:05:00Z"}

    in_clocked_loop(test())


@pytest.mark.parametrize("kind", KINDS)
def test_notice_for_a_short_lived_token_comes_at_half_its_lifetime(kind: str) -> None:
    async def test() -> None:
        async with streaming(kind, first=expiring(10)) as desk:
            await desk.forward(4)
            assert desk.client.notices == []
            await desk.forward(1)
            (notice,) = desk.client.notices
            assert 4000 <= notice.grace_ms <= 5000
            await desk.forward(5)
            assert (await desk.refusal()).reason is Reason.UNAUTHENTICATED

    in_clocked_loop(test())


@pytest.mark.parametrize("kind", KINDS)
def test_client_that_reads_nothing_does_not_outlive_its_token(kind: str) -> None:
    async def test() -> None:
        async with streaming(kind, first=expiring()) as desk:
            desk.client.reads = False
            await desk.forward(LIFE - NOTICE_SECONDS)
            await desk.forward(NOTICE_SECONDS)
            assert (await desk.refusal()).reason is Reason.UNAUTHENTICATED

    in_clocked_loop(test())


@pytest.mark.parametrize("kind", KINDS)
def test_client_that_half_closes_and_reads_nothing_does_not_outlive_its_token(kind: str) -> None:
    async def test() -> None:
        async with streaming(kind, first=expiring()) as desk:
            desk.client.reads = False
            if kind == "produce":
                desk.client.send(tasks=[task_pb2.TaskSpec(command="A")])
            else:
                desk.client.send(outcomes=[task_pb2.Outcome(task_id="none")])
            await turns()
            desk.client.half_close()
            await turns()
            await desk.forward(LIFE - NOTICE_SECONDS)
            await desk.forward(NOTICE_SECONDS)
            assert (await desk.refusal()).reason is Reason.UNAUTHENTICATED
            assert len(desk.serving.streams) == 0

    in_clocked_loop(test())


def test_stream_notices_that_the_wall_clock_was_set_forward() -> None:
    async def test() -> None:
        async with streaming("work", first=expiring()) as desk:
            clocked().set_wall(LIFE)
            await desk.forward(LOOK_SECONDS)
            await desk.forward(NOTICE_SECONDS)
            assert (await desk.refusal()).reason is Reason.UNAUTHENTICATED

    in_clocked_loop(test())


# -- workers -------------------------------------------------------------------------------------------------------


def test_worker_gets_tasks_until_its_stream_ends_and_keeps_their_leases() -> None:
    async def test() -> None:
        async with streaming("work", first=expiring()) as desk:
            desk.client.send(add_credits=5)
            await desk.forward(LIFE - NOTICE_SECONDS)
            assert desk.client.notices
            task_id = desk.runner.create()
            desk.runner.changed()
            await until(lambda: desk.client.tasks)
            assert [task.id for task in desk.client.tasks] == [task_id]
            await desk.forward(NOTICE_SECONDS)
            await desk.refusal()
            assert len(desk.runner.shard.deliveries) == 1
            late = desk.runner.create()
            desk.runner.changed()
            await turns()
            assert late not in {task.id for task in desk.client.tasks}
            assert len(desk.runner.shard.deliveries) == 1

    in_clocked_loop(test())


def test_worker_with_a_fresh_token_keeps_its_credits_and_settles_its_tasks() -> None:
    async def test() -> None:
        async with streaming("work", first=expiring(), second=expiring(2 * LIFE)) as desk:
            desk.client.send(add_credits=2)
            desk.runner.create()
            desk.runner.changed()
            await until(lambda: desk.client.tasks)
            (held,) = desk.client.tasks
            await desk.forward(LIFE - NOTICE_SECONDS)
            outcome = task_pb2.Outcome(
                task_id=held.id, lease_token=held.lease_token, kind=task_pb2.OUTCOME_KIND_COMPLETED, result=b"1"
            )
            desk.client.send(token="second", outcomes=[outcome])
            await until(lambda: sum(message.settled for message in desk.client.received))
            await desk.forward(LIFE / 2)
            desk.runner.create()
            desk.runner.changed()
            await until(lambda: len(desk.client.tasks) == 2)
            assert not desk.runner.shard.deliveries.keys() & {held.id}
            assert desk.validator.asked.count("second") == 2  # once as a producer token, once as a worker token

    in_clocked_loop(test())


def test_fresh_worker_token_sets_the_commands_from_then_on() -> None:
    async def test() -> None:
        fresh = expiring(2 * LIFE, commands=frozenset({"b"}))
        async with streaming("work", first=expiring(), second=fresh) as desk:
            desk.client.send(add_credits=5)
            await turns()
            desk.client.send(token="second")
            await turns()
            for command in ("a", "b"):
                desk.runner.create(command)
            desk.runner.changed()
            await until(lambda: desk.client.tasks)
            await turns()
            assert [task.command for task in desk.client.tasks] == ["b"]

    in_clocked_loop(test())


# -- calls that wait -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def waiting_call(method: str, request: Any) -> AsyncIterator[tuple[asyncio.Task[Any], HeldRunner]]:
    """Makes a call with a token that expires soon."""
    runner = HeldRunner()
    runner.log.free = True
    validator = ScriptedValidator(short=token_of(expires_at=runner.unix_seconds() + 0.2))
    authenticator = Authenticator(Nobody(), validator, clock=runner.unix_seconds)
    calls = Calls(authenticator, ShardTable(lambda: Rejection(Reason.NOT_LEADER, "elsewhere")))
    calls.shards.present(Serving(runner, None, lease_seconds=60, artifact_bytes_max=0))
    call = asyncio.create_task(calls.call(f"/codeq.v1.TaskService/{method}", request(runner), "Bearer short"))
    try:
        async with asyncio.timeout(10):
            yield call, runner
    finally:
        call.cancel()


async def test_claim_that_waits_past_its_tokens_expiry_gets_no_work() -> None:
    claim = task_service_pb2.ClaimTaskRequest(wait_seconds=30)
    async with waiting_call("ClaimTask", lambda _: claim) as (call, runner):
        answer = await call
        assert not answer.HasField("task")
        runner.create()
        runner.changed()
        await turns()
        assert not runner.shard.deliveries


async def test_wait_for_a_result_ends_when_the_token_expires() -> None:
    def request(runner: HeldRunner) -> Any:
        return task_service_pb2.GetTaskResultRequest(task_id=runner.create(), wait_seconds=30)

    async with waiting_call("GetTaskResult", request) as (call, _):
        with pytest.raises(Rejection) as caught:
            await call
        assert caught.value.reason is Reason.RESULT_NOT_FOUND
