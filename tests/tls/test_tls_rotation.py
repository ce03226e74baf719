"""Certificates change under load: no call fails, and bad files change nothing."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import codeq
import httpx
import pytest
from authority import Authority, Files, Pair, replace, trusting
from server_process import DEV_TOKEN, ServerProcess
from tls_clients import QUICK, addresses, serial, shaken, until

pytestmark = pytest.mark.timeout(180)
ROTATIONS = 50
AUTHORIZATION = {"Authorization": f"Bearer {DEV_TOKEN}"}
TASK = {"command": "LOAD", "payload": {"n": 1}}


class Load:
    """Calls that are repeated by threads until the end.

    Attributes:
        counts: Number of successful calls, by kind.
        failures: What went wrong.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.failures: list[str] = []
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def repeat(self, kind: str, call: Callable[[], object]) -> None:
        """Starts a thread that repeats a call."""
        self.counts[kind] = 0

        def run() -> None:
            while not self._over.is_set():
                try:
                    call()
                except Exception as error:  # noqa: BLE001 - reported at the end
                    self.failures.append(f"{kind}: {type(error).__name__}: {error}")
                    return
                self.counts[kind] += 1

        self._threads.append(threading.Thread(target=run, name=kind))
        self._threads[-1].start()

    def end(self) -> None:
        """Ends all threads."""
        self._over.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def loaded(server: ServerProcess, files: Files) -> Iterator[Load]:
    """Loads REST and gRPC, over connections that stay and over new ones."""
    context, url = trusting(files), f"{server.http_url}/v1/codeq/tasks"
    load = Load()
    with (
        httpx.Client(verify=context, headers=AUTHORIZATION) as rest,
        codeq.Client(server.producer_addr, token=DEV_TOKEN, tls=trusting(files)) as client,
        codeq.Producer(server.producer_addr, token=DEV_TOKEN, tls=trusting(files)) as producer,
    ):

        def new_rest() -> None:
            httpx.post(url, json=TASK, headers=AUTHORIZATION, verify=context).raise_for_status()

        def new_grpc() -> None:
            with codeq.Client(server.worker_addr, token=DEV_TOKEN, tls=trusting(files)) as new:
                new.create("LOAD")

        load.repeat("REST", lambda: rest.post(url, json=TASK).raise_for_status())
        load.repeat("new REST", new_rest)
        load.repeat("gRPC", lambda: client.create("LOAD"))
        load.repeat("new gRPC", new_grpc)
        load.repeat("stream", lambda: producer.create("LOAD"))
        try:
            yield load
        finally:
            load.end()


def link_up(folder: Path, pair: Pair, number: int) -> None:
    """Publishes a pair as Kubernetes does: files in a new folder, reached by a link that is swapped."""
    made = folder / f"..{number}"
    made.mkdir()
    (made / "tls.crt").write_bytes(pair.certificate)
    (made / "tls.key").write_bytes(pair.key)
    draft = folder / "..draft"
    draft.symlink_to(made.name)
    draft.replace(folder / "..data")


def test_certificates_are_replaced_fifty_times_under_load_without_a_failed_call(
    server: ServerProcess, authority: Authority, files: Files
) -> None:
    with loaded(server, files) as load:
        for number in range(ROTATIONS):
            pair = authority.sign(f"server {number}")
            if number % 2:
                files.write(pair)
            else:  # in place and in pieces, so that the server meets halves
                for path, content in ((files.key, pair.key), (files.certificate, pair.certificate)):
                    path.write_bytes(content[:100])
                    path.write_bytes(content)
            for address in addresses(server):
                until(lambda address=address, pair=pair: serial(address) == pair.serial)
    assert load.failures == []
    assert min(load.counts.values()) >= ROTATIONS, load.counts
    print(load.counts)


def test_links_that_are_swapped_as_kubernetes_does_it_bring_the_new_certificate(
    authority: Authority, tmp_path: Path
) -> None:
    link_up(tmp_path, authority.sign(), 0)
    (tmp_path / "tls.crt").symlink_to("..data/tls.crt")
    (tmp_path / "tls.key").symlink_to("..data/tls.key")
    env = {"TLS_CERT_FILE": str(tmp_path / "tls.crt"), "TLS_KEY_FILE": str(tmp_path / "tls.key")}
    with ServerProcess(tmp_path / "server", env=env, prefix=QUICK) as server:
        for number in range(1, 4):
            pair = authority.sign()
            link_up(tmp_path, pair, number)
            for address in addresses(server):
                until(lambda address=address, pair=pair: serial(address) == pair.serial)
        assert "tls_files_rejected" not in server.log


