"""Tokens that a provider changes or withdraws: what is forgotten, and what ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from codeq.options.v1 import options_pb2
from codeq.v1 import task_service_pb2
from codeq_server.auth.authenticator import Authenticator
from codeq_server.auth.claims import Claims
from codeq_server.auth.revocation import WATCHES_PER_TURN, Revocations
from codeq_server.core.errors import Reason, Rejection
from codeq_server.services.calls import Calls
from codeq_server.services.serving import Serving
from codeq_server.services.shard_table import ShardTable
from codeq_server.services.stream_token import ASK_AGAIN_SECONDS, StreamToken
from held_log import HeldRunner, turns, until
from scripted_validator import NOW, Nobody, ScriptedValidator, clocked, in_clocked_loop, token_of
from test_stream_token import KINDS, expiring, streaming

WORKER = options_pb2.PRINCIPAL_WORKER
CLAIM = "/codeq.v1.TaskService/ClaimTask"


def is_first(token: str) -> bool:
    return token == "first"


# -- verdicts ------------------------------------------------------------------------------------------------------


def test_revoked_token_is_validated_anew_and_others_stay_cached() -> None:
    async def test() -> None:
        validator = ScriptedValidator(first=token_of(), second=token_of())
        authenticator = Authenticator(Nobody(), validator)
        for token in ("first", "second"):
            assert authenticator.known(f"Bearer {token}", WORKER)
        del validator.tokens["first"], validator.tokens["second"]
        await authenticator.revoke(is_first)
        assert authenticator.known("Bearer second", WORKER)
        with pytest.raises(Rejection) as refused:
            authenticator.known("bearer  first", WORKER)
        assert refused.value.reason is Reason.UNAUTHENTICATED
        assert validator.asked == ["first", "second", "first"]

    asyncio.run(test())


def test_token_revoked_while_it_is_validated_is_validated_again() -> None:
    async def test() -> None:
        static, slow = ScriptedValidator(first=token_of()), ScriptedValidator()
        slow.waits = True
        authenticator = Authenticator(static, slow)
        waiting = asyncio.create_task(authenticator.authenticate("Bearer first", options_pb2.PRINCIPAL_PRODUCER))
        await until(lambda: slow.begun)
        del static.tokens["first"]
        await authenticator.revoke(is_first)
        slow.release()
        with pytest.raises(Rejection) as refused:
            await waiting
        assert refused.value.reason is Reason.UNAUTHENTICATED
        assert static.asked == ["first", "first"]

    asyncio.run(test())


def test_thousands_that_rely_on_a_token_are_told_over_several_turns_of_the_loop() -> None:
    async def test() -> None:
        revocations, told = Revocations(), [0]

        def tell() -> None:
            told[0] += 1

        watches = [revocations.watch("first", tell) for _ in range(10 * WATCHES_PER_TURN)]
        other = revocations.watch("other", tell)
        announcing = asyncio.create_task(revocations.announce(is_first))
        await asyncio.sleep(0)
        assert told == [WATCHES_PER_TURN]
        watches[-1].end()
        watches[-1].end()
        await announcing
        assert told == [len(watches) - 1]
        for watch in (*watches, other):
            watch.end()
        assert len(revocations) == 0

    asyncio.run(test())


# -- streams -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_stream_of_a_revoked_token_ends_at_once(kind: str) -> None:
    async def test() -> None:
        async with streaming(kind, first=token_of()) as desk:
            del desk.validator.tokens["first"]
            await desk.authenticator.revoke(lambda _: True)
            refusal = await desk.refusal()
            assert (refusal.reason, refusal.message) == (Reason.UNAUTHENTICATED, "the token is no longer accepted")
            assert (len(desk.serving.streams), len(desk.authenticator.revocations)) == (0, 0)

    in_clocked_loop(test())


def test_token_revoked_between_its_validation_and_the_begin_of_its_stream_ends_the_stream() -> None:
    async def test() -> None:
        validator = ScriptedValidator(first=token_of())
        authenticator = Authenticator(Nobody(), validator)

        async def validate(token: str) -> Claims:
            return await authenticator.authenticate(f"Bearer {token}", WORKER)

        token = StreamToken(await validate("first"), validate, lambda: NOW, "first", authenticator.revocations)
        validator.tokens.clear()
        await authenticator.revoke(is_first)
        with pytest.raises(Rejection) as refused:
            await token.watch(lambda _: None)
        assert refused.value.reason is Reason.UNAUTHENTICATED

    asyncio.run(test())


@pytest.mark.parametrize("kind", KINDS)
def test_stream_whose_token_still_stands_goes_on_and_keeps_its_expiry(kind: str) -> None:
    async def test() -> None:
        async with streaming(kind, first=expiring()) as desk:
            await desk.authenticator.revoke(is_first)
            await turns()
            assert not desk.stream.done()
            desk.validator.tokens["first"] = expiring(60)
            await desk.authenticator.revoke(is_first)
            await turns()
            await desk.forward(61)
            assert (await desk.refusal()).message == "the token has expired"

    in_clocked_loop(test())


@pytest.mark.parametrize("kind", KINDS)
def test_stream_that_renewed_its_token_relies_on_the_fresh_one_only(kind: str) -> None:
    async def test() -> None:
        async with streaming(kind, first=expiring(), second=expiring(900)) as desk:
            desk.client.send(token="second")
            await turns()
            desk.validator.tokens = {"second": expiring(900)}
            await desk.authenticator.revoke(is_first)
            await turns()
            assert not desk.stream.done()
            desk.validator.tokens = {}
            await desk.authenticator.revoke(lambda token: token == "second")
            assert (await desk.refusal()).reason is Reason.UNAUTHENTICATED

    in_clocked_loop(test())


@pytest.mark.parametrize("kind", KINDS)
def test_stream_whose_token_cannot_be_validated_at_the_moment_goes_on_until_it_can(kind: str) -> None:
    async def test() -> None:
        async with streaming(kind, first=token_of()) as desk:
            desk.validator.trouble = OSError("the issuer is down")
            await desk.authenticator.revoke(is_first)
            for _ in range(3):
                await desk.forward(ASK_AGAIN_SECONDS)
                assert not desk.stream.done()
            desk.validator.trouble = None
            del desk.validator.tokens["first"]
            await desk.forward(ASK_AGAIN_SECONDS)
            assert (await desk.refusal()).reason is Reason.UNAUTHENTICATED

    in_clocked_loop(test())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", [{"tenant": "other"}, {"subject": "other"}], ids=["tenant", "subject"])
def test_stream_whose_token_becomes_someone_elses_ends(kind: str, change: dict[str, Any]) -> None:
    async def test() -> None:
        async with streaming(kind, first=token_of()) as desk:
            desk.validator.tokens["first"] = token_of(**change)
            await desk.authenticator.revoke(is_first)
            refusal = await desk.refusal()
            assert (refusal.reason, "another subject or tenant" in refusal.message) == (Reason.UNAUTHENTICATED, True)

    in_clocked_loop(test())


def test_turn_that_a_stream_still_had_to_come_delivers_nothing_after_its_end() -> None:
    async def test() -> None:
        async with streaming("work", first=token_of()) as desk:
            desk.client.send(add_credits=5)
            await turns()
            task_id = desk.runner.create()
            desk.runner.changed()
            await until(lambda: desk.client.tasks)
            claim = desk.runner.shard.deliveries[task_id].claim
            stream = claim.holder
            assert stream is not None
            desk.validator.tokens.clear()
            await desk.authenticator.revoke(is_first)
            await desk.refusal()
            stream.cancelled(task_id, claim.token)  # asks for a turn, as a stream does whenever it has been held up
            desk.runner.create()
            await turns()
            assert list(desk.runner.shard.deliveries) == [task_id]

    in_clocked_loop(test())


# -- waiting calls -------------------------------------------------------------------------------------------------


class WaitingClaim:
    """A claim that waits for work with the token "first"."""

    def __init__(self, **tokens: Any) -> None:
        self.validator = ScriptedValidator(**tokens)
        self.authenticator = Authenticator(Nobody(), self.validator, clock=clocked().wall)
        self.runner = HeldRunner()
        self.runner.log.free = True
        self.calls = Calls(self.authenticator, ShardTable(lambda: Rejection(Reason.NOT_LEADER, "elsewhere")))
        self.calls.shards.present(Serving(self.runner, None, lease_seconds=60, artifact_bytes_max=0))
        request = task_service_pb2.ClaimTaskRequest(wait_seconds=20)
        self.call = asyncio.create_task(self.calls.call(CLAIM, request, "Bearer first"))

    async def begun(self) -> None:
        await until(lambda: len(self.authenticator.revocations) == 1)
        await turns()


def claiming(test: Callable[[WaitingClaim], Any]) -> None:
    async def run() -> None:
        claim = WaitingClaim(first=token_of())
        await claim.begun()
        await test(claim)
        claim.call.cancel()
        await asyncio.gather(claim.call, return_exceptions=True)
        assert len(claim.authenticator.revocations) == 0

    in_clocked_loop(run())


def test_waiting_call_of_a_revoked_token_is_unauthenticated() -> None:
    async def test(claim: WaitingClaim) -> None:
        claim.validator.tokens.clear()
        await claim.authenticator.revoke(is_first)
        with pytest.raises(Rejection) as refused:
            await claim.call
        assert refused.value.reason is Reason.UNAUTHENTICATED
        assert not claim.runner.shard.deliveries

    claiming(test)


@pytest.mark.parametrize("trouble", [None, OSError("the issuer is down")])
def test_waiting_call_whose_token_stands_or_cannot_be_validated_waits_on(trouble: OSError | None) -> None:
    async def test(claim: WaitingClaim) -> None:
        claim.validator.trouble = trouble
        await claim.authenticator.revoke(is_first)
        await turns()
        assert not claim.call.done()

    claiming(test)


def test_waiting_call_that_became_someone_elses_is_unauthenticated() -> None:
    async def test(claim: WaitingClaim) -> None:
        claim.validator.tokens["first"] = token_of("other")
        await claim.authenticator.revoke(is_first)
        with pytest.raises(Rejection) as refused:
            await claim.call
        assert refused.value.reason is Reason.UNAUTHENTICATED

    claiming(test)
