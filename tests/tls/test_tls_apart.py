"""A standalone gateway reaches its server over TLS, with a certificate of its own, and follows changed files."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest
from authority import Authority, Files, replace, trusting
from server_process import DEV_TOKEN, ServerProcess
from tls_clients import QUICK, addresses, serial, until

pytestmark = pytest.mark.timeout(180)
AUTHORIZATION = {"Authorization": f"Bearer {DEV_TOKEN}"}


def environment(files: Files, gateway: Files, clients: Path) -> dict[str, str]:
    """Returns the variables of a server that requires certificates on gRPC, and of its gateway."""
    return files.server_env | {
        "GRPC_TLS_CLIENT_CA_FILE": str(clients),
        "GRPC_TLS_CLIENT_AUTH": "require",
        "SERVER_TLS_CA_FILE": str(files.ca),
        "SERVER_TLS_CERT_FILE": str(gateway.certificate),
        "SERVER_TLS_KEY_FILE": str(gateway.key),
    }


def test_gateway_and_server_show_each_other_certificates_and_survive_new_authorities(tmp_path: Path) -> None:
    old, new = Authority("old"), Authority("new")
    files, gateway = old.files(tmp_path / "server-files"), old.files(tmp_path / "gateway-files", "gateway")
    rest = Authority("rest").files(tmp_path / "rest")
    clients = tmp_path / "clients.pem"
    clients.write_bytes(old.pem)
    env = environment(files, gateway, clients) | {
        "HTTP_TLS_CERT_FILE": str(rest.certificate),
        "HTTP_TLS_KEY_FILE": str(rest.key),
    }
    with (
        ServerProcess(tmp_path / "server", env=env, prefix=QUICK, apart=True) as server,
        httpx.Client(verify=trusting(rest), headers=AUTHORIZATION, base_url=server.http_url) as http,
    ):
        until(lambda: http.get("/readyz").status_code == 200)
        assert http.post("/v1/codeq/tasks", json={"command": "A"}).status_code == 202
        # Both sides move to another authority; the link of the gateway does not break.
        replace(files.ca, new.pem)
        replace(clients, new.pem)
        gateway.write(new.sign("gateway"))
        fresh = new.sign()
        files.write(fresh)
        until(lambda: server.log.count('"files":"servers"') >= 2 and serial(addresses(server)[1]) == fresh.serial)
        assert http.post("/v1/codeq/tasks", json={"command": "A"}).status_code == 202
        # A link that is opened again uses the new files.
        server.signal(9)
        server.start_server()
        until(lambda: http.get("/readyz").status_code == 200)
        assert http.post("/v1/codeq/tasks", json={"command": "A"}).status_code == 202


def test_gateway_without_the_authority_of_its_server_is_not_ready(tmp_path: Path) -> None:
    authority = Authority()
    files, gateway = authority.files(tmp_path / "server-files"), authority.files(tmp_path / "gateway-files", "gateway")
    clients = tmp_path / "clients.pem"
    clients.write_bytes(authority.pem)
    with (
        ServerProcess(
            tmp_path / "server", env=environment(files, gateway, clients), prefix=QUICK, apart=True
        ) as server,
        httpx.Client(verify=trusting(files), headers=AUTHORIZATION, base_url=server.http_url) as http,
    ):
        until(lambda: http.get("/readyz").status_code == 200)
        replace(files.ca, Authority("foreign").pem)
        until(lambda: server.log.count('"files":"servers"') >= 2)
        os.kill(server.pid, 9)
        server.start_server()
        until(lambda: http.get("/readyz").status_code == 503)
        replace(files.ca, authority.pem)
        until(lambda: http.get("/readyz").status_code == 200)