def test_pair_that_does_not_match_is_reported_once_and_the_old_one_stays(
    server: ServerProcess, authority: Authority, files: Files
) -> None:
    old = [serial(address) for address in addresses(server)]
    fresh = authority.sign()
    replace(files.certificate, fresh.certificate)
    until(lambda: _rejections(server) == 2)  # one for HTTP, one for gRPC
    replace(files.certificate, fresh.certificate)  # touched, with the same contents
    time_passes = time.monotonic() + 0.5
    until(lambda: time.monotonic() > time_passes)
    assert [serial(address) for address in addresses(server)] == old
    assert _rejections(server) == 2
    assert str(files.key) in server.log
    replace(files.key, fresh.key)
    for address in addresses(server):
        until(lambda address=address: serial(address) == fresh.serial)
    metrics = httpx.get(f"{server.http_url}/metrics", verify=trusting(files)).text
    assert 'codeq_tls_reloads_total{files="http",outcome="rejected"} 1.0' in metrics
    assert 'codeq_tls_reloads_total{files="grpc",outcome="loaded"} 1.0' in metrics


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA", b"\xff" * 100, b"x" * (1 << 20) + b"x"])
def test_malformed_certificate_changes_nothing(server: ServerProcess, files: Files, content: bytes) -> None:
    old = [serial(address) for address in addresses(server)]
    replace(files.certificate, content)
    until(lambda: _rejections(server) == 2)
    assert [serial(address) for address in addresses(server)] == old


def test_removed_file_changes_nothing(server: ServerProcess, files: Files) -> None:
    old = [serial(address) for address in addresses(server)]
    files.key.unlink()
    until(lambda: _rejections(server) == 2)
    assert [serial(address) for address in addresses(server)] == old


def test_authority_of_clients_can_be_dropped_while_their_connections_stay(tmp_path: Path) -> None:
    old, new = Authority("old"), Authority("new")
    files = old.files(tmp_path / "server-files")
    of_old, of_new = old.files(tmp_path / "old"), new.files(tmp_path / "new")
    bundle = tmp_path / "clients.pem"
    bundle.write_bytes(old.pem + new.pem)
    env = files.server_env | {"TLS_CLIENT_CA_FILE": str(bundle), "TLS_CLIENT_AUTH": "require"}
    with ServerProcess(tmp_path / "server", env=env, prefix=QUICK) as server:

        def is_admitted(client: Files, address: tuple[str, int]) -> bool:
            context = trusting(files)
            context.load_cert_chain(client.certificate, client.key)
            context.set_alpn_protocols(["h2"])
            try:
                with shaken(address, context, "localhost") as connection:
                    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
                    return connection.recv(1) != b""
            except ssl.SSLError:
                return False

        context = trusting(files)
        context.load_cert_chain(of_old.certificate, of_old.key)
        with httpx.Client(verify=context, headers=AUTHORIZATION) as stays:
            assert stays.get(f"{server.http_url}/v1/codeq/server").status_code == 200
            for address in addresses(server):
                assert is_admitted(of_old, address)
                assert is_admitted(of_new, address)
            replace(bundle, new.pem)
            for address in addresses(server):
                until(lambda address=address: not is_admitted(of_old, address))
                assert is_admitted(of_new, address)
            assert stays.get(f"{server.http_url}/v1/codeq/server").status_code == 200


def test_certificate_that_expires_within_two_weeks_is_warned_of_and_measured(
    authority: Authority, tmp_path: Path
) -> None:
    files = authority.files(tmp_path / "certificates", days=13.9)
    with ServerProcess(tmp_path / "server", env=files.server_env, prefix=QUICK) as server:
        warnings = [line for line in map(_event, server.log.splitlines()) if line.get("event") == "certificate_expires"]
        assert [(line["listener"], line["days"], line["level"]) for line in warnings] == [
            ("http", 13, "warn"),
            ("grpc", 13, "warn"),
        ]
        text = httpx.get(f"{server.http_url}/metrics", verify=trusting(files)).text
        name = 'codeq_tls_certificate_expiry_timestamp_seconds{listener="grpc"}'
        (line,) = [line for line in text.splitlines() if line.startswith(name)]
        assert abs(float(line.rpartition(" ")[2]) - time.time() - 13.9 * 86_400) < 600
        files.write(authority.sign(days=14.1))
        until(lambda: "tls_files_reloaded" in server.log)
        files.write(authority.sign(days=-0.5))
        until(lambda: server.log.count("certificate_expired") == 2)
        assert server.log.count('"certificate_expires"') == 2


def _rejections(server: ServerProcess) -> int:
    return server.log.count('"tls_files_rejected"')


def _event(line: str) -> dict[str, object]:
    content = json.loads(line) if line.startswith("{") else {}
    assert isinstance(content, dict)
    return content
