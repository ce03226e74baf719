"""How a connection between nodes names its group: all groups of a node share one port.

gRPC cannot send bytes of ours before its own, but it can ask a proxy for a tunnel. So a connection begins with the head
of an HTTP CONNECT request, in plain text before TLS, whose target holds the group and the number of groups as 4-byte
big-endian numbers in hexadecimal digits. The node answers, and everything after that belongs to the group.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

Service = Literal["raft", "calls"]
"""What is to be reached: the member of a group, or the calls of the process with that member."""

HEAD_BYTES_MAX: Final = 1024
"""Maximum bytes of a head."""
HEAD_END: Final = b"\r\n\r\n"
ACCEPTED: Final = b"HTTP/1.1 200 OK\r\n\r\n"
"""Answer to a head whose group can be reached."""

_TARGET: Final = "{service}-{group:08x}-of-{groups:08x}.codeq-node"
_LINE: Final = re.compile(rb"CONNECT (raft|calls)-([0-9a-f]{8})-of-([0-9a-f]{8})\.codeq-node:[0-9]+ HTTP/1\.[01]\r\n")


class BadHeadError(Exception):
    """The head of a connection names nothing that this node has; the text says why."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a connection to a node leads.

    Attributes:
        group: Index of the group, which is that of its shard.
        groups: Number of groups, the same on every node.
        service: What is to be reached.
    """

    group: int
    groups: int
    service: Service = "raft"

    def to(self, address: str) -> tuple[str, tuple[tuple[str, str | int], ...]]:
        """Returns the target and the options of a gRPC channel that follows this route.

        Args:
            address: Address of the node, host:port.
        """
        host, _, port = address.rpartition(":")
        target = _TARGET.format(service=self.service, group=self.group, groups=self.groups)
        return f"{target}:{port}", (
            ("grpc.enable_http_proxy", 1),
            ("grpc.http_proxy", f"http://{address}"),
            # The certificate names the node, not the group.
            ("grpc.ssl_target_name_override", host.strip("[]")),
        )


def read_head(head: bytes, groups: int) -> Route:
    """Returns the route that a head asks for.

    Args:
        head: The head, which ends in HEAD_END.
        groups: Number of groups of this node.

    Raises:
        BadHeadError: It is malformed, or its sender has another number of groups.
    """
    line = _LINE.match(head)
    if line is None:
        raise BadHeadError("it does not name a group: every node needs the same numShards")
    group, theirs = int(line[2], 16), int(line[3], 16)
    if theirs != groups or group >= groups:
        raise BadHeadError(f"it is for group {group} of {theirs}, but numShards is {groups} here")
    return Route(group, groups, "raft" if line[1] == b"raft" else "calls")
