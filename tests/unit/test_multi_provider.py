"""Several providers in order: the first that accepts wins, and one that cannot tell stops no other."""

from __future__ import annotations

import asyncio

import pytest
from codeq.options.v1 import options_pb2
from codeq_server.auth.authenticator import Authenticator, Validator
from codeq_server.auth.claims import Token
from codeq_server.auth.multi import PROVIDER_SECONDS_MAX, MultiValidator
from codeq_server.auth.static import StaticToken, StaticValidator
from codeq_server.core.errors import Reason, Rejection
from held_log import turns, until
from scripted_validator import Nobody, ScriptedValidator, clocked, in_clocked_loop, token_of

DOWN = OSError("the issuer is down")


class Broken:
    """A validator that cannot tell, and says so at once."""

    def validate(self, _: str) -> None:
        raise DOWN


def slow(**tokens: Token) -> ScriptedValidator:
    validator = ScriptedValidator(**tokens)
    validator.waits = True
    return validator


async def told(validator: Validator, token: str = "t") -> str | None:
    answer = validator.validate(token)
    found = await answer() if callable(answer) else answer
    return None if found is None else found.subject


def static(subject: str) -> StaticValidator:
    return StaticValidator(StaticToken("t", subject))


def test_first_provider_that_accepts_wins_at_once() -> None:
    answer = MultiValidator([Nobody(), static("a"), Broken(), slow()]).validate("t")
    assert isinstance(answer, Token)
    assert answer.subject == "a"


def test_token_that_none_accepts_is_rejected_at_once() -> None:
    assert MultiValidator([Nobody(), static("a")]).validate("other") is None


def test_order_counts_even_if_an_earlier_provider_takes_its_time() -> None:
    async def test() -> None:
        first = slow(t=token_of(subject="first"))
        waiting = asyncio.create_task(told(MultiValidator([first, static("second")])))
        await until(lambda: first.begun)
        first.release()
        assert await waiting == "first"

    asyncio.run(test())


@pytest.mark.parametrize("order", [1, -1])
def test_provider_that_cannot_tell_stops_no_other(order: int) -> None:
    async def test() -> None:
        raising = slow()
        raising.trouble = DOWN
        raising.release()
        for broken in (Broken(), raising):
            assert await told(MultiValidator([broken, static("a")][::order])) == "a"

    asyncio.run(test())


def test_token_is_in_doubt_if_none_accepts_it_and_one_could_not_tell() -> None:
    async def test() -> None:
        with pytest.raises(OSError, match="issuer is down"):
            MultiValidator([Broken(), static("a")]).validate("other")
        released = slow()
        released.release()
        with pytest.raises(OSError, match="issuer is down"):
            await told(MultiValidator([released, Broken(), static("a")]), "other")
        authenticator = Authenticator(MultiValidator([Broken(), static("acme")]), Nobody())
        with pytest.raises(Rejection) as refused:
            authenticator.known("Bearer other", options_pb2.PRINCIPAL_PRODUCER)
        assert refused.value.reason is Reason.SERVER_UNREACHABLE
        assert authenticator.known("Bearer t", options_pb2.PRINCIPAL_PRODUCER)

    asyncio.run(test())


def test_providers_that_hang_cost_the_others_no_time() -> None:
    async def test() -> None:
        hanging = [slow() for _ in range(3)]
        waiting = asyncio.create_task(told(MultiValidator([*hanging, static("a")])))
        await until(lambda: all(each.begun for each in hanging))
        clocked().forward(PROVIDER_SECONDS_MAX)
        assert await waiting == "a"
        rejected = asyncio.create_task(told(MultiValidator([*hanging, static("a")]), "other"))
        await turns()
        clocked().forward(PROVIDER_SECONDS_MAX)
        with pytest.raises(TimeoutError):
            await rejected

    in_clocked_loop(test())


def test_validation_that_is_no_longer_needed_is_cancelled() -> None:
    async def test() -> None:
        first, second = slow(t=token_of(subject="first")), slow()
        first.release()
        assert await told(MultiValidator([first, second])) == "first"
        await turns()
        assert [task for task in asyncio.all_tasks() if task.get_name() == "provider-validation"] == []

    asyncio.run(test())


def test_validation_that_is_cancelled_from_within_stops_no_other() -> None:
    async def test() -> None:
        cancelled = slow()
        cancelled.trouble = asyncio.CancelledError()
        cancelled.release()
        assert await told(MultiValidator([cancelled, static("a")])) == "a"

    asyncio.run(test())
