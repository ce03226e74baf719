"""A server whose store files are damaged or whose disk rejects writes."""

from __future__ import annotations

import asyncio
import json
import resource
from pathlib import Path

import codeq
import pytest
from acknowledged_load import COMMAND, Ledger, load, missing
from codeq_server.storage.check import check_store
from codeq_server.storage.durable import read_durable
from codeq_server.storage.rocks import RocksStore
from server_process import DEV_TOKEN, ServerProcess

CREATED = 200
LATER_SECONDS_MAX = 20
FILE_BYTES_MAX = 1 << 20


async def create_some(server: ServerProcess, ledger: Ledger, *, chars: int = 500) -> None:
    async with codeq.AsyncProducer(server.producer_addr, token=DEV_TOKEN) as producer:
        tasks = [producer.create(COMMAND, {"fill": "x" * chars}) for _ in range(CREATED)]
        ledger.created.update(await asyncio.gather(*tasks))


def log_of(store: Path) -> Path:
    """Returns the write-ahead log that holds the rows."""
    return max(store.glob("*.log"), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("tail", [b"\x07torn record", bytes(4000)], ids=["torn", "zeros"])
async def test_store_with_a_torn_log_opens_with_everything_acknowledged(tmp_path: Path, tail: bytes) -> None:
    """A power cut during a write that is not yet acknowledged leaves a torn log."""
    ledger = Ledger()
    with ServerProcess(tmp_path / "server") as server:
        await create_some(server, ledger)
        server.kill()
        with log_of(server.store).open("ab") as log:
            log.write(tail)
        server.start()
        assert await missing(server, ledger) == []
        assert server.stop() == 0
        assert check_store(server.store)[0] == []


async def test_flipped_bit_in_acknowledged_rows_prevents_startup(tmp_path: Path) -> None:
    ledger = Ledger()
    with ServerProcess(tmp_path / "server") as server:
        await create_some(server, ledger)
        flipped = log_of(server.store).stat().st_size // 2
        noted = read_durable(server.store)
        async with asyncio.timeout(LATER_SECONDS_MAX):
            while read_durable(server.store) <= noted + 1:
                await create_some(server, ledger)
        server.kill()
        log = log_of(server.store)
        content = bytearray(log.read_bytes())
        content[flipped] ^= 0x10
        log.write_bytes(content)
        before = server.log
        server.spawn()
        assert server.wait() == 1
        (line,) = server.log.removeprefix(before).splitlines()
        assert line.startswith("codeq: ")
        assert "Restore a backup" in line
        assert str(server.store) in line
        assert check_store(server.store)[0] != []


async def test_failed_write_ends_the_server_and_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """A file size limit simulates a full disk."""
    ledger = Ledger(10_000)
    with ServerProcess(tmp_path / "server") as server:
        await create_some(server, ledger)
        busy = asyncio.create_task(load(server, ledger))
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, FILE_BYTES_MAX))
        assert await asyncio.to_thread(server.wait) == 1
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)
        events = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
        (fatal,) = [event for event in events if event["level"] == "error"]
        assert str(server.store) in fatal["error"]
        assert check_store(server.store)[0] == []
        server.start()
        assert await missing(server, ledger) == []
        assert server.stop() == 0


@pytest.mark.parametrize("ready", ["never delivered", "given back by a nack"])
async def test_corrupt_row_read_by_a_claim_ends_the_server_and_is_named_in_the_log(tmp_path: Path, ready: str) -> None:
    with ServerProcess(tmp_path / "server") as server:
        async with codeq.AsyncClient(server.producer_addr, token=DEV_TOKEN) as client:
            await client.create("damaged")
            if ready == "given back by a nack":
                [task] = await client.claim(["damaged"])
                await client.nack(task, delay=0)
        assert server.stop() == 0
        store = RocksStore(server.store, fsync=True)
        key, value = store.scan(b"t", b"u", 2)[-1]
        store.write({key: value[:3]})
        store.sync()
        store.close()
        server.start()
        before = server.log
        async with codeq.AsyncClient(server.producer_addr, token=DEV_TOKEN) as client:
            with pytest.raises((codeq.OutcomeUnknown, codeq.Unavailable)):
                await client.claim(["damaged"])
        assert await asyncio.to_thread(server.wait) == 1
        events = [json.loads(line) for line in server.log.removeprefix(before).splitlines() if line.startswith("{")]
        assert [key.hex() in event["error"] for event in events if event["level"] == "error"] == [True]
        assert key in [difference.key for difference in check_store(server.store)[0]]
