"""Checks a copy of the product with `label.diff` applied: the field is stored, delivered, listed and compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import codeq
import httpx
import pytest
from server_process import DEV_TOKEN, ServerProcess

SECONDS_MAX = 30


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the new field."""
    with ServerProcess(tmp_path_factory.mktemp("label")) as started:
        yield started


def rest(server: ServerProcess, method: str, path: str, body: object = None) -> httpx.Response:
    """Makes one HTTP call."""
    headers = {"Authorization": f"Bearer {DEV_TOKEN}"}
    return httpx.request(method, f"{server.http_url}/v1/codeq{path}", headers=headers, json=body, timeout=SECONDS_MAX)


def test_label_is_stored_delivered_and_listed(server: ServerProcess) -> None:
    made = rest(server, "POST", "/tasks", {"command": "R", "label": "by REST"}).json()
    with codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
        assert client.create("C", 1, label="by a client", delay=0, expire=60).label == "by a client"
    with codeq.Producer(server.producer_addr, token=DEV_TOKEN) as producer:
        [named, plain] = producer.create_batch([codeq.NewTask("P", 1, label="named", task_id="p1"), codeq.NewTask("P")])
        assert (named, isinstance(plain, str)) == ("p1", True)
    words = ["task", "create", "T", "--payload", "1", "--label", "typed", "--output", "json"]
    environment = {**os.environ, "CODEQ_ENDPOINT": server.http_url, "CODEQ_TOKEN": DEV_TOKEN}
    command = [sys.executable, "-m", "codeq_cli.main", *words]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout)["label"] == "typed"
    server.kill()
    server.start()
    listed: dict[str, Any] = {
        task["id"]: task.get("label") for task in rest(server, "GET", "/tasks?pageSize=100").json()["tasks"]
    }
    assert sorted(filter(None, listed.values())) == ["by REST", "by a client", "named", "typed"]
    assert (listed[made["id"]], listed[plain]) == ("by REST", None)
    claimed = rest(server, "POST", "/tasks/claim", {"commands": ["R"]}).json()
    assert claimed["label"] == "by REST"
    seen: list[str | None] = []
    worker = codeq.Worker(server.worker_addr, token=DEV_TOKEN)

    def handle(task: codeq.Task) -> None:
        seen.append(task.label)
        if len(seen) == 2:
            worker.stop()

    worker.run(handle, commands=["P"])
    assert sorted(map(str, seen)) == ["None", "named"]


def test_label_is_part_of_the_fingerprint(server: ServerProcess) -> None:
    with codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
        first = client.create("K", 1, label="one", idempotency_key="k")
        assert client.create("K", 1, label="one", idempotency_key="k").id == first.id
        for label in ("two", None):
            with pytest.raises(codeq.IdempotencyConflict):
                client.create("K", 1, label=label, idempotency_key="k")


def test_label_rules_are_enforced_over_rest_and_grpc(server: ServerProcess) -> None:
    refused = rest(server, "POST", "/tasks", {"command": "R", "label": "x" * 65})
    assert (refused.status_code, "label" in refused.text) == (400, True)
    with codeq.Producer(server.producer_addr, token=DEV_TOKEN) as producer, pytest.raises(codeq.InvalidField) as wrong:
        producer.create("P", 1, label="x" * 65)
    assert "label" in str(wrong.value)


def test_package_under_test_comes_from_the_copy() -> None:
    assert Path(codeq.__file__).is_relative_to(Path.cwd())
