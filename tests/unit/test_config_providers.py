"""Providers of tokens: lists, files, several at once, and an identity provider by the names of other versions."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from codeq_server.auth.claims import Token
from codeq_server.auth.jwks.validator import JwksValidator
from codeq_server.config import ConfigError, Settings, check, load, load_gateway
from codeq_server.config.given import Note
from codeq_server.config.jwks_settings import JwksAuthSettings
from codeq_server.config.notes import NOTES_MAX
from codeq_server.config.providers import PROVIDERS
from codeq_server.config.static_settings import TOKENS_MAX

SHA = hashlib.sha256(b"secret").hexdigest()
ACME = {"tenantId": "acme"}
DEV = {"tenantId": "dev-tenant"}
RIGHTS: dict[str, Any] = {"scopes": ["codeq:claim"], "eventTypes": ["*"], "raw": ACME}
SECRET = {"GATEWAY_SECRET": "0123456789abcdef"}
RAFT = {"RAFT_ENABLED": "true", "RAFT_SELF_ID": "a", "RAFT_BIND_ADDR": "127.0.0.1:7000"}


def producer(config: object, provider: str = "static") -> dict[str, str]:
    return {"PRODUCER_AUTH_PROVIDER": provider, "PRODUCER_AUTH_CONFIG": json.dumps(config)}


def worker(config: object, provider: str = "static") -> dict[str, str]:
    return {"WORKER_AUTH_PROVIDER": provider, "WORKER_AUTH_CONFIG": json.dumps(config)}


def loaded(*environments: Mapping[str, str]) -> Settings:
    return load(None, {name: text for each in environments for name, text in each.items()}, {}, dev=True)


def refusal(*environments: Mapping[str, str]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        loaded(*environments)
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)
    return caught.value


def token(secret: str = "s3cret", **more: Any) -> dict[str, Any]:
    return {"token": secret, "raw": ACME, **more}


class Silent:
    """A log of providers that keeps nothing."""

    def reloaded(self, path: Path, count: int, changed: int) -> None: ...

    def unusable(self, path: Path, problem: str) -> None: ...

    def provider(self, event: str, details: str) -> None: ...


def subject_of(settings: Settings, secret: str, role: str = "producer") -> str | None:
    """Returns the subject of a token that the settings accept."""
    found = getattr(settings.auth, role).build(Silent()).validator.validate(secret)
    assert found is None or isinstance(found, Token)
    return None if found is None else found.subject


# -- static --------------------------------------------------------------------------------------------------------


def test_list_of_tokens_accepts_each_with_its_own_claims() -> None:
    settings = loaded(producer([token("one", subject="a"), {"tokenSha256": SHA.upper(), "subject": "b", "raw": ACME}]))
    assert [subject_of(settings, secret) for secret in ("one", "secret", SHA)] == ["a", "b", None]


def test_file_holds_the_same_list(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps([token("one", subject="a"), token("two", subject="b")]))
    settings = loaded(producer({"file": str(path)}))
    assert [subject_of(settings, secret) for secret in ("one", "two", "three")] == ["a", "b", None]
    path.write_text("[]")
    assert subject_of(loaded(producer({"file": str(path)})), "one") is None


@pytest.mark.parametrize(
    ("config", "key", "text"),
    [
        ([], "", "must be a list of 1 to 10000 tokens"),
        (5, "", "must be a mapping, a list or a text"),
        ([token(), 7], "[1]", "must be a mapping or the token as text"),
        ([token(), {"raw": ACME}], "[1].token", "is required, or tokenSha256 instead"),
        ([token(), token(tokenSha256=SHA)], "[1].tokenSha256", "is given together with token"),
        ([token(), token("a"), {"tokenSha256": "a" * 63}], "[2].tokenSha256", "must be 64 hexadecimal digits"),
        ([token(), token("b", scops=[])], "[1].scops", "unknown key; did you mean scopes?"),
        ([token(), token("b", raw={"tenantId": "A B"})], "[1]", "has no valid tenant"),
        ([token(), token("a"), token(" s3cret ")], "[2].token", "is the same secret as that of [0]"),
        ([token("secret"), {"tokenSha256": SHA, "raw": ACME}], "[1].tokenSha256", "is the same secret as that of [0]"),
        ({"file": ""}, ".file", "must be a valid path"),
        ({"file": None}, ".file", "must be the path of a file"),
        ({"file": "/x", "token": "s3cret"}, ".token", "unknown key"),
        ({"file": "/nowhere/tokens.json"}, ".file", "cannot read /nowhere/tokens.json: No such file or directory"),
        ({"file": "/dev"}, ".file", "/dev is not a regular file"),
    ],
)
def test_token_that_cannot_be_used_is_named_with_its_index(config: object, key: str, text: str) -> None:
    error = refusal(producer(config))
    assert error.key == f"PRODUCER_AUTH_CONFIG{key}"
    assert error.message.startswith(text)


def test_worker_in_a_list_that_may_do_nothing_is_named_with_its_index() -> None:
    error = refusal(worker([token(**RIGHTS), token("b")]))
    assert (error.key, "scopes and eventTypes" in error.message) == ("WORKER_AUTH_CONFIG[1]", True)


@pytest.mark.parametrize(
    ("content", "key", "text"),
    [
        (b"", "", "is not valid JSON: "),
        (b'["\xff"]', "", "is not valid JSON: "),
        (b'[{"token": "s3cret"', "", "is not valid JSON: "),
        (b'[{"token": "s3cret", "token": "s3cret"}]', "", "is not valid JSON: duplicate key: token"),
        (b"[" * 100_000, "", "is not valid JSON: "),
        (b'{"token": "s3cret"}', "", "must hold a list of tokens"),
        (b'"s3cret"', "", "must hold a list of tokens"),
        (b"[7]", "[0]", "must be a mapping or the token as text"),
        (b'[{"token": 5}]', "[0].token", "must be a text that is not blank"),
        (b'[{"token": "s3cret", "raw": []}]', "[0].raw", "must be a mapping"),
        (b'[{"tokenSha256": "s3cret"}]', "[0].tokenSha256", "must be 64 hexadecimal digits"),
    ],
)
def test_file_that_cannot_be_used_stops_the_start_and_is_named(
    tmp_path: Path, content: bytes, key: str, text: str
) -> None:
    path = tmp_path / "tokens.json"
    path.write_bytes(content)
    error = refusal(producer({"file": str(path)}))
    assert error.key == f"PRODUCER_AUTH_CONFIG.file{key}"
    assert error.message.startswith(text)
    assert error.message.endswith(f"(in {path})")


def test_tokens_of_a_provider_are_bounded(tmp_path: Path) -> None:
    many = [token(f"token-{number}", subject="shop") for number in range(TOKENS_MAX + 1)]
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps(many))
    assert refusal(producer({"file": str(path)})).message.startswith(f"must be a list of 0 to {TOKENS_MAX} tokens")
    path.write_text(json.dumps(many[1:]))
    began = time.perf_counter()
    settings = loaded(producer({"file": str(path)}))
    assert subject_of(settings, "token-1") == "shop"
    assert subject_of(settings, "token-0") is None
    assert time.perf_counter() - began < 20, "it takes about a second"


def test_many_tokens_give_few_warnings() -> None:
    def workers(count: int, **more: Any) -> dict[str, str]:
        return worker([token(f"t{number}", **RIGHTS | {"raw": DEV} | more) for number in range(count)])

    teams = [token(f"t{number}", **RIGHTS | {"raw": {"tenantId": f"team-{number}"}}) for number in range(100)]
    notes = loaded(worker(teams)).notes
    assert len(notes) == NOTES_MAX + 1
    assert notes[-1] == Note("WORKER_AUTH_CONFIG[8]", "and others: 92 more warnings of this kind")
    assert loaded(workers(9, scopes=["codeq:clam"])).notes == (
        Note(
            "WORKER_AUTH_CONFIG[0].scopes, WORKER_AUTH_CONFIG[1].scopes, WORKER_AUTH_CONFIG[2].scopes and 6 more",
            "unknown scope codeq:clam",
        ),
    )
    assert loaded(workers(9)).notes == ()


def test_check_masks_every_token_and_shows_the_path_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps([token(**RIGHTS)]))
    both = [token(), {"tokenSha256": SHA, "raw": ACME}]
    shown = check(None, producer(both) | worker({"file": str(path)}), {}, dev=True)
    assert "s3cret" not in json.dumps(shown)
    assert SHA not in json.dumps(shown)
    common = {"subject": "static", "scopes": [], "eventTypes": [], "email": "", "raw": ACME}
    assert shown["producerAuthConfig"] == [{"token": "***", **common}, {"tokenSha256": "***", **common}]
    assert shown["workerAuthConfig"] == {"file": str(path)}
    settings = load(None, producer(both) | worker({"file": str(path)}), {}, dev=True)
    assert "s3cret" not in repr(settings)
    assert SHA not in repr(settings)


# -- multi ---------------------------------------------------------------------------------------------------------


def several(*configs: object) -> dict[str, object]:
    return {"providers": [{"type": "static", "config": config} for config in configs]}


def test_multi_accepts_the_tokens_of_each_provider_in_order() -> None:
    first, second = token("one", subject="a"), [token("one", subject="b"), token("two", subject="c")]
    settings = loaded(producer(several(first, second), "multi"))
    assert [subject_of(settings, secret) for secret in ("one", "two", "three")] == ["a", "c", None]


@pytest.mark.parametrize(
    ("config", "key", "text"),
    [
        ({}, ".providers", "is required"),
        ({"providers": {}}, ".providers", "must be a list of 2 to 16 providers"),
        (several(token()), ".providers", "must be a list of 2 to 16 providers"),
        (several(*[token(str(number)) for number in range(17)]), ".providers", "must be a list of 2 to 16 providers"),
        (several(token(), {}), ".providers[1].config.token", "is required"),
        (several(token(), [token("a"), 5]), ".providers[1].config[1]", "must be a mapping or the token as text"),
        ({"providers": [{"type": "static"}, {}]}, ".providers[0].config", "is required"),
        ({"providers": [{"type": "ldap", "config": {}}, {}]}, ".providers[0].type", "must be static"),
        ({"providers": [{"type": "multi", "config": {}}, {}]}, ".providers[0].type", "multi cannot be nested"),
    ],
)
def test_multi_names_what_cannot_be_used(config: object, key: str, text: str) -> None:
    error = refusal(producer(config, "multi"))
    assert error.key == f"PRODUCER_AUTH_CONFIG{key}"
    assert error.message.startswith(text)


def test_multi_shows_its_providers_with_masked_tokens() -> None:
    shown = check(None, producer(several(token(), [token("b")]), "multi"), {}, dev=True)
    text = json.dumps(shown["producerAuthConfig"])
    assert (text.count('"***"'), "s3cret" in text) == (2, False)


# -- secrets that follow from a token ------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [[token()], {"tokenSha256": SHA, "raw": ACME}], ids=["list", "digest"])
def test_gateway_needs_a_secret_of_its_own_unless_there_is_one_token(config: object) -> None:
    with pytest.raises(ConfigError) as caught:
        load_gateway(None, producer(config), {}, dev=True)
    assert caught.value.key == "GATEWAY_SECRET"
    assert load_gateway(None, producer(config) | SECRET, {}, dev=True).gateway_secret
    one, same = (load_gateway(None, producer(token()), {}, dev=True), loaded(producer(token())))
    assert one.gateway_secret == same.gateway_secret


def test_relative_file_is_named_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal(producer({"file": "gone.json"})).message.startswith(f"cannot read {tmp_path}/gone.json: ")


def test_missing_provider_is_an_error_that_names_all_of_them() -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {}, {}, dev=False)
    assert caught.value.key == "PRODUCER_AUTH_PROVIDER"
    assert "no provider of producer tokens" in caught.value.message
    assert "to static, jwks, mtls or multi, and " in caught.value.message
    assert all(name in caught.value.message for name in PROVIDERS)


def test_gateway_secret_that_nobody_has_is_shown_as_none() -> None:
    many = producer([token()])
    given = {"one": producer(token()), "many": many, "set": many | SECRET}
    shown = {name: check(None, each, {}, dev=True)["gatewaySecret"] for name, each in given.items()}
    assert shown == {"one": "***", "many": None, "set": "***"}
    assert loaded(many).gateway_secret == ""


def test_gateway_does_not_read_the_servers_file_of_tokens() -> None:
    environment = producer({"file": "/nowhere/tokens.json"}) | SECRET
    assert load_gateway(None, environment, {}, dev=True).gateway_secret


def test_cluster_needs_a_secret_of_its_own_unless_there_is_one_token() -> None:
    assert refusal(RAFT, producer([token()])).key == "RAFT_CLUSTER_SECRET"
    secret = {"RAFT_CLUSTER_SECRET": "0123456789abcdef"}
    one, other = loaded(RAFT, producer([token()]), secret), loaded(RAFT, producer([token("b")]), secret)
    assert one.gateway_secret == other.gateway_secret


# -- an identity provider by the names of other versions -------------------------------------------------------------


PRODUCERS = {"IDENTITY_JWKS_URL": "https://i/keys", "IDENTITY_ISSUER": "https://i", "IDENTITY_AUDIENCE": "queue"}
WORKERS = {"WORKER_JWKS_URL": "https://w/keys", "WORKER_ISSUER": "https://w"}


def test_identity_provider_is_read_built_and_may_be_one_of_several() -> None:
    config = {"issuer": "https://i", "audience": "queue"}
    settings = loaded(producer(config, "jwks"))
    assert (settings.producer_auth_provider, settings.auth.producer.config.audience) == ("jwks", ("queue",))
    assert isinstance(settings.auth.producer.build(Silent()).validator, JwksValidator)
    inner = [{"type": "jwks", "config": config}, {"type": "static", "config": token()}]
    assert subject_of(loaded(producer({"providers": inner}, "multi")), "s3cret") == "static"
    assert refusal(producer({"issuer": "https://i"}, "jwks")).key == "PRODUCER_AUTH_CONFIG.audience"


def test_settings_of_an_identity_provider_configure_it_for_roles_without_a_provider() -> None:
    settings = loaded(PRODUCERS, WORKERS, {"ALLOWED_CLOCK_SKEW_SECONDS": "5"})
    assert settings.auth.producer.config == JwksAuthSettings(
        issuer="https://i", audience=("queue",), jwks_url="https://i/keys", allowed_clock_skew_seconds=5
    )
    assert settings.auth.worker.config == JwksAuthSettings(
        issuer="https://w", audience=("codeq-worker",), jwks_url="https://w/keys", allowed_clock_skew_seconds=5
    )
    assert settings.notes == ()
    named = loaded(PRODUCERS, WORKERS, {"PRODUCER_AUTH_PROVIDER": "jwks", "WORKER_AUTH_PROVIDER": "jwks"})
    assert named.auth.producer.config.issuer == "https://i"


def test_url_of_the_identity_service_gives_issuer_and_keys() -> None:
    base = {"IDENTITY_SERVICE_URL": "https://i/", "IDENTITY_AUDIENCE": "queue", "IDENTITY_SERVICE_API_KEY": "k3y"}
    settings = loaded(base)
    assert settings.auth.producer.config == JwksAuthSettings(
        issuer="https://i/", audience=("queue",), jwks_url="https://i/v1/.well-known/jwks.json"
    )
    assert "k3y" not in repr(settings)
    assert "k3y" not in json.dumps(check(None, base, {}, dev=True))


def test_setting_that_the_identity_provider_lacks_is_named() -> None:
    without = {name: text for name, text in PRODUCERS.items() if name != "IDENTITY_AUDIENCE"}
    error = refusal(without)
    assert (error.key, error.message) == ("IDENTITY_AUDIENCE", "is required with IDENTITY_JWKS_URL")
    assert refusal({"WORKER_JWKS_URL": "https://w/keys"}).key == "WORKER_ISSUER"
    skew = refusal(PRODUCERS, {"ALLOWED_CLOCK_SKEW_SECONDS": "x"})
    assert skew.key == "ALLOWED_CLOCK_SKEW_SECONDS"


def test_configured_provider_prevails_over_the_identity_provider_and_that_is_reported() -> None:
    settings = loaded(PRODUCERS, producer(token(raw={"tenantId": "dev-tenant"})))
    assert subject_of(settings, "s3cret") == "static"
    text = "without effect: PRODUCER_AUTH_CONFIG says who is accepted"
    assert settings.notes == (Note("IDENTITY_JWKS_URL, IDENTITY_ISSUER, IDENTITY_AUDIENCE", text),)
