"""A link to one server: a stream that carries many calls and is reopened whenever it ends.

Calls made in the same iteration of the event loop share a frame. When a stream breaks, calls that were sent but not
answered may or may not have been executed; unsent calls were not executed.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

import grpc
import grpc.aio
from codeq import reasons
from codeq.v1 import error_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2, status_pb2

from codeq_gateway.dispatch import Authorization, Call, CallFailed
from codeq_gateway.finishing import finish
from codeq_gateway.reflection import CALL_FILE

FRAME_BYTES: Final = 1024 * 1024
"""Bytes of requests in a frame; a larger request gets a frame of its own."""

CALLS_MAX: Final = 10_000
"""Limit on calls in flight on a link; the server has the same limit."""

CONNECT_SECONDS: Final = 5.0
"""Time for a server to accept a stream."""

PAUSE_SECONDS_MIN: Final = 0.05
"""Initial backoff before a stream is reopened; it doubles with each failed attempt."""

PAUSE_SECONDS_MAX: Final = 1.0
"""Maximum backoff."""

SEEK_SECONDS_MAX: Final = 0.2
"""Maximum backoff of a link that seeks its server: another one may serve at any moment."""

REPLY_BYTES_MAX: Final = 64 * 1024 * 1024
"""Largest accepted frame of replies; servers stay far below."""

REASONS: Final = "codeq.v1.ErrorReason"
"""Full name of the enum that holds the error table."""

SECRET_KEY: Final = "codeq-gateway-secret"  # noqa: S105
"""Metadata key of the secret that gateways share with servers."""

_LOG: Final = logging.getLogger("codeq.gateway")
_SERVICE: Final = "/codeq_internal.v1.CallService/"
_REFUSALS: Final = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.FAILED_PRECONDITION})
"""Codes with which a server refuses a stream for a reason that lasts."""
_STATUS_KEY: Final = "grpc-status-details-bin"
_CERTIFICATE: Final = "client_certificate"
_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", REPLY_BYTES_MAX),
    # Detects a server that vanished silently within 20 s; servers allow a ping every 10 s.
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # the default of a minute would apply instead
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


class NotSentError(Exception):
    """There is no stream to the server: the call was not executed."""


class LostError(Exception):
    """The stream broke before the reply: the call may have been executed."""


class Messages:
    """Message classes of call streams and the error table, built from a server's own descriptors.

    Attributes:
        reasons: Failure reasons by name.

    Raises:
        KeyError: The pool lacks one of the messages.
    """

    def __init__(self, pool: DescriptorPool) -> None:
        self.reasons = {reason.name: reason for reason in reasons.table_of(pool.FindEnumTypeByName(REASONS)).values()}
        named = pool.FindFileByName(CALL_FILE).message_types_by_name

        def class_of(name: str) -> Any:
            return message_factory.GetMessageClass(named[name])

        self.exchange_request = class_of("ExchangeRequest")
        self.exchange_response = class_of("ExchangeResponse")
        self.authorize_request = class_of("AuthorizeRequest")
        self.authorize_response = class_of("AuthorizeResponse")
        self.readiness_request = class_of("GetReadinessRequest")
        self.readiness_response = class_of("GetReadinessResponse")
        self.metrics_request = class_of("GetMetricsRequest")
        self.metrics_response = class_of("GetMetricsResponse")
        self._takes_certificates = _CERTIFICATE in named["Call"].fields_by_name
        self._names_origin = "origin" in named["Call"].fields_by_name

    def set_caller(self, message: Any, authorization: Authorization, origin: str) -> None:
        """Sets who made a call. A server of a version without one of the fields does not get it."""
        if isinstance(authorization, str):
            message.authorization = authorization
        elif self._takes_certificates:
            message.client_certificate = authorization
        if self._names_origin:
            message.origin = origin


Credentials = Callable[[], grpc.ChannelCredentials | None]
"""Returns the credentials for the next connection to a server; None: plaintext."""


def plaintext() -> None:
    """Returns no credentials."""


class Reach(NamedTuple):
    """How a server is reached.

    Attributes:
        address: Target of the channel: the server's gRPC listener, host:port, unless `options` say otherwise.
        credentials: Turn TLS on.
        options: Further options of the channel.
    """

    address: str
    credentials: grpc.ChannelCredentials | None = None
    options: tuple[tuple[str, str | int], ...] = ()


class Seeker(Protocol):
    """Knows which of several servers to try next."""

    def reach(self) -> Reach:
        """Returns how to reach the server to try now."""
        ...

    def missed(self, told: Mapping[str, str] | None) -> bool:
        """Notes that the server did not accept a stream, or ended one.

        Args:
            told: Metadata of its rejection; None: it could not be reached, or gave none.

        Returns:
            Whether to try the next one at once.
        """
        ...


def open_channel(
    address: str,
    credentials: grpc.ChannelCredentials | None = None,
    *,
    alone: bool = False,
    more: tuple[tuple[str, str | int], ...] = (),
) -> grpc.aio.Channel:
    """Returns a channel to a server.

    Args:
        address: The server's gRPC listener, host:port.
        credentials: Turn TLS on.
        alone: Whether it has a connection of its own; otherwise channels to the same address share one.
        more: Further options; see `Reach`.
    """
    named: dict[str, str | int] = {**dict(_OPTIONS), "grpc.use_local_subchannel_pool": int(alone), **dict(more)}
    options = tuple(named.items())  # of two with one name, gRPC would use the first
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, credentials, options=options)


def log_refused(address: str, reason: str) -> None:
    """Logs that a server refuses this gateway."""
    _LOG.error("gateway_refused", extra={"fields": {"server": address, "error": reason}})


class Link:
    """A connection to one server. Opens its stream at once, in the running event loop, and reopens it until `close`.

    Args:
        address: The server's gRPC listener, host:port.
        metadata: Metadata of every call, with the secret that the server requires.
        messages: Messages of call streams.
        on_change: Called when the stream is opened or stops accepting calls.
        credentials: Returns credentials; new ones take effect when the stream is reopened.
        on_refused: Called with the address and the reason if the server refuses the stream, once until it accepts one.
        seeker: Says at each opening which server to reach, instead of `address` and `credentials`.

    Attributes:
        address: The server's gRPC listener.
    """

    def __init__(
        self,
        address: str,
        metadata: Sequence[tuple[str, str]],
        messages: Messages,
        on_change: Callable[[], None],
        credentials: Credentials = plaintext,
        on_refused: Callable[[str, str], None] = log_refused,
        seeker: Seeker | None = None,
    ) -> None:
        self.address = address
        self._seeker = seeker
        self._on_refused = on_refused
        self._metadata = metadata
        self._refused = False
        self._messages = messages
        self._on_change = on_change
        self._credentials = credentials
        self._current = self._reach()
        self._channel = _channel_to(self._current)
        self._stream: _Stream | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._task = asyncio.get_running_loop().create_task(self._keep_open(), name=f"link to {address}")

    @property
    def is_up(self) -> bool:
        """Whether calls can be sent."""
        return self._stream is not None and not self._stream.closed.is_set()

    async def call(self, call: Call) -> bytes:
        """Returns the serialised response of a call. Cancelling the caller cancels the call on the server.

        Raises:
            CallFailed: The server rejected it, or too many calls are in flight.
            NotSentError: No stream is open.
            LostError: The stream broke before the reply.
        """
        stream = self._stream
        if stream is None:
            raise NotSentError
        number, reply = stream.send(call)
        try:
            return await reply
        except asyncio.CancelledError:
            stream.cancel(number)
            raise
        finally:
            del reply  # breaks a cycle: it references the failure, whose traceback references the call

    async def ask(self, name: str, request: Any, response_class: Any, seconds: float) -> Any:
        """Returns the response of an RPC of the internal service, outside the stream.

        Raises:
            grpc.aio.AioRpcError: The server did not answer.
        """
        rpc: Any = self._channel.unary_unary(
            _SERVICE + name, request_serializer=_serialize, response_deserializer=response_class.FromString
        )
        return await rpc(request, timeout=seconds, metadata=self._metadata)

    async def close(self) -> None:
        """Closes the link. Calls in flight fail."""
        tasks = [self._task, *self._ending]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._channel.close()

    async def _keep_open(self) -> None:
        pause = PAUSE_SECONDS_MIN
        while True:
            self._renew_channel()
            exchange: Any = self._channel.stream_stream(
                _SERVICE + "Exchange",
                request_serializer=_serialize,
                response_deserializer=self._messages.exchange_response.FromString,
            )
            rpc = exchange(metadata=self._metadata)
            told: Mapping[str, str] | None = None
            if await self._is_accepted(rpc):
                pause = PAUSE_SECONDS_MIN
                await self._use(_Stream(rpc, self._messages))
            else:
                told = await self._told(rpc) if rpc.done() else None
                rpc.cancel()
            if self._seeker is not None and self._seeker.missed(told):
                continue
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, PAUSE_SECONDS_MAX if self._seeker is None else SEEK_SECONDS_MAX)

    def _reach(self) -> Reach:
        return Reach(self.address, self._credentials()) if self._seeker is None else self._seeker.reach()

    def _renew_channel(self) -> None:
        """Replaces the channel if there are new credentials, because a channel keeps its own, or another server."""
        wanted = self._reach()
        if wanted != self._current:
            old, self._current = self._channel, wanted
            self.address, self._channel = wanted.address, _channel_to(wanted)
            # Calls in flight over the former channel are still answered.
            closing = asyncio.get_running_loop().create_task(_close_after(old, tuple(self._ending)))
            self._ending.add(closing)
            closing.add_done_callback(self._ending.discard)

    async def _told(self, rpc: Any) -> Mapping[str, str] | None:
        """Returns the metadata of the rejection with which a server has ended a call; None: it gave none."""
        for key, value in await rpc.trailing_metadata() or ():
            if key == _STATUS_KEY:
                return failed(status_pb2.Status.FromString(value), self._messages.reasons).metadata
        return None

    async def _is_accepted(self, rpc: Any) -> bool:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await rpc.initial_metadata()
        except (TimeoutError, grpc.aio.AioRpcError):
            return False
        if not rpc.done():
            return True
        if not self._refused and await rpc.code() in _REFUSALS:
            self._refused = True
            self._on_refused(self.address, await rpc.details())
        return False

    async def _use(self, stream: _Stream) -> None:
        """Sends calls over a stream until it stops accepting them; outstanding replies are still received."""
        self._stream = stream
        self._refused = False
        self._on_change()
        task = asyncio.get_running_loop().create_task(stream.run(), name=f"calls to {self.address}")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        try:
            await stream.closed.wait()
        finally:
            self._stream = None
            self._on_change()


class _Stream:
    """One stream, from its opening to its end.

    Attributes:
        closed: Set when it stops accepting calls.
    """

    def __init__(self, rpc: Any, messages: Messages) -> None:
        self.closed = asyncio.Event()
        self._rpc = rpc
        self._messages = messages
        self._numbers = itertools.count(1)
        self._replies: dict[int, asyncio.Future[bytes]] = {}
        self._frames: deque[Any] = deque()
        self._frame_bytes = 0
        self._sent = 0
        """Number of the call sent last."""
        self._wake = asyncio.Event()

    def send(self, call: Call) -> tuple[int, asyncio.Future[bytes]]:
        """Adds a call to the next frame; returns its number and the future of its reply.

        Raises:
            CallFailed: Too many calls are in flight.
            NotSentError: The stream no longer accepts calls.
        """
        if self.closed.is_set():
            raise NotSentError
        if len(self._replies) >= CALLS_MAX:
            raise CallFailed(error_pb2.ERROR_REASON_LIMIT_REACHED, f"{CALLS_MAX} calls are in flight, the limit", (), 1)
        content = call.request.SerializeToString()
        if not self._frames or self._frame_bytes + len(content) > FRAME_BYTES:
            self._frames.append(self._messages.exchange_request())
            self._frame_bytes = 0
        self._frame_bytes += len(content)
        number = next(self._numbers)
        added = self._frames[-1].calls.add(
            number=number,
            method=call.method,
            request=content,
            timeout_ms=max(1, int(call.timeout_seconds * 1000)),
            request_id=call.request_id,
            consistency=call.consistency,
        )
        self._messages.set_caller(added, call.authorization, call.origin)
        if call.shard is not None:
            added.shard, added.part = call.shard, call.part
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        self._wake.set()
        return number, reply

    def cancel(self, number: int) -> None:
        """Cancels a call on the server because its caller is gone."""
        if self._replies.pop(number, None) is not None and not self._rpc.done():
            if not self._frames:
                self._frames.append(self._messages.exchange_request())
                self._frame_bytes = 0
            self._frames[-1].cancelled.append(number)
            self._wake.set()

    async def run(self) -> None:
        """Exchanges calls and replies until the stream ends, then fails the calls in flight."""
        writer = asyncio.get_running_loop().create_task(self._write(), name="call frames")
        await finish(self._read(), partial(self._close, writer))

    async def _read(self) -> None:
        try:
            while (frame := await self._rpc.read()) is not grpc.aio.EOF:
                self._take(frame)
        except grpc.aio.AioRpcError:
            pass  # each call's outcome is set at the end

    async def _close(self, writer: asyncio.Task[None]) -> None:
        self.closed.set()
        writer.cancel()
        self._rpc.cancel()
        for number, reply in self._replies.items():
            if not reply.done():
                reply.set_exception(NotSentError() if number > self._sent else LostError())
        self._replies.clear()
        await asyncio.gather(writer, return_exceptions=True)

    def _take(self, frame: Any) -> None:
        for answer in frame.replies:
            reply = self._replies.pop(answer.number, None)
            if reply is None or reply.done():
                continue
            if answer.HasField("response"):
                reply.set_result(answer.response)
            else:
                reply.set_exception(failed(status_pb2.Status.FromString(answer.status), self._messages.reasons))
        if frame.ending:
            self.closed.set()
            self._wake.set()

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._frames:
                frame = self._frames.popleft()
                if frame.calls:
                    self._sent = frame.calls[-1].number
                await self._rpc.write(frame)
            if self.closed.is_set():
                await self._rpc.done_writing()
                return


async def _close_after(channel: grpc.aio.Channel, uses: Sequence[asyncio.Task[None]]) -> None:
    """Closes a channel once its uses have ended."""
    await finish(asyncio.gather(*uses, return_exceptions=True), channel.close)


def _channel_to(reach: Reach) -> grpc.aio.Channel:
    return open_channel(reach.address, reach.credentials, more=reach.options)


def failed(status: status_pb2.Status, table: Mapping[str, reasons.Reason]) -> CallFailed:
    """Returns the failure of a call from its google.rpc.Status; `table` maps the server's reasons by name."""
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    retry_after_seconds = None
    for detail in status.details:
        if detail.Unpack(retry):
            retry_after_seconds = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        elif not detail.Unpack(bad):
            detail.Unpack(info)
    reason = table.get(info.reason, reasons.INTERNAL)
    violations = [(violation.field, violation.description) for violation in bad.field_violations]
    return CallFailed(reason.number, status.message, violations, retry_after_seconds, dict(info.metadata), reason)


def _serialize(message: Any) -> bytes:
    content: bytes = message.SerializeToString()
    return content
