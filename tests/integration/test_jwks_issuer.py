"""An identity provider that rotates keys, stops, hangs and lies: good tokens go on, and bad ones never pass."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from codeq.options.v1 import options_pb2
from codeq_server.auth.authenticator import Authenticator
from codeq_server.auth.jwks import store
from codeq_server.auth.jwks.document import BODY_BYTES_MAX
from codeq_server.auth.jwks.keys import KEYS_MAX
from codeq_server.auth.jwks.store import ABSENT_SECONDS, REFETCH_SECONDS, SOUGHT_KEYS_MAX, KeysUnavailableError
from codeq_server.core.errors import Reason, Rejection
from jwks_issuer import NOW, Answer, Desk, Issuer, Signer, certificate, published

LAG_SECONDS_MAX = 0.5
"""Longest time that the event loop may stand still: far above noise, far below the shortest wait of the tests."""

JSON = {"Content-Type": "application/json"}
DISCOVERY = "/.well-known/openid-configuration"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer(Signer()) as started:
        yield started


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Issuer]:
    _, chain = certificate(tmp_path)
    with Issuer(Signer(), tls=chain) as started:
        yield started


class Lag:
    """Measures the longest time that the event loop stood still."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._last = 0.0

    async def __aenter__(self) -> Self:
        self._ticking = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ticking.cancel()

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(0.001)
            self.longest = max(self.longest, loop.time() - before)


async def settled(desk: Desk) -> None:
    """Waits for the fetch in flight."""
    if (fetching := desk.validator._store._fetching) is not None:
        await asyncio.wait([fetching])


async def is_refused(desk: Desk, token: str) -> bool:
    """Returns whether a token is rejected, or cannot be validated."""
    try:
        return await desk.validated(token) is None
    except KeysUnavailableError:
        return True


async def until_asked(issuer: Issuer) -> None:
    """Waits until the issuer has a request."""
    assert await asyncio.to_thread(issuer.has_request.wait, 10)


# -- where keys come from ------------------------------------------------------------------------------------------


async def test_keys_come_over_tls_if_the_certificate_is_trusted(secure: Issuer, tmp_path: Path) -> None:
    desk = Desk(secure, ca_file=tmp_path / "ca.pem")
    assert await desk.validated(desk.token()) is not None


async def test_issuer_with_an_untrusted_certificate_is_not_believed(secure: Issuer) -> None:
    desk = Desk(secure)
    with pytest.raises(KeysUnavailableError, match=r"[Cc]ertificate"):
        await desk.validated(desk.token())
    assert secure.asked == []


async def test_replaced_authority_is_trusted_from_the_next_fetch_on(secure: Issuer, tmp_path: Path) -> None:
    right = (tmp_path / "ca.pem").read_bytes()
    (tmp_path / "other").mkdir()
    (tmp_path / "ca.pem").write_bytes(certificate(tmp_path / "other")[1].read_bytes())
    desk = Desk(secure, ca_file=tmp_path / "ca.pem")
    with pytest.raises(KeysUnavailableError):
        await desk.validated(desk.token())
    (tmp_path / "ca.pem").write_bytes(right)
    desk.now += REFETCH_SECONDS
    assert await desk.validated(desk.token()) is not None


def discovers(source: Issuer, **document: Any) -> None:
    """Lets the issuer publish an OpenID configuration, and its keys elsewhere."""
    found = {"issuer": source.url, "jwks_uri": f"{source.url}/certs"} | document
    source.answer = lambda path: Answer(json.dumps(found).encode()) if path == DISCOVERY else published(Signer())


async def test_keys_are_discovered_by_the_issuer(issuer: Issuer) -> None:
    discovers(issuer)
    desk = Desk(issuer, jwks_url="")
    assert await desk.validated(desk.token()) is not None
    assert issuer.asked == [DISCOVERY, "/certs"]


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://evil.example"},
        {"issuer": None},
        {"jwks_uri": None},
        {"jwks_uri": ["http://127.0.0.1/"]},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "/certs"},
        {"jwks_uri": "ftp://127.0.0.1/certs"},
        {"jwks_uri": "http://[::1"},
    ],
)
async def test_discovered_document_of_another_issuer_or_without_keys_is_refused(
    issuer: Issuer, document: dict[str, Any]
) -> None:
    discovers(issuer, **document)
    desk = Desk(issuer, jwks_url="")
    with pytest.raises(KeysUnavailableError, match="OpenID configuration"):
        await desk.validated(desk.token())
    assert issuer.asked == [DISCOVERY]


