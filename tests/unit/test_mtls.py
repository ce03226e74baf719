"""The provider `mtls`: what certificates stand for, and the settings that say so."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from authority import Authority, Pair
from codeq.options.v1 import options_pb2
from codeq_server.auth.authenticator import CERTIFICATE_BYTES_MAX, Authenticator
from codeq_server.auth.claims import Claims, Token
from codeq_server.auth.mtls import NAME_CHARS_MAX, REPORT_SECONDS, Identities, Identity
from codeq_server.auth.static import StaticToken, StaticValidator
from codeq_server.config import ConfigError, Settings, check, load, load_gateway
from codeq_server.core.errors import Rejection
from cryptography import x509

PRODUCER, WORKER = options_pb2.PRINCIPAL_PRODUCER, options_pb2.PRINCIPAL_WORKER
ANY, OPERATOR = options_pb2.PRINCIPAL_ANY, options_pb2.PRINCIPAL_OPERATOR
WORK = {"tenant": "acme", "scopes": ["codeq:claim"], "eventTypes": ["render"]}


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def identity(match: str, **more: Any) -> Identity:
    empty: dict[str, Any] = {"subject": "", "tenant": "acme", "tenant_from": ""}
    sets: dict[str, Any] = {name: frozenset() for name in ("scopes", "event_types", "roles")}
    return Identity(match=match, **(empty | sets | more))


def subject_of(pair: Pair, *matches: str, part: str = "cn") -> str | None:
    """Returns what a certificate stands for, if the subject of each identity is its own pattern."""
    found = Identities(part, [identity(match, subject=match) for match in matches]).identify(pair.der)
    return None if found is None else found.subject


class Caller:
    """An authenticator that knows one static token and some certificates, and its clock."""

    def __init__(self, *identities: Identity, as_worker: bool = False) -> None:
        self.now = time.time()
        self.identified = 0
        self._identities = Identities("cn", identities)
        static = StaticValidator(StaticToken("secret", "by-token", raw={"tenantId": "acme"}))
        identify: Any = {"worker_identify" if as_worker else "producer_identify": self._identify}
        self.authenticator = Authenticator(static, StaticValidator(), clock=lambda: self.now, **identify)

    def _identify(self, certificate: bytes) -> Token | None:
        self.identified += 1
        return self._identities.identify(certificate)

    def claims(self, shown: str | bytes, principal: int = PRODUCER) -> Claims:
        claims = self.authenticator.known(shown, principal)
        assert claims is not None
        return claims

    def refusal(self, shown: str | bytes, principal: int = PRODUCER) -> Rejection:
        with pytest.raises(Rejection) as caught:
            self.claims(shown, principal)
        return caught.value


# -- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "matches", "found"),
    [
        ("worker-1", ["worker-1"], "worker-1"),
        ("worker-1", ["worker-10", "Worker-1", "worker-"], None),
        ("worker-1", ["other", "worker-*", "worker-1"], "worker-*"),
        ("worker-", ["worker-*"], "worker-*"),
        ("worker", ["worker-*"], None),
        ("a.workers.acme", ["*.acme"], "*.acme"),
        ("ab", ["a*b"], "a*b"),
        ("aba", ["ab*ba", "*"], "*"),
    ],
)
def test_first_identity_whose_pattern_matches_the_whole_name_counts(
    authority: Authority, name: str, matches: list[str], found: str | None
) -> None:
    assert subject_of(authority.sign(name), *matches) == found


def test_name_is_the_configured_part_of_the_certificate(authority: Authority) -> None:
    names = [x509.DNSName("w.acme"), x509.RFC822Name("w@acme.example"), uri("spiffe://acme/w")]
    pair = authority.sign("w", names=names)
    found = {part: subject_of(pair, "*", part=part) for part in ("cn", "san-dns", "san-email", "san-uri")}
    assert found == dict.fromkeys(found, "*")
    for part, name in (("cn", "w"), ("san-dns", "w.acme"), ("san-email", "w@acme.example")):
        assert subject_of(pair, name, part=part) == name
        assert subject_of(pair, "spiffe://acme/w", part=part) is None
    assert subject_of(pair, "spiffe://acme/w", part="san-uri") == "spiffe://acme/w"


@pytest.mark.parametrize("part", ["cn", "san-dns", "san-uri"])
def test_certificate_with_none_or_several_of_these_names_stands_for_nobody(authority: Authority, part: str) -> None:
    several = authority.sign(["a", "b"], names=[x509.DNSName("a"), x509.DNSName("b"), uri("x:a"), uri("x:b")])
    none = authority.sign([], names=[])
    assert [subject_of(pair, "*", part=part) for pair in (several, none)] == [None, None]


@pytest.mark.parametrize("name", ["a\nb", " a", "x:" + "a" * NAME_CHARS_MAX])
def test_name_that_is_too_long_or_has_unusual_characters_stands_for_nobody(authority: Authority, name: str) -> None:
    assert subject_of(authority.sign("w", names=[uri(name)]), "*", part="san-uri") is None


@pytest.mark.parametrize("content", [b"", b"\x30", b"0" * 500])
def test_certificate_that_cannot_be_read_stands_for_nobody(content: bytes) -> None:
    assert Identities("cn", [identity("*")]).identify(content) is None


# -- claims --------------------------------------------------------------------------------------------------------


def test_identity_gives_subject_tenant_scopes_commands_and_role(authority: Authority) -> None:
    known = identity("ops", roles=frozenset({"admin"}), event_types=frozenset({"render"}), scopes=frozenset({"s"}))
    claims = Caller(known).claims(authority.sign("ops").der)
    assert (claims.subject, claims.tenant_id, claims.scopes, claims.event_types) == ("ops", "acme", {"s"}, {"render"})
    assert (claims.role, claims.is_admin, claims.commands) == ("ADMIN", True, {"render"})
    renamed = identity("ops", subject="shop")
    assert Caller(renamed).claims(authority.sign("ops").der).subject == "shop"


def test_tenant_is_the_only_unit_or_organization_of_the_certificate(authority: Authority) -> None:
    by_unit, by_organization = (Caller(identity("*", tenant="", tenant_from=part)) for part in ("ou", "o"))
    pair = authority.sign("w", units=["team-a"], organization="acme-inc")
    assert by_unit.claims(pair.der).tenant_id == "team-a"
    assert by_organization.claims(pair.der).tenant_id == "acme-inc"
    # The name has the form of a tenant, but a missing part does not make it one.
    for other in (
        authority.sign("zebra"),
        authority.sign("zebra", units=["a1", "a2"]),
        authority.sign("w", units=["A"]),
    ):
        assert by_unit.refusal(other.der).reason.name == "INVALID_TENANT"


def test_operator_needs_no_tenant(authority: Authority) -> None:
    operator = identity("The Operator", tenant="", scopes=frozenset({"codeq:operator"}))
    claims = Caller(operator).claims(authority.sign("The Operator").der, OPERATOR)
    assert (claims.tenant_id, claims.is_operator) == ("", True)


def test_name_of_a_certificate_is_never_its_tenant(authority: Authority) -> None:
    operator = identity("*", tenant="", scopes=frozenset({"codeq:operator"}), event_types=frozenset({"*"}))
    der = authority.sign("zebra").der
    assert Caller(operator).claims(der, OPERATOR).tenant_id == ""
    assert Caller(operator).refusal(der).reason.name == "INVALID_TENANT"
    assert Caller(operator, as_worker=True).refusal(der, WORKER).reason.name == "INVALID_TENANT"


def test_certificate_of_a_worker_is_no_producers_and_the_other_way_round(authority: Authority) -> None:
    pair = authority.sign("w")
    worker = Caller(identity("w", scopes=frozenset({"s"}), event_types=frozenset({"*"})), as_worker=True)
    assert worker.claims(pair.der, WORKER).subject == "w"
    assert worker.refusal(pair.der, PRODUCER).reason.name == "WRONG_TOKEN_KIND"
    assert Caller(identity("w")).refusal(pair.der, WORKER).reason.name == "WRONG_TOKEN_KIND"


# -- authentication ------------------------------------------------------------------------------------------------


def test_certificate_is_read_once_and_expires(authority: Authority) -> None:
    pair = authority.sign("shop")
    ends = x509.load_pem_x509_certificate(pair.certificate).not_valid_after_utc.timestamp()
    caller = Caller(identity("shop"))
    caller.now = ends - 1
    for _ in range(3):
        assert caller.claims(pair.der).expires_at == ends
    assert caller.identified == 1
    caller.now = ends
    refusal = caller.refusal(pair.der)
    assert (refusal.reason.name, refusal.message) == ("UNAUTHENTICATED", "the client certificate has expired")
    assert "expiredAt" in refusal.metadata


def test_certificate_of_nobody_is_refused_and_not_cached(authority: Authority) -> None:
    caller = Caller(identity("shop"))
    for _ in range(2):
        assert caller.refusal(authority.sign("stranger").der).message.endswith("none of the configured identities")
    assert caller.identified == 2
    assert caller.refusal(b"").message == "missing bearer token"
    assert caller.refusal(b"0" * (CERTIFICATE_BYTES_MAX + 1)).message == "missing bearer token"
    assert caller.identified == 2


def test_certificate_stands_for_nobody_without_the_provider(authority: Authority) -> None:
    plain = Authenticator(StaticValidator(), StaticValidator())
    with pytest.raises(Rejection, match="missing bearer token"):
        plain.known(authority.sign("shop").der, ANY)


def test_no_header_stands_for_a_certificate(authority: Authority) -> None:
    pair = authority.sign("shop")
    caller = Caller(identity("*"))
    assert caller.claims(pair.der).subject == "shop"
    der = pair.der.decode("latin-1")
    for header in (der, f"Bearer {der}", repr(pair.der), pair.certificate.decode(), "Certificate shop", "shop"):
        assert caller.refusal(header).reason.name == "UNAUTHENTICATED"


async def test_revoked_tokens_do_not_concern_certificates(authority: Authority) -> None:
    pair = authority.sign("shop")
    caller = Caller(identity("shop"))
    assert caller.claims(pair.der).subject == "shop"
    assert caller.claims("Bearer secret").subject == "by-token"
    asked: list[str] = []
    told: list[str] = []
    caller.authenticator.revocations.watch(pair.der, lambda: told.append("certificate"))
    caller.authenticator.revocations.watch("secret", lambda: told.append("token"))

    def affects(token: str) -> bool:
        asked.append(token)
        return True

    await caller.authenticator.revoke(affects)
    assert (told, asked) == (["token"], ["secret", "secret"])


def test_certificates_without_an_identity_are_reported_until_the_configuration_has_proved_right(
    authority: Authority,
) -> None:
    told: list[tuple[str, str]] = []
    now = 0.0
    identities = Identities("cn", [identity("shop")], clock=lambda: now, report=lambda *what: told.append(what))
    stranger = authority.sign("stranger").der
    for _ in range(2):
        identities.identify(stranger)
    assert told == [("certificate_rejected", "no identity matches its name 'stranger'")]
    now += REPORT_SECONDS
    identities.identify(authority.sign([], names=[]).der)
    assert told[1:] == [("certificate_rejected", "it has 0 names of the kind cn, not one")]
    identities.identify(authority.sign("shop").der)
    now += REPORT_SECONDS
    identities.identify(stranger)
    assert len(told) == 2


# -- settings ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tls(authority: Authority, tmp_path: Path) -> dict[str, str]:
    """Variables of listeners that require certificates."""
    files = authority.files(tmp_path)
    return files.server_env | {"TLS_CLIENT_CA_FILE": str(files.ca), "TLS_CLIENT_AUTH": "require"}


def mtls(role: str, *identities: Mapping[str, Any], **more: Any) -> dict[str, str]:
    config = {"identities": list(identities), **more}
    return {f"{role}_AUTH_PROVIDER": "mtls", f"{role}_AUTH_CONFIG": json.dumps(config)}


def loaded(*environments: Mapping[str, str]) -> Settings:
    return load(None, {name: text for each in environments for name, text in each.items()}, {}, dev=True)


def refused(*environments: Mapping[str, str]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        loaded(*environments)
    return caught.value


def test_check_shows_the_identities(tls: dict[str, str]) -> None:
    shown = check(None, tls | mtls("WORKER", {"match": "w-*", **WORK}, subject="san-dns"), {}, dev=True)
    assert shown["workerAuthProvider"] == "mtls"
    assert shown["workerAuthConfig"] == {
        "subject": "san-dns",
        "identities": [{"match": "w-*", "subject": "", "tenantFrom": "", "roles": [], **WORK}],
    }


@pytest.mark.parametrize(
    ("identities", "more", "key", "words"),
    [
        ([], {}, ".identities", "must be a list of 1 to 1000 identities"),
        ([{**WORK}], {}, ".identities[0].match", "is required"),
        ([{"match": "a*b*", **WORK}], {}, ".identities[0].match", "at most one `*`"),
        ([{"match": "a", **WORK}, {"match": "a", **WORK}], {}, ".identities[1].match", "the same as that of [0]"),
        ([{"match": "a", **WORK, "tenant": "ACME"}], {}, ".identities[0].tenant", "matches"),
        ([{"match": "a", **WORK, "tenantFrom": "ou"}], {}, ".identities[0].tenantFrom", "together with tenant"),
        ([{"match": "a", **WORK, "tenantFrom": "cn"}], {}, ".identities[0].tenantFrom", "must be o or ou"),
        ([{"match": "a", "scopes": ["s"], "eventTypes": ["*"]}], {}, ".identities[0].tenant", "is required"),
        (
            [{"match": "*", "scopes": ["codeq:operator"], "eventTypes": ["*"]}],
            {},
            ".identities[0].tenant",
            "is required",
        ),
        ([{"match": "a", "tenant": "acme", "scopes": ["s"]}], {}, ".identities[0]", "scopes and eventTypes"),
        ([{"match": "a", **WORK, "role": "ADMIN"}], {}, ".identities[0].role", "unknown key; did you mean roles?"),
        ([{"match": "a", **WORK}], {"subject": "dn"}, ".subject", "must be cn, san-uri, san-dns or san-email"),
    ],
)
def test_identity_that_cannot_be_used_is_named(
    tls: dict[str, str], identities: list[dict[str, Any]], more: dict[str, Any], key: str, words: str
) -> None:
    error = refused(tls, mtls("WORKER", *identities, **more))
    assert error.key == f"WORKER_AUTH_CONFIG{key}"
    assert words in error.message


@pytest.mark.parametrize(
    "without", [("TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CLIENT_CA_FILE", "TLS_CLIENT_AUTH"), ("TLS_CLIENT_CA_FILE",)]
)
def test_certificates_that_no_listener_asks_for_stop_the_start(tls: dict[str, str], without: tuple[str, ...]) -> None:
    for name in without:
        del tls[name]
    tls.pop("TLS_CLIENT_AUTH", None)
    inner = {"type": "mtls", "config": {"identities": [{"match": "a", **WORK}]}}
    several = {"providers": [{"type": "static", "config": {"token": "t", "raw": {"tenantId": "acme"}}}, inner]}
    nested = {"PRODUCER_AUTH_PROVIDER": "multi", "PRODUCER_AUTH_CONFIG": json.dumps(several)}
    for role, given in (("WORKER", mtls("WORKER", {"match": "a", **WORK})), ("PRODUCER", nested)):
        error = refused(tls, given)
        assert error.key == f"{role}_AUTH_PROVIDER"
        assert "TLS_CLIENT_CA_FILE" in error.message


def test_listener_that_asks_for_no_certificates_is_warned_of(tls: dict[str, str]) -> None:
    def notes(*environments: Mapping[str, str]) -> list[tuple[str, str]]:
        return [(note.key, note.message) for note in loaded(*environments).notes]

    works = mtls("WORKER", {"match": "a", **WORK, "tenant": "dev-tenant"})
    assert notes(tls, works) == []
    silent = "workers cannot call over gRPC, which asks clients for no certificates"
    assert notes(tls, works, {"TLS_CLIENT_AUTH": "request"}) == [("WORKER_AUTH_PROVIDER", silent)]
    assert notes(tls, works, {"GRPC_TLS_CLIENT_AUTH": "request"}) == [("WORKER_AUTH_PROVIDER", silent)]
    several = {"providers": [{"type": "mtls", "config": {"identities": [{"match": "a", **WORK}]}}] * 2}
    both = {"WORKER_AUTH_PROVIDER": "multi", "WORKER_AUTH_CONFIG": json.dumps(several)}
    assert notes(tls, both, {"TLS_CLIENT_AUTH": "request"}) == []


def test_secret_of_gateways_is_not_derived_from_a_token_if_they_vouch_for_certificates(tls: dict[str, str]) -> None:
    works = mtls("WORKER", {"match": "a", **WORK})
    assert loaded(tls).gateway_secret == loaded(tls).gateway_secret
    assert loaded(tls, works).gateway_secret == ""  # no gateway is trusted
    secret = {"GATEWAY_SECRET": "0123456789abcdef"}
    assert loaded(tls, works, secret).gateway_secret == loaded(tls, secret).gateway_secret
    gateway = {"SERVER_ADDRS": "a:1"}
    load_gateway(None, tls | gateway, {}, dev=True)
    with pytest.raises(ConfigError) as caught:
        load_gateway(None, tls | works | gateway, {}, dev=True)
    assert caught.value.key == "GATEWAY_SECRET"
    raft = {"RAFT_ENABLED": "true", "RAFT_SELF_ID": "a", "RAFT_BIND_ADDR": "127.0.0.1:7000"}
    raft |= {"SERVER_TLS_CA_FILE": tls["TLS_CLIENT_CA_FILE"]}
    assert loaded(tls, raft).raft is not None
    assert refused(tls, works, raft).key == "RAFT_CLUSTER_SECRET"
    assert loaded(tls, works, raft, {"RAFT_CLUSTER_SECRET": "0123456789abcdef"}).raft is not None
