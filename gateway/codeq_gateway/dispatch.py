"""The seam between the gateway and whoever carries out its calls: services in this process, or a server elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from codeq.reasons import Reason
from google.protobuf.message import Message

_NONE: Final[Mapping[str, str]] = MappingProxyType({})

LEADER_NAME: Final = "leader"
"""Key of a refusal's metadata: name of the server that leads."""

LEADER_GRPC: Final = "leaderGrpc"
"""Key of a refusal's metadata: where the gRPC of the server that leads listens, as host:port."""

LEADER_HTTP: Final = "leaderHttp"
"""Key of a refusal's metadata: base URL of the REST of the server that leads."""

STALE: Final = "stale"
"""Consistency of a read that a server which does not lead may answer from what it has."""


class Call(NamedTuple):
    """One unary call made from an HTTP request.

    Attributes:
        method: Full name such as "/codeq.v1.TaskService/CreateTask".
        request: Request message, parsed and not yet validated.
        authorization: Value of the Authorization header; empty when there was none.
        request_id: Id for logs and traces, echoed to the client.
        timeout_seconds: Time after which nobody waits for the reply.
        consistency: STALE, or empty: the read must see what was acknowledged before it.
        repeatable: Whether it does no harm to carry it out twice: it reads, or it has an idempotency key.
        forward: Whether a server that does not lead is to pass the call on to the one that does.
    """

    method: str
    request: Message
    authorization: str
    request_id: str
    timeout_seconds: float
    consistency: str = ""
    repeatable: bool = False
    forward: bool = False


class CallFailed(Exception):  # noqa: N818 - the call failed; this carries its status
    """A call that was refused or failed.

    Attributes:
        reason: Number of the codeq.v1.ErrorReason.
        message: Text for people.
        violations: (field, description) of each malformed field.
        retry_after_seconds: When to try again; None: no advice.
        metadata: What programs are told besides, by name.
        row: Row of the error table where the server has one of its own; None: that of this version.
        about: What the log tells of it besides its reason.
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
"""Finds out elsewhere whether a caller may make a call; raises CallFailed if not."""


class Dispatcher(Protocol):
    """Carries out unary calls."""

    def admit(self, method: str, authorization: str) -> Admission | None:
        """Looks, before the body is read, whether a caller may make a call.

        Args:
            method: Full name of the RPC.
            authorization: Value of the Authorization header; empty when there was none.

        Returns:
            None: the caller may, as far as is known here. Else what finds it out.

        Raises:
            CallFailed: The caller may not.
        """
        ...

    async def call(self, call: Call) -> Message:
        """Returns the response message.

        Cancelling the awaiting task means the client is gone: a waiting claim takes nothing.

        Raises:
            CallFailed: The call was refused or failed.
        """
        ...
