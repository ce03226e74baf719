"""The audit of a running server: over REST in its process and through a gateway apart, gRPC, command line and SDK."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import codeq
import pytest
from codeq.audit import AuditFilter, AuditRecord
from codeq_server.storage.check import check_store
from server_process import DEV_TOKEN, ServerProcess

SECONDS_MAX = 20
WRONG = "no-such-token"


@pytest.fixture(params=[False, True], ids=["one process", "gateway apart"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "server", apart=request.param) as running:
        yield running
        print(running.log)


def rest(server: ServerProcess, method: str, path: str, token: str, body: object = None) -> tuple[int, Any, str]:
    """Makes a call on a connection of its own; returns status, body and the connection's address."""
    host, port = server.http_url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=SECONDS_MAX)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    headers |= {"X-Forwarded-For": "203.0.113.7", "Content-Type": "application/json"}
    try:
        connection.connect()
        host, port = connection.sock.getsockname()
        connection.request(method, f"/v1/codeq{path}", None if body is None else json.dumps(body), headers)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read() or b"{}"), f"{host}:{port}"
    finally:
        connection.close()


def records(server: ServerProcess, count: int) -> list[AuditRecord]:
    """Returns all records, oldest first, once there are so many."""
    deadline = time.monotonic() + SECONDS_MAX
    with codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
        while True:
            found, token = client.audit(AuditFilter(order_by="oldest"))
            assert token == ""
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline, found


def test_acts_and_refused_accesses_are_recorded_with_the_address_of_the_caller(server: ServerProcess) -> None:
    status, body, paused_from = rest(server, "POST", "/admin/queues/A/pause", DEV_TOKEN, {})
    assert (status, body["paused"]) == (200, True)
    status, _, unknown_from = rest(server, "GET", "/tasks/t", WRONG)
    assert status == 401
    with codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
        client.resume_queue("A")
    with codeq.Client(server.producer_addr, token=WRONG) as client, pytest.raises(codeq.Unauthenticated):
        client.queue("A")
    found = records(server, 4)
    assert [(each.call, each.object, each.outcome, each.count) for each in found] == [
        ("PauseQueue", "A", "OK", 0),
        ("GetTask", "", "UNAUTHENTICATED", 1),
        ("ResumeQueue", "A", "OK", 0),
        ("GetQueue", "", "UNAUTHENTICATED", 1),
    ]
    assert [each.origin for each in found[:2]] == [paused_from, unknown_from]
    assert all(each.origin.startswith("127.0.0.1:") for each in found[2:])
    assert (found[0].before, found[0].after) == ('{"paused":false}', '{"paused":true}')
    assert WRONG not in str(found)
    assert server.log.count("administered") == 2


def test_records_survive_a_kill_and_the_store_is_consistent(server: ServerProcess) -> None:
    for command in ("A", "B", "C"):
        assert rest(server, "POST", f"/admin/queues/{command}/pause", DEV_TOKEN, {})[0] == 200
    before = records(server, 3)
    server.kill()
    server.start()
    assert records(server, 3) == before
    assert rest(server, "POST", "/admin/queues/D/pause", DEV_TOKEN, {})[0] == 200
    assert [each.object for each in records(server, 4)] == ["A", "B", "C", "D"]
    assert server.stop() == 0
    differences, summary = check_store(server.store)
    assert (differences, summary.differences) == ([], 0)


def codeq_command(server: ServerProcess, *args: str, token: str = DEV_TOKEN) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "codeq_cli.main", "--endpoint", server.http_url, "--token", token, *args]
    return subprocess.run(command, env=server.env, capture_output=True, text=True, check=False, timeout=60)


def test_command_line_lists_filters_and_pages(server: ServerProcess) -> None:
    for command in ("A", "B"):
        assert codeq_command(server, "queue", "pause", command).returncode == 0
    assert codeq_command(server, "queue", "list", token=WRONG).returncode == 1
    records(server, 3)
    everything = codeq_command(server, "audit", "list", "-o", "json")
    assert everything.returncode == 0, everything.stderr
    outcomes = [each["outcome"] for each in json.loads(everything.stdout)["records"]]
    assert outcomes == ["UNAUTHENTICATED", "OK", "OK"]
    pauses = codeq_command(server, "audit", "list", "--call", "PauseQueue", "--order", "oldest", "-o", "json")
    assert [each["object"] for each in json.loads(pauses.stdout)["records"]] == ["A", "B"]
    first = codeq_command(server, "audit", "list", "--limit", "1", "--since", "1h", "-o", "json")
    assert [each["outcome"] for each in json.loads(first.stdout)["records"]] == ["UNAUTHENTICATED"]
    assert "more records: --page-token" in first.stderr
    assert json.loads(codeq_command(server, "audit", "list", "--until", "1h", "-o", "json").stdout)["records"] == []
    assert json.loads(codeq_command(server, "audit", "list", "--tenant", "zebra", "-o", "json").stdout)["records"] == []
    table = codeq_command(server, "audit", "list", "-o", "table").stdout
    assert "PauseQueue" in table
    assert table.startswith("AT")


def test_records_are_removed_after_the_configured_retention_which_is_never_zero(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, env={"AUDIT_RETENTION_SECONDS": "1"}) as server:
        assert rest(server, "POST", "/admin/queues/A/pause", DEV_TOKEN, {})[0] == 200
        deadline = time.monotonic() + SECONDS_MAX
        while records(server, 0):
            assert time.monotonic() < deadline
        env = {**server.env, "AUDIT_RETENTION_SECONDS": "0"}
    command = [sys.executable, "-m", "codeq_cli.main", "config", "check", "--dev"]
    refused = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode == 2
    assert "AUDIT_RETENTION_SECONDS" in refused.stderr
