"""Open files of the process: how many it may have, and who may take how many of them.

Every connection is an open file, and so is every file of the store. A store that cannot open its next file ends the
server, so what it needs is set aside first, and connections share the rest.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Final

FILES_MAX: Final = 65_536
"""Open files that the process asks for, where it may have so many."""

FILES_MIN: Final = 512
"""Open files without which it does not start."""

OWN_FILES: Final = 128
"""Open files that are none of the store's and no connections of clients: log, artifacts, links to other servers."""

STORE_FILES_MAX: Final = 512
"""Open files of the store; it opens and closes the others in turn."""

COPIES_MAX: Final = 3
"""Copies of the store that a node which does not lead reads from at a time."""

BACKLOG_MAX: Final = 2_048
"""Connections that the kernel holds for a listener until they are taken: so many may be taken at once."""


class TooFewFilesError(Exception):
    """The process may not have as many open files as it needs; the text says which limit to raise."""


@dataclass(frozen=True, slots=True)
class Files:
    """Shares of the open files.

    Attributes:
        limit: Open files that the process may have.
        store: Those of the store.
        copy: Those of each copy of the store that is read from.
        http: Connections over HTTP.
        grpc: Connections to each gRPC port.
        peers: Connections of other nodes.
        backlog: Connections that wait to be taken, for each listener.
    """

    limit: int
    store: int
    copy: int
    http: int
    grpc: int
    peers: int
    backlog: int


def raise_limit() -> int:
    """Raises the limit of open files as far as it may be raised, up to FILES_MAX; returns it.

    Raises:
        TooFewFilesError: It is still below FILES_MIN.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    limit = FILES_MAX if soft == resource.RLIM_INFINITY else min(soft, FILES_MAX)
    if limit < FILES_MIN:
        raise TooFewFilesError(
            f"RLIMIT_NOFILE: this process may have {limit} open files, and needs {FILES_MIN} or more; raise the hard "
            "limit (`ulimit -Hn`, LimitNOFILE of systemd, --ulimit nofile of Docker)"
        )
    return limit


def share(limit: int, *, http: int, grpc: int, grpc_ports: int, peers: int) -> Files:
    """Returns the shares of the open files.

    What the store, the process itself and bursts of connections need comes first; connections get what they are to
    have, or equal parts of what is left.

    Args:
        limit: Open files that the process may have.
        http: Connections that HTTP is to have; 0: it is not served.
        grpc: Connections that each gRPC port is to have.
        grpc_ports: gRPC ports; 0: there is no store either.
        peers: Connections that other nodes are to have; 0: there are none.
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
