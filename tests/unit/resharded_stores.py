"""Stores for tests of resharding, and what is in them after a change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from codeq_internal.v1 import rows_pb2
from codeq_server.core import keys
from codeq_server.storage.artifacts import ArtifactFiles
from codeq_server.storage.check import check_store
from codeq_server.storage.identity import load_identity
from codeq_server.storage.layout import shard_path, stored_shards
from codeq_server.storage.reading import open_stored
from codeq_server.storage.resharding.reshard import Resharded, reshard
from driven_shard import DrivenShard
from stored_rows import to_disk

TASKS = 60
CONTENT = b"content of an artifact"
FILED_HOME = keys.home_of(keys.place_key(keys.lane_prefix(keys.STATES, 1, 9), 1))
"""Home of the first task of a new store."""


class Crash(BaseException):
    """The process ends here: nothing is cleaned up."""


def crash_at(name: str) -> Callable[[str], None]:
    def step(reached: str) -> None:
        if reached == name:
            raise Crash

    return step


def changed(path: Path, to: int, **options: object) -> Resharded:
    return reshard(path, to, free_bytes=lambda _: 1 << 40, **options)  # type: ignore[arg-type]


def beside(path: Path) -> list[str]:
    """Returns the names in the folder that holds a store."""
    return sorted(each.name for each in path.parent.iterdir())


def sound(path: Path) -> int:
    """Checks every store in a folder; returns the number of tasks that wait."""
    shards = stored_shards(path)
    stores = [path] if shards == 1 else [shard_path(path, shard) for shard in range(shards)]
    waiting = 0
    for store in stores:
        differences, summary = check_store(store)
        assert [str(each) for each in differences] == []
        waiting += summary.pending
    return waiting


def waiting_store(folder: Path) -> Path:
    """Creates a store of one shard with tasks that wait."""
    shard = DrivenShard()
    for number in range(TASKS):
        shard.create(priority=number % 2)
    shard.write()
    to_disk(shard.store, folder / "store")
    return folder / "store"


def filed_store(folder: Path) -> tuple[Path, Path]:
    """Creates a store of one shard with a task whose result has an artifact; returns its folder and that of files."""
    shard = DrivenShard()
    task_id = shard.create()
    shard.claim()
    shard.settle(task_id, artifacts=[rows_pb2.ArtifactRow(name="a", size=len(CONTENT), file=b"f" * 16)])
    shard.write()
    path, artifacts = folder / "store", folder / "artifacts"
    to_disk(shard.store, path)
    own = bytes.fromhex(installation(artifacts, path).name)
    files = ArtifactFiles(artifacts, own, fsync=False, reserve_bytes=0)
    files.write(FILED_HOME, [(b"f" * 16, CONTENT)])
    files.close()
    return path, artifacts


def installation(artifacts: Path, store: Path) -> Path:
    """Returns the folder of a store's artifacts."""
    with open_stored(store) as stored:
        identity = load_identity(stored)
    assert identity is not None
    return artifacts / identity.cluster_id.hex()


def contents(artifacts: Path, stores: list[Path]) -> list[bytes]:
    """Returns the artifacts of several stores."""
    folders = [installation(artifacts, store) for store in stores]
    return [file.read_bytes() for folder in folders for file in folder.rglob("*") if file.is_file()]


def shards_of(path: Path) -> list[Path]:
    """Returns the stores in a folder of several shards."""
    return [shard_path(path, shard) for shard in range(stored_shards(path))]


def before(path: Path) -> list[Path]:
    """Returns the stores that were replaced."""
    return list(path.parent.glob(f"{path.name}.before-*"))