async def test_discovery_over_tls_never_leads_to_keys_in_the_clear(
    secure: Issuer, issuer: Issuer, tmp_path: Path
) -> None:
    discovers(secure, jwks_uri=f"{issuer.url}/keys")
    desk = Desk(secure, jwks_url="", ca_file=tmp_path / "ca.pem")
    with pytest.raises(KeysUnavailableError, match="no `jwks_uri`"):
        await desk.validated(desk.token())
    assert issuer.asked == []


async def test_proxies_of_the_environment_are_not_used(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    desk = Desk(issuer)
    assert await desk.validated(desk.token()) is not None


# -- lies ----------------------------------------------------------------------------------------------------------


def _many(count: int) -> bytes:
    return json.dumps({"keys": [Signer().jwk | {"kid": str(number)} for number in range(count)]}).encode()


def _weak(**changes: Any) -> bytes:
    return json.dumps({"keys": [Signer().jwk | changes]}).encode()


LIES = {
    "503": Answer(status=503),
    "204": Answer(status=204),
    "404 with keys": Answer(published(Signer()).body, 404),
    "wrong type": Answer(published(Signer()).body, headers={"Content-Type": "text/html"}),
    "no type": Answer(published(Signer()).body, headers={}),
    "cut": None,
    "empty body": Answer(b""),
    "empty set": Answer(b'{"keys":[]}'),
    "no set": Answer(b'{"keys":null}'),
    "list": Answer(b"[]"),
    "garbage": Answer(b"\x00\xff" * 500),
    "deep": Answer(b"[" * 60_000),
    "10 MB": Answer(b" " * 10_000_000),
    "one byte too long": Answer(published(Signer()).body.ljust(BODY_BYTES_MAX + 1)),
    "compressed": Answer(gzip.compress(published(Signer()).body), headers=JSON | {"Content-Encoding": "gzip"}),
    "bomb": Answer(gzip.compress(b" " * 50_000_000), headers=JSON | {"Content-Encoding": "gzip"}),
    "too many keys": Answer(_many(KEYS_MAX + 1)),
    "keys that are none": Answer(json.dumps({"keys": [None, 5, "x", [], {}, {"kty": ["RSA"]}]}).encode()),
    "shared secret": Answer(json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "k1"}]}).encode()),
    "weak RSA": Answer(json.dumps({"keys": [Signer("k1", bits=1024).jwk]}).encode()),
    "huge RSA": Answer(_weak(n="_" * 20_000)),
    "huge exponent": Answer(_weak(e="_" * 20)),
    "even exponent": Answer(_weak(e="Ag")),
    "numbers for texts": Answer(_weak(n=5, e=7)),
    "number as id": Answer(_weak(kid=5)),
    "long id": Answer(_weak(kid="k" * 257)),
    "for encryption": Answer(_weak(use="enc")),
    "for signing": Answer(_weak(key_ops=["sign"])),
    "private part": Answer(_weak(d="AQAB")),
    "algorithm of another type": Answer(_weak(alg="ES256")),
    "algorithm of shared secrets": Answer(_weak(alg="HS256")),
    "algorithm none": Answer(_weak(alg="none")),
    "curve of another algorithm": Answer(json.dumps({"keys": [Signer("k1", "ES384").jwk | {"alg": "ES256"}]}).encode()),
    "point off the curve": Answer(json.dumps({"keys": [Signer("k1", "ES256").jwk | {"x": "A" * 43}]}).encode()),
    "redirect elsewhere": Answer(status=302, headers={"Location": "http://127.0.0.1:1/keys"}),
    "redirect to a name": Answer(status=307, headers={"Location": "//localhost/keys"}),
    "redirect nowhere": Answer(status=301, headers={}),
    "redirect to a file": Answer(status=308, headers={"Location": "file:///etc/passwd"}),
    "redirect to nonsense": Answer(status=302, headers={"Location": "http://[::1"}),
    "endless redirects": Answer(status=302, headers={"Location": "/keys"}),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_lie_never_empties_the_keys_and_never_lets_a_token_pass(issuer: Issuer, lie: Answer | None) -> None:
    issuer.answer = lambda _: lie
    fresh = Desk(issuer)
    with pytest.raises(KeysUnavailableError):
        await fresh.validated(fresh.token())

    issuer.publish(Signer())
    desk = Desk(issuer)
    assert await desk.validated(desk.token()) is not None
    issuer.answer = lambda _: lie
    desk.now += 1000
    async with Lag() as lag:
        assert await desk.validated(desk.token()) is not None
        await settled(desk)
    assert [event for event, _ in desk.events] == ["keys_not_fetched"]
    assert len(desk.events[0][1]) < 2000
    assert lag.longest < LAG_SECONDS_MAX
    assert desk.at_once(desk.token()) is not None


