"""No setting is silently ignored: settings that are unusable or have no effect are reported."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from codeq_server.config import load, load_gateway

RAFT = {"RAFT_ENABLED": "true", "RAFT_SELF_ID": "a", "RAFT_BIND_ADDR": "127.0.0.1:7000"}


def told(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(note.key, note.message) for note in load(None, environment, {}, dev=True).notes]


def worker(**claims: object) -> dict[str, str]:
    token = {"token": "w", "scopes": ["codeq:claim"], "eventTypes": ["*"], "raw": {"tenantId": "dev-tenant"}, **claims}
    return {"WORKER_AUTH_PROVIDER": "static", "WORKER_AUTH_CONFIG": json.dumps(token)}


def producer(**claims: object) -> dict[str, str]:
    token = {"token": "p", "raw": {"tenantId": "dev-tenant"}, **claims}
    return {"PRODUCER_AUTH_PROVIDER": "static", "PRODUCER_AUTH_CONFIG": json.dumps(token)}


def issued(*audience: str, issuer: str = "https://id.example", **more: str) -> str:
    """Returns the configuration of an identity provider."""
    return json.dumps({"issuer": issuer, "audience": [*audience], **more})


IDENTITY = {"WORKER_AUTH_PROVIDER": "jwks", "WORKER_AUTH_CONFIG": issued("codeq", "codeq-worker")}
"""Workers' tokens come from an identity provider."""


@pytest.mark.parametrize(
    "environment",
    [
        {},
        RAFT,
        worker(),
        producer(scopes=["codeq:admin", "codeq:operator"]),
        producer(scopes=["codeq:viewer"]),
        producer(subject="The operator", scopes=["codeq:operator"], raw={}),
        producer(eventTypes=["A"]),
        {**RAFT, "RAFT_MUX_ENABLED": "true", "RAFT_COMMIT_MS": "0"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"},
        {"OTEL_TRACES_EXPORTER": ""},
        {"TRACING_ENABLED": "true", "OTEL_SDK_DISABLED": "1"},
        {"WORKER_AUTH_PROVIDER": "jwks", "WORKER_AUTH_CONFIG": issued("a", issuer="http://[::1]:8080")},
        {"WORKER_AUTH_PROVIDER": "jwks", "WORKER_AUTH_CONFIG": issued("a", issuer="http://i", jwksUrl="https://i/k")},
        {**worker(raw={"tenantId": "other"}), "ALLOW_PRODUCER_AS_WORKER": "true"},
    ],
)
def test_effective_settings_cause_no_warnings(environment: dict[str, str]) -> None:
    assert told(environment) == []


@pytest.mark.parametrize(
    ("environment", "key", "text"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}, "OTEL_EXPORTER_OTLP_ENDPOINT", "no traces"),
        ({"OTEL_SERVICE_NAME": "x", "OTEL_B": "y"}, "OTEL_B, OTEL_SERVICE_NAME", "no traces"),
        ({"TRACING_ENABLED": "true", "OTEL_SDK_DISABLED": "True"}, "TRACING_ENABLED", "OTEL_SDK_DISABLED=True"),
        ({"TRACING_ENABLED": "true", "OTEL_TRACES_EXPORTER": "none"}, "TRACING_ENABLED", "OTEL_TRACES_EXPORTER=none"),
        ({"SERVER_ADDRS": "localhost:9092"}, "SERVER_ADDRS", "only `codeq gateway`"),
        ({"PERSISTENCE_PROVIDER": "memory", "DISK_RESERVE_BYTES": "5"}, "DISK_RESERVE_BYTES", "provider memory"),
        ({"PERSISTENCE_PROVIDER": "memory", "ARTIFACT_BYTES_MAX": "5"}, "ARTIFACT_BYTES_MAX", "provider memory"),
        ({"RAFT_ENABLED": "no", "RAFT_PEERS": "a=b:1"}, "RAFT_PEERS", "while RAFT_ENABLED is false"),
        ({**RAFT, "RAFT_LEADER_LEASE_MS": "500"}, "RAFT_LEADER_LEASE_MS", "without effect"),
        ({**RAFT, "RAFT_MUX_ENABLED": "false"}, "RAFT_MUX_ENABLED", "without effect"),
        ({**RAFT, "RAFT_HEARTBEAT_MS": "1000"}, "RAFT_HEARTBEAT_MS", "100 ms is used instead"),
        (worker(raw={"tenantId": "other"}), "WORKER_AUTH_CONFIG", "its tenant is other, the producer's is dev-tenant"),
        (
            producer(raw={"tenantId": "other"}),
            "WORKER_AUTH_CONFIG",
            "its tenant is dev-tenant, the producer's is other",
        ),
        (worker(raw={"tenantId": "dev-tenant", "role": "ADMIN"}), "WORKER_AUTH_CONFIG", "administrators"),
        (worker(scopes=["codeq:claim", "codeq:clam"]), "WORKER_AUTH_CONFIG.scopes", "codeq:clam"),
        (producer(scopes=["codeq:claim"]), "PRODUCER_AUTH_CONFIG.scopes", "codeq:claim"),
        (producer(raw={"tenantId": "dev-tenant", "role": "viewr"}), "PRODUCER_AUTH_CONFIG.raw", "role VIEWR"),
        (
            IDENTITY | {"PRODUCER_AUTH_PROVIDER": "jwks", "PRODUCER_AUTH_CONFIG": issued("codeq")},
            "WORKER_AUTH_CONFIG",
            "the audience codeq are those of the producers",
        ),
        (
            {"WORKER_AUTH_PROVIDER": "jwks", "WORKER_AUTH_CONFIG": issued("a", issuer="http://id.example/realm")},
            "WORKER_AUTH_CONFIG",
            "keys come from id.example over http://: anyone on the path can forge tokens",
        ),
        (producer(scopes=["codeq:admin"]), "PRODUCER_AUTH_CONFIG.scopes", "codeq:operator"),
        (producer(raw={"tenantId": "dev-tenant", "role": "ADMIN"}), "PRODUCER_AUTH_CONFIG.scopes", "codeq:operator"),
        (worker(raw={"tenantId": "dev-tenant", "roles": ["viewer"]}), "WORKER_AUTH_CONFIG", "gets no tasks"),
        (worker(scopes=["codeq:claim", "codeq:operator"]), "WORKER_AUTH_CONFIG", "operators use"),
    ],
)
def test_warning_names_a_setting_without_effect(environment: dict[str, str], key: str, text: str) -> None:
    [(named, message)] = told(environment)
    assert named == key
    assert text in message


def test_gateway_warns_about_telemetry_settings_too() -> None:
    [note] = load_gateway(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}, {}, dev=True).notes
    assert note.key == "OTEL_EXPORTER_OTLP_ENDPOINT"
