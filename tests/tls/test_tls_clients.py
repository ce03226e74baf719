"""SDK and command line over TLS: files from arguments and environment, and files that change."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import codeq
import pytest
from authority import Authority, Files, replace
from codeq.blocking_transport import BlockingChannel
from codeq.tls import source_of
from server_process import DEV_TOKEN, ServerProcess
from tls_clients import QUICK, addresses, serial, until


def run(server: ServerProcess, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    env = {**kept, "CODEQ_ENDPOINT": server.http_url, "CODEQ_TOKEN": DEV_TOKEN, "HOME": "/nonexistent", **variables}
    command = [sys.executable, "-m", "codeq_cli.main", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)


def test_command_line_takes_the_authority_from_option_or_environment(server: ServerProcess, files: Files) -> None:
    unknown = run(server, "queue", "list")
    assert (unknown.returncode, "CERTIFICATE_VERIFY_FAILED" in unknown.stderr) == (4, True)
    for done in (
        run(server, "queue", "list", "--ca", str(files.ca)),
        run(server, "--ca", str(files.ca), "queue", "list"),
        run(server, "queue", "list", CODEQ_TLS_CA_FILE=str(files.ca)),
        run(server, "queue", "list", "--ca", str(files.ca), CODEQ_TLS_CA_FILE="/nowhere"),
    ):
        assert (done.returncode, done.stderr) == (0, "")


def test_command_line_warns_each_time_that_it_checks_nothing(server: ServerProcess) -> None:
    for _ in range(2):
        done = run(server, "queue", "list", "--insecure-skip-verify")
        assert done.returncode == 0
        assert done.stderr.startswith("warning: --insecure-skip-verify: the server's certificate is not checked")


def test_command_line_tells_that_a_port_speaks_https_only(server: ServerProcess) -> None:
    done = run(server, "queue", "list", CODEQ_ENDPOINT=server.http_url.replace("https", "http"))
    assert done.returncode == 1
    assert "400 Bad Request: this port speaks HTTPS only." in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--cert", "/nowhere"], "--cert and --key"),
        (["--ca", "/nowhere"], "--ca: /nowhere has no certificates"),
        (
            ["--cert", "/nowhere", "--key", "/nowhere"],
            "--cert: /nowhere and /nowhere are not a certificate and its key",
        ),
    ],
)
def test_files_that_the_command_line_cannot_use_are_named(
    server: ServerProcess, options: list[str], words: str
) -> None:
    done = run(server, "queue", "list", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_clients_present_certificates(authority: Authority, files: Files, tmp_path: Path) -> None:
    own = authority.files(tmp_path / "client", "client")
    env = files.server_env | {"TLS_CLIENT_CA_FILE": str(files.ca), "TLS_CLIENT_AUTH": "require"}
    pair = {"CODEQ_TLS_CERT_FILE": str(own.certificate), "CODEQ_TLS_KEY_FILE": str(own.key)}
    with ServerProcess(tmp_path / "server", env=env) as server:
        ca = ("--ca", str(files.ca))
        assert run(server, "queue", "list", *ca).returncode == 4
        assert run(server, "queue", "list", *ca, **pair).returncode == 0
        assert run(server, "queue", "list", *ca, "--cert", str(own.certificate), "--key", str(own.key)).returncode == 0
        with codeq.Client(
            server.producer_addr, token=DEV_TOKEN, tls=codeq.TlsFiles(own.ca, own.certificate, own.key)
        ) as client:
            assert client.create("A").command == "A"


def test_sdk_takes_the_files_from_the_environment(
    server: ServerProcess, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODEQ_TLS_CA_FILE", str(files.ca))
    with codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
        client.create("A")
    done: list[object] = []
    worker = codeq.Worker(server.worker_addr, token=DEV_TOKEN)

    @worker.task("A")
    def handle(task: codeq.Task) -> None:
        done.append(task.id)
        worker.stop()

    worker.run()
    assert len(done) == 1
    monkeypatch.setenv("CODEQ_TLS_CERT_FILE", str(files.certificate))
    with pytest.raises(ValueError, match="CODEQ_TLS_KEY_FILE"):
        codeq.Client(server.producer_addr)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"ca": "/nowhere"}, "no certificates in /nowhere"),
        ({"certificate": "/nowhere", "key": "/nowhere"}, "are not a certificate and its key"),
    ],
)
def test_files_that_the_sdk_cannot_use_are_named_when_the_client_is_created(
    arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        codeq.Client("a:1", tls=codeq.TlsFiles(**arguments))
    with pytest.raises(ValueError, match="belong together"):
        codeq.TlsFiles(key="/nowhere")


def test_client_follows_its_server_to_another_authority(files: Files, tmp_path: Path) -> None:
    new = Authority("new")
    with ServerProcess(tmp_path / "server", env=files.server_env, prefix=QUICK) as server:
        tls = codeq.TlsFiles(ca=files.ca)
        with (
            codeq.Client(server.producer_addr, token=DEV_TOKEN, tls=tls) as client,
            codeq.Producer(server.producer_addr, token=DEV_TOKEN, tls=tls) as producer,
        ):
            client.create("A")
            producer.create("A")
            # The clients trust the new authority, too, before the server's certificate comes from it.
            replace(files.ca, files.ca.read_bytes() + new.pem)
            fresh = new.sign()
            files.write(fresh)
            until(lambda: serial(addresses(server)[2]) == fresh.serial)
            server.kill()
            server.start()
            client.create("A")
            producer.create("A")


def test_half_written_files_leave_a_client_with_those_from_before(authority: Authority, tmp_path: Path) -> None:
    files = authority.files(tmp_path)
    source = source_of(codeq.TlsFiles(files.ca, files.certificate, files.key))
    assert source is not None
    context = source()
    assert source() is context
    files.key.write_bytes(b"?")
    assert source() is context
    files.write(authority.sign())
    assert source() is not context


def test_client_that_is_closed_in_a_call_sends_nothing_in_the_clear(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`SSLSocket.shutdown` leaves TLS before it shuts the socket down; a call's thread could then send its token."""
    encrypted = []

    def shutdown(self: Any, how: int) -> None:
        if isinstance(self, ssl.SSLSocket):
            encrypted.append(self._sslobj is not None)
        super(socket.socket, self).shutdown(how)

    monkeypatch.setattr(socket.socket, "shutdown", shutdown)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.key)
    server.set_alpn_protocols(["h2"])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        channel = BlockingChannel(f"127.0.0.1:{listener.getsockname()[1]}", source_of(codeq.TlsFiles(ca=files.ca)))
        failures: list[BaseException] = []

        def call() -> None:
            try:
                channel.unary("/a/b", b"", (), 20)
            except codeq.CodeqError as error:
                failures.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        accepted, _ = listener.accept()
        with server.wrap_socket(accepted, server_side=True) as connection:
            assert connection.recv(3) == b"PRI"
            until(lambda: bool(channel._busy))
            channel.close()
            thread.join()
        assert len(failures) == 1
        assert encrypted == [True]
