"""The processes of a server with several shards, as tests see them from outside."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import httpx
from server_process import DEV_TOKEN, ServerProcess

SHARDS = 3
WAIT_SECONDS = 60.0
ENV = {"PERSISTENCE_CONFIG": json.dumps({"numShards": SHARDS})}


def processes(server: ServerProcess) -> dict[int, int]:
    """Returns the id of each shard's process that runs."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    found = {}
    for pid in map(int, children):
        for line in server.log.splitlines():
            event = json.loads(line) if '"server_started"' in line else {}
            if event.get("pid") == pid:
                found[event["shard"]] = pid
    return found


def asked(server: ServerProcess, path: str) -> Any:
    """Returns the reply to a GET over a connection of its own."""
    return httpx.get(f"{server.http_url}{path}", headers={"Authorization": f"Bearer {DEV_TOKEN}"}, timeout=WAIT_SECONDS)


def until(condition: Any) -> Any:
    """Waits until a condition holds; returns its value."""
    end = time.monotonic() + WAIT_SECONDS
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return value


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def served(server: ServerProcess) -> bool:
    """Whether each process sees all shards served."""
    try:
        replies = [asked(server, "/readyz").json() for _ in range(8)]
    except httpx.HTTPError:
        return False
    return all(reply.get("shards") == {str(shard): "served" for shard in range(SHARDS)} for reply in replies)
