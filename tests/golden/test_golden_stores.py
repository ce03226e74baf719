"""This server opens and drains the stores of earlier versions, and finds everything in them."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import codeq
import pytest
from golden_store import CLAIMED, COMMAND, ENV, FOLDER, KEY, NAME, WAITING, member_env
from server_process import DEV_TOKEN, ServerProcess, reserved_port

ARCHIVES = sorted(FOLDER.glob("*.tar.gz"))


@pytest.mark.parametrize("archive", ARCHIVES, ids=[path.name for path in ARCHIVES])
async def test_golden_store_can_be_opened_and_drained(archive: Path, tmp_path: Path) -> None:
    with tarfile.open(archive) as content:
        content.extractall(tmp_path, filter="data")
    port = reserved_port()
    env = member_env(port.getsockname()[1]) if archive.name.startswith("member-") else ENV
    with (
        port,
        ServerProcess(tmp_path / "server", env=env, store=tmp_path / "store") as server,
    ):
        async with codeq.AsyncClient(server.producer_addr, token=DEV_TOKEN) as client:
            waiting = await _drained(client)
            # Waiting tasks in order of priority, then claimed or delayed ones as they return.
            ready = [payload for payload in waiting if "number" in payload]
            assert ready == [{"priority": priority, "number": number} for priority, number in WAITING]
            states = sorted(str(payload["state"]) for payload in waiting if "state" in payload)
            assert states == sorted([*["claimed"] * CLAIMED, "delayed", "keyed", "named"])
            again = await client.create(COMMAND, {"state": "keyed"}, idempotency_key=KEY)
            assert again.duplicate
            with pytest.raises(codeq.IdempotencyConflict):
                await client.create(COMMAND, {"state": "another"}, idempotency_key=KEY)
            assert (await client.get(NAME)).status == "COMPLETED"
            [done], _ = await client.tasks("DONE")
            assert (await client.result(done.id)).result == {"answer": 42}
            letters = await client.dead_letters("DEAD")
            assert len(letters.tasks) == 1


async def _drained(client: codeq.AsyncClient) -> list[dict[str, object]]:
    """Returns the payloads of all tasks that are delivered, in order, and completes each."""
    found: list[dict[str, object]] = []
    while len(found) < len(WAITING) + CLAIMED + 3:
        for task in await client.claim([COMMAND], wait=10):
            assert isinstance(task.payload, dict)
            found.append(task.payload)
            await client.complete(task)
    return found


def test_each_release_has_golden_stores() -> None:
    tags = subprocess.run(["git", "tag"], cwd=FOLDER, capture_output=True, text=True, check=True).stdout.split()
    names = {path.name for path in ARCHIVES}
    needed = {f"{kind}-{tag}.tar.gz" for tag in [*tags, "format-1"] for kind in ("single", "member")}
    assert needed <= names
