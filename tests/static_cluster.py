"""A static cluster: several servers on this machine, each with one shard, that know each other."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
from server_process import DEV_TOKEN, LOOPBACK, ServerProcess, cluster_variables, reserved_port

NAMES = ("a", "b", "c")
SECONDS_MAX = 45.0
TASKS = "/v1/codeq/tasks"

Trust = ssl.SSLContext | bool


@contextmanager
def static_cluster(
    folder: Path, env: Mapping[str, str] | None = None, trust: Trust = True, prefix: Sequence[str] = ()
) -> Iterator[list[ServerProcess]]:
    """Yields the nodes once each sees the shards of all.

    Args:
        folder: Where their files are kept.
        env: Variables of all nodes in addition to a plain environment.
        trust: Authorities of their certificates.
        prefix: See `ServerProcess`.
    """
    with ExitStack() as stack:
        held = [stack.enter_context(reserved_port()) for _ in NAMES]
        places = {name: f"{LOOPBACK}:{port.getsockname()[1]}" for name, port in zip(NAMES, held, strict=True)}
        nodes = [
            stack.enter_context(
                ServerProcess(
                    folder / name,
                    env={"PERSISTENCE_CONFIG": "{}"} | cluster_variables(places, name) | dict(env or {}),
                    apart=False,
                    prefix=prefix,
                )
            )
            for name in places
        ]
        until(lambda: all(served(node, trust) == {"served"} for node in nodes))
        yield nodes


def ask(node: ServerProcess, method: str, path: str, trust: Trust = True, **body: Any) -> httpx.Response:
    """Makes a call on one node."""
    url, headers = f"{node.http_url}{path}", {"Authorization": f"Bearer {DEV_TOKEN}"}
    return httpx.request(method, url, headers=headers, json=body or None, timeout=SECONDS_MAX, verify=trust)


def served(node: ServerProcess, trust: Trust = True) -> set[str]:
    """Returns how a node sees the shards: served or not."""
    return set(ask(node, "GET", "/readyz", trust).json()["shards"].values())


def create(node: ServerProcess, **fields: Any) -> str:
    """Creates a task at a node; returns its id."""
    answer = ask(node, "POST", TASKS, command="a", payload=1, **fields)
    assert answer.status_code in (200, 202), answer.text
    return str(answer.json()["id"])


def claim(node: ServerProcess, count: int) -> list[str]:
    """Claims tasks at a node; returns their ids."""
    answer = ask(node, "POST", f"{TASKS}/claim/batch", commands=["a"], count=count)
    assert answer.status_code in (200, 204), answer.text
    return [task["id"] for task in answer.json()["tasks"]] if answer.content else []


def until(condition: Any, seconds: float = SECONDS_MAX) -> None:
    """Waits until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
