"""The versions that the first messages of a stream exchange."""

from __future__ import annotations

import itertools
from typing import Final

from codeq.logs import log
from codeq.v1 import producer_service_pb2 as pb
from codeq.version import __version__

SDK: Final = "codeq-python"
"""Name of this SDK."""

PROTOCOL: Final = 1
"""Version of the stream protocol that this SDK was written for, and the oldest that it expects of a server."""

_warnings = itertools.count()


def client_info() -> pb.ClientInfo:
    """Returns what a hello says of this SDK."""
    return pb.ClientInfo(sdk=SDK, version=__version__, protocol=PROTOCOL)


def check_protocol(protocol: int, server_version: str) -> None:
    """Warns, once in the life of the process, if a server's welcome says that it speaks an older protocol.

    Args:
        protocol: Version of the stream protocol that the server speaks; 0: it is older than that field.
        server_version: Version of the server; may be empty.
    """
    if protocol < PROTOCOL and not next(_warnings):
        log.warning(
            "the server (version %s) speaks version %d of the stream protocol, and %s %s needs version %d: "
            "some requests may have no effect until the server is upgraded",
            server_version or "unknown",
            protocol,
            SDK,
            __version__,
            PROTOCOL,
        )
