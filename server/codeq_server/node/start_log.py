"""What a server logs once it serves requests."""

from __future__ import annotations

import os

import structlog

from codeq_server.config import Settings
from codeq_server.node.descriptors import Files
from codeq_server.node.listeners import warn_plaintext
from codeq_server.node.summary import Ready
from codeq_server.services.handshake import SERVER_VERSION

_log = structlog.get_logger()


def log_start(settings: Settings, files: Files, ready: Ready, *, rest: bool) -> None:
    """Logs that requests are served, and what operators should know about the settings.

    Args:
        settings: Settings of the server.
        files: Shares of the open files.
        ready: Addresses that it listens on.
        rest: Whether it serves the REST API, too.
    """
    _log.info(
        "server_started",
        version=SERVER_VERSION,
        http=str(ready.http or ""),
        worker_stream=str(ready.worker or ""),
        producer_stream=str(ready.producer or ""),
        persistence=settings.persistence_provider,
        path=str(settings.persistence.path or ""),
        pid=os.getpid(),
    )
    if files.grpc < settings.grpc_connections_max or (rest and files.http < settings.http_connections_max):
        _log.warning(
            "few_open_files",
            limit=files.limit,
            http_connections=files.http,
            grpc_connections_per_port=files.grpc,
            hint="raise RLIMIT_NOFILE (ulimit -Hn, systemd LimitNOFILE) to allow the configured connections",
        )
    raft, cluster, is_plain = settings.raft, settings.cluster, settings.grpc_tls is None
    warn_plaintext(
        {
            "http": ready.http if settings.http_tls is None else None,
            "worker": ready.worker if is_plain else None,
            "producer": ready.producer if is_plain else None,
            "members": raft.bind_addr if raft is not None and raft.tls_cert is None else None,
            "nodes": cluster.grpc_addr if cluster is not None and is_plain else None,
        }
    )
    if cluster is not None:
        _log.warning(
            "static_cluster",
            node=cluster.self_id,
            shard=cluster.shard,
            nodes=", ".join(cluster.names),
            hint="nothing is replicated: while a node is away, so are its tasks, and a lost disk loses them",
        )
    for note in settings.notes:
        _log.warning("configuration_note", setting=note.key, hint=note.message)
    if not settings.persistence.fsync_on_commit:
        _log.warning("fsync_off", hint="a crash may lose acknowledged tasks; set fsyncOnCommit to true to keep them")
