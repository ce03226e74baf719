"""The list of workers that are connected by streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from bare_streams import create_many, take, working
from codeq.v1 import producer_service_pb2 as producer_pb
from server_process import DEV_TOKEN, ServerProcess

BOUND = "bound-to-b"
"""Token of an administrator who sees the tasks of B only."""
ADMINISTRATOR = {"tenantId": "acme", "role": "ADMIN"}


def listed(server: ServerProcess, query: Mapping[str, str] = {}, token: str = DEV_TOKEN) -> Any:
    """Returns a page of workers."""
    url, headers = f"{server.http_url}/v1/codeq/admin/workers", {"Authorization": f"Bearer {token}"}
    reply = httpx.get(url, params=query, headers=headers)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def test_connected_workers_are_listed_with_what_they_do(server: ServerProcess) -> None:
    await create_many(server, "A", 3)
    client = producer_pb.ClientInfo(sdk="codeq-go", version="1.2.3", protocol=1)
    async with working(server, "A", name="one", client=client) as first, working(server, "B"):
        await take(first, 3)
        busy, idle = listed(server)["workers"]
        assert (busy["workerId"].rpartition("/")[2], busy["commands"]) == ("one", ["A"])
        assert (busy["claimed"], busy["credits"], busy["sdk"], busy["version"]) == (3, 0, "codeq-go", "1.2.3")
        assert busy["origin"].startswith("127.0.0.1:")
        assert busy["connectedAt"] <= idle["connectedAt"]
        assert (idle["commands"], idle["claimed"], idle["sdk"]) == (["B"], 0, "")
        page = listed(server, {"pageSize": "1"})
        assert page["workers"] == [busy]
        rest = listed(server, {"pageSize": "1", "pageToken": page["nextPageToken"]})
        assert (rest["workers"], rest.get("nextPageToken", "")) == ([idle], "")
    async with asyncio.timeout(20):
        while listed(server)["workers"]:  # noqa: ASYNC110 - the server tells nobody that a stream has ended
            await asyncio.sleep(0.02)


async def test_administrator_bound_to_commands_sees_workers_of_these_only(tmp_path: Path) -> None:
    tokens = [
        {"token": token, "subject": "s", "scopes": ["codeq:claim"], "eventTypes": commands, "raw": ADMINISTRATOR}
        for token, commands in ((DEV_TOKEN, ["*"]), (BOUND, ["B"]))
    ]
    env = {
        "PRODUCER_AUTH_PROVIDER": "static",
        "PRODUCER_AUTH_CONFIG": json.dumps(tokens),
        "WORKER_AUTH_PROVIDER": "static",
        "WORKER_AUTH_CONFIG": '{"token": "other", "scopes": ["codeq:claim"], "eventTypes": ["*"]}',
        "ALLOW_PRODUCER_AS_WORKER": "true",
        "GATEWAY_SECRET": "between-server-and-gateway",
    }
    with ServerProcess(tmp_path / "server", env=env, dev=False) as server:
        async with working(server, "A"), working(server, "A", "B"), working(server):
            assert [each["commands"] for each in listed(server)["workers"]] == [["A"], ["A", "B"], []]
            assert [each["commands"] for each in listed(server, token=BOUND)["workers"]] == [["B"], []]
