"""Unauthenticated calls, health and reflection, within limits of their own.

Anyone who can reach the port can make them, so they must never use up what authenticated calls need. When the limit is
reached, the oldest call is evicted. A health check therefore gets through, however many calls others hold open.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

OPEN_MAX: Final = 256
"""Maximum number of open unauthenticated calls; a further call evicts the oldest."""

OPEN_PER_CONNECTION_MAX: Final = 16
"""Maximum open unauthenticated calls of one connection; further calls fail with RESOURCE_EXHAUSTED."""

READING_MAX: Final = 32
"""Maximum unauthenticated calls waiting for a request; a further call evicts the oldest. gRPC buffers a whole message
before the server can inspect it."""

REQUEST_BYTES_MAX: Final = 4096
"""Maximum bytes of a request; a larger one fails with RESOURCE_EXHAUSTED."""

REQUEST_SECONDS: Final = 5.0
"""Time for the request of a unary or server-streaming call to arrive."""

LIFETIME_SECONDS: Final = {
    "/grpc.health.v1.Health/Check": 5.0,
    "/grpc.health.v1.Health/Watch": 3600.0,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": 60.0,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": 60.0,
}
"""Maximum duration of a call, by method. The call then ends with UNAVAILABLE, and clients call again."""

_LOG: Final = logging.getLogger("codeq.tokenless")
_SHOWN_CHARS: Final = 200


class TokenlessServer:
    """Stands in for a server when services of other packages are added, and limits their calls.

    Args:
        server: Serves the calls.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self._open: dict[asyncio.Timeout, None] = {}
        """Open calls, oldest first."""
        self._reading: dict[asyncio.Timeout, None] = {}
        """Open calls waiting for a request, oldest first."""
        self._by_peer: Counter[str] = Counter()

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """See `grpc.aio.Server.add_generic_rpc_handlers`; methods not in LIFETIME_SECONDS are left out."""
        self._server.add_generic_rpc_handlers([_Bounded(handler, self._bounded) for handler in handlers])

    def add_registered_method_handlers(self, service_name: str, method_handlers: dict[str, Any]) -> None:
        """Does nothing, like `grpc.aio.Server.add_registered_method_handlers`."""

    def _bounded(self, method: str, inner: Any) -> Any:
        """Returns a handler that starts before the request has arrived, and enforces the limits."""
        seconds = LIFETIME_SECONDS[method]

        async def behaviour(_: Any, context: Any) -> None:
            peer = context.peer()
            if self._by_peer[peer] >= OPEN_PER_CONNECTION_MAX:
                text = f"{OPEN_PER_CONNECTION_MAX} unauthenticated calls are open on this connection, the limit"
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
            _make_room(self._open, OPEN_MAX)
            self._by_peer[peer] += 1
            scope = asyncio.timeout(seconds)
            self._open[scope] = None
            try:
                async with scope:
                    await _serve(inner, context, self._requests(inner, context, scope))
            except TimeoutError:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the call has reached its maximum duration")
            except DecodeError as error:
                text = f"malformed request message: {error}"
                _LOG.debug("call_refused", extra={"fields": {"method": method, "error": text[:_SHOWN_CHARS]}})
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
            except _TooLargeError as error:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
            finally:
                self._open.pop(scope, None)
                self._reading.pop(scope, None)
                self._by_peer[peer] -= 1
                if not self._by_peer[peer]:
                    del self._by_peer[peer]

        return grpc.stream_stream_rpc_method_handler(behaviour, response_serializer=inner.response_serializer)

    async def _requests(self, inner: Any, context: Any, scope: asyncio.Timeout) -> AsyncIterator[Any]:
        """Yields the requests of a call.

        Raises:
            DecodeError: A request is malformed.
            _TooLargeError: A request is too large.
        """
        while True:
            _make_room(self._reading, READING_MAX)
            self._reading[scope] = None
            content = await context.read()
            self._reading.pop(scope, None)
            if content is grpc.aio.EOF:
                return
            if len(content) > REQUEST_BYTES_MAX:
                raise _TooLargeError(f"an unauthenticated request may have at most {REQUEST_BYTES_MAX} bytes")
            yield inner.request_deserializer(content)


class _TooLargeError(Exception):
    """A request exceeds the limit of unauthenticated calls."""


def _make_room(calls: dict[asyncio.Timeout, None], most: int) -> None:
    """Evicts the oldest call if the limit is reached."""
    if len(calls) >= most:
        oldest = next(iter(calls))
        del calls[oldest]
        oldest.reschedule(asyncio.get_running_loop().time())


class _Bounded(grpc.GenericRpcHandler):
    """Wraps the handlers of a service with the limits."""

    def __init__(self, inner: grpc.GenericRpcHandler, bounded: Callable[[str, Any], Any]) -> None:
        self._inner, self._bounded = inner, bounded

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """See `grpc.GenericRpcHandler.service`."""
        if details.method not in LIFETIME_SECONDS:
            return None
        handler = self._inner.service(details)
        return None if handler is None else self._bounded(details.method, handler)


async def _serve(inner: Any, context: Any, requests: AsyncIterator[Any]) -> None:
    """Serves a call with the original handler.

    Raises:
        DecodeError: A request is malformed.
        TimeoutError: No request arrived in time.
    """
    if inner.request_streaming:
        async for response in inner.stream_stream(requests, context):
            await context.write(response)
        return
    async with asyncio.timeout(REQUEST_SECONDS):
        request = await anext(requests, None)
    if request is None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call has no request")
    elif inner.response_streaming:
        await inner.unary_stream(request, context)
    else:
        await context.write(await inner.unary_unary(request, context))
