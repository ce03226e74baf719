"""Calls that need no token, health and reflection, within bounds of their own.

Whoever reaches the port can make them, so they never take what calls with a token need. When as many are open as may
be, the oldest one makes room: a check that takes a moment gets through, whatever strangers hold open.
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
"""Calls without a token that are open at a time; the oldest one ends when another comes."""

OPEN_PER_CONNECTION_MAX: Final = 16
"""Those of one connection; further ones fail with RESOURCE_EXHAUSTED."""

READING_MAX: Final = 32
"""Those of them whose request is still to come; the oldest one ends when another comes. gRPC takes in a whole message
before anybody can look at it."""

REQUEST_BYTES_MAX: Final = 4096
"""Bytes of a request; a larger one fails with RESOURCE_EXHAUSTED."""

REQUEST_SECONDS: Final = 5.0
"""Time in which the request of a call has to come."""

LIFETIME_SECONDS: Final = {
    "/grpc.health.v1.Health/Check": 5.0,
    "/grpc.health.v1.Health/Watch": 3600.0,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": 60.0,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": 60.0,
}
"""Methods that need no token, and how long a call may last; then it ends with UNAVAILABLE, and clients call again."""

_LOG: Final = logging.getLogger("codeq.tokenless")
_SHOWN_CHARS: Final = 200


class TokenlessServer:
    """What the services of other packages are added to, in place of a server; bounds their calls.

    Args:
        server: Serves the calls.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self._open: dict[asyncio.Timeout, None] = {}
        """The calls that are open, the oldest first."""
        self._reading: dict[asyncio.Timeout, None] = {}
        """Those whose request is still to come, likewise."""
        self._by_peer: Counter[str] = Counter()

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """See `grpc.aio.Server.add_generic_rpc_handlers`; methods that are not in LIFETIME_SECONDS are left out."""
        self._server.add_generic_rpc_handlers([_Bounded(handler, self._bounded) for handler in handlers])

    def add_registered_method_handlers(self, service_name: str, method_handlers: dict[str, Any]) -> None:
        """See `grpc.aio.Server.add_registered_method_handlers`, which does nothing either."""

    def _bounded(self, method: str, inner: Any) -> Any:
        """Returns a handler that is entered before a request has come, and keeps the bounds."""
        seconds = LIFETIME_SECONDS[method]

        async def behaviour(_: Any, context: Any) -> None:
            peer = context.peer()
            if self._by_peer[peer] >= OPEN_PER_CONNECTION_MAX:
                text = f"{OPEN_PER_CONNECTION_MAX} calls without a token are open on this connection, the limit"
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
            _make_room(self._open, OPEN_MAX)
            self._by_peer[peer] += 1
            scope = asyncio.timeout(seconds)
            self._open[scope] = None
            try:
                async with scope:
                    await _serve(inner, context, self._requests(inner, context, scope))
            except TimeoutError:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the time of a call without a token is over")
            except DecodeError as error:
                text = f"the bytes are no message of this call: {error}"
                _LOG.debug("call_refused method=%s: %s", method, text[:_SHOWN_CHARS])
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
            DecodeError: Bytes of the caller are no request.
            _TooLargeError: They are too many.
        """
        while True:
            _make_room(self._reading, READING_MAX)
            self._reading[scope] = None
            content = await context.read()
            self._reading.pop(scope, None)
            if content is grpc.aio.EOF:
                return
            if len(content) > REQUEST_BYTES_MAX:
                raise _TooLargeError(f"a request without a token has at most {REQUEST_BYTES_MAX} bytes")
            yield inner.request_deserializer(content)


class _TooLargeError(Exception):
    """A request is larger than those of calls without a token are."""


def _make_room(calls: dict[asyncio.Timeout, None], most: int) -> None:
    """Ends the oldest of some calls where there are as many as may be."""
    if len(calls) >= most:
        oldest = next(iter(calls))
        del calls[oldest]
        oldest.reschedule(asyncio.get_running_loop().time())


class _Bounded(grpc.GenericRpcHandler):
    """Handlers of some services, each within bounds."""

    def __init__(self, inner: grpc.GenericRpcHandler, bounded: Callable[[str, Any], Any]) -> None:
        self._inner, self._bounded = inner, bounded

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """See `grpc.GenericRpcHandler.service`."""
        if details.method not in LIFETIME_SECONDS:
            return None
        handler = self._inner.service(details)
        return None if handler is None else self._bounded(details.method, handler)


async def _serve(inner: Any, context: Any, requests: AsyncIterator[Any]) -> None:
    """Serves a call by the handler that it would have without bounds.

    Raises:
        DecodeError: Bytes of the caller are no request.
        TimeoutError: No request came in time.
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
