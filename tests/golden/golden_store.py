"""Stores left by a server of some version: how they are made, and the content that later servers must find in them.

    python tests/golden/golden_store.py NAME

makes `single-NAME.tar.gz` and `member-NAME.tar.gz` beside this file with the server of this checkout; NAME is the tag
of a release, or the format of the store. The files are made once and never changed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tarfile
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

import codeq  # noqa: E402
from server_process import DEV_TOKEN, ServerProcess, reserved_port  # noqa: E402

COMMAND = "GOLDEN"
KEEP_SECONDS = 315_360_000
"""Retention of ten years, so that ended tasks are still there when the store is opened."""
ENV = {"RETENTION_SECONDS": str(KEEP_SECONDS), "DLQ_RETENTION_SECONDS": str(KEEP_SECONDS)}
WAITING = [(priority, number) for priority in (9, 5, 0) for number in range(3)]
CLAIMED = 2
KEY, NAME = "golden-key", "golden-name"


def member_env(port: int) -> dict[str, str]:
    """Returns the variables of a cluster with one member."""
    return ENV | {
        "RAFT_ENABLED": "true",
        "RAFT_SELF_ID": "node-a",
        "RAFT_BIND_ADDR": f"127.0.0.1:{port}",
        "RAFT_BOOTSTRAP": "true",
        "RAFT_PEERS": f'{{"node-a":"127.0.0.1:{port}"}}',
        "RAFT_ELECTION_MS": "200",
    }


async def fill(server: ServerProcess) -> None:
    """Leaves tasks in every state."""
    async with codeq.AsyncClient(server.producer_addr, token=DEV_TOKEN) as client:
        for _ in range(CLAIMED):
            await client.create(COMMAND, {"state": "claimed"})
        held = await client.claim([COMMAND], count=CLAIMED, lease_seconds=1)
        assert len(held) == CLAIMED
        await client.create("DONE", {"state": "completed"})
        [task] = await client.claim(["DONE"])
        await client.complete(task, {"answer": 42})
        await client.create("DEAD", {"state": "dead"}, max_attempts=1)
        [dead] = await client.claim(["DEAD"])
        await client.nack(dead, "broken", delay=0)
        for priority, number in WAITING:
            await client.create(COMMAND, {"priority": priority, "number": number}, priority)
        await client.create(COMMAND, {"state": "delayed"}, delay=1)
        await client.create(COMMAND, {"state": "keyed"}, idempotency_key=KEY)
        await client.create(COMMAND, {"state": "named"}, task_id=NAME)


def make(name: str) -> None:
    """Makes both stores."""
    for kind in ("single", "member"):
        with tempfile.TemporaryDirectory() as folder:
            env = ENV if kind == "single" else member_env(reserved_port().getsockname()[1])
            server = ServerProcess(Path(folder) / "server", env=env)
            with server:
                asyncio.run(fill(server))
                server.stop()
            with tarfile.open(FOLDER / f"{kind}-{name}.tar.gz", "w:gz") as archive:
                archive.add(server.store, "store", filter=_without_traces)


def _without_traces(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leaves out records of the machine that RocksDB does not need."""
    name = Path(member.name).name
    if name.startswith(("LOG", "LOCK", "OPTIONS")):
        return None
    member.uname = member.gname = ""
    member.uid = member.gid = 0
    return member


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Makes golden stores.")
    parser.add_argument("name", help="tag of the release, or format of the store")
    make(parser.parse_args().name)
