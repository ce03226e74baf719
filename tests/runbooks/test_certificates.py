"""The runbook of certificates."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import httpx
import pytest
from runbook import DOCS, Runbook, blocks
from server_process import ServerProcess

pytestmark = pytest.mark.timeout(180)

RELOAD_SECONDS_MAX = 20


def trusts(server: ServerProcess, ca: Path) -> bool:
    """Returns whether a client with these CAs accepts the server's certificate."""
    try:
        reply = httpx.get(f"{server.http_url}/healthz", verify=ssl.create_default_context(cafile=ca))
    except httpx.ConnectError:
        return False
    return reply.status_code == 200


def test_certificate_and_then_its_ca_are_replaced_while_the_server_runs(tmp_path: Path) -> None:
    folder, old = tmp_path / "tls", tmp_path / "old.crt"
    address = {"IP:10.0.0.1": "IP:127.0.0.1"}
    (making,) = [block for block in blocks(DOCS / "tls.md") if "keyCertSign" in block]
    first = Runbook("tls", folder, address, {})
    first.left[:] = [making]
    with first:
        first.run()
    env = {"TLS_CERT_FILE": str(folder / "tls.crt"), "TLS_KEY_FILE": str(folder / "tls.key")}
    with ServerProcess(tmp_path / "server", env=env, apart=False) as server:
        netloc = httpx.URL(server.http_url).netloc.decode()
        replaced = {**address, "/etc/codeq/tls": str(folder), "codeq.internal:8080": netloc}
        with Runbook("runbooks/rotate-certificates", tmp_path / "shell", replaced, {}) as runbook:
            runbook.run()
            on_disk, presented, *metrics = runbook.run().splitlines()
            assert on_disk == presented
            assert 'codeq_tls_reloads_total{files="http",outcome="rejected"} 0.0' in metrics
            runbook.run()
            old.write_bytes((folder / "ca.crt").read_bytes())
            assert trusts(server, folder / "both.crt")
            runbook.run()
            deadline = time.monotonic() + RELOAD_SECONDS_MAX
            while trusts(server, old):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert trusts(server, folder / "both.crt")
            runbook.run()
        assert trusts(server, folder / "ca.crt")
        assert not trusts(server, old)
        assert server.stop() == 0
