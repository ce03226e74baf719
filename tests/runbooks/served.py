"""Calls that tests of runbooks make to see what a server still has."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import httpx
from cluster_client import Follower
from cluster_process import TOKEN, ClusterProcess
from server_process import DEV_TOKEN, ServerProcess

SECONDS_MAX = 60
FORWARD = {"X-CodeQ-Forward": "1"}
"""Has a follower forward a call to the leader."""


def call(server: ServerProcess, method: str, path: str, body: object = None, token: str = DEV_TOKEN) -> httpx.Response:
    """Makes a call; while no node leads, or the leader has just been lost, again and again."""
    deadline = time.monotonic() + SECONDS_MAX
    while True:
        url, headers = f"{server.http_url}/v1/codeq{path}", {"Authorization": f"Bearer {token}", **FORWARD}
        with suppress(httpx.ConnectError):
            reply = httpx.request(method, url, json=body, headers=headers)
            if reply.status_code != 503:
                return reply
        assert time.monotonic() < deadline, server.log


def created(server: ServerProcess, token: str = DEV_TOKEN) -> str:
    """Creates a task and returns its id."""
    reply = call(server, "POST", "/tasks", {"command": "ORDER", "payload": 1}, token)
    assert reply.status_code == 202, reply.text
    task_id = reply.json()["id"]
    assert isinstance(task_id, str)
    return task_id


def has(server: ServerProcess, task_id: str, token: str = DEV_TOKEN) -> bool:
    """Returns whether the server knows a task."""
    return call(server, "GET", f"/tasks/{task_id}", token=token).status_code == 200


def wait_for_votes(cluster: ClusterProcess) -> None:
    """Waits until every node has a vote and is up to date: until then, a lost disk may be half of a majority."""

    async def votes() -> None:
        async with Follower(list(cluster.addresses("grpc_addr").values()), TOKEN) as client:
            await cluster.all_vote(client)

    asyncio.run(votes())


def of_server(server: ServerProcess) -> dict[str, str]:
    """Returns the variables of the command line for a server."""
    return {"CODEQ_ENDPOINT": server.http_url, "CODEQ_TOKEN": DEV_TOKEN}


def of_cluster(cluster: ClusterProcess) -> dict[str, str]:
    """Returns the variables of the command line for a cluster."""
    return {"CODEQ_ENDPOINT": ",".join(cluster.addresses("http_url").values()), "CODEQ_TOKEN": TOKEN}
