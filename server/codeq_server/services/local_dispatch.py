"""Dispatches the gateway's calls to services in the same process, as plain function calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from codeq_gateway.dispatch import LEADER_GRPC, STALE, Admission, Call, CallFailed
from google.protobuf.message import Message

from codeq_server.auth.revocation import Authorization
from codeq_server.core.errors import Rejection

from .calls import Calls
from .grpc_front import retry_seconds

Forward = Callable[[str, Call], Awaitable[Message]]
"""Forwards a call to the server at an address."""


class LocalDispatcher:
    """Executes the gateway's calls.

    Args:
        calls: The services.
        forward: Forwards calls to the leader, if this server is a follower and the caller asks for it.
    """

    def __init__(self, calls: Calls, forward: Forward) -> None:
        self._calls = calls
        self._forward = forward

    def admit(self, method: str, authorization: Authorization, origin: str) -> Admission | None:
        """Checks whether a caller may make a call; see `Dispatcher.admit`.

        Raises:
            CallFailed: The caller may not make the call.
        """
        try:
            claims = self._calls.known(method, authorization)
        except Rejection as rejection:
            self._calls.denied(method, rejection, origin)
            raise failed(rejection) from None
        return None if claims is not None else partial(self._admit, method, authorization, origin)

    async def _admit(self, method: str, authorization: Authorization, origin: str) -> None:
        try:
            await self._calls.authenticate(method, authorization)
        except Rejection as rejection:
            self._calls.denied(method, rejection, origin)
            raise failed(rejection) from None

    async def call(self, call: Call) -> Message:
        """Returns the response message.

        Raises:
            CallFailed: The call was rejected.
        """
        try:
            return await self._calls.call(
                call.method, call.request, call.authorization, stale=call.consistency == STALE, origin=call.origin
            )
        except Rejection as rejection:
            self._calls.denied(call.method, rejection, call.origin)
            leader = rejection.metadata.get(LEADER_GRPC)
            if not leader or not call.forward:
                raise failed(rejection) from None
        return await self._forward(leader, call)


def failed(rejection: Rejection) -> CallFailed:
    """Converts a rejection to the gateway's form."""
    reason, retry, about = rejection.reason.value, retry_seconds(rejection), rejection.about()
    return CallFailed(reason, rejection.message, rejection.violations, retry, rejection.metadata, about=about)
