"""Who gets through a handshake, over which protocols, and what strangers can use up."""

from __future__ import annotations

import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import codeq
import httpx
import pytest
from authority import Authority, Files, trusting
from codeq_gateway.tls import HANDSHAKES_MAX
from server_process import DEV_TOKEN, ServerProcess
from tls_clients import addresses, shaken, unchecked, until

LISTENERS = ("REST", "workers", "producers")
AUTHORIZATION = {"Authorization": f"Bearer {DEV_TOKEN}"}
FAILURES = 50


@pytest.fixture(scope="module")
def shared_authority() -> Authority:
    """The authority of the server that the tests of this module share."""
    return Authority()


@pytest.fixture(scope="module")
def shared(
    shared_authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServerProcess, Files]]:
    """A server and its files."""
    folder = tmp_path_factory.mktemp("handshakes")
    files = shared_authority.files(folder / "certificates")
    with ServerProcess(folder / "server", env=files.server_env) as started:
        yield started, files
        print(started.log)
        assert started.stop() == 0


def _old(version: ssl.TLSVersion) -> ssl.SSLContext:
    context = unchecked("h2", "http/1.1")
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.parametrize("listener", range(3), ids=LISTENERS)
def test_old_protocols_are_refused(shared: tuple[ServerProcess, Files], listener: int, version: ssl.TLSVersion) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol|version|handshake"):
        shaken(addresses(shared[0])[listener], _old(version))


@pytest.mark.parametrize("ciphers", ["eNULL", "aNULL", "RC4:3DES:MD5", "AES128-SHA:AES256-SHA"])
@pytest.mark.parametrize("listener", range(3), ids=LISTENERS)
def test_weak_ciphers_are_refused(shared: tuple[ServerProcess, Files], listener: int, ciphers: str) -> None:
    context = unchecked("h2", "http/1.1")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    except ssl.SSLError:
        return  # not even the client's library has them any more
    with pytest.raises(ssl.SSLError, match=r"(?i)handshake|EOF"):
        shaken(addresses(shared[0])[listener], context)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", [None, "localhost", "another.example"])
@pytest.mark.parametrize("listener", range(3), ids=LISTENERS)
def test_current_protocols_are_spoken_with_any_server_name_and_without(
    shared: tuple[ServerProcess, Files], listener: int, name: str | None, version: ssl.TLSVersion
) -> None:
    context = unchecked("h2", "http/1.1")
    context.minimum_version = context.maximum_version = version
    with shaken(addresses(shared[0])[listener], context, name) as connection:
        assert connection.version() == version.name.replace("_", ".")
        assert connection.selected_alpn_protocol() == ("http/1.1" if listener == 0 else "h2")


def test_server_of_a_foreign_authority_is_refused(shared: tuple[ServerProcess, Files], tmp_path: Path) -> None:
    server, files = shared
    foreign = Authority("foreign").files(tmp_path)
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{server.http_url}/healthz", verify=trusting(foreign))
    for address in (server.worker_addr, server.producer_addr):
        with (
            codeq.Client(address, tls=codeq.TlsFiles(ca=foreign.ca), timeout_seconds=5) as client,
            pytest.raises(codeq.Unavailable, match="CERTIFICATE_VERIFY_FAILED"),
        ):
            client.server_info()
    assert httpx.get(f"{server.http_url}/healthz", verify=trusting(files)).status_code == 200


def test_plain_http_on_the_https_port_is_told_so(shared: tuple[ServerProcess, Files]) -> None:
    reply = httpx.get(shared[0].http_url.replace("https", "http") + "/healthz", headers=AUTHORIZATION)
    assert (reply.status_code, reply.text) == (400, "this port speaks HTTPS only.\n")


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, b"\x16\x03\x01\xff\xff", b"SSH-2.0-x\r\n"])
@pytest.mark.parametrize("listener", range(3), ids=LISTENERS)
def test_bytes_that_are_not_tls_end_the_connection(
    shared: tuple[ServerProcess, Files], listener: int, sent: bytes
) -> None:
    with socket.create_connection(addresses(shared[0])[listener], 20) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass


