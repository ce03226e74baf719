"""Checks of an existing store: may a server with these settings open it, and do its rows agree?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from codeq_internal.v1 import rows_pb2
from codeq_server.config import Settings
from codeq_server.core import keys
from codeq_server.core.errors import CorruptRows
from codeq_server.core.parsing import parsed
from codeq_server.replication.raft.log_rows import load_node
from codeq_server.storage.check import check_store
from codeq_server.storage.errors import StoreError
from codeq_server.storage.identity import load_identity
from codeq_server.storage.layout import is_store_lost, shard_path, stored_shards
from codeq_server.storage.reading import open_stored

from codeq_cli.doctor.findings import Finding, error, fine, warning

CHECK: Final = "store"
CHECKED_BYTES_MAX: Final = 256 << 20
"""Largest store of which every row is checked, in bytes; that takes some seconds."""
BEHIND_MS_MAX: Final = 5_000
"""How far the clock may be behind the store's last decision, in milliseconds."""

_RESTORE: Final = "restore a backup: docs/runbooks/back-up-and-restore.md"


def check_closed(settings: Settings) -> Iterator[Finding]:
    """Yields findings about the store, which no server has open."""
    path, wanted = settings.persistence.path, settings.persistence.num_shards
    if path is None:
        return
    try:
        found = stored_shards(path)
        if not found:
            yield _without_store(path)
            return
    except StoreError as problem:
        yield error(CHECK, str(problem), _RESTORE)
        return
    except OSError:
        return  # found with the folders
    if found != wanted:
        yield error(CHECK, f"{path} has numShards {found}, the configuration {wanted}", f"set numShards to {found}")
        return
    for shard in range(found):
        yield from _store(settings, path, shard)


def _store(settings: Settings, path: Path, shard: int) -> Iterator[Finding]:
    """Yields findings about the store of a shard."""
    folder = path if settings.persistence.num_shards == 1 else shard_path(path, shard)
    try:
        if folder != path and is_store_lost(path, shard):
            yield error(CHECK, f"the store of shard {shard} is missing: {folder}", f"mount its disk, or {_RESTORE}")
        elif (folder / "CURRENT").is_file():
            yield from _opened(settings, folder)
            yield from _rows(folder)
    except (StoreError, CorruptRows, OSError) as problem:
        yield error(CHECK, " ".join(str(problem).split()), _RESTORE)


def _without_store(path: Path) -> Finding:
    """Returns the finding about a folder without a store.

    Raises:
        OSError: The folder cannot be read.
    """
    if path.is_dir() and any(path.iterdir()):
        text = f"{path} is not empty, and has no store"
        return error(CHECK, text, "name an empty folder in PERSISTENCE_CONFIG, or one with a store")
    return fine(CHECK, f"there is no store at {path} yet; the server will create it")


def _opened(settings: Settings, path: Path) -> Iterator[Finding]:
    """Yields findings about what the store says of itself."""
    with open_stored(path) as rows:
        load_identity(rows)
        is_member = load_node(rows) is not None
        tick = rows.get(keys.TICK)
    if is_member and settings.raft is None:
        remedy = "set RAFT_ENABLED=true and the other RAFT variables; or make it a single node: `codeq cluster leave`"
        yield error(CHECK, f"{path} belongs to a member of a cluster, but RAFT_ENABLED is not set", remedy)
    if settings.raft is not None and not is_member and tick is not None:
        remedy = f"convert it: `codeq cluster init ID HOST:PORT --from-store {path}`"
        yield error(CHECK, f"{path} is the store of a single node, but RAFT_ENABLED is true", remedy)
    written = 0 if tick is None else parsed(rows_pb2.TickRow, keys.TICK, tick).wall_ms
    behind = written - int(time.time() * 1000)
    if behind > BEHIND_MS_MAX:
        text = f"the clock of this machine is {behind // 1000} s behind the last write to {path}"
        yield error("clock", text, "correct the clock; until it catches up, the time of the queue stands still")


def _rows(path: Path) -> Iterator[Finding]:
    size = sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
    if size > CHECKED_BYTES_MAX:
        text = f"{path} has {size >> 20} MiB: its rows are not checked here"
        yield warning(CHECK, text, f"run `codeq store check {path}` if you doubt them")
        return
    differences, summary = check_store(path)
    if differences:
        text = f"the rows of {path} contradict each other in {summary.differences} places; the first: {differences[0]}"
        yield error(CHECK, text, f"`codeq store check {path}` lists them; {_RESTORE}")
    else:
        yield fine(CHECK, f"the rows of {path} agree")
