"""Expiring tokens and slow validators: which validations are cached, for how long, and how strangers are limited."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from codeq.options.v1 import options_pb2
from codeq_server.auth.authenticator import (
    CACHED_TOKENS_MAX,
    TROUBLE_SECONDS,
    VALIDATION_SECONDS_MAX,
    VALIDATIONS_MAX,
    Authenticator,
)
from codeq_server.auth.claims import Claims
from codeq_server.core.errors import Reason, Rejection
from held_log import turns
from scripted_validator import NOW, Nobody, ScriptedValidator, clocked, in_clocked_loop, token_of

PRODUCER = options_pb2.PRINCIPAL_PRODUCER
WORKER = options_pb2.PRINCIPAL_WORKER
GOOD = "Bearer good"


class Desk:
    """An authenticator for workers, with its validator and its clock."""

    def __init__(self, **tokens: Any) -> None:
        self.now = NOW
        self.troubles: list[Exception] = []
        self.validator = ScriptedValidator(**tokens)
        self.authenticator = Authenticator(
            Nobody(), self.validator, clock=lambda: self.now, on_trouble=self.troubles.append
        )

    def known(self, header: str = GOOD) -> Claims | None:
        return self.authenticator.known(header, WORKER)

    def refused(self, header: str = GOOD) -> Rejection:
        with pytest.raises(Rejection) as caught:
            self.known(header)
        return caught.value

    def waiting(self, header: str = GOOD) -> asyncio.Task[Claims]:
        return asyncio.create_task(self.authenticator.authenticate(header, WORKER))


async def reason_of(waiting: asyncio.Task[Claims]) -> Reason:
    with pytest.raises(Rejection) as caught:
        await waiting
    return caught.value.reason


# -- expiry --------------------------------------------------------------------------------------------------------


def test_token_is_validated_once_until_it_expires_and_again_afterwards() -> None:
    desk = Desk(good=token_of(expires_at=NOW + 60))
    for _ in range(3):
        claims = desk.known()
        assert claims is not None
        assert claims.expires_at == NOW + 60
    desk.now += 59.9
    assert desk.known()
    assert desk.validator.asked == ["good"]
    desk.now += 0.1
    desk.validator.tokens["good"] = token_of(expires_at=NOW + 600)  # the issuer has extended the token
    renewed = desk.known()
    assert renewed is not None
    assert renewed.expires_at == NOW + 600
    assert desk.validator.asked == ["good", "good"]


@pytest.mark.parametrize("lateness", [0.0, 86_400.0])
def test_expired_token_is_unauthenticated_and_the_error_gives_its_expiry(lateness: float) -> None:
    desk = Desk(good=token_of(expires_at=NOW + 60))
    assert desk.known()
    desk.now = NOW + 60 + lateness
    for _ in range(2):
        refusal = desk.refused()
        assert (refusal.reason, refusal.message) == (Reason.UNAUTHENTICATED, "the token has expired")
        assert refusal.metadata == {"expiredAt": "2027-01-15T08:01:00Z"}
    assert desk.validator.asked == ["good", "good", "good"]


@pytest.mark.parametrize("expires_at", [float("nan"), float("-inf"), -1e30])
def test_token_with_an_absurd_expiry_counts_as_expired(expires_at: float) -> None:
    assert Desk(good=token_of(expires_at=expires_at)).refused().message == "the token has expired"


def test_token_that_never_expires_is_validated_once() -> None:
    desk = Desk(good=token_of())
    assert desk.known()
    desk.now += 1e9
    assert desk.known()
    assert desk.validator.asked == ["good"]


def test_token_accepted_as_two_kinds_loses_only_the_expired_kind() -> None:
    now = [NOW]
    producer, worker = ScriptedValidator(both=token_of(expires_at=NOW + 60)), ScriptedValidator(both=token_of())
    authenticator = Authenticator(producer, worker, clock=lambda: now[0])
    assert authenticator.known("Bearer both", PRODUCER)
    now[0] += 60
    assert authenticator.known("Bearer both", WORKER)
    with pytest.raises(Rejection) as caught:
        authenticator.known("Bearer both", PRODUCER)
    assert caught.value.reason is Reason.WRONG_TOKEN_KIND


def test_caller_waits_no_longer_than_its_token_is_valid() -> None:
    claims = Desk(good=token_of(expires_at=NOW + 60)).known()
    assert claims is not None
    assert [claims.patience(30, now) for now in (NOW, NOW + 40, NOW + 60, NOW + 99)] == [30, 20, 0, 0]


# -- cache ---------------------------------------------------------------------------------------------------------


def test_differently_spelled_headers_with_one_token_share_a_cache_entry() -> None:
    desk = Desk(good=token_of())
    for spaces in range(CACHED_TOKENS_MAX):
        assert desk.known("bearer good" + " " * spaces)
    assert desk.validator.asked == ["good"]


def test_rejected_tokens_never_evict_accepted_ones() -> None:
    desk = Desk(good=token_of())
    assert desk.known()
    for number in range(2 * CACHED_TOKENS_MAX):
        desk.refused(f"Bearer guess-{number}")
    desk.validator.asked.clear()
    assert desk.known()
    assert desk.validator.asked == []


def test_full_cache_evicts_the_token_validated_first() -> None:
    tokens = {f"t{number}": token_of() for number in range(CACHED_TOKENS_MAX + 1)}
    desk = Desk(**tokens)
    for name in tokens:
        assert desk.known(f"Bearer {name}")
    desk.validator.asked.clear()
    assert desk.known("Bearer t1")
    assert desk.validator.asked == []
    assert desk.known("Bearer t0")
    assert desk.validator.asked == ["t0"]


# -- validators that wait ------------------------------------------------------------------------------------------


async def test_calls_with_one_token_share_a_validation_and_later_calls_do_not_wait() -> None:
    desk = Desk(good=token_of())
    desk.validator.waits = True
    assert desk.known() is None
    calls = [desk.waiting() for _ in range(10)]
    await turns()
    assert not any(call.done() for call in calls)
    desk.validator.release()
    assert {(await call).subject for call in calls} == {"w"}
    assert desk.validator.begun == ["good"]
    assert desk.known()


async def test_cancelled_call_does_not_end_the_validation_it_shares() -> None:
    desk = Desk(good=token_of())
    desk.validator.waits = True
    gone, stays = desk.waiting(), desk.waiting()
    await turns()
    gone.cancel()
    await turns()
    desk.validator.release()
    assert (await stays).subject == "w"
    assert desk.validator.begun == ["good"]


async def test_token_rejected_by_a_slow_validator_is_not_cached() -> None:
    desk = Desk()
    desk.validator.waits = True
    desk.validator.release()
    assert await reason_of(desk.waiting()) is Reason.UNAUTHENTICATED
    assert desk.known() is None
    await turns()


async def test_strangers_cannot_block_callers_whose_tokens_are_cached() -> None:
    desk = Desk(good=token_of(), late=token_of())
    assert desk.known()
    desk.validator.waits = True
    strangers = [desk.waiting(f"Bearer guess-{number}") for number in range(VALIDATIONS_MAX)]
    await turns()
    assert desk.refused("Bearer one-more").reason is Reason.LIMIT_REACHED
    assert await reason_of(desk.waiting("Bearer late")) is Reason.LIMIT_REACHED
    assert desk.known()
    assert len(desk.validator.begun) == VALIDATIONS_MAX
    desk.validator.release()
    assert {await reason_of(stranger) for stranger in strangers} == {Reason.UNAUTHENTICATED}
    assert (await desk.waiting("Bearer late")).subject == "w"


def test_hanging_validation_times_out_and_its_token_can_be_retried() -> None:
    async def test() -> None:
        desk = Desk(good=token_of())
        desk.validator.waits = True
        call = desk.waiting()
        await turns()
        clocked().forward(VALIDATION_SECONDS_MAX - 1)
        await turns()
        assert not call.done()
        clocked().forward(1)
        assert await reason_of(call) is Reason.SERVER_UNREACHABLE
        assert [type(trouble) for trouble in desk.troubles] == [TimeoutError]
        desk.validator.release()
        assert (await desk.waiting()).subject == "w"

    in_clocked_loop(test())


async def test_cancellation_inside_a_validator_fails_calls_without_cancelling_them() -> None:
    desk = Desk(good=token_of())
    desk.validator.waits = True
    desk.validator.trouble = asyncio.CancelledError()
    desk.validator.release()
    assert await reason_of(desk.waiting()) is Reason.SERVER_UNREACHABLE
    assert len(desk.troubles) == 1
    desk.validator.trouble = None
    assert (await desk.waiting()).subject == "w"


@pytest.mark.parametrize("waits", [False, True])
async def test_failing_validator_fails_its_calls_and_is_reported_at_intervals(*, waits: bool) -> None:
    desk = Desk(good=token_of())
    desk.validator.waits = waits
    desk.validator.trouble = OSError("no route to the issuer")
    desk.validator.release()
    for _ in range(3):
        assert await reason_of(desk.waiting()) is Reason.SERVER_UNREACHABLE
    assert desk.troubles == [desk.validator.trouble]
    desk.now += TROUBLE_SECONDS
    assert await reason_of(desk.waiting()) is Reason.SERVER_UNREACHABLE
    assert len(desk.troubles) == 2
    desk.validator.trouble = None
    assert (await desk.waiting()).subject == "w"
