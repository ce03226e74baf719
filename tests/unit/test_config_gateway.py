"""Configuration of a standalone gateway."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from codeq_server.config import (
    Address,
    ConfigError,
    GatewaySettings,
    Settings,
    describe,
    load,
    load_gateway,
)

SECRET = {"GATEWAY_SECRET": "0123456789abcdef"}
PRODUCER = {"PRODUCER_AUTH_PROVIDER": "static", "PRODUCER_AUTH_CONFIG": '{"token": "a"}'}
WORKER = {
    "WORKER_AUTH_PROVIDER": "static",
    "WORKER_AUTH_CONFIG": '{"token": "b", "scopes": ["codeq:claim"], "eventTypes": ["*"]}',
}


def test_gateway_requires_servers_and_their_secret() -> None:
    settings = load_gateway(None, SECRET | {"SERVER_ADDRS": " a:1, [::1]:2 ,a:1,"}, {}, dev=False)
    assert settings.server_addrs == ("a:1", "[::1]:2")
    assert settings.http == Address("", 8080)
    assert settings.allowed_hosts == frozenset()


def test_gateway_without_servers_is_rejected() -> None:
    with pytest.raises(ConfigError, match="SERVER_ADDRS: no server is configured"):
        load_gateway(None, {}, {}, dev=False)


def test_development_gateway_uses_the_local_server_and_serves_loopback() -> None:
    settings = load_gateway(None, {}, {}, dev=True)
    assert (settings.server_addrs, settings.http.host) == (("127.0.0.1:9092",), "127.0.0.1")
    assert "localhost" in settings.allowed_hosts


@pytest.mark.parametrize("text", ["a", "a:0", "a:65536", ":9092", "a:1,b", "http://a:1", "a b:1"])
def test_error_names_a_malformed_server(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_gateway(None, SECRET | {"SERVER_ADDRS": text}, {}, dev=False)
    assert refused.value.key == "SERVER_ADDRS"


def test_number_of_servers_is_limited() -> None:
    many = ",".join(f"h{number}:1" for number in range(17))
    with pytest.raises(ConfigError, match="has 17 servers; at most 16 are allowed"):
        load_gateway(None, SECRET | {"SERVER_ADDRS": many}, {}, dev=False)


def test_server_and_gateway_can_share_one_file(tmp_path: Path) -> None:
    file = tmp_path / "codeq.yaml"
    file.write_text(
        "port: 81\nserverAddrs: [a:1, b:2]\nlogFormat: json\nworkerStreamAddr: :91\n"
        "producerAuthProvider: static\nproducerAuthConfig: secret\n"
        "workerAuthProvider: static\nworkerAuthConfig: {token: secret, scopes: [codeq:claim], eventTypes: ['*']}\n"
    )
    gateway = load_gateway(str(file), {}, {"port": 82}, dev=False)
    plain = {key: value for key, value in describe(gateway).items() if "tls" not in key.lower()}
    assert plain == {
        "port": 82,
        "httpHost": "",
        "httpConnectionsMax": 8192,
        "corsOrigins": [],
        "serverAddrs": ["a:1", "b:2"],
        "gatewaySecret": "***",
        "logLevel": "info",
        "logFormat": "json",
        "shutdownGraceSeconds": 10,
        "readyFile": None,
    }
    assert load(str(file), {}, {}, dev=False).worker_stream_addr == Address("", 91)


@pytest.mark.parametrize("loaded", [load, load_gateway])
def test_origins_are_normalized_to_the_form_that_browsers_send(
    loaded: Callable[..., Settings | GatewaySettings],
) -> None:
    assert loaded(None, {}, {}, dev=True).cors_origins == ()
    text = "https://Console.example, http://localhost:3000,, http://[::1]:80x"
    with pytest.raises(ConfigError, match=r"CORS_ORIGINS: .*80x"):
        loaded(None, {"CORS_ORIGINS": text}, {}, dev=True)
    settings = loaded(None, {"CORS_ORIGINS": text.removesuffix(", http://[::1]:80x")}, {}, dev=True)
    assert settings.cors_origins == ("https://console.example", "http://localhost:3000")


@pytest.mark.parametrize(
    "text", ["*", "null", "console.example", "https://a/", "https://a/b", "https://a:443", "http://a:80", "https://*.a"]
)
def test_error_names_a_malformed_origin(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_gateway(None, {"CORS_ORIGINS": text}, {}, dev=True)
    assert refused.value.key == "CORS_ORIGINS"


def test_number_of_origins_is_limited() -> None:
    many = ",".join(f"https://h{number}" for number in range(65))
    with pytest.raises(ConfigError, match="has 65 origins; at most 64 are allowed"):
        load_gateway(None, {"CORS_ORIGINS": many}, {}, dev=True)


def test_gateway_without_a_secret_is_rejected() -> None:
    with pytest.raises(ConfigError, match="GATEWAY_SECRET: is required: set the servers' secret, or their PRODUCER_"):
        load_gateway(None, {"SERVER_ADDRS": "a:1"}, {}, dev=False)


def test_secret_below_the_minimum_length_is_rejected() -> None:
    with pytest.raises(ConfigError, match="GATEWAY_SECRET: must be a text of 16 to 1024 characters"):
        load_gateway(None, {"SERVER_ADDRS": "a:1", "GATEWAY_SECRET": "short"}, {}, dev=False)


@pytest.mark.parametrize(
    ("servers", "gateways"),
    [
        (PRODUCER | WORKER, PRODUCER),
        (PRODUCER | WORKER | SECRET, SECRET),
        (PRODUCER | WORKER | SECRET, PRODUCER | SECRET),
    ],
)
def test_servers_and_gateways_with_the_same_settings_have_the_same_secret(
    servers: dict[str, str], gateways: dict[str, str]
) -> None:
    server = load(None, servers, {}, dev=False)
    gateway = load_gateway(None, gateways | {"SERVER_ADDRS": "a:1"}, {}, dev=False)
    assert server.gateway_secret == gateway.gateway_secret
    assert load(None, {}, {}, dev=True).gateway_secret == load_gateway(None, {}, {}, dev=True).gateway_secret
    assert server.gateway_secret not in str(server) + str(gateway)
