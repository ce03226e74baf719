"""The space of removed tasks is reclaimed, and nothing else is lost with them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import codeq
import pytest
from codeq_server.storage.check import check_store
from server_process import DEV_TOKEN, ServerProcess

SECONDS_MAX = 90
TASKS = 1_500
LIVE = 200
BATCH = 100
PAYLOAD_BYTES = 2_000
SLACK_BYTES = 2_000_000
"""Size allowed for the logs and file lists that an empty store does not have."""


def size_of(store: Path) -> int:
    total = 0
    for path in store.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # removed by a compaction in the meantime
            continue
    return total


def payload() -> dict[str, str]:
    return {"text": os.urandom(PAYLOAD_BYTES).hex()}


@pytest.mark.timeout(180)
def test_space_of_removed_tasks_is_reclaimed_without_losing_live_tasks(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, env={"RETENTION_SECONDS": "1"}) as server:
        empty = size_of(server.store)
        with codeq.Producer(server.producer_addr, token=DEV_TOKEN) as producer:
            for _ in range(TASKS // BATCH):
                producer.create_batch([codeq.NewTask("goes", payload()) for _ in range(BATCH)])
            specs = [codeq.NewTask("stays", payload()) for _ in range(LIVE)]
            kept = dict(zip(producer.create_batch(specs), (spec.payload for spec in specs), strict=True))
        full = size_of(server.store)
        assert full > empty + 2 * PAYLOAD_BYTES * TASKS
        with codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
            while claimed := client.claim(["goes"], count=BATCH):
                for task in claimed:
                    client.complete(task, payload())
            deadline = time.monotonic() + SECONDS_MAX
            while (size := size_of(server.store)) > empty + 3 * PAYLOAD_BYTES * LIVE + SLACK_BYTES:
                assert time.monotonic() < deadline, f"{size} bytes are left of {full}, an empty store has {empty}"
                assert client.queue("stays").ready == LIVE
            waiting = {
                task.id: task.payload for _ in range(LIVE // BATCH) for task in client.claim(["stays"], count=100)
            }
        assert waiting == kept
        server.stop()
        differences, _ = check_store(server.store)
    assert differences == []