def test_tls_on_plain_ports_ends_the_connection_and_is_not_logged_line_by_line(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        for address in addresses(server) * 10:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                shaken(address, unchecked("h2", "http/1.1")).close()
        assert httpx.get(f"{server.http_url}/healthz").status_code == 200
        assert server.stop() == 0
        assert len(server.log.splitlines()) < 30


def test_failed_handshakes_are_counted_and_logged_once_a_minute(authority: Authority, tmp_path: Path) -> None:
    files = authority.files(tmp_path / "certificates")
    with ServerProcess(tmp_path / "server", env=files.server_env) as server:
        for address in addresses(server):
            for _ in range(FAILURES):
                with socket.create_connection(address, 20) as connection:
                    connection.sendall(b"SSH-2.0-x\r\n" * 10)
                    connection.settimeout(20)
                    while connection.recv(4096):
                        pass
        text = httpx.get(f"{server.http_url}/metrics", verify=trusting(files)).text
        assert _handshakes(text, "not_tls") == FAILURES
        assert _handshakes(text, "completed") == 1
        assert server.stop() == 0
        lines = [line for line in server.log.splitlines() if "handshake_failed" in line or "Handshake failed" in line]
        assert len(lines) == 1
        event = json.loads(lines[0])
        assert (event["event"], event["reason"], event["failures"]) == ("tls_handshake_failed", "not_tls", 1)
        assert len(server.log.splitlines()) < FAILURES


def test_silent_strangers_keep_nobody_out(shared: tuple[ServerProcess, Files]) -> None:
    server, files = shared
    address = addresses(server)[0]
    strangers = [socket.create_connection(address, 20) for _ in range(HANDSHAKES_MAX + 50)]
    try:
        began = time.monotonic()
        text = httpx.get(f"{server.http_url}/metrics", verify=trusting(files)).text
        assert time.monotonic() - began < 5
        assert _value(text, "codeq_http_tls_handshakes_open") <= HANDSHAKES_MAX
        assert _handshakes(text, "evicted") >= 50
        # The rest are closed when they have had their time.
        until(lambda: strangers[-1].recv(1) == b"")
    finally:
        for stranger in strangers:
            stranger.close()


@pytest.mark.parametrize("auth", ["request", "require"])
def test_client_certificates_are_asked_for_and_checked(authority: Authority, tmp_path: Path, auth: str) -> None:
    files = authority.files(tmp_path / "certificates")
    clients, foreign = Authority("clients"), Authority("foreign")
    known, unknown = clients.files(tmp_path / "known", "me"), foreign.files(tmp_path / "unknown", "me")
    env = files.server_env | {"TLS_CLIENT_CA_FILE": str(known.ca), "TLS_CLIENT_AUTH": auth}

    def rest(client: Files | None) -> bool:
        context = trusting(files)
        if client is not None:
            context.load_cert_chain(client.certificate, client.key)
        try:
            return httpx.get(f"{server.http_url}/healthz", verify=context).status_code == 200
        except httpx.TransportError:
            return False

    def grpc(client: Files | None) -> bool:
        pair = {} if client is None else {"certificate": client.certificate, "key": client.key}
        tls = codeq.TlsFiles(ca=files.ca, **pair)
        with codeq.Client(server.producer_addr, token=DEV_TOKEN, tls=tls, timeout_seconds=3) as own:
            try:
                own.server_info()
            except codeq.CodeqError:
                return False
            return True

    with ServerProcess(tmp_path / "server", env=env) as server:
        may_come_without = auth == "request"
        assert (rest(known), rest(None), rest(unknown)) == (True, may_come_without, False)
        # gRPC does not ask for certificates that it does not require.
        assert (grpc(known), grpc(None), grpc(unknown)) == (True, may_come_without, may_come_without)
        text = httpx.get(f"{server.http_url}/metrics", verify=trusting(files)).text if may_come_without else ""
        assert not may_come_without or _handshakes(text, "client_certificate") == 1


def _value(metrics: str, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", metrics, re.MULTILINE)
    return 0.0 if found is None else float(found[1])


def _handshakes(metrics: str, outcome: str) -> float:
    return _value(metrics, f'codeq_http_tls_handshakes_total{{outcome="{outcome}"}}')


def test_plaintext_that_other_machines_can_reach_is_reported_once(authority: Authority, tmp_path: Path) -> None:
    tokens = {
        "PRODUCER_AUTH_PROVIDER": "static",
        "PRODUCER_AUTH_CONFIG": '"a-producer"',
        "WORKER_AUTH_PROVIDER": "static",
        "WORKER_AUTH_CONFIG": '{"token":"a-worker","scopes":["codeq:claim"],"eventTypes":["*"]}',
    }
    files = authority.files(tmp_path / "certificates")
    everywhere = ["--http-host", "0.0.0.0"]
    for number, (env, expected) in enumerate(
        [
            (tokens, 1),
            (tokens | files.server_env, 0),
            (tokens | {"GRPC_TLS_CERT_FILE": str(files.certificate), "GRPC_TLS_KEY_FILE": str(files.key)}, 1),
        ]
    ):
        with ServerProcess(tmp_path / str(number), env=env, flags=everywhere, dev=False, apart=False) as server:
            assert server.stop() == 0
            lines = [line for line in server.log.splitlines() if "plaintext_listener" in line]
            assert len(lines) == expected
            assert all('"listeners":"http 0.0.0.0:' in line and "worker" not in line for line in lines)
