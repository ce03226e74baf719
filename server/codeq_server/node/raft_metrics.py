"""Prometheus metrics of a node's Raft member, read at scrape time. Leaders and followers export the same families."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final, get_args

from codeq_raft_core import read_conf_state
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from codeq_server.replication.raft.disk import Disk
from codeq_server.replication.raft.exports import SnapshotMaker
from codeq_server.replication.raft.group import Group
from codeq_server.replication.raft.member import Member
from codeq_server.replication.raft.transport import Transport
from codeq_server.services.cluster import Role
from codeq_server.services.former_metrics import former_counter
from codeq_server.services.histograms import OF_DISKS, SyncTimes

_COUNTERS: Final = {
    "messages_sent": ("codeq_raft_messages_sent", "Messages sent to other nodes"),
    "messages_received": ("codeq_raft_messages_received", "Messages received from other nodes"),
    "bytes_sent": ("codeq_raft_bytes_sent", "Bytes of messages sent"),
    "bytes_received": ("codeq_raft_bytes_received", "Bytes of messages received"),
    "dropped": ("codeq_raft_messages_dropped", "Messages dropped because a node was unreachable or slow"),
    "refused": ("codeq_raft_messages_refused", "Messages received that were not for this node"),
    "reconnects": ("codeq_raft_reconnects", "Reconnections to a node"),
    "snapshots_sent": ("codeq_raft_snapshots_sent", "Snapshots delivered to another node"),
    "snapshots_failed": ("codeq_raft_snapshots_failed", "Snapshots not delivered, or not wanted by the receiver"),
    "snapshots_received": ("codeq_raft_snapshots_received", "Snapshots received from another node"),
    "snapshot_bytes_sent": ("codeq_raft_snapshot_bytes_sent", "Bytes of snapshots sent"),
    "snapshot_bytes_received": ("codeq_raft_snapshot_bytes_received", "Bytes of snapshots received"),
}


class RaftCollector(Collector):
    """Exports the metrics of the Raft member, its disk and its transport.

    Args:
        member: This node's Raft member.
        transport: Transport to the other nodes.
        maker: Makes the node's snapshots.
    """

    def __init__(self, member: Member, transport: Transport, maker: SnapshotMaker) -> None:
        self._member, self._transport, self._maker = member, transport, maker

    def collect(self) -> Iterator[Metric]:
        """Yields every family; the group's families only once this node has joined a group."""
        group = self._member.group
        if group is not None:
            yield from _of_group(group)
            yield from _of_members(group)
        yield from _of_disk(self._member.disk)
        for name, (metric, text) in _COUNTERS.items():
            yield CounterMetricFamily(metric, f"{text} since startup.", value=getattr(self._transport.counters, name))
        yield CounterMetricFamily("codeq_raft_snapshots_made", "Snapshots made since startup.", value=self._maker.made)
        age = GaugeMetricFamily("codeq_raft_snapshot_age_seconds", "Age of the last snapshot made since startup.")
        if self._maker.made:
            age.add_metric((), time.monotonic() - self._maker.made_at)
        yield age


def _of_group(group: Group) -> Iterator[Metric]:
    status = group.status
    mine = "learner" if group.raft_id in read_conf_state(group.conf_state).learners else status.role
    roles = GaugeMetricFamily("codeq_raft_role", "1 for the role of this node.", labels=("role",))
    for role in get_args(Role):
        roles.add_metric((role,), role == mine)
    yield roles
    gauges = (
        ("has_leader", "1 while a leader is known.", bool(group.leader)),
        ("term", "Term.", status.term),
        ("commit_index", "Last committed entry.", status.commit),
        ("applied_index", "Last entry applied to the store.", group.written),
        ("apply_lag", "Committed entries not yet applied to the store.", status.commit - group.written),
        ("proposals_waiting", "Batches of this leader waiting for a majority.", group.leadership.pending.proposals),
        ("log_entries", "Entries in the log.", status.last_index - status.first_index + 1),
        ("log_bytes", "Size of the log.", status.log_bytes),
    )
    for name, text, value in gauges:
        yield GaugeMetricFamily(f"codeq_raft_{name}", text, value=value)
    yield CounterMetricFamily("codeq_raft_elections", "Leader elections seen.", value=group.leadership.elections)


def _of_members(group: Group) -> Iterator[Metric]:
    """Yields the metrics of the other members, which only a leader has."""
    lag = GaugeMetricFamily("codeq_raft_member_lag", "Entries that a member lacks.", labels=("member",))
    active = GaugeMetricFamily("codeq_raft_member_active", "1 if a member was heard from recently.", labels=("member",))
    progress = {each.id: each for each in group.node.progress()} if group.leading_term else {}
    for member in group.members.members:
        seen = progress.get(member.raft_id)
        if seen is not None and member.raft_id != group.raft_id:
            lag.add_metric((member.name,), group.status.last_index - seen.matched)
            active.add_metric((member.name,), group.leadership.hears(seen.id))
    yield lag
    yield active


def _of_disk(disk: Disk) -> Iterator[Metric]:
    yield GaugeMetricFamily("codeq_raft_writes_waiting", "Writes waiting for the disk.", value=disk.waiting)
    yield from SyncTimes(disk.syncs).collect()
    yield former_counter("codeq_raft_syncs_total", disk.syncs.count)
    yield former_counter("codeq_raft_sync_seconds_total", disk.syncs.total / OF_DISKS.per_second)
