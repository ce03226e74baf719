"""The process's limit on open files, and how it is divided.

Every connection is an open file, and so is every file of the store. A store that cannot open its next file ends the
server, so its share is reserved first, and connections share the rest.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Final

FILES_MAX: Final = 65_536
"""Limit on open files that the process requests, if allowed."""

FILES_MIN: Final = 512
"""Minimum limit on open files to start."""

OWN_FILES: Final = 128
"""Open files of neither the store nor client connections: log, artifacts, links to other servers."""

PARENT_FILES: Final = 256
"""Open files of the parent of up to 32 processes, other than connections: the ports that it holds, and pipes."""

STORE_FILES_MAX: Final = 512
"""Maximum open files of the store, which closes and reopens others as needed."""

COPIES_MAX: Final = 3
"""Maximum checkpoints of the store that a follower has open for stale reads."""

BACKLOG_MAX: Final = 2_048
"""Maximum length of a listener's accept queue, in connections; up to this many may be accepted at once."""


class TooFewFilesError(Exception):
    """The limit on open files is too low; the text says which limit to raise."""


@dataclass(frozen=True, slots=True)
class Files:
    """Shares of the open files.

    Attributes:
        limit: Limit on open files of the process.
        store: Share of the store.
        copy: Share of each checkpoint of the store opened for stale reads.
        http: HTTP connections.
        grpc: Connections to each gRPC port.
        peers: Connections from other nodes.
        backlog: Length of each listener's accept queue, in connections.
    """

    limit: int
    store: int
    copy: int
    http: int
    grpc: int
    peers: int
    backlog: int


def raise_limit() -> int:
    """Raises the soft limit on open files as far as allowed, up to FILES_MAX; returns it.

    Raises:
        TooFewFilesError: The limit is still below FILES_MIN.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    limit = FILES_MAX if soft == resource.RLIM_INFINITY else min(soft, FILES_MAX)
    if limit < FILES_MIN:
        raise TooFewFilesError(
            f"RLIMIT_NOFILE: this process may open {limit} files, but needs at least {FILES_MIN}; raise the hard limit "
            "(`ulimit -Hn`, systemd LimitNOFILE, Docker --ulimit nofile)"
        )
    return limit


def share(limit: int, *, http: int, grpc: int, grpc_ports: int, peers: int) -> Files:
    """Returns the shares of the open files.

    The store, the process itself and bursts of connections come first; connections get their configured number, or
    equal parts of what is left.

    Args:
        limit: Limit on open files of the process.
        http: Configured HTTP connections; 0: HTTP is not served.
        grpc: Configured connections to each gRPC port.
        grpc_ports: Number of gRPC ports; 0: there is no store either.
        peers: Connections from other nodes; 0: there are none.
    """
    backlog = min(BACKLOG_MAX, limit // 16)
    store = min(STORE_FILES_MAX, limit // 4) if grpc_ports else 0
    copy = store // 8
    left = limit - OWN_FILES - store - backlog - peers - (COPIES_MAX * copy if peers else 0)
    listeners = grpc_ports + (http > 0)
    each = left // listeners
    taken = min(each, grpc)
    return Files(
        limit=limit,
        store=store,
        copy=copy,
        http=min(http, left - grpc_ports * taken),
        grpc=taken,
        peers=peers,
        backlog=backlog,
    )


def tunnels_in(limit: int) -> int:
    """Returns how many connections of other nodes the parent of several processes can pass on.

    Each takes two open files: one to the other node, and one to the process.

    Args:
        limit: Limit on open files of the parent.
    """
    return (limit - PARENT_FILES) // 2
