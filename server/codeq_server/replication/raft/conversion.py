"""From a single node to a cluster and back, on a store that no server has open."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from codeq_internal.v1 import raft_rows_pb2, rows_pb2
from codeq_raft_core import conf_state, read_conf_state

from codeq_server.core import keys
from codeq_server.core.parsing import parsed
from codeq_server.storage.errors import StoreFailed, StoreFormat
from codeq_server.storage.identity import load_identity
from codeq_server.storage.rocks import RocksStore
from codeq_server.storage.store import LAST_KEY, LOG_PREFIX, ROWS_POINTER, WRITTEN

from . import log_rows
from .log_rows import GroupKeys
from .member import CLUSTER_ID_BYTES, GROUP, RAFT_ID_BYTES, Member, MemberSettings, founder_rows, raft_id_from
from .ports import Made, Ticks

PAGE: Final = 1024
SETTLE_TICKS_MAX: Final = 3000
SETTLE_SECONDS: Final = 0.01
"""Time between two ticks while the log is applied; with the number of ticks half a minute at most."""


def found_from_store(path: Path, name: str, address: str, random: Callable[[int], bytes]) -> None:
    """Makes the store of a single node the first member of a new cluster: a group of one, which others can join.

    Args:
        path: Folder of the store.
        name: Name of the node.
        address: Address of its transport, host:port.
        random: Returns that many random bytes.

    Raises:
        StoreFormat: It is a member of a cluster already, or no store of a server.
        StoreError: It cannot be opened or written.
    """
    store = _opened(path)
    try:
        if log_rows.load_node(store) is not None:
            raise StoreFormat(f"the store {path} is a member of a cluster already")
        if load_identity(store) is None:
            raise StoreFormat(f"the store {path} is empty; a new node founds a cluster with RAFT_BOOTSTRAP")
        lsn = _last_batch(store)
        store.check_recovered(lsn)
        row = raft_rows_pb2.NodeRow(format=log_rows.FORMAT, raft_id=raft_id_from(random(RAFT_ID_BYTES)))
        rows = founder_rows(row, random(CLUSTER_ID_BYTES), name, {name: address}, lsn)
        rows[WRITTEN] = log_rows.written_value(lsn + 1)  # the count of writes goes on where that of batches ends
        store.write(rows)
        store.sync()
        store.reset_durable(lsn + 1)
    finally:
        store.close()


def leave(path: Path, *, force: bool) -> None:
    """Makes the store of a member that of a single node.

    The member must be the only voter that is left, so that nobody else decides; then all of its log is decided. One
    that was started for a cluster and never got anything from it has no log.

    Args:
        path: Folder of the store.
        force: Whether to do it beside other voters, too: what they decided and this one has not heard of is lost, and
            what this one has in its log counts as decided. For when most of them are gone for ever.

    Raises:
        StoreFormat: It is no member of a cluster, or other voters are left.
        StoreError: It cannot be opened or written.
    """
    store = _opened(path)
    try:
        row = _last_voter(store, force=force)
    except BaseException:
        store.close()
        raise
    if row is None:
        store.close()
    else:
        asyncio.run(_settle(store, row))
    store = _opened(path)
    try:
        lsn = _last_batch(store)
        store.reset_durable(0)  # the count of writes means nothing without the log
        _forget_log(store)
        store.sync()
        store.reset_durable(lsn)
    finally:
        store.close()


def _last_voter(store: RocksStore, *, force: bool) -> raft_rows_pb2.NodeRow | None:
    """Returns who the disk is, which is or becomes the only voter of its cluster; None: it has no part in one yet."""
    row = log_rows.load_node(store)
    if row is None:
        raise StoreFormat("the store is no member of a cluster")
    store.check_recovered(log_rows.read_written(store))
    stored = GroupKeys(GROUP).load(store)
    if not stored.conf_state:
        return None
    voters = read_conf_state(stored.conf_state).voters
    if len(voters) > 1:
        if not force:
            raise StoreFormat(
                f"the cluster has {len(voters)} voters; remove the others with `codeq cluster remove` first. If they "
                "are gone for ever, --force makes a single node of what this one has"
            )
        store.write({GroupKeys(GROUP).conf_state: conf_state([row.raft_id], [])})
        store.sync()
    return row


def _opened(path: Path) -> RocksStore:
    if not (path / "CURRENT").is_file():
        raise StoreFailed(f"there is no store at {path}")
    return RocksStore(path, fsync=True, log=True)


def _last_batch(store: RocksStore) -> int:
    tick = store.get(keys.TICK)
    return 0 if tick is None else parsed(rows_pb2.TickRow, keys.TICK, tick).lsn


class _Alone:
    """Host and network of a member that nobody talks to."""

    def lead(self, term: int) -> None:
        """Serves nothing."""

    def follow(self) -> None:
        """Served nothing."""

    def members_changed(self) -> None:
        """Knows no others."""

    def leader_changed(self) -> None:
        """Follows nobody."""

    def make_snapshot(self) -> Awaitable[Made]:
        """Nobody is there to need one."""
        raise LookupError("nobody is there to need a snapshot")

    def send(self, to: int, group: int, message: bytes) -> None:
        """Loses the message."""

    def send_snapshot(self, to: int, group: int, message: bytes, folder: Path) -> None:
        """Loses the snapshot."""


async def _settle(store: RocksStore, row: raft_rows_pb2.NodeRow) -> None:
    """Applies all of the log as the only voter, and closes the store."""
    problems: list[BaseException] = []
    alone, settled = _Alone(), False
    settings = MemberSettings("", {}, bootstrap=False, ticks=Ticks(election=2, heartbeat=1))
    member = Member(store, row, settings, os.urandom, alone, problems.append)
    try:
        member.start(alone)
        assert member.group is not None
        for _ in range(SETTLE_TICKS_MAX):
            member.tick()
            await asyncio.sleep(SETTLE_SECONDS)
            settled = bool(member.group.leading_term)
            if settled or problems:
                break
    finally:
        await member.close()
    if problems:
        raise problems[0]
    if not settled:
        raise StoreFailed("the log could not be applied: it changes the members; start the node once more")


def _forget_log(store: RocksStore) -> None:
    start = LOG_PREFIX
    while page := store.scan(start, LAST_KEY, PAGE):
        store.write({key: None for key, _ in page if key not in (ROWS_POINTER, log_rows.NODE)})
        start = page[-1][0] + b"\0"
    store.write({log_rows.NODE: None})  # last: until then it is no store of a single node
