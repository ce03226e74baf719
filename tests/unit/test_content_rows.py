"""Contents of artifacts in rows: stored before their result is decided, removed with it, and never left behind."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from codeq_internal.v1 import rows_pb2
from codeq_internal.v1.rows_pb2 import ArtifactRow
from codeq_server.core import artifacts, content_keys, keys, recovery
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.redrive import redrive_task
from codeq_server.core.shard import ShardSettings
from codeq_server.core.status import Outcome
from codeq_server.engine import contents
from codeq_server.engine.contents import CHUNK_BYTES, CHUNKS_AT_ONCE, ContentRows, content_of
from codeq_server.engine.runner import ShardRunner, system_clock
from codeq_server.replication.local import LocalLog
from codeq_server.storage.check import check
from codeq_server.storage.memory import MemoryStore
from codeq_server.storage.reading import open_stored
from codeq_server.storage.resharding.reshard import reshard
from driven_shard import TENANT, DrivenShard
from held_log import HeldRunner, turns
from planting import planted
from stored_rows import to_disk

FILE = b"f" * 16
HOME = keys.home_of(keys.place_key(keys.lane_prefix(keys.STATES, 1, 9), 1))
"""Home of the first task of a DrivenShard."""
STORED = ArtifactRow(name="a", file=FILE, size=5, sha256=b"s" * 32, chunks=2)


def driven_with_content() -> tuple[DrivenShard, str]:
    """Returns a shard with a claimed task, whose content is stored and undecided."""
    driven = DrivenShard(retention_ms=1000)
    task_id = driven.create()
    driven.claim()
    for number, chunk in enumerate((b"abc", b"de")):
        artifacts.put_chunk(driven.shard, HOME, FILE, number, chunk, 2)
    driven.write()
    assert len(driven.keys(b"gj")) == 3
    return driven, task_id


def test_decided_content_stays_until_its_task_is_removed() -> None:
    driven, task_id = driven_with_content()
    driven.settle(task_id, artifacts=[STORED])
    artifacts.drop_undecided(driven.shard, HOME, FILE)
    driven.write()
    driven.reopen()
    artifacts.drop_undecided(driven.shard, HOME, FILE)
    assert [key[:1] for key in driven.keys(b"gj")] == [b"j", b"j"]
    driven.pass_time(1000)
    driven.write()
    assert driven.keys(b"gjst") == []


def test_content_of_a_redriven_task_is_removed() -> None:
    driven, task_id = driven_with_content()
    driven.settle(task_id, Outcome.FAILED, error="x", artifacts=[STORED])
    driven.write()
    redrive_task(driven.shard, TENANT, task_id, driven.now)
    assert not driven.shard.affect().gone_files
    driven.write()
    assert driven.keys(b"gj") == []


def test_undecided_content_is_removed() -> None:
    driven, _ = driven_with_content()
    artifacts.drop_undecided(driven.shard, HOME, FILE)
    driven.write()
    assert driven.keys(b"gj") == []


@pytest.mark.parametrize(
    "rows",
    [
        {content_keys.content_key(HOME, FILE, 0): None},
        {content_keys.content_key(HOME, FILE, 1): None},
        {content_keys.content_key(HOME, FILE, 1): b"d"},
        {content_keys.content_key(HOME, FILE, 2): b"f"},
        {content_keys.content_key(HOME, b"g" * 16, 0): b"x"},
        {content_keys.undecided_key(HOME, FILE): content_keys.undecided_value(2)},
        {content_keys.undecided_key(HOME, FILE): b"2"},
    ],
)
def test_checker_finds_damaged_contents(rows: dict[bytes, bytes | None]) -> None:
    driven, task_id = driven_with_content()
    driven.settle(task_id, artifacts=[STORED])
    driven.write()
    driven.store.write(rows)
    assert [str(each) for each in check(driven.store.scan(b"", b"\xff", 1 << 30))]


def test_contents_follow_their_tasks_to_other_shards(tmp_path: Path) -> None:
    driven, task_id = driven_with_content()
    driven.settle(task_id, artifacts=[STORED])
    driven.write()
    to_disk(driven.store, tmp_path / "store")
    for shards in (2, 1):
        reshard(tmp_path / "store", shards)
    with open_stored(tmp_path / "store", 64) as rows:
        assert [chunk for _, chunk in rows.scan(*keys.table_rows(keys.CONTENTS), 10)] == [b"abc", b"de"]


# -- through a runner ------------------------------------------------------------------------------------------------


class Served:
    """A shard in memory that is served again and again."""

    def __init__(self) -> None:
        self.store, self.epoch = MemoryStore(), 0
        self.troubles: list[str] = []

    @asynccontextmanager
    async def life(self) -> AsyncIterator[tuple[ContentRows, ShardRunner]]:
        """Yields the contents and the runner of one leadership."""
        self.epoch += 1
        identity = rows_pb2.IdentityRow(format=keys.FORMAT, num_shards=1, cluster_id=b"c" * 16, epoch=self.epoch)
        self.store.write({keys.IDENTITY: identity.SerializeToString()})
        shard = recovery.open_shard(self.store, ShardSettings(), self.epoch, *system_clock())
        runner = ShardRunner(shard, LocalLog(self.store), system_clock, random.random, lambda _: None)
        rows = ContentRows(self.store, lambda what, _: self.troubles.append(what))
        rows.follow(runner)
        yield rows, runner
        await rows.stop()
        await runner.close()

    def rows(self) -> int:
        """Returns the number of rows with contents or about them."""
        return sum(len(self.store.scan(*keys.table_rows(table), 1000)) for table in (keys.UNDECIDED, keys.CONTENTS))


async def test_content_is_read_as_it_was_written() -> None:
    served = Served()
    for size in (0, 1, CHUNK_BYTES, CHUNK_BYTES + 1):
        async with served.life() as (rows, _):
            content = random.Random(size).randbytes(size)
            await rows.write(HOME, [(FILE, content)])
            assert await content_of(served.store, HOME, FILE, rows.chunks_of(size)) == content
            await rows.decided([(HOME, FILE)])
        assert served.rows() == 0


async def test_next_leader_removes_what_was_left_undecided_and_nothing_of_its_own() -> None:
    served = Served()
    async with served.life() as (rows, _):
        await rows.write(HOME, [(bytes([number]) * 16, b"x") for number in range(contents.SLICE + 2)])
    assert served.rows() == 2 * (contents.SLICE + 2)
    async with served.life() as (rows, runner):
        await rows.write(HOME, [(FILE, b"y")])
        async with asyncio.timeout(10):
            while served.rows() > 2:
                await runner.wait_durable()
                await asyncio.sleep(0)
        assert await content_of(served.store, HOME, FILE, 1) == b"y"
    assert not served.troubles


async def test_contents_are_rejected_while_the_disk_is_full_or_nobody_serves() -> None:
    served = Served()
    async with served.life() as (rows, runner):
        runner.shard.storage_full = True
        with pytest.raises(Rejection) as full:
            await rows.write(HOME, [(FILE, b"y")])
        assert full.value.reason is Reason.STORAGE_FULL
        rows.follow(None)
        with pytest.raises(Rejection) as gone:
            await rows.write(HOME, [(FILE, b"y")])
        assert gone.value.reason is Reason.NOT_LEADER
        await rows.decided([(HOME, FILE)])
    assert served.rows() == 0


async def test_few_chunks_are_on_their_way_at_a_time() -> None:
    runner = HeldRunner(window=64)
    rows = ContentRows(runner.log.store, lambda _what, _problem: None)
    rows.follow(runner)
    uploads = [
        asyncio.create_task(rows.write(HOME, [(bytes([number]) * 16, bytes(CHUNK_BYTES + 1))]))
        for number in range(2 * CHUNKS_AT_ONCE)
    ]
    await turns()
    under_way = [key for batch in (*runner.log.batches, runner.shard.batch) for key in batch.rows]
    assert len([key for key in under_way if key.startswith(keys.CONTENTS)]) == CHUNKS_AT_ONCE
    runner.log.free = True
    for _ in runner.log.batches[:]:
        runner.log.release()
    await asyncio.gather(*uploads)
    await rows.stop()


# -- planted bugs ------------------------------------------------------------------------------------------------------

BUGS: dict[str, tuple[Any, str, str, Callable[[], Any]]] = {
    "decided content stays undecided": (
        artifacts.keep,
        "if each.chunks:",
        "if not each.chunks:",
        test_decided_content_stays_until_its_task_is_removed,
    ),
    "content outlives its task": (
        artifacts.let_go,
        "_remove(shard, home, each.file, each.chunks)",
        "pass",
        test_content_of_a_redriven_task_is_removed,
    ),
    "last chunk is left": (
        artifacts._remove,
        "range(chunks)",
        "range(chunks - 1)",
        test_undecided_content_is_removed,
    ),
    "new leader removes its own contents": (
        ContentRows._remove_left,
        "if file not in self._undecided:",
        "if True:",
        test_next_leader_removes_what_was_left_undecided_and_nothing_of_its_own,
    ),
    "new leader looks at the first slice only": (
        ContentRows._remove_left,
        "while found :=",
        "if found :=",
        test_next_leader_removes_what_was_left_undecided_and_nothing_of_its_own,
    ),
    "chunks wait for nobody": (
        ContentRows.write,
        "await self._room.acquire()",
        "pass",
        test_few_chunks_are_on_their_way_at_a_time,
    ),
    "chunk is acknowledged before it is durable": (
        contents._store,
        "await runner.wait_durable()",
        "pass",
        test_content_is_read_as_it_was_written,
    ),
}


@pytest.mark.interpreted
@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS.keys())
def test_planted_bug_in_contents_is_found(bug: tuple[Any, str, str, Callable[[], Any]]) -> None:
    function, right, wrong, test = bug
    assert isinstance(function, FunctionType)

    def run() -> None:
        if inspect.iscoroutinefunction(test):
            asyncio.run(asyncio.wait_for(test(), 5))
        else:
            test()

    with planted(function, right, wrong), pytest.raises((Exception, BaseExceptionGroup)):
        run()
    run()
