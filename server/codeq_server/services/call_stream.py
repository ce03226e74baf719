"""The internal call stream: many unary calls of standalone gateways on one gRPC stream.

Each call is executed as if it had arrived on its own. It is authenticated by its own token, or by the certificate that
the gateway has verified, cancelled at its own deadline or when its caller leaves, and answered once everything it saw
is durable. Replies ready in the same iteration of the event loop share a frame. Calls received this way are never
forwarded to another server.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import grpc
import msgspec
from codeq import reasons
from codeq.frames import let_go
from codeq_gateway.bodies import LARGE_BYTES, InFlight
from codeq_gateway.finishing import finish
from codeq_internal.v1 import call_pb2
from google.protobuf.message import Message
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from codeq_server.auth.revocation import Authorization
from codeq_server.core.errors import Reason, Rejection

from .grpc_front import (
    NOTHING_ELSE,
    REFUSALS,
    AccessLog,
    only_message,
    refusal_of,
    refuse,
    serialize,
    status_of,
    working_at,
)
from .internal_callers import InternalCallers, Owner

SERVICE: Final = "codeq_internal.v1.CallService"
"""Name of the service; reflection does not list it, because it is not part of the public API."""

STREAMS_MAX: Final = 1000
"""Maximum number of open call streams."""

CALLS_PER_STREAM_MAX: Final = 10_000
"""Maximum calls in flight on a stream; further calls are rejected."""

FRAME_BYTES: Final = 1024 * 1024
"""Bytes of replies in a frame; a larger reply gets a frame of its own."""

UNSENT_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bytes of unsent replies beyond which no further calls are read."""

CALL_SECONDS_MAX: Final = 600.0
"""Maximum timeout of a call."""

LOOK_SECONDS: Final = 0.5
"""Interval between checks of deadlines: a fallback, since gateways normally cancel their calls themselves."""

UNKNOWN_CALL: Final = "unknown"
"""Access-log name of a call that the server does not know, because the client could have sent any text as its name."""

_INTERNAL: Final = "/codeq_internal."
"""Start of the names of methods that only processes of one server call."""

STALE: Final = "stale"
"""Value of a call's `consistency` that allows a stale read."""


class CallMethod(Protocol):
    """A callable method."""

    @property
    def parse(self) -> Callable[[bytes], Any]:
        """Parses its request from bytes."""
        ...


class UnaryCalls(Protocol):
    """Executes calls; see `calls.Calls`."""

    @property
    def methods(self) -> Mapping[str, CallMethod]:
        """Methods by full name."""
        ...

    def known(self, name: str, authorization: Authorization) -> Any:
        """Returns the caller of a call; None: the token has to be validated first."""
        ...

    async def authenticate(self, name: str, authorization: Authorization) -> Any:
        """Validates the token of a call and returns its caller."""
        ...

    def carry_out(
        self,
        name: str,
        claims: Any,
        request: Any,
        authorization: Authorization,
        *,
        stale: bool,
        origin: str,
        here: bool,
        part: bool,
        passed: bool,
    ) -> Awaitable[Message]:
        """Returns the response of a call."""
        ...

    def denied(self, name: str, rejection: Rejection, origin: str) -> None:
        """Records a rejection if it refuses access."""
        ...


@dataclass(frozen=True, slots=True)
class ServerProbes:
    """Information that a server reports to gateways about itself.

    Attributes:
        ready: Returns whether calls are accepted, and a JSON object with details.
        metrics: Returns the server's metrics in the Prometheus text format. Without shards in other processes, those of
            its own HTTP requests are not among them.
        own_metrics: Returns those of this process, with its HTTP requests, for the others of its server.
        own_groups: Returns a serialized codeq.v1.RaftStatus with the groups of this process, for the same.
    """

    ready: Callable[[], tuple[bool, Mapping[str, object]]]
    metrics: Callable[[], Awaitable[bytes]]
    own_metrics: Callable[[], Awaitable[bytes]]
    own_groups: Callable[[], bytes] = bytes


def _welcome() -> None:
    """Lets every other owner route calls here."""


