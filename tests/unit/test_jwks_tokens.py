"""Tokens of an identity provider: which are accepted, and with what content. The issuer is real and on loopback."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from codeq.options.v1 import options_pb2
from codeq_server.auth.authenticator import Authenticator
from codeq_server.auth.claims import InvalidTenantError, claims_of
from codeq_server.auth.jwks.config import ALGORITHMS
from codeq_server.auth.verdict import EXPIRED_AT
from codeq_server.core.errors import Reason, Rejection
from cryptography.hazmat.primitives import serialization
from jwks_issuer import NOW, Desk, Issuer, Signer

SKEW = 60


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer(Signer()) as started:
        yield started


@pytest.fixture
async def desk(issuer: Issuer) -> Desk:
    """A validator that has the key already, so that it tells at once."""
    made = Desk(issuer)
    assert await made.validated(made.token()) is not None
    return made


def encoded(part: object) -> str:
    content = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def resigned(desk: Desk, header: bytes, claims: bytes) -> str:
    """Returns a token with these very bytes, signed by the issuer."""
    signed = f"{encoded(header)}.{encoded(claims)}"
    algorithm = jwt.get_algorithm_by_name("RS256")
    return f"{signed}.{encoded(algorithm.sign(signed.encode(), desk.signer.private))}"


# -- signatures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "Ed448"])
async def test_token_signed_with_an_allowed_algorithm_is_accepted(issuer: Issuer, algorithm: str) -> None:
    desk = Desk(issuer, Signer("k1", algorithm))
    assert await desk.validated(desk.token()) is not None
    head, _, signature = desk.token(sub="somebody else").rpartition(".")
    own_signature = desk.token().rpartition(".")[2]
    assert signature != own_signature
    assert desk.at_once(f"{head}.{own_signature}") is None


async def test_known_key_validates_at_once_and_content_is_that_of_the_claims(desk: Desk) -> None:
    token = desk.at_once(
        desk.token(email="w@acme.example", scope="codeq:claim codeq:result", eventTypes=["render"], tid="acme")
    )
    assert token is not None
    assert (token.subject, token.email) == ("worker-7", "w@acme.example")
    assert token.scopes == {"codeq:claim", "codeq:result"}
    assert token.event_types == {"render"}
    assert token.raw["tid"] == "acme"
    assert token.expires_at == NOW + 10**6 + SKEW


def test_text_without_the_shape_of_a_token_is_rejected_without_a_fetch(issuer: Issuer) -> None:
    desk = Desk(issuer)
    for text in ("", "secret", "a.b", "a.b.c", "a.b.c.d", "..", "{}.{}.x", "é.é.é", f"{encoded([])}.{encoded({})}.x"):
        assert desk.at_once(text) is None
    assert issuer.asked == []
    assert desk.events == []


async def test_unsigned_token_is_rejected(desk: Desk) -> None:
    for algorithm in ("none", "None", "NONE", "", None, 5, ["RS256"]):
        head = f"{encoded({'alg': algorithm, 'kid': 'k1'})}.{encoded(desk.claims())}"
        for signature in ("", "e30", desk.token().rpartition(".")[2]):
            assert desk.at_once(f"{head}.{signature}") is None


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_public_key_is_never_taken_for_a_shared_secret(desk: Desk, algorithm: str) -> None:
    public = desk.signer.private.public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for secret in (pem, pem.strip(), json.dumps(desk.signer.jwk).encode(), desk.signer.jwk["n"].encode()):
        head = f"{encoded({'alg': algorithm, 'kid': 'k1'})}.{encoded(desk.claims())}"
        digest = hmac.new(secret, head.encode(), getattr(hashlib, f"sha{algorithm[2:]}")).digest()
        assert desk.at_once(f"{head}.{encoded(digest)}") is None
    assert desk.reasons[-1] == ("token_rejected", "its algorithm is not allowed")


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256"])
async def test_key_verifies_only_its_own_algorithm(desk: Desk, algorithm: str) -> None:
    desk.now += 100
    assert await desk.validated(desk.token(header={"alg": algorithm})) is None


async def test_algorithm_that_is_not_allowed_is_rejected_without_a_fetch(issuer: Issuer) -> None:
    desk = Desk(issuer, Signer("k1", "ES256"), algorithms=("RS256",))
    assert desk.at_once(desk.token()) is None
    assert issuer.asked == []


@pytest.mark.parametrize("kid", ["../../../etc/passwd", "k1\x00", "K1", " k1", "k1' OR 1=1", "http://evil.example/k"])
async def test_key_id_is_only_compared(desk: Desk, kid: str) -> None:
    desk.now += 100
    asked = len(desk.issuer.asked)
    assert await desk.validated(desk.token(header={"kid": kid})) is None
    assert set(desk.issuer.asked[asked:]) == {"/keys"}


@pytest.mark.parametrize(
    "header",
    [
        {"kid": ""},
        {"kid": "k" * 257},
        {"crit": ["exp"]},
        {"crit": []},
        {"b64": True},
        {"typ": "logout+jwt"},
        {"typ": "dpop+jwt"},
        {"typ": 7},
    ],
)
async def test_header_that_is_not_understood_is_rejected(desk: Desk, header: dict[str, Any]) -> None:
    full = {"alg": "RS256", "kid": "k1", "typ": "JWT"} | header
    assert desk.at_once(resigned(desk, json.dumps(full).encode(), json.dumps(desk.claims()).encode())) is None
    assert desk.events[-1][0] == "token_rejected"


@pytest.mark.parametrize("kind", [None, "JWT", "jwt", "at+jwt", "application/at+jwt"])
async def test_type_of_access_tokens_is_accepted(desk: Desk, kind: str | None) -> None:
    assert desk.at_once(desk.token(header={"typ": kind})) is not None


async def test_keys_that_a_token_brings_along_are_ignored(desk: Desk) -> None:
    forger = Signer("k1", name="forger")
    for header in ({"jwk": forger.jwk}, {"jku": "http://evil.example/keys"}, {"x5u": "http://evil.example/x"}):
        assert desk.at_once(desk.token(forger, header=header)) is None


# -- times ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": None},
        {"exp": "1900000000"},
        {"exp": True},
        {"exp": []},
        {"exp": -1},
        {"exp": 10**18},
        {"exp": 10**400},
        {"exp": 1e308},
        {"nbf": NOW + SKEW + 1},
        {"iat": NOW + SKEW + 1},
        {"nbf": "soon"},
        {"iat": 10**30},
    ],
)
async def test_times_that_are_missing_malformed_or_ahead_are_rejected(desk: Desk, claims: dict[str, Any]) -> None:
    assert desk.at_once(desk.token(**claims)) is None


@pytest.mark.parametrize("text", ["1e400", "NaN", "Infinity", "1" * 5000])
async def test_number_that_is_none_is_rejected(desk: Desk, text: str) -> None:
    content = json.dumps(desk.claims(exp=0)).replace('"exp": 0', f'"exp": {text}')
    assert desk.at_once(resigned(desk, b'{"alg":"RS256","kid":"k1"}', content.encode())) is None


async def test_clock_of_the_issuer_may_be_off_by_the_allowed_skew(desk: Desk) -> None:
    assert desk.at_once(desk.token(nbf=NOW + SKEW, iat=NOW + SKEW)) is not None
    token = desk.at_once(desk.token(exp=NOW - SKEW + 1))
    assert token is not None
    assert token.expires_at == NOW + 1


async def test_expired_token_is_told_apart_from_a_wrong_one(issuer: Issuer) -> None:
    desk = Desk(issuer)
    seat = Authenticator(desk.validator, desk.validator, clock=lambda: desk.now)
    with pytest.raises(Rejection) as caught:
        await seat.authenticate(f"Bearer {desk.token(exp=NOW - SKEW, tid='acme')}", options_pb2.PRINCIPAL_PRODUCER)
    assert caught.value.reason is Reason.UNAUTHENTICATED
    assert EXPIRED_AT in caught.value.metadata


# -- issuer, audience, subject -------------------------------------------------------------------------------------


@pytest.mark.parametrize("issuer_claim", [None, "", 5, ["x"], "http://127.0.0.1", "https://evil.example"])
async def test_token_of_another_issuer_is_rejected(desk: Desk, issuer_claim: object) -> None:
    assert desk.at_once(desk.token(iss=issuer_claim)) is None


async def test_issuer_is_compared_whole(desk: Desk) -> None:
    for issuer in (f"{desk.issuer.url}/", desk.issuer.url[:-1], desk.issuer.url.upper(), [desk.issuer.url]):
        assert desk.at_once(desk.token(iss=issuer)) is None


@pytest.mark.parametrize("audience", [None, "", [], "codeq2", ["other"], {"codeq": 1}, ["codeq", 5], 7])
async def test_token_for_others_is_rejected(desk: Desk, audience: object) -> None:
    assert desk.at_once(desk.token(aud=audience)) is None


async def test_one_of_several_audiences_is_enough(issuer: Issuer) -> None:
    desk = Desk(issuer, audience=("codeq", "https://codeq.example/"))
    assert await desk.validated(desk.token(aud=["account", "https://codeq.example/"])) is not None
    assert desk.at_once(desk.token(aud="codeq")) is not None


@pytest.mark.parametrize("subject", [None, "", "  ", 7, ["a"], {"a": 1}, True])
async def test_token_without_a_subject_is_rejected(desk: Desk, subject: object) -> None:
    assert desk.at_once(desk.token(sub=subject)) is None


async def test_reason_of_a_rejection_is_reported_once_in_ten_seconds_without_the_token(desk: Desk) -> None:
    for _ in range(3):
        desk.at_once(desk.token(exp=None, azp="hidden"))
    assert desk.reasons == [("token_rejected", "it never expires: `exp` is missing")]
    desk.now += 10
    desk.at_once(desk.token(sub=""))
    assert desk.reasons[1:] == [("token_rejected", "it has no subject (`sub`)")]


@pytest.mark.parametrize(("claim", "words"), [("aud", "its audience (`aud`)"), ("iss", "its issuer (`iss`)")])
async def test_tokens_for_others_are_reported_until_one_is_accepted(issuer: Issuer, claim: str, words: str) -> None:
    desk = Desk(issuer)
    for_others = desk.token(header={"alg": "RS512"}, **{claim: "others"})
    assert desk.at_once(for_others) is None
    [(event, details)] = desk.reasons
    assert (event, details.startswith(words)) == ("token_rejected", True)
    assert await desk.validated(desk.token()) is not None
    desk.now += 10
    assert desk.at_once(for_others) is None
    assert len(desk.reasons) == 1


# -- rights --------------------------------------------------------------------------------------------------------


async def test_scopes_of_all_claims_are_merged(desk: Desk) -> None:
    token = desk.at_once(desk.token(scope="a  b", scp=["c", "d e"], scopes="b f"))
    assert token is not None
    assert token.scopes == {"a", "b", "c", "d", "e", "f"}


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"eventTypes": ["a", "b"]}, {"a", "b"}),
        ({"eventTypes": "a"}, {"a"}),
        ({"event_types": ["*"]}, {"*"}),
        ({"eventTypes": ["a"], "event_types": ["b"]}, {"a", "b"}),
        ({}, set()),
    ],
)
async def test_event_types_are_a_list_or_one_text(desk: Desk, claims: dict[str, Any], expected: set[str]) -> None:
    token = desk.at_once(desk.token(**claims))
    assert token is not None
    assert token.event_types == expected


@pytest.mark.parametrize("space", ["\t", "\n", "\r\n", "\u00a0", "\u2003", "\x1f"])
async def test_only_spaces_separate_scopes(desk: Desk, space: str) -> None:
    for scopes in (f"a{space}codeq:admin", f"codeq:admin{space}", ["a", f"a{space}codeq:admin"]):
        assert desk.at_once(desk.token(scope=scopes)) is None


@pytest.mark.parametrize("name", ["scope", "scp", "scopes", "eventTypes", "event_types"])
@pytest.mark.parametrize("value", [7, True, {"a": 1}, ["a", 7], [["a"]], [None]])
async def test_malformed_right_rejects_the_token(desk: Desk, name: str, value: object) -> None:
    assert desk.at_once(desk.token(**{name: value})) is None


@pytest.mark.parametrize("value", [None, []])
async def test_empty_list_of_event_types_does_not_mean_all(desk: Desk, value: object) -> None:
    content = json.dumps(desk.claims() | {"eventTypes": value}).encode()
    assert desk.at_once(resigned(desk, b'{"alg":"RS256","kid":"k1"}', content)) is None


async def test_role_and_tenant_reach_the_claims(desk: Desk) -> None:
    token = desk.at_once(desk.token(role="ADMIN", organizationId="acme"))
    assert token is not None
    claims = claims_of(token)
    assert (claims.tenant_id, claims.is_admin) == ("acme", True)


@pytest.mark.parametrize(
    ("path", "claims"),
    [
        ("app.tenant", {"app": {"tenant": "acme"}}),
        ("app.tenant", {"app.tenant": "acme", "app": {"tenant": "globex"}}),
        ("https://acme.example/tenant", {"https://acme.example/tenant": "acme"}),
        ("org", {"org": "acme", "tid": "globex", "tenantId": "globex", "organization_id": 5}),
    ],
)
async def test_tenant_is_that_of_the_configured_claim_alone(issuer: Issuer, path: str, claims: dict[str, Any]) -> None:
    desk = Desk(issuer, tenant_claim=path)
    token = await desk.validated(desk.token(**claims))
    assert token is not None
    assert claims_of(token).tenant_id == "acme"


@pytest.mark.parametrize("claims", [{}, {"tid": "acme"}, {"app": "acme"}, {"app": {}}, {"app": {"tenant": 7}}])
async def test_token_without_the_configured_tenant_claim_has_no_tenant(issuer: Issuer, claims: dict[str, Any]) -> None:
    desk = Desk(issuer, tenant_claim="app.tenant")
    token = await desk.validated(desk.token(**claims))
    assert token is not None
    with pytest.raises(InvalidTenantError):
        claims_of(token)


async def test_operator_without_the_configured_tenant_claim_is_accepted_without_a_tenant(issuer: Issuer) -> None:
    desk = Desk(issuer, tenant_claim="app.tenant")
    for sub in ("The operator", "acme"):  # a subject is no substitute for the claim, not even of this form
        token = await desk.validated(desk.token(sub=sub, scope="codeq:operator", tid="acme"))
        assert token is not None
        claims = claims_of(token)
        assert (claims.is_operator, claims.tenant_id) == (True, "")
    malformed = await desk.validated(desk.token(scope="codeq:operator", app={"tenant": 7}))
    assert malformed is not None
    with pytest.raises(InvalidTenantError):
        claims_of(malformed)


# -- malformed content ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 5000 + b"]" * 5000,
        b'{"a":' * 3000 + b"1" + b"}" * 3000,
        b"[]",
        b'"text"',
        b"null",
        b"\xff\xfe{}",
        b'{"sub":"\xff"}',
        b"{} {}",
        b"{",
        b"\xef\xbb\xbf{}",
    ],
)
async def test_content_that_is_no_json_object_is_rejected(desk: Desk, content: bytes) -> None:
    assert desk.at_once(resigned(desk, b'{"alg":"RS256","kid":"k1"}', content)) is None
    assert desk.at_once(resigned(desk, content, json.dumps(desk.claims()).encode())) is None


async def test_token_with_foreign_characters_or_padding_is_rejected(desk: Desk) -> None:
    token = desk.token()
    head, claims, signature = token.split(".")
    for text in (f" {token}", f"{token}=", f"{token}\n", f"{head}.{claims}=.{signature}", f"{head}.{claims}.+/"):
        assert desk.at_once(text) is None
    assert desk.at_once(token) is not None
