"""Warnings about useless or ineffective settings; shown at startup and by `codeq config check`, never fatal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

from codeq_server.auth.claims import (
    ADMIN_ROLE,
    ADMIN_SCOPE,
    DEFAULT_ROLE,
    OPERATOR_SCOPE,
    RIGHTS_SCOPES,
    VIEWER_ROLE,
    VIEWER_SCOPE,
    WORKER_SCOPES,
    claims_of,
    roles_of,
)
from codeq_server.config import foreign, identity
from codeq_server.config.addresses import is_loopback
from codeq_server.config.declaration import settings_of
from codeq_server.config.given import Note
from codeq_server.config.jwks_settings import JwksAuthSettings
from codeq_server.config.providers import AuthConfig
from codeq_server.config.raft_settings import RaftSettings
from codeq_server.config.settings import AuthSettings, RateLimitSettings, Settings
from codeq_server.config.sources import GivenSettings
from codeq_server.config.telemetry_settings import telemetry_off_by
from codeq_server.core.limits import Rate

KEYS_MAX: Final = 3
"""Keys that one warning names; it counts the others."""

NOTES_MAX: Final = 8
"""Warnings of one kind about tokens; a last one counts the others."""

_TELEMETRY: Final = "OTEL_"
_TRACING: Final = "TRACING_ENABLED"
_ENABLED: Final = "raft.enabled"
_CLUSTERED: Final = "cluster.enabled"
_NOT_OF_MEMORY: Final = ("disk_reserve_bytes", "artifact_bytes_max")


def of_server(
    given: GivenSettings, wanted: RaftSettings | None, settings: Settings, env: Mapping[str, str]
) -> list[Note]:
    """Returns the warnings about a server's settings.

    Args:
        given: All given values.
        wanted: The Raft settings as given.
        settings: The settings.
        env: The environment.
    """
    return [
        *_traces(given, settings, env),
        *_without_effect(given, settings),
        *_rates(given, settings),
        *_raft(given, wanted, settings),
        *_cluster(given, settings),
        *_tokens(given, settings.auth),
        *_unasked(given, settings),
    ]


def of_gateway(env: Mapping[str, str]) -> list[Note]:
    """Returns the warnings about a gateway's environment."""
    return _telemetry(env, "a gateway exports no traces")


def _traces(given: GivenSettings, settings: Settings, env: Mapping[str, str]) -> list[Note]:
    """Returns the warning about traces that are wanted by one side only: by codeq's settings, or OpenTelemetry's."""
    if not settings.tracing_enabled:
        return _telemetry(env, f"no traces are exported unless {_TRACING} is true")
    off = telemetry_off_by(env)
    return [Note(given.key("tracing_enabled"), f"without effect: {off}={env[off]}")] if off else []


def _telemetry(env: Mapping[str, str], why: str) -> list[Note]:
    """Returns the warning about variables of OpenTelemetry that have no effect."""
    names = [name for name, value in sorted(env.items()) if name.startswith(_TELEMETRY) and not foreign.is_off(value)]
    if not names or telemetry_off_by(env):
        return []
    return [Note(", ".join(names), f"without effect: {why}")]


def _without_effect(given: GivenSettings, settings: Settings) -> Iterator[Note]:
    if "server_addrs" in given.values:
        yield Note(given.key("server_addrs"), "without effect here: only `codeq gateway` uses it")
    for name in _NOT_OF_MEMORY if settings.persistence_provider == "memory" else ():
        if name in given.values:
            yield Note(given.key(name), "without effect with the provider memory")


def _rates(given: GivenSettings, settings: Settings) -> Iterator[Note]:
    for name in settings_of(RateLimitSettings):
        rate: Rate = getattr(settings.rate_limit, name).rate
        if any(rate) and not rate.limits:
            text = "without effect: a rate limit needs both requestsPerMinute and burstSize above 0"
            yield Note(given.key(f"rate_limit.{name}"), text)


def _raft(given: GivenSettings, wanted: RaftSettings | None, settings: Settings) -> Iterator[Note]:
    if wanted is None:
        return
    if settings.raft is None:
        others = [value.key for name, value in given.values.items() if name.startswith("raft.") and name != _ENABLED]
        if others:
            yield Note(", ".join(others), f"without effect while {given.key(_ENABLED)} is false")
        return
    for name, each in settings_of(RaftSettings).items():
        if each.ignored and getattr(wanted, name) != each.default:
            text = "accepted without effect; see docs/configuration.md for what happens instead"
            yield Note(given.key(f"raft.{name}"), text)
    if settings.raft.heartbeat_ms != wanted.heartbeat_ms:
        text = f"more than a fifth of the election timeout: {settings.raft.heartbeat_ms} ms is used instead"
        yield Note(given.key("raft.heartbeat_ms"), text)


def _cluster(given: GivenSettings, settings: Settings) -> Iterator[Note]:
    others = [value.key for name, value in given.values.items() if name.startswith("cluster.") and name != _CLUSTERED]
    if settings.cluster is None and others:
        yield Note(", ".join(others), f"without effect while {given.key(_CLUSTERED)} is false")