class CallStreams(Collector):
    """Serves CallService.

    Args:
        calls: Executes the calls.
        in_flight: Counts the bytes of large requests.
        secrets: Shared secrets of gateways, of which each must show one; empty ones admit nobody.
        owner: This process as the owner of a shard, to which the other owners may route calls; None: there are none.
        probes: Readiness and metrics for gateways.
        on_known: Called with the gRPC peer of a connection that presented the secret.
        access_log: Writes one line per call; None: no access log.
        on_defect: Called with the method and exception of an unexpected failure.
        welcome_owner: Raises a Rejection if the other owners must not route calls here, because this process does not
            own its shard now; see also `part`.

    Attributes:
        frames: Frames of calls received since startup.
    """

    def __init__(
        self,
        calls: UnaryCalls,
        in_flight: InFlight,
        secrets: Sequence[str],
        owner: Owner | None,
        probes: ServerProbes,
        on_known: Callable[[str], None],
        access_log: AccessLog | None,
        on_defect: Callable[[str, BaseException], None],
        welcome_owner: Callable[[], object] = _welcome,
    ) -> None:
        self._welcome_owner = welcome_owner
        self.calls = calls
        self.in_flight = in_flight
        self.access_log = access_log
        self.on_defect = on_defect
        self._callers = InternalCallers(secrets, owner, calls.denied, on_known)
        self.frames = 0
        self._probes = probes
        self._open: set[_CallStream] = set()
        self._is_ending = False

    def __len__(self) -> int:
        """Returns the number of open streams."""
        return len(self._open)

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the service to a server."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Exchange": grpc.stream_stream_rpc_method_handler(
                self._exchange,
                request_deserializer=call_pb2.ExchangeRequest.FromString,
                response_serializer=call_pb2.ExchangeResponse.SerializeToString,
            ),
            "Authorize": self._unary(call_pb2.AuthorizeRequest, self._authorize),
            "GetReadiness": self._unary(call_pb2.GetReadinessRequest, self._get_readiness),
            "GetMetrics": self._unary(call_pb2.GetMetricsRequest, self._get_metrics),
            "GetGroups": self._unary(call_pb2.GetGroupsRequest, self._get_groups),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    def collect(self) -> Iterator[Metric]:
        """Yields the metrics of call streams."""
        yield GaugeMetricFamily("codeq_call_streams_open", "Open streams of gateways.", value=len(self._open))
        yield CounterMetricFamily(
            "codeq_call_frames", "Frames of calls from gateways since startup.", value=self.frames
        )

    def end(self) -> None:
        """Asks every gateway to send further calls elsewhere; calls already sent are answered."""
        self._is_ending = True
        for stream in self._open:
            stream.end()

    def part(self) -> None:
        """Asks the other owners to route further calls elsewhere: this process no longer owns its shard."""
        for stream in self._open:
            if stream.is_owner:
                stream.end()

    async def _exchange(self, _: Any, context: Any) -> None:
        try:
            is_owner = self._callers.check("CallService", context)
            if is_owner:
                self._welcome_owner()
            if self._is_ending:
                raise Rejection(Reason.DRAINING, "the server is stopping")
            if len(self._open) >= STREAMS_MAX:
                raise Rejection(Reason.LIMIT_REACHED, f"{STREAMS_MAX} call streams are open, the limit")
            stream = _CallStream(self, context, is_owner=is_owner)
            self._open.add(stream)
            try:
                await stream.run()
            finally:
                self._open.discard(stream)
        except REFUSALS as problem:
            refuse(context, refusal_of(problem))
            let_go(problem)
        except grpc.aio.InternalError:
            return  # a write failed because the gateway is gone

    def _unary(self, request_class: type[Message], answer: Callable[[Any], Awaitable[Message]]) -> Any:
        """Returns the handler of a unary call: served as a stream of one, so that the secret is checked first."""

        async def behaviour(_: Any, context: Any) -> Message | None:
            try:
                self._callers.check("CallService", context)
                return await answer(await only_message(context))
            except REFUSALS as problem:
                refuse(context, refusal_of(problem))
                let_go(problem)
            return None

        return grpc.stream_unary_rpc_method_handler(
            behaviour,
            request_deserializer=request_class.FromString,
            response_serializer=serialize,
        )

    async def _authorize(self, request: call_pb2.AuthorizeRequest) -> call_pb2.AuthorizeResponse:
        if request.method not in self.calls.methods:
            raise Rejection(Reason.ROUTE_NOT_FOUND, "unknown method")
        try:
            await self.calls.authenticate(request.method, request.authorization or request.client_certificate)
        except Rejection as refusal:
            self.calls.denied(request.method, refusal, request.origin)
            raise
        return call_pb2.AuthorizeResponse()

    async def _get_readiness(self, _: call_pb2.GetReadinessRequest) -> call_pb2.GetReadinessResponse:
        ready, details = self._probes.ready()
        return call_pb2.GetReadinessResponse(ready=ready, details=msgspec.json.encode(details))

    async def _get_metrics(self, request: call_pb2.GetMetricsRequest) -> call_pb2.GetMetricsResponse:
        text = await (self._probes.own_metrics() if request.own else self._probes.metrics())
        return call_pb2.GetMetricsResponse(text=text)

    async def _get_groups(self, _: call_pb2.GetGroupsRequest) -> call_pb2.GetGroupsResponse:
        return call_pb2.GetGroupsResponse(status=self._probes.own_groups())


