"""A server of one tenant with two tokens, so that one worker can try to act on the other's tasks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import httpx
from documented import ENVIRONMENT
from server_process import ServerProcess
from test_bad_input import WORKER_SCOPES, call, static

FIRST: Final = "worker"
SECOND: Final = "producer"
"""The producer's token, which may also work: its subject is "of-producer", while the worker token's is "of-worker"."""
SECONDS_MAX: Final = 30
POLL_SECONDS: Final = 0.05


def environment(**more: str) -> dict[str, str]:
    """Returns the environment of a server with two workers; `more` adds variables."""
    env = {
        **ENVIRONMENT,
        "PRODUCER_AUTH_CONFIG": static(
            SECOND, "acme", scopes=WORKER_SCOPES, eventTypes=["*"], raw={"tenantId": "acme", "role": "ADMIN"}
        ),
        "WORKER_AUTH_CONFIG": static(FIRST, "acme", scopes=WORKER_SCOPES, eventTypes=["*"]),
        "ALLOW_PRODUCER_AS_WORKER": "true",
        **more,
    }
    del env["PERSISTENCE_CONFIG"]
    return env


def created(server: ServerProcess, command: str, **fields: Any) -> dict[str, Any]:
    """Creates a task and returns it."""
    answer = call(server, "POST", "/tasks", SECOND, json={"command": command, "payload": {}, **fields})
    assert answer.status_code == 202, answer.text
    task: dict[str, Any] = answer.json()
    return task


def claimed(server: ServerProcess, *commands: str, token: str = FIRST, **fields: Any) -> dict[str, Any]:
    """Claims a task, waiting for it, and returns it."""
    answer = call(server, "POST", "/tasks/claim", token, json={"commands": commands, "waitSeconds": 20, **fields})
    assert answer.status_code == 200, answer.text
    task: dict[str, Any] = answer.json()
    return task


def said(server: ServerProcess, task: dict[str, Any], what: str, token: str = FIRST, **body: Any) -> httpx.Response:
    """Makes a worker's call (heartbeat, result, nack or abandon); without the lease token unless `body` contains it."""
    return call(server, "POST", f"/tasks/{task['id']}/{what}", token, json=body)


def shown(server: ServerProcess, task: dict[str, Any]) -> dict[str, Any]:
    """Returns the current state of a task."""
    answer = call(server, "GET", f"/tasks/{task['id']}", SECOND)
    assert answer.status_code == 200, answer.text
    now: dict[str, Any] = answer.json()
    return now


def until(condition: Callable[[], Any]) -> Any:
    """Returns the value of a condition once it is true.

    Raises:
        AssertionError: It never became true.
    """
    end = time.monotonic() + SECONDS_MAX
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(POLL_SECONDS)
    return found