async def test_redirect_at_the_same_host_is_followed(issuer: Issuer) -> None:
    issuer.answer = lambda path: (
        published(Signer()) if path == "/new" else Answer(status=301, headers={"Location": "/new"})
    )
    desk = Desk(issuer)
    assert await desk.validated(desk.token()) is not None
    assert issuer.asked == ["/keys", "/new"]


async def test_usable_keys_of_a_mixed_set_are_used_and_the_others_named(issuer: Issuer) -> None:
    mixed = [Signer("weak", bits=1024).jwk, {"kty": "oct"}, Signer("k1", "ES256").jwk, Signer("k2").jwk]
    issuer.answer = lambda _: Answer(json.dumps({"keys": mixed}).encode())
    desk = Desk(issuer)
    assert await desk.validated(desk.token(Signer("k1", "ES256"))) is not None
    assert desk.at_once(desk.token(Signer("k2"))) is not None
    ignored = "key 0: it has 1024 bits; 2048 to 8192 are accepted; key 1: its type or curve is not supported"
    assert desk.reasons == [("keys_ignored", ignored)]


async def test_key_that_names_no_algorithm_is_for_that_of_its_type(issuer: Issuer) -> None:
    signers = [Signer("r"), Signer("e", "ES384"), Signer("o", "EdDSA")]
    plain = [{name: value for name, value in each.jwk.items() if name != "alg"} for each in signers]
    issuer.answer = lambda _: Answer(json.dumps({"keys": plain}).encode())
    desk = Desk(issuer)
    assert [await desk.validated(desk.token(each)) is not None for each in signers] == [True] * 3
    single = Desk(issuer, algorithms=("PS256", "ES256"))
    assert await single.validated(single.token(Signer("r", "PS256", name="r"))) is None  # its key differs
    assert single.at_once(single.token(Signer("r"))) is None


async def test_key_listed_twice_counts_once_and_an_ambiguous_id_not_at_all(issuer: Issuer) -> None:
    desk = Desk(issuer, Signer("k1"), Signer("k1"))
    assert await desk.validated(desk.token()) is not None
    other = Desk(issuer, Signer("k1"), Signer("k1", name="another"), Signer("k1", "ES256"))
    assert await other.validated(other.token()) is None
    assert other.at_once(other.token(Signer("k1", "ES256"))) is not None


async def test_token_without_a_key_id_is_accepted_if_exactly_one_key_fits(issuer: Issuer) -> None:
    desk = Desk(issuer, Signer("k1"), Signer("k2", "ES256"), Signer(None, "ES384"))
    for signer in (Signer("k1"), Signer("k2", "ES256"), Signer(None, "ES384")):
        assert await desk.validated(desk.token(signer, header={"kid": None})) is not None
    two = Desk(issuer, Signer("k1"), Signer("k2"))
    assert await two.validated(two.token(header={"kid": None})) is None
    assert two.at_once(two.token()) is not None


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
    desk = Desk(issuer)
    assert await desk.validated(desk.token()) is not None
    head, claims, signature = desk.token().split(".")
    for second in range(30):
        desk.now = NOW + second
        for number in range(100):
            forged = desk.token(header={"kid": f"{second}-{number}"}).split(".")[0]
            assert await is_refused(desk, f"{forged}.{claims}.{signature}")
        assert desk.at_once(f"{head}.{claims}.{signature}") is not None
    assert len(issuer.asked) == 3
    assert len(desk.validator._store._sought) == SOUGHT_KEYS_MAX


async def test_keys_rotate_under_load_without_a_good_token_rejected(issuer: Issuer) -> None:
    desk = Desk(issuer, Signer("key-0"))
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

    async with Lag() as lag:
        for rotation in range(1, 6):
            new = Signer(f"key-{rotation % 3}")
            issuer.publish(Signer(f"key-{(rotation - 1) % 3}"), new)
            running = [
                asyncio.create_task(calls(desk.token(new, sub=f"w{n}", jti=rotation, tid="acme"))) for n in range(200)
            ]
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
