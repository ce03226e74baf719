"""The gateway's way to the services in its own process: plain function calls."""

from __future__ import annotations

from codeq import reasons
from codeq_gateway.dispatch import Call, CallFailed
from google.protobuf.message import Message

from codeq_server.core.errors import Rejection

from .calls import Calls
from .grpc_front import RETRY_AFTER_SECONDS


class LocalDispatcher:
    """Carries out the gateway's calls."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def call(self, call: Call) -> Message:
        """Returns the response message.

        Raises:
            CallFailed: The call was refused.
        """
        try:
            return await self._calls.call(call.method, call.request, call.authorization)
        except Rejection as rejection:
            raise failed(rejection) from None


def failed(rejection: Rejection) -> CallFailed:
    """Returns a refusal as the gateway knows it."""
    retry = RETRY_AFTER_SECONDS if reasons.BY_NUMBER[rejection.reason.value].retryable else None
    return CallFailed(rejection.reason.value, rejection.message, rejection.violations, retry, rejection.metadata)
