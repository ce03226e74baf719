"""The interface between the gateway and the executor of its calls: local services or a remote server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from codeq.reasons import Reason
from google.protobuf.message import Message

_NONE: Final[Mapping[str, str]] = MappingProxyType({})

LEADER_NAME: Final = "leader"
"""Key of a rejection's metadata: the leader's name."""

LEADER_GRPC: Final = "leaderGrpc"
"""Key of a rejection's metadata: the leader's gRPC address, as host:port."""

LEADER_HTTP: Final = "leaderHttp"
"""Key of a rejection's metadata: the base URL of the leader's REST API."""

STALE: Final = "stale"
"""Consistency of a read that a follower may answer from its own, possibly stale, state."""


Authorization = str | bytes
"""What a caller shows: the value of its Authorization header; or without one, the certificate of its connection in DER,
verified by the handshake. Empty: neither."""


class Call(NamedTuple):
    """One unary call built from an HTTP request.

    Attributes:
        method: Full name such as "/codeq.v1.TaskService/CreateTask".
        request: Request message, parsed but not yet validated.
        authorization: Authorization header or certificate.
        request_id: Id for logs and traces, echoed to the client.
        timeout_seconds: Time after which the caller no longer waits for the reply.
        consistency: STALE, or empty: the read must see everything acknowledged before it.
        repeatable: Whether the call is safe to repeat: it only reads, or it has an idempotency key.
        forward: Whether a follower should forward the call to the leader.
        origin: Address of the client, as host:port.
        shard: Shard that the call is for, from another process of the same server; None: it is for the whole server.
        part: Whether it is a part of a call that another shard charges and records.
    """

    method: str
    request: Message
    authorization: Authorization
    request_id: str
    timeout_seconds: float
    consistency: str = ""
    repeatable: bool = False
    forward: bool = False
    origin: str = ""
    shard: int | None = None
    part: bool = False


class CallFailed(Exception):  # noqa: N818 - the call failed; this carries its status
    """The error of a call that was rejected or failed.

    Attributes:
        reason: Number of the codeq.v1.ErrorReason.
        message: Human-readable text.
        violations: (field, description) of each malformed field.
        retry_after_seconds: When to retry; None: no advice.
        metadata: Further machine-readable details, by name.
        row: Row of the remote server's own error table; None: use the table of this version.
        about: Log details in addition to the reason.
    """

    def __init__(
        self,
        reason: int,
        message: str,
        violations: Sequence[tuple[str, str]] = (),
        retry_after_seconds: float | None = None,
        metadata: Mapping[str, str] = _NONE,
        row: Reason | None = None,
        about: Mapping[str, str] = _NONE,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.violations = violations
        self.retry_after_seconds = retry_after_seconds
        self.metadata = metadata
        self.row = row
        self.about = about


Admission = Callable[[], Awaitable[None]]
"""Checks asynchronously whether a caller may make a call; raises CallFailed if not."""


class Dispatcher(Protocol):
    """Executes unary calls."""

    def admit(self, method: str, authorization: Authorization, origin: str) -> Admission | None:
        """Checks, before the body is read, whether a caller may make a call.

        Args:
            method: Full name of the RPC.
            authorization: Authorization header or certificate; empty if there was neither.
            origin: Address of the client, as host:port.

        Returns:
            None if the caller may make the call, as far as can be told locally; otherwise the check to await.

        Raises:
            CallFailed: The caller may not make the call.
        """
        ...

    async def call(self, call: Call) -> Message:
        """Returns the response message.

        Cancelling the awaiting task means that the client is gone. A claim that is still waiting then takes no task.

        Raises:
            CallFailed: The call was rejected or failed.
        """
        ...
