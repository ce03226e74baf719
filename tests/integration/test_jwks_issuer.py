"""Keys of an identity provider over HTTP and HTTPS, and answers that lie: none empties the keys or lets tokens pass."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from codeq_server.auth.jwks.document import BODY_BYTES_MAX
from codeq_server.auth.jwks.keys import KEYS_MAX
from codeq_server.auth.jwks.store import REFETCH_SECONDS, KeysUnavailableError
from jwks_issuer import LAG_SECONDS_MAX, Answer, Desk, Issuer, Lag, Signer, certificate, published, settled

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
    "said to be compressed": Answer(published(Signer()).body, headers=JSON | {"Content-Encoding": "br"}),
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
    "for nothing known": Answer(_weak(use="x")),
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


async def test_redirect_to_another_host_is_not_followed(issuer: Issuer) -> None:
    with Issuer(Signer()) as other:
        issuer.answer = lambda _: Answer(status=307, headers={"Location": f"{other.url}/keys"})
        desk = Desk(issuer)
        with pytest.raises(KeysUnavailableError, match="redirects to another host"):
            await desk.validated(desk.token())
        assert other.asked == []


async def test_redirects_without_end_are_followed_three_times(issuer: Issuer) -> None:
    issuer.answer = lambda path: Answer(status=302, headers={"Location": f"{path}x"})
    desk = Desk(issuer)
    with pytest.raises(KeysUnavailableError, match="more than 3 times"):
        await desk.validated(desk.token())
    assert len(issuer.asked) == 4


async def test_usable_keys_of_a_mixed_set_are_used_and_the_others_named(issuer: Issuer) -> None:
    encrypting = Signer("k3").jwk | {"use": "enc", "alg": "RSA-OAEP"}
    mixed = [Signer("weak", bits=1024).jwk, {"kty": "oct"}, encrypting, Signer("k1", "ES256").jwk, Signer("k2").jwk]
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
