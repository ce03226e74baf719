"""Warnings about useless or ineffective settings; shown at startup and by `codeq config check`, never fatal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from codeq_server.auth.claims import ADMIN_ROLE, ADMIN_SCOPE, WORKER_SCOPES, Claims, Token, claims_of
from codeq_server.auth.static import StaticToken
from codeq_server.config import foreign
from codeq_server.config.declaration import settings_of
from codeq_server.config.given import Note
from codeq_server.config.settings import AuthSettings, RaftSettings, Settings
from codeq_server.config.sources import GivenSettings

_TELEMETRY: Final = "OTEL_"
_TELEMETRY_OFF: Final = {"OTEL_SDK_DISABLED": "true"}
_ENABLED: Final = "raft.enabled"
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
        *of_gateway(env),
        *_without_effect(given, settings),
        *_raft(given, wanted, settings),
        *_tokens(given, settings.auth),
    ]


def of_gateway(env: Mapping[str, str]) -> list[Note]:
    """Returns the warnings about a gateway's environment."""
    names = [name for name, value in sorted(env.items()) if name.startswith(_TELEMETRY) and not foreign.is_off(value)]
    if not names or any(env.get(name, "").lower() == value for name, value in _TELEMETRY_OFF.items()):
        return []
    return [Note(", ".join(names), "without effect: this version exports no traces or metrics to a collector")]


def _without_effect(given: GivenSettings, settings: Settings) -> Iterator[Note]:
    if "server_addrs" in given.values:
        yield Note(given.key("server_addrs"), "without effect here: only `codeq gateway` uses it")
    for name in _NOT_OF_MEMORY if settings.persistence_provider == "memory" else ():
        if name in given.values:
            yield Note(given.key(name), "without effect with the provider memory")


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


def _tokens(given: GivenSettings, auth: AuthSettings) -> Iterator[Note]:
    producer, worker = _claims(auth.producer), _claims(auth.worker)
    producer_key, worker_key = given.key("producer_auth_config"), given.key("worker_auth_config")
    if producer.tenant_id != worker.tenant_id and not auth.allow_producer_as_worker:
        text = (
            f"its tenant is {worker.tenant_id}, the producer's is {producer.tenant_id}: the worker never gets its tasks"
        )
        yield Note(worker_key, text)
    if worker.is_admin:
        yield Note(
            worker_key, f"{ADMIN_ROLE} and {ADMIN_SCOPE} have no effect here: administrators use the producer's token"
        )
    if unknown := sorted(worker.scopes - WORKER_SCOPES - {ADMIN_SCOPE}):
        yield Note(f"{worker_key}.scopes", f"unknown scope {', '.join(unknown)}")
    if others := sorted(producer.scopes - {ADMIN_SCOPE}):
        yield Note(f"{producer_key}.scopes", f"without effect on a producer's token: {', '.join(others)}")
    if producer.event_types:
        yield Note(f"{producer_key}.eventTypes", "without effect: a producer may create tasks of every command")


def _claims(token: StaticToken) -> Claims:
    return claims_of(Token(token.subject, token.email, token.scopes, token.event_types, token.raw))
