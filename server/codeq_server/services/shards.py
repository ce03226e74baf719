"""The shards of an installation, as one of their processes sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

import grpc.aio
from google.protobuf.message import Message

from codeq_server.auth.claims import Claims
from codeq_server.auth.revocation import Authorization

from .internal_callers import Metadata


class Caller(NamedTuple):
    """Who makes a call.

    Attributes:
        claims: Claims of the caller's token.
        authorization: Value of the authorization header, or the certificate.
        origin: Address of the caller, as host:port or as gRPC's peer.
    """

    claims: Claims
    authorization: Authorization
    origin: str


class Shards(Protocol):
    """Reaches every shard.

    Attributes:
        count: Number of shards.
        mine: Shard of this process.
    """

    count: int
    mine: int

    def shard_of(self, task_id: str) -> int:
        """Returns the shard of the task with this id, whether or not it exists."""
        ...

    def limits_queue(self, tenant: str, command: str) -> bool:
        """Returns whether the policy of a command limits or orders its tasks; see `placing`.

        Raises:
            Rejection: This process does not serve its shard.
        """
        ...

    async def call(
        self,
        shard: int,
        method: str,
        request: Message,
        caller: Caller,
        *,
        part: bool = False,
        seconds: float = 30.0,
    ) -> Message:
        """Executes a unary call on a shard: here, or over the link to its process.

        Args:
            shard: The shard.
            method: Full name of the method.
            request: Its request.
            caller: Who makes the call.
            part: Whether it is one part of a call that is charged to rate limits and recorded in the audit elsewhere.
            seconds: Time for the reply.

        Raises:
            Rejection: As the shard gave it; SERVER_UNREACHABLE if its process is down; OUTCOME_UNKNOWN if the call was
                lost on the way.
        """
        ...


class LinkedShards(Shards, Protocol):
    """Also reaches the processes of other shards with streams."""

    def metadata(self, shard: int) -> Metadata:
        """Returns the metadata of calls to the owner of another shard."""
        ...

    def channel(self, shard: int) -> grpc.aio.Channel:
        """Returns a channel to the process of another shard."""
        ...


PASSED_KEY: Final = "codeq-passed"
"""Metadata of a stream that was passed on, and is not passed on again."""

Codec = tuple[Callable[[Any], bytes], Callable[[bytes], Any] | None]
"""Serializes the requests of a stream, and parses its responses; None: they stay bytes."""


class Passing(Protocol):
    """Passes on what clients ask of a process that does not own its shard, because another node leads its group."""

    @property
    def reaches_any(self) -> bool:
        """Whether a process can be reached that owns its shard."""
        ...

    async def call(self, method: str, request: Message, caller: Caller) -> Message:
        """Returns the response of a client's call; waits for a while if there is nobody to pass it on to.

        Args:
            method: Full name of the method.
            request: Its request.
            caller: Who makes the call.

        Raises:
            Rejection: The call was rejected; SERVER_UNREACHABLE: no process owns its shard; OUTCOME_UNKNOWN: the other
                process was lost before the reply.
        """
        ...

    async def stream(self, name: str, context: Any, codec: Codec) -> None:
        """Serves a client's stream to its end.

        Args:
            name: Full name of the method.
            context: The call.
            codec: Converts its messages.

        Raises:
            Rejection: Why the stream ends.
        """
        ...

    def end(self) -> None:
        """Ends all streams, because the server stops: clients open them elsewhere."""
        ...
