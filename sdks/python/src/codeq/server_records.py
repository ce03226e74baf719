"""Public values: queues, connected workers, the server, its backups."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from codeq.records import to_datetime
from codeq.v1 import queue_service_pb2, server_service_pb2


@dataclass(frozen=True, slots=True)
class Queue:
    """The tasks of one command.

    Attributes:
        command: Name of the queue.
        ready: Tasks waiting and claimable.
        scheduled: Tasks waiting for their due time.
        claimed: Tasks leased.
        dlq: Tasks in the dead-letter queue.
        oldest_age_seconds: Age of the oldest claimable task; 0 if there is none.
        paused: Whether the queue accepts tasks but delivers none.
        created_rate: Tasks created per second, averaged over about a minute.
        completed_rate: Tasks completed per second, averaged over about a minute.
        purging: Whether a purge is running: nothing is delivered, and the tasks that were waiting when it was requested
            end.
        failed_total: Tasks that ended as FAILED since the queue was created, not counting redriven ones.
    """

    command: str
    ready: int
    scheduled: int
    claimed: int
    dlq: int
    oldest_age_seconds: float
    paused: bool = False
    created_rate: float = 0
    completed_rate: float = 0
    purging: bool = False
    failed_total: int = 0

    @classmethod
    def from_message(cls, message: queue_service_pb2.Queue) -> Self:
        """Returns the queue in a message."""
        return cls(
            command=message.command,
            ready=message.ready,
            scheduled=message.scheduled,
            claimed=message.claimed,
            dlq=message.dlq,
            oldest_age_seconds=message.oldest_age_seconds,
            paused=message.paused,
            created_rate=message.created_rate,
            completed_rate=message.completed_rate,
            purging=message.purging,
            failed_total=message.failed_total,
        )


@dataclass(frozen=True, slots=True)
class ConnectedWorker:
    """An open stream of a worker.

    Attributes:
        worker_id: Worker id, which holds the leases.
        commands: Commands that it asked for, as far as the caller sees their tasks; empty: all that its token allows.
        claimed: Tasks in progress that were delivered over the stream.
        credits: Further tasks that it accepts at the moment.
        sdk: SDK, such as codeq-go; empty if it did not say.
        version: Version of the SDK; empty if it did not say.
        origin: Address from which it is connected.
        connected_at: When it connected.
    """

    worker_id: str
    commands: list[str]
    claimed: int
    credits: int
    sdk: str
    version: str
    origin: str
    connected_at: datetime

    @classmethod
    def from_message(cls, message: queue_service_pb2.ConnectedWorker) -> Self:
        """Returns the worker in a message."""
        return cls(
            worker_id=message.worker_id,
            commands=list(message.commands),
            claimed=message.claimed,
            credits=message.credits,
            sdk=message.sdk,
            version=message.version,
            origin=message.origin,
            connected_at=to_datetime(message.connected_at),
        )


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Version, mode and limits of the server.

    Attributes:
        version: Version.
        mode: Mode of operation, such as "single".
        fsync: Whether every acknowledgement waits for fsync.
        persistence_provider: Storage engine.
        num_shards: Number of shards.
        payload_bytes_max: Largest payload or result, in bytes.
        batch_items_max: Maximum number of items in a batch call.
        compiled: Whether the code of its hot paths is compiled; otherwise Python interprets it.
    """

    version: str
    mode: str
    fsync: bool
    persistence_provider: str
    num_shards: int
    payload_bytes_max: int
    batch_items_max: int
    compiled: bool = False

    @classmethod
    def from_message(cls, message: server_service_pb2.ServerInfo) -> Self:
        """Returns the server's info in a message."""
        return cls(
            version=message.version,
            mode=message.mode,
            fsync=message.fsync,
            persistence_provider=message.persistence_provider,
            num_shards=message.num_shards,
            payload_bytes_max=message.payload_bytes_max,
            batch_items_max=message.batch_items_max,
            compiled=message.compiled,
        )


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy of the server's store and artifacts.

    Attributes:
        name: Name of its folder in the server's backup folder.
        created_at: Time at which the backup was complete.
        artifacts: Number of artifact files in it.
    """

    name: str
    created_at: datetime
    artifacts: int

    @classmethod
    def from_message(cls, message: server_service_pb2.Backup) -> Self:
        """Returns the backup in a message."""
        return cls(message.name, to_datetime(message.created_at), message.artifacts)
