"""Converts a store that no server has open from a single node to a cluster and back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from codeq_internal.v1 import raft_rows_pb2, rows_pb2
from codeq_raft_core import conf_state, read_conf_state

from codeq_server.core import keys
from codeq_server.core.parsing import RowReader, parsed
from codeq_server.storage.errors import StoreFailed, StoreFormat
from codeq_server.storage.identity import load_identity
from codeq_server.storage.rocks import RocksStore
from codeq_server.storage.store import ROWS_POINTER, WRITTEN, DurableRows, ReplaceableRows, delete_log

from . import log_rows
from .disk_identity import CLUSTER_ID_BYTES, GROUP, RAFT_ID_BYTES, founder_rows, raft_id_from
from .log_rows import GroupKeys
from .member import Member, MemberSettings
from .ports import Made, Ticks

SETTLE_TICKS_MAX: Final = 3000
SETTLE_SECONDS: Final = 0.01
"""Time between two ticks while the log is applied; with SETTLE_TICKS_MAX, this takes at most half a minute."""


def found_from_store(path: Path, name: str, address: str, random: Callable[[int], bytes]) -> None:
    """Turns the store of a single node into the first member of a new cluster: a group of one that others can join.

    Args:
        path: Folder of the store.
        name: Name of the node.
        address: Address of the node's transport, host:port.
        random: Returns that many random bytes.

    Raises:
        StoreFormat: The store is already a member of a cluster, or not a server's store.
        StoreError: The store cannot be opened or written.
    """
    store = _opened(path)
    try:
        if log_rows.load_node(store) is not None:
            raise StoreFormat(f"the store {path} is already a member of a cluster")
        if load_identity(store) is None:
            raise StoreFormat(f"the store {path} is empty; a new node founds a cluster with RAFT_BOOTSTRAP")
        lsn = _last_batch(store)
        store.check_recovered(lsn)
        row = raft_rows_pb2.NodeRow(format=log_rows.FORMAT, raft_id=raft_id_from(random(RAFT_ID_BYTES)))
        rows = founder_rows(row, random(CLUSTER_ID_BYTES), name, {name: address}, lsn)
        rows[WRITTEN] = log_rows.written_value(lsn + 1)  # the numbering of writes continues where the batches end
        store.write(rows)
        store.sync()
        store.reset_durable(lsn + 1)
    finally:
        store.close()


def leave(path: Path, *, force: bool) -> None:
    """Turns the store of a member into the store of a single node.

    The member must be the only voter left, so that no other member decides; everything in its log then counts as
    decided. A member that was started for a cluster but never received anything from it has no log.

    Args:
        path: Folder of the store.
        force: Whether to convert despite other voters: decisions that this member has not received are lost, and
            everything in its log counts as decided. Use it only when most voters are lost for good.

    Raises:
        StoreFormat: The store is not a member of a cluster, or other voters are left.
        StoreError: The store cannot be opened or written.
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
        store.reset_durable(0)  # the count of writes has no meaning without the log
        delete_log(store, {ROWS_POINTER, log_rows.NODE})
        store.write({log_rows.NODE: None})  # written last: until then this is not a single node's store
        store.sync()
        store.reset_durable(lsn)
    finally:
        store.close()


def _last_voter(store: DurableRows, *, force: bool) -> raft_rows_pb2.NodeRow | None:
    """Returns the identity of a disk that is, or becomes, its cluster's only voter; None: the disk is in no cluster."""
    row = log_rows.load_node(store)
    if row is None:
        raise StoreFormat("the store is not a member of a cluster")
    store.check_recovered(log_rows.read_written(store))
    stored = GroupKeys(GROUP).load(store)
    if not stored.conf_state:
        return None
    voters = read_conf_state(stored.conf_state).voters
    if len(voters) > 1:
        if not force:
            raise StoreFormat(
                f"the cluster has {len(voters)} voters; remove the others with `codeq cluster remove` first. If they "
                "are lost for good, --force makes a single node from the data of this one"
            )
        store.write({GroupKeys(GROUP).conf_state: conf_state([row.raft_id], [])})
        store.sync()
    return row


def _opened(path: Path) -> RocksStore:
    if not (path / "CURRENT").is_file():
        raise StoreFailed(f"there is no store at {path}")
    return RocksStore(path, fsync=True, log=True)


def _last_batch(rows: RowReader) -> int:
    tick = rows.get(keys.TICK)
    return 0 if tick is None else parsed(rows_pb2.TickRow, keys.TICK, tick).lsn


class _Alone:
    """The host and the network of a member without peers."""

    def lead(self, term: int) -> None:
        """Serves nothing."""

    def follow(self) -> None:
        """Stops nothing."""

    def members_changed(self) -> None:
        """Ignores the change."""

    def leader_changed(self) -> None:
        """Ignores the change."""

    def make_snapshot(self) -> Awaitable[Made]:
        """Raises LookupError, because no other member exists that could need a snapshot."""
        raise LookupError("no other member exists that could need a snapshot")

    def send(self, to: int, group: int, message: bytes) -> None:
        """Drops the message."""

    def send_snapshot(self, to: int, group: int, message: bytes, folder: Path) -> None:
        """Drops the snapshot."""


async def _settle(store: ReplaceableRows, row: raft_rows_pb2.NodeRow) -> None:
    """Applies the whole log as the only voter, and closes the store."""
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
        raise StoreFailed("the log could not be applied, because it changes the members; start the node again")