def _tokens(given: GivenSettings, auth: AuthSettings) -> Iterator[Note]:
    yield from identity.unused(given, {"producer": auth.producer, "worker": auth.worker})
    yield from _together(_tenants(auth))
    yield from _shared_audiences(auth)
    yield from _plaintext_keys(auth)
    yield from _together(_of_workers(auth.worker))
    yield from _together(_of_producers(auth.producer, admins_operate=auth.admins_operate))


def _unasked(given: GivenSettings, settings: Settings) -> Iterator[Note]:
    """Yields warnings about roles that have only certificates, and listeners that ask for none."""
    over_http, over_grpc = settings.http_tls, settings.grpc_tls
    silent = [
        *(["HTTP"] if over_http is None or not over_http.asks_clients(over_grpc=False) else []),
        *(["gRPC"] if over_grpc is None or not over_grpc.asks_clients(over_grpc=True) else []),
    ]
    for role, auth in (("producer", settings.auth.producer), ("worker", settings.auth.worker)):
        if auth.is_mtls and silent:
            text = f"{role}s cannot call over {' and '.join(silent)}, which asks clients for no certificates"
            yield Note(given.key(f"{role}_auth_provider"), text)


def _tenants(auth: AuthSettings) -> Iterator[tuple[str, str]]:
    if auth.allow_producer_as_worker or not (auth.producer.is_static and auth.worker.is_static):
        return
    producers = {claims_of(token.content).tenant_id for _, token in auth.producer.tokens} - {""}
    theirs = f"the producer's is {next(iter(producers))}" if len(producers) == 1 else "no producer has that"
    for key, token in auth.worker.tokens:
        tenant = claims_of(token.content).tenant_id
        if producers and tenant not in producers:
            yield key, f"its tenant is {tenant}, {theirs}: the worker never gets its tasks"


def _shared_audiences(auth: AuthSettings) -> Iterator[Note]:
    """Yields warnings about identity providers whose tokens are accepted for both roles."""
    for worker in _identity_providers(auth.worker):
        for producer in _identity_providers(auth.producer):
            if producer.issuer == worker.issuer and (shared := sorted({*producer.audience} & {*worker.audience})):
                text = (
                    f"its issuer and the audience {shared[0]} are those of the producers: a worker's token may create "
                    "and cancel tasks; use another audience"
                )
                yield Note(auth.worker.key, text)


def _plaintext_keys(auth: AuthSettings) -> Iterator[Note]:
    """Yields warnings about identity providers whose keys come from other machines without TLS."""
    for each in (auth.producer, auth.worker):
        for provider in _identity_providers(each):
            url = urlsplit(provider.jwks_url or provider.issuer)
            if url.scheme == "http" and not is_loopback(url.hostname or ""):
                text = f"keys come from {url.hostname} over http://: anyone on the path can forge tokens; use https://"
                yield Note(each.key, text)


def _identity_providers(auth: AuthConfig) -> list[JwksAuthSettings]:
    providers = auth.config if isinstance(auth.config, tuple) else (auth,)
    return [each.config for each in providers if isinstance(each.config, JwksAuthSettings)]


def _of_workers(auth: AuthConfig) -> Iterator[tuple[str, str]]:
    for key, token in auth.tokens:
        claims = claims_of(token.content)
        if claims.is_viewer:
            yield key, f"{VIEWER_ROLE} and {VIEWER_SCOPE} forbid to work: the token gets no tasks"
        if claims.is_admin or claims.is_operator:
            text = (
                f"{ADMIN_ROLE}, {ADMIN_SCOPE} and {OPERATOR_SCOPE} have no effect here: administrators and operators "
                "use the producer's token"
            )
            yield key, text
        if unknown := sorted(token.scopes - WORKER_SCOPES - RIGHTS_SCOPES):
            yield f"{key}.scopes", f"unknown scope {', '.join(unknown)}"


def _of_producers(auth: AuthConfig, *, admins_operate: bool) -> Iterator[tuple[str, str]]:
    for key, token in auth.tokens:
        if others := sorted(token.scopes - RIGHTS_SCOPES):
            yield f"{key}.scopes", f"without effect on a producer's token: {', '.join(others)}"
        if unknown := sorted({*roles_of(token.raw)} - {ADMIN_ROLE, VIEWER_ROLE, DEFAULT_ROLE}):
            yield (
                f"{key}.raw",
                f"without effect: role {', '.join(unknown)}; the roles are {ADMIN_ROLE} and {VIEWER_ROLE}",
            )
        if admins_operate and claims_of(token.content).is_admin:
            text = f"from the next release on, changes of members and backups need the scope {OPERATOR_SCOPE}: add it"
            yield f"{key}.scopes", text


def _together(told: Iterable[tuple[str, str]]) -> Iterator[Note]:
    """Yields one note for each text, with the first keys that it is about: there may be thousands of tokens."""
    keys: dict[str, list[str]] = {}
    for key, text in told:
        keys.setdefault(text, []).append(key)
    for number, (text, found) in enumerate(keys.items()):
        if number == NOTES_MAX:
            yield Note(found[0], f"and others: {len(keys) - number} more warnings of this kind")
            return
        more = f" and {len(found) - KEYS_MAX} more" if len(found) > KEYS_MAX else ""
        yield Note(f"{', '.join(found[:KEYS_MAX])}{more}", text)
