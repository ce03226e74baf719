"""Settings of TLS: which files each listener uses, and combinations that make no sense."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from authority import Authority
from codeq_server.config import ClientTls, ConfigError, ListenerTls, Settings, load, load_gateway
from codeq_server.node.certificates import FILE_BYTES_MAX, Certificates, check_files
from cryptography.hazmat.primitives import serialization

TOKENS = {
    "PRODUCER_AUTH_PROVIDER": "static",
    "PRODUCER_AUTH_CONFIG": '"p-secret"',
    "WORKER_AUTH_PROVIDER": "static",
    "WORKER_AUTH_CONFIG": '{"token":"w-secret","scopes":["codeq:claim"],"eventTypes":["*"]}',
}
NAMES = ("cert", "key", "ca", "other-cert", "other-key", "other-ca")
LONG = "/" + 300 * "a"


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, str]:
    """Files that exist; nothing reads them here."""
    for name in NAMES:
        (tmp_path / name).touch()
    return {name: str(tmp_path / name) for name in NAMES}


def settings(environment: Mapping[str, str]) -> Settings:
    return load(None, {**TOKENS, **environment}, {}, dev=False)


def named(paths: Mapping[str, str], **variables: str) -> dict[str, str]:
    """Returns variables; those that are names of files hold their paths."""
    return {name: paths.get(value, value) for name, value in variables.items()}


def test_listeners_are_plaintext_by_default() -> None:
    plain = settings({})
    assert (plain.http_tls, plain.grpc_tls, plain.server_tls) == (None, None, None)


def test_common_files_are_for_all_listeners(paths: dict[str, str]) -> None:
    given = settings(
        named(paths, TLS_CERT_FILE="cert", TLS_KEY_FILE="key", TLS_CLIENT_CA_FILE="ca", TLS_CLIENT_AUTH="require")
    )
    expected = ListenerTls("tls_cert_file", Path(paths["cert"]), Path(paths["key"]), Path(paths["ca"]), True)
    assert given.http_tls == given.grpc_tls == expected


def test_own_pair_replaces_the_common_one_and_other_settings_one_by_one(paths: dict[str, str]) -> None:
    common = named(paths, TLS_CERT_FILE="cert", TLS_KEY_FILE="key", TLS_CLIENT_CA_FILE="ca")
    own = named(paths, HTTP_TLS_CERT_FILE="other-cert", HTTP_TLS_KEY_FILE="other-key", GRPC_TLS_CLIENT_AUTH="require")
    given = settings(common | own)
    ca = Path(paths["ca"])
    assert given.http_tls == ListenerTls(
        "http_tls_cert_file", Path(paths["other-cert"]), Path(paths["other-key"]), ca, False
    )
    assert given.grpc_tls == ListenerTls("tls_cert_file", Path(paths["cert"]), Path(paths["key"]), ca, True)


def test_one_kind_of_listener_may_have_tls_alone(paths: dict[str, str]) -> None:
    given = settings(named(paths, GRPC_TLS_CERT_FILE="cert", GRPC_TLS_KEY_FILE="key"))
    assert given.http_tls is None
    assert given.grpc_tls is not None


def test_gateway_takes_files_for_http_and_for_servers(paths: dict[str, str]) -> None:
    own = named(paths, TLS_CERT_FILE="cert", TLS_KEY_FILE="key", SERVER_TLS_CA_FILE="ca", SERVER_ADDRS="a:1")
    given = load_gateway(None, {**TOKENS, **own}, {}, dev=False)
    assert given.http_tls is not None
    assert given.server_tls == ClientTls("server_tls_ca_file", Path(paths["ca"]), None, None)


@pytest.mark.parametrize(
    ("variables", "key", "words"),
    [
        ({"TLS_CERT_FILE": "cert"}, "TLS_CERT_FILE", "TLS_KEY_FILE"),
        ({"TLS_KEY_FILE": "key"}, "TLS_KEY_FILE", "TLS_CERT_FILE"),
        ({"HTTP_TLS_KEY_FILE": "key"}, "HTTP_TLS_KEY_FILE", "HTTP_TLS_CERT_FILE"),
        ({"GRPC_TLS_CERT_FILE": "cert"}, "GRPC_TLS_CERT_FILE", "GRPC_TLS_KEY_FILE"),
        ({"TLS_CLIENT_CA_FILE": "ca"}, "TLS_CLIENT_CA_FILE", "no effect without TLS_CERT_FILE"),
        ({"GRPC_TLS_CLIENT_AUTH": "require"}, "GRPC_TLS_CLIENT_AUTH", "no effect without GRPC_TLS_CERT_FILE"),
        (
            {"TLS_CERT_FILE": "cert", "TLS_KEY_FILE": "key", "TLS_CLIENT_AUTH": "require"},
            "TLS_CLIENT_AUTH",
            "TLS_CLIENT_CA_FILE",
        ),
        (
            {"TLS_CERT_FILE": "cert", "TLS_KEY_FILE": "key", "HTTP_TLS_CLIENT_AUTH": "require"},
            "HTTP_TLS_CLIENT_AUTH",
            "TLS_CLIENT_CA_FILE",
        ),
        ({"TLS_CERT_FILE": "/nowhere", "TLS_KEY_FILE": "key"}, "TLS_CERT_FILE", "cannot read /nowhere: No such file"),
        ({"TLS_CERT_FILE": LONG, "TLS_KEY_FILE": "key"}, "TLS_CERT_FILE", "a: File name too long"),
        ({"TLS_CERT_FILE": "cert", "TLS_KEY_FILE": "key", "TLS_CLIENT_AUTH": "no"}, "TLS_CLIENT_AUTH", "must be"),
        ({"SERVER_TLS_CERT_FILE": "cert", "SERVER_TLS_KEY_FILE": "key"}, "SERVER_TLS_CERT_FILE", "SERVER_TLS_CA_FILE"),
        ({"SERVER_TLS_CA_FILE": "ca", "SERVER_TLS_KEY_FILE": "key"}, "SERVER_TLS_KEY_FILE", "SERVER_TLS_CERT_FILE"),
        (
            {
                "TLS_CERT_FILE": "cert",
                "TLS_KEY_FILE": "key",
                "RAFT_ENABLED": "true",
                "RAFT_SELF_ID": "a",
                "RAFT_BIND_ADDR": "10.0.0.1:7000",
            },
            "SERVER_TLS_CA_FILE",
            "is required with Raft and TLS",
        ),
    ],
)
def test_combination_that_makes_no_sense_names_its_setting(
    paths: dict[str, str], variables: dict[str, str], key: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(named(paths, **variables))
    assert caught.value.key == key
    assert words in caught.value.message


def test_files_of_one_listener_do_not_stop_a_gateway(paths: dict[str, str]) -> None:
    own = named(paths, GRPC_TLS_CERT_FILE="cert", GRPC_TLS_KEY_FILE="key", TLS_CLIENT_CA_FILE="ca", SERVER_ADDRS="a:1")
    assert load_gateway(None, {**TOKENS, **own}, {}, dev=False).http_tls is None


FILES = {
    "HTTP_TLS_CERT_FILE": "cert",
    "HTTP_TLS_KEY_FILE": "key",
    "GRPC_TLS_CERT_FILE": "cert",
    "GRPC_TLS_KEY_FILE": "key",
    "TLS_CLIENT_CA_FILE": "ca",
    "SERVER_TLS_CA_FILE": "ca",
    "SERVER_TLS_CERT_FILE": "cert",
    "SERVER_TLS_KEY_FILE": "key",
    "RAFT_TLS_CERT": "cert",
    "RAFT_TLS_KEY": "key",
    "RAFT_TLS_CA": "ca",
}
RAFT = {"RAFT_ENABLED": "true", "RAFT_SELF_ID": "a", "RAFT_BIND_ADDR": "127.0.0.1:7000"}


@pytest.mark.parametrize("wrong", FILES)
def test_file_that_cannot_be_used_is_reported_by_its_setting(tmp_path: Path, wrong: str) -> None:
    authority, other = Authority(), Authority()
    pair = authority.sign()
    parts = {"cert": pair.certificate, "key": pair.key, "ca": authority.pem}
    environment = RAFT | {name: str(tmp_path / name) for name in FILES}
    for name, part in FILES.items():
        (tmp_path / name).write_bytes(parts[part])
    check_files(settings(environment))
    private = serialization.load_pem_private_key(pair.key, None)
    locked = serialization.BestAvailableEncryption(b"password")
    form = serialization.PrivateFormat.PKCS8
    contents: dict[bytes, str] = {
        b"": "contains no ",
        b"\0\xff": "contains no ",
        b"-----BEGIN PRIVATE KEY-----\n": "contains no ",
        b"x" * (FILE_BYTES_MAX + 1): "is larger than",
    }
    if FILES[wrong] == "key":
        contents |= {
            other.sign().key: "are not a certificate and its key: KEY_VALUES_MISMATCH",
            private.private_bytes(serialization.Encoding.PEM, form, locked): "has a password, and must have none",
            private.private_bytes(serialization.Encoding.DER, form, serialization.NoEncryption()): "no private key",
        }
    for content, words in contents.items():
        (tmp_path / wrong).write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            check_files(settings(environment))
        assert caught.value.key == wrong
        assert words in caught.value.message
        assert "xxx" not in caught.value.message
    (tmp_path / wrong).unlink()
    (tmp_path / wrong).mkdir()
    with pytest.raises(ConfigError) as caught:
        check_files(settings(environment))
    assert caught.value.key == wrong


def test_files_of_listeners_that_a_process_does_not_have_are_not_read(paths: dict[str, str]) -> None:
    check_files(settings(named(paths, HTTP_TLS_CERT_FILE="cert", HTTP_TLS_KEY_FILE="key")), rest=False)
    own = named(paths, GRPC_TLS_CERT_FILE="cert", GRPC_TLS_KEY_FILE="key", SERVER_ADDRS="a:1")
    check_files(load_gateway(None, {**TOKENS, **own}, {}, dev=False))


@pytest.mark.parametrize(("listener", "key"), [("", "TLS_CERT_FILE"), ("HTTP_", "HTTP_TLS_CERT_FILE")])
def test_files_that_cannot_be_used_stop_the_start_and_name_the_setting(
    paths: dict[str, str], listener: str, key: str
) -> None:
    given = settings(named(paths, **{f"{listener}TLS_CERT_FILE": "cert", f"{listener}TLS_KEY_FILE": "key"}))
    with pytest.raises(ConfigError, match="contains no certificate") as caught:
        Certificates(given.http_tls, given.grpc_tls, given.server_tls, "codeq")
    assert caught.value.key == key
