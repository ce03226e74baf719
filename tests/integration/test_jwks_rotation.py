"""An identity provider that rotates keys, stops and hangs: good tokens go on, and the event loop never waits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest
from codeq.options.v1 import options_pb2
from codeq_server.auth.authenticator import Authenticator
from codeq_server.auth.jwks import store
from codeq_server.auth.jwks.store import ABSENT_SECONDS, REFETCH_SECONDS, SOUGHT_KEYS_MAX, KeysUnavailableError
from codeq_server.auth.revocation import Affects
from codeq_server.core.errors import Reason, Rejection
from jwks_issuer import LAG_SECONDS_MAX, NOW, Desk, Issuer, Lag, Signer, settled, until_asked


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer(Signer()) as started:
        yield started


async def is_refused(desk: Desk, token: str) -> bool:
    """Returns whether a token is rejected, or cannot be validated."""
    try:
        return await desk.validated(token) is None
    except KeysUnavailableError:
        return True


# -- rotation ------------------------------------------------------------------------------------------------------


async def test_new_key_is_fetched_when_a_token_needs_it_but_not_within_ten_seconds(issuer: Issuer) -> None:
    old, new = Signer("old"), Signer("new")
    desk = Desk(issuer, old)
    assert await desk.validated(desk.token()) is not None
    issuer.publish(old, new)
    desk.now += REFETCH_SECONDS - 0.1
    with pytest.raises(KeysUnavailableError):
        desk.validator.validate(desk.token(new))
    desk.now += 0.1
    assert await desk.validated(desk.token(new)) is not None
    assert len(issuer.asked) == 2


async def test_withdrawn_key_is_rejected_once_keys_are_fetched_anew(issuer: Issuer) -> None:
    desk = Desk(issuer, Signer("old"))
    token = desk.token()
    assert await desk.validated(token) is not None
    issuer.publish(Signer("new"))
    desk.now += 149
    assert desk.at_once(token) is not None
    desk.now += 1
    assert desk.at_once(token) is not None  # and fetches in the background
    await settled(desk)
    assert desk.at_once(desk.token(Signer("new"))) is not None
    desk.now += REFETCH_SECONDS
    assert await desk.validated(token) is None


async def test_withdrawn_key_is_not_accepted_after_a_quiet_time(issuer: Issuer) -> None:
    desk = Desk(issuer, Signer("old"))
    token = desk.token()
    assert await desk.validated(token) is not None
    issuer.publish(Signer("new"))
    desk.now += 300
    assert await desk.validated(token) is None


async def test_withdrawn_key_is_not_accepted_after_a_quiet_time_that_began_with_a_failure(issuer: Issuer) -> None:
    desk = Desk(issuer, Signer("old"))
    token = desk.token()
    assert await desk.validated(token) is not None
    issuer.fail()
    desk.now += 200
    assert desk.at_once(token) is not None
    await settled(desk)
    issuer.publish(Signer("new"))
    desk.now += 300
    assert await desk.validated(token) is None


async def test_withdrawn_key_that_comes_back_is_accepted_without_delay(issuer: Issuer) -> None:
    desk = Desk(issuer, Signer("a"))
    for signer in (Signer("b"), Signer("a"), Signer("b"), Signer("a")):
        issuer.publish(signer)
        desk.now += REFETCH_SECONDS
        assert await desk.validated(desk.token(signer)) is not None


async def test_absent_key_is_rejected_at_once_for_a_minute_and_then_looked_for_again(issuer: Issuer) -> None:
    desk = Desk(issuer)
    late = desk.token(Signer("late"))
    assert await desk.validated(late) is None
    for _ in range(5):
        desk.now += ABSENT_SECONDS / 6
        assert desk.at_once(late) is None
    assert len(issuer.asked) == 1
    issuer.publish(Signer(), Signer("late"))
    desk.now += ABSENT_SECONDS / 6
    assert await desk.validated(late) is not None
    assert len(issuer.asked) == 2


async def test_key_published_during_a_fetch_is_not_taken_for_absent(issuer: Issuer) -> None:
    desk = Desk(issuer, Signer("old"))
    issuer.held.clear()
    first = asyncio.create_task(desk.validated(desk.token()))
    await until_asked(issuer)
    desk.now += 0.1
    second = asyncio.create_task(desk.validated(desk.token(Signer("new"))))
    await asyncio.sleep(0)
    issuer.held.set()
    assert await first is not None
    with pytest.raises(KeysUnavailableError):
        await second
    issuer.publish(Signer("old"), Signer("new"))
    desk.now += REFETCH_SECONDS
    assert await desk.validated(desk.token(Signer("new"))) is not None


async def test_thousand_tokens_with_an_unknown_key_make_one_fetch(issuer: Issuer) -> None:
    desk = Desk(issuer)
    tokens = [desk.token(Signer("unknown"), sub=f"worker-{number}") for number in range(1000)]
    issuer.held.clear()
    async with Lag() as lag:
        waiting = [asyncio.create_task(desk.validated(token)) for token in tokens]
        await until_asked(issuer)
        issuer.held.set()
        assert await asyncio.gather(*waiting) == [None] * 1000
    assert len(issuer.asked) == 1
    assert lag.longest < LAG_SECONDS_MAX


async def test_flood_of_made_up_key_ids_makes_one_fetch_in_ten_seconds_and_takes_bounded_memory(
    issuer: Issuer,
) -> None:
    desk = Desk(issuer, Signer("k1", "ES256"))
    token = desk.token()
    assert await desk.validated(token) is not None
    for second in range(30):
        desk.now = NOW + second
        for number in range(50):
            assert await is_refused(desk, desk.forged(f"{second}-{number}"))
        assert desk.at_once(token) is not None
    assert len(issuer.asked) == 3
    assert len(desk.validator._store._sought) == SOUGHT_KEYS_MAX


async def test_keys_rotate_under_load_without_a_good_token_rejected(issuer: Issuer) -> None:
    desk = Desk(issuer)
    seat = Authenticator(desk.validator, desk.validator, clock=lambda: desk.now)
    seen: Counter[Reason] = Counter()
    worst = 0.0

    async def calls(token: str) -> None:
        nonlocal worst
        began_at = desk.now
        while desk.now < began_at + 60:
            try:
                await seat.authenticate(f"Bearer {token}", options_pb2.PRINCIPAL_PRODUCER)
            except Rejection as rejection:
                seen[rejection.reason] += 1
                await asyncio.sleep(0.002)
            else:
                worst = max(worst, desk.now - began_at)
                return

    signers = [Signer(f"key-{number}", "ES256") for number in range(6)]
    tokens = {
        new: [desk.token(new, sub=f"worker-{number}", tid="acme") for number in range(200)] for new in signers[1:]
    }
    async with Lag() as lag:
        for old, new in pairwise(signers):
            issuer.publish(old, new)
            running = [asyncio.create_task(calls(token)) for token in tokens[new]]
            while not all(each.done() for each in running):
                desk.now += 0.2
                await asyncio.sleep(0.005)
            await asyncio.gather(*running)
    assert set(seen) <= {Reason.SERVER_UNREACHABLE}
    assert len(seat._verdicts) == 1000
    assert worst <= REFETCH_SECONDS + desk.config.http_timeout
    assert len(issuer.asked) <= 1 + (desk.now - NOW) / REFETCH_SECONDS
    assert lag.longest < LAG_SECONDS_MAX


# -- outages -------------------------------------------------------------------------------------------------------


async def test_issuer_that_is_down_for_a_minute_concerns_only_tokens_of_unknown_keys(issuer: Issuer) -> None:
    desk = Desk(issuer, Signer("k1"))
    assert await desk.validated(desk.token()) is not None
    issuer.fail()
    desk.now += 290
    for second in range(60):
        desk.now += 1
        assert desk.at_once(desk.token(jti=second)) is not None
        with pytest.raises(KeysUnavailableError):
            await desk.validated(desk.token(Signer("new")))
        await settled(desk)
    assert len(issuer.asked) <= 1 + 60 / REFETCH_SECONDS + 1
    issuer.publish(Signer("k1"), Signer("new"))
    desk.now += REFETCH_SECONDS
    assert await desk.validated(desk.token(Signer("new"))) is not None


async def test_old_keys_are_used_for_a_day_and_then_tokens_are_unreachable_rather_than_rejected(
    issuer: Issuer,
) -> None:
    desk = Desk(issuer)
    assert await desk.validated(desk.token()) is not None
    issuer.answer = lambda _: None
    desk.now = NOW + 86399
    assert await desk.validated(desk.token()) is not None
    await settled(desk)
    desk.now = NOW + 86400
    seat = Authenticator(desk.validator, desk.validator, clock=lambda: desk.now)
    with pytest.raises(Rejection) as caught:
        await seat.authenticate(f"Bearer {desk.token()}", options_pb2.PRINCIPAL_PRODUCER)
    assert caught.value.reason is Reason.SERVER_UNREACHABLE
    issuer.publish(Signer())
    desk.now += REFETCH_SECONDS
    assert await desk.validated(desk.token()) is not None


async def test_issuer_that_hangs_delays_no_token_of_a_known_key(issuer: Issuer) -> None:
    desk = Desk(issuer, http_timeout=0.3)
    assert await desk.validated(desk.token()) is not None
    issuer.held.clear()
    desk.now += 200
    async with Lag() as lag:
        assert desk.at_once(desk.token()) is not None
        with pytest.raises(KeysUnavailableError, match=r"no answer within 0\.3 s"):
            await desk.validated(desk.token(Signer("new")))
    assert lag.longest < LAG_SECONDS_MAX
    desk.now += 200
    assert desk.at_once(desk.token()) is not None


async def test_old_keys_are_used_if_an_issuer_hangs_after_a_quiet_time(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "OVERDUE_WAIT_SECONDS", 0.05)
    desk = Desk(issuer)
    assert await desk.validated(desk.token()) is not None
    issuer.held.clear()
    desk.now += 3600
    assert await desk.validated(desk.token()) is not None
    issuer.held.set()
    await settled(desk)


async def test_issuer_that_is_down_at_first_is_asked_again_within_ten_seconds(issuer: Issuer) -> None:
    issuer.fail()
    desk = Desk(issuer)
    for _ in range(3):
        with pytest.raises(KeysUnavailableError, match="HTTP status 503"):
            await desk.validated(desk.token())
    assert len(issuer.asked) == 1
    issuer.publish(Signer())
    desk.now += REFETCH_SECONDS
    assert await desk.validated(desk.token()) is not None


async def test_clock_set_back_stops_neither_fetches_nor_keys(issuer: Issuer) -> None:
    desk = Desk(issuer)
    assert await desk.validated(desk.token()) is not None
    desk.now -= 7200
    issuer.publish(Signer(), Signer("new"))
    assert await desk.validated(desk.token(Signer("new"))) is not None
    assert desk.at_once(desk.token()) is not None


async def test_fetch_is_shared_however_long_it_takes(issuer: Issuer) -> None:
    desk = Desk(issuer)
    issuer.held.clear()
    first = asyncio.create_task(desk.validated(desk.token(sub="a")))
    await until_asked(issuer)
    desk.now += 10 * REFETCH_SECONDS
    second = asyncio.create_task(desk.validated(desk.token(sub="b")))
    await asyncio.sleep(0)
    issuer.held.set()
    assert await first is not None
    assert await second is not None
    assert len(issuer.asked) == 1


async def test_caller_that_goes_away_ends_no_fetch_that_others_wait_for(issuer: Issuer) -> None:
    desk = Desk(issuer)
    issuer.held.clear()
    first = asyncio.create_task(desk.validated(desk.token(sub="a")))
    second = asyncio.create_task(desk.validated(desk.token(sub="b")))
    await until_asked(issuer)
    first.cancel()
    await asyncio.wait([first])
    issuer.held.set()
    assert await second is not None
    assert len(issuer.asked) == 1


# -- the start, and the end of trouble -------------------------------------------------------------------------------


async def nobody(_: Affects) -> None:
    raise AssertionError("nothing is revoked")


async def test_keys_fetched_at_the_start_validate_the_first_token_at_once(issuer: Issuer) -> None:
    desk = Desk(issuer)
    await desk.validator.warm_up(nobody)
    assert desk.at_once(desk.token()) is not None
    assert (len(issuer.asked), desk.events) == (1, [])


async def test_first_token_waits_for_the_fetch_of_the_start(issuer: Issuer) -> None:
    issuer.held.clear()
    desk = Desk(issuer)
    starting = asyncio.create_task(desk.validator.warm_up(nobody))
    await until_asked(issuer)
    validating = asyncio.create_task(desk.validated(desk.token()))
    issuer.held.set()
    assert await validating is not None
    await starting
    assert len(issuer.asked) == 1


async def test_issuer_that_fails_at_the_start_is_reported_and_the_end_of_its_trouble_once(issuer: Issuer) -> None:
    issuer.fail()
    desk = Desk(issuer)
    await desk.validator.warm_up(nobody)
    assert [event for event, _ in desk.events] == ["keys_not_fetched"]
    for expected in (["keys_not_fetched"] * 2, ["keys_not_fetched"] * 2 + ["keys_fetched"]):
        desk.now += REFETCH_SECONDS
        assert await is_refused(desk, desk.token()) is (expected[-1] == "keys_not_fetched")
        assert [event for event, _ in desk.events] == expected
        issuer.publish(Signer())
    desk.now += 1000
    assert await desk.validated(desk.token()) is not None
    await settled(desk)
    assert [event for event, _ in desk.events] == expected