@dataclass(slots=True)
class _Open:
    """A call in flight."""

    task: asyncio.Task[None]
    deadline: float
    is_late: bool = False


class _CallStream:
    """One stream and its calls."""

    def __init__(self, streams: CallStreams, context: Any, *, is_owner: bool) -> None:
        self._streams = streams
        self._context = context
        self.is_owner = is_owner
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, _Open] = {}
        self._replies: deque[call_pb2.Reply] = deque()
        self._unsent_bytes = 0
        self._wake = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_closed = False
        """Whether the gateway has half-closed the stream."""
        self._says_ending = False

    def end(self) -> None:
        """Tells the gateway to send further calls elsewhere."""
        self._says_ending = True
        self._wake.set()

    async def run(self) -> None:
        """Executes calls until the gateway has half-closed and received its replies, or is gone.

        Raises:
            Rejection: The gateway reused the number of a call in flight.
        """
        await self._context.send_initial_metadata(())  # tells the gateway that the stream is accepted
        writer = self._loop.create_task(self._write(), name="call-stream-writer")
        look = self._loop.create_task(self._expire(), name="call-stream-deadlines")
        await finish(self._exchange(writer), partial(self._stop, writer, look))

    async def _exchange(self, writer: asyncio.Task[None]) -> None:
        while (frame := await self._context.read()) is not grpc.aio.EOF:
            self._streams.frames += bool(frame.calls)
            for call in frame.calls:
                self._begin(call)
            for number in frame.cancelled:
                if (entry := self._open.get(number)) is not None:
                    entry.task.cancel()
            frame = None  # frees the frame while waiting for the next one
            await self._has_room.wait()
        self._is_closed = True
        self._wake.set()
        await writer

    async def _stop(self, *helpers: asyncio.Task[None]) -> None:
        tasks = [*helpers, *(entry.task for entry in self._open.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, call: call_pb2.Call) -> None:
        number = call.number
        if number in self._open:
            raise Rejection(Reason.BAD_HANDSHAKE, f"the number {number} is used by two calls")
        if len(self._open) >= CALLS_PER_STREAM_MAX:
            self._refuse(number, Rejection(Reason.LIMIT_REACHED, f"{CALLS_PER_STREAM_MAX} calls in flight, the limit"))
            return
        deadline = self._loop.time() + min(max(call.timeout_ms, 0) / 1000, CALL_SECONDS_MAX)
        task = self._loop.create_task(self._carry_out(call))
        self._open[number] = _Open(task, deadline)
        task.add_done_callback(partial(self._ended, number))

    def _ended(self, number: int, task: asyncio.Task[None]) -> None:
        entry = self._open.pop(number)
        if task.cancelled() and entry.is_late:
            self._refuse(number, Rejection(Reason.DEADLINE_EXCEEDED, "the call timed out before a reply"))
        if self._is_closed:
            self._wake.set()

    async def _carry_out(self, call: call_pb2.Call) -> None:
        started = time.perf_counter()
        code, about = "OK", NOTHING_ELSE
        streams, is_routed = self._streams, call.HasField("shard")
        method = streams.calls.methods.get(call.method)
        name = UNKNOWN_CALL if method is None else call.method
        try:
            if method is None or not (self.is_owner or _may_gateway_make(call)):
                raise Rejection(Reason.ROUTE_NOT_FOUND, "unknown method")  # noqa: TRY301
            calls, authorization = streams.calls, call.authorization or call.client_certificate
            claims = calls.known(name, authorization) or await calls.authenticate(name, authorization)
            carry_out = partial(
                calls.carry_out,
                stale=call.consistency == STALE,
                origin=call.origin,
                here=is_routed,
                part=call.part,
                passed=self.is_owner and not is_routed,
            )
            if len(call.request) < LARGE_BYTES:
                response = await carry_out(name, claims, method.parse(call.request), authorization)
            else:
                async with working_at(streams.in_flight, len(call.request)):
                    response = await carry_out(name, claims, method.parse(call.request), authorization)
            self._reply(call_pb2.Reply(number=call.number, response=response.SerializeToString()))
        except REFUSALS as problem:
            refusal = refusal_of(problem)
            code, about = self._refuse(call.number, refusal), refusal.about()
            if not is_routed:  # otherwise the process that has routed it records the refusal
                streams.calls.denied(name, refusal, call.origin)
            let_go(problem)
        except asyncio.CancelledError:
            code = "DEADLINE_EXCEEDED" if self._open[call.number].is_late else "CANCELLED"
            raise
        except Exception as defect:  # noqa: BLE001 - a bug: the caller gets INTERNAL, the log the details
            streams.on_defect(name, defect)
            code = self._refuse(call.number, Rejection(Reason.INTERNAL, "internal error"))
            let_go(defect)
        finally:
            # What another owner sends is logged and counted where the client's call arrived.
            if streams.access_log is not None and not self.is_owner:
                streams.access_log(name, code, time.perf_counter() - started, call.request_id, about)

    def _refuse(self, number: int, rejection: Rejection) -> str:
        """Answers a call with a rejection; returns the name of the rejection's code."""
        self._reply(call_pb2.Reply(number=number, status=status_of(rejection).SerializeToString()))
        return reasons.BY_NUMBER[rejection.reason.value].grpc_name

    def _reply(self, reply: call_pb2.Reply) -> None:
        self._replies.append(reply)
        self._unsent_bytes += reply.ByteSize()
        if self._unsent_bytes > UNSENT_BYTES_MAX:
            self._has_room.clear()
        self._wake.set()

    async def _write(self) -> None:
        """Sends replies; once the gateway has half-closed, returns after the last reply."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._says_ending:
                self._says_ending = False
                await self._context.write(call_pb2.ExchangeResponse(ending=True))
            while self._replies:
                await self._context.write(self._frame())
            if self._is_closed and not self._open:
                return

    def _frame(self) -> call_pb2.ExchangeResponse:
        frame = call_pb2.ExchangeResponse()
        size = 0
        while self._replies and (not size or size + self._replies[0].ByteSize() <= FRAME_BYTES):
            reply = self._replies.popleft()
            size += reply.ByteSize()
            frame.replies.append(reply)
        self._unsent_bytes -= size
        if self._unsent_bytes <= UNSENT_BYTES_MAX:
            self._has_room.set()
        return frame

    async def _expire(self) -> None:
        """Cancels calls past their deadline."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = self._loop.time()
            for entry in self._open.values():
                if entry.deadline <= now and not entry.is_late:
                    entry.is_late = True
                    entry.task.cancel()


def _may_gateway_make(call: call_pb2.Call) -> bool:
    """Returns whether a gateway may make a call: one that is not yet routed, of a public service."""
    return not (call.HasField("shard") or call.part or call.method.startswith(_INTERNAL))
