"""Warnings about settings without effect or of no use; shown at startup and by `codeq config check`, never fatal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from codeq_server.auth.claims import ADMIN_ROLE, ADMIN_SCOPE, WORKER_SCOPES, Claims, Token, claims_of
from codeq_server.auth.static import StaticToken
from codeq_server.config import keys, sources
from codeq_server.config.settings import AuthSettings, Note, Settings
from codeq_server.config.sources import RAFT, Raw

_TELEMETRY: Final = "OTEL_"
_TELEMETRY_OFF: Final = {"OTEL_SDK_DISABLED": "true"}
_NOT_OF_MEMORY: Final = ("disk_reserve_bytes", "artifact_bytes_max")
_RAFT_TAKEN: Final = ("mux_enabled", "leader_lease_ms", "commit_ms", "topic_catalog_protocol")
"""Keys of `raft` accepted for compatibility with other versions; their defaults describe this version's behaviour."""
_RAFT_DEFAULTS: Final = keys.RaftKeys()


def of_server(raw: Mapping[str, Raw], given: keys.RaftKeys, settings: Settings, env: Mapping[str, str]) -> list[Note]:
    """Returns the warnings about a server's settings.

    Args:
        raw: All given values, by field.
        given: The keys of `raft`.
        settings: The settings.
        env: The environment.
    """
    return [
        *of_gateway(env),
        *_without_effect(raw, settings),
        *_raft(raw, given, settings),
        *_tokens(raw, settings.auth),
    ]


def of_gateway(env: Mapping[str, str]) -> list[Note]:
    """Returns the warnings about a gateway's environment."""
    names = [name for name, value in sorted(env.items()) if name.startswith(_TELEMETRY) and not sources.is_off(value)]
    if not names or any(env.get(name, "").lower() == value for name, value in _TELEMETRY_OFF.items()):
        return []
    return [Note(", ".join(names), "without effect: this version exports no traces or metrics to a collector")]


def _without_effect(raw: Mapping[str, Raw], settings: Settings) -> Iterator[Note]:
    if "server_addrs" in raw:
        yield Note(raw["server_addrs"].key, "without effect here: only `codeq gateway` uses it")
    for name in _NOT_OF_MEMORY if settings.persistence.provider == "memory" else ():
        if name in raw:
            yield Note(raw[name].key, "without effect with the provider memory")


def _raft(raw: Mapping[str, Raw], given: keys.RaftKeys, settings: Settings) -> Iterator[Note]:
    set_keys = {name.removeprefix(RAFT): value.key for name, value in raw.items() if name.startswith(RAFT)}
    if settings.raft is None:
        others = [key for name, key in set_keys.items() if name != "enabled"]
        if others:
            yield Note(", ".join(others), f"without effect while {set_keys['enabled']} is false")
        return
    for name in _RAFT_TAKEN:
        if name in set_keys and getattr(given, name) != getattr(_RAFT_DEFAULTS, name):
            yield Note(set_keys[name], "accepted without effect; see docs/configuration.md for what happens instead")
    if settings.raft.heartbeat_ms != given.heartbeat_ms:
        text = f"more than a fifth of the election timeout: {settings.raft.heartbeat_ms} ms is used instead"
        yield Note(set_keys.get("heartbeat_ms", "raft.heartbeatMS"), text)


def _tokens(raw: Mapping[str, Raw], auth: AuthSettings) -> Iterator[Note]:
    producer, worker = _claims(auth.producer), _claims(auth.worker)
    producer_key, worker_key = (
        raw[name].key if name in raw else keys.variable(name) for name in ("producer_auth_config", "worker_auth_config")
    )
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
