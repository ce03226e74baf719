"""The gRPC front end: every registered service on a grpc.aio server, with rejections as google.rpc statuses."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, Final, Protocol

import grpc
from codeq import reasons
from codeq.frames import let_go
from codeq.v1 import producer_service_pb2, worker_service_pb2
from codeq_gateway.bodies import LARGE_BYTES, InFlight, too_many
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from codeq_server.auth.access import access_of
from codeq_server.auth.authenticator import bearer
from codeq_server.auth.claims import Claims
from codeq_server.auth.revocation import Authorization
from codeq_server.core.errors import Reason, Rejection

from .calls import Calls
from .counts import parser
from .methods import Method
from .rate_limits import RETRY_AFTER
from .serving import Serving
from .shards import PASSED_KEY, Codec
from .stream_token import StreamToken
from .unread import COUNTED_BYTES, UnreadReplies

RETRY_AFTER_SECONDS: Final = 1
"""Retry delay advised to callers whose call may succeed later, if nothing more is known."""

AccessLog = Callable[[str, str, float, str, Mapping[str, str]], None]
"""Logs a unary call: its method, gRPC code name, seconds, request id, and details of a rejection."""


class CallSpans(Protocol):
    """Makes the spans of unary calls."""

    def begin(self, method: str, metadata: Mapping[str, str | bytes]) -> Any:
        """Returns the span of a call that begins."""
        ...

    def end(self, span: Any, code: str, about: Mapping[str, str]) -> None:
        """Ends the span of a call with the name of its gRPC code, and the details of a rejection."""
        ...


NOTHING_ELSE: Final[Mapping[str, str]] = MappingProxyType({})

PRODUCE: Final = "/codeq.v1.ProducerService/Produce"
WORK: Final = "/codeq.v1.WorkerService/Work"

_PRODUCE_CODEC: Final[Codec] = (
    producer_service_pb2.ProduceRequest.SerializeToString,
    producer_service_pb2.ProduceResponse.FromString,
)
_WORK_CODEC: Final[Codec] = (worker_service_pb2.WorkRequest.SerializeToString, None)

REFUSALS: Final = (Rejection, DecodeError)
"""Exceptions that the caller caused."""


def status_of(rejection: Rejection) -> status_pb2.Status:
    """Returns a rejection as a google.rpc.Status with ErrorInfo, and BadRequest or RetryInfo where they apply."""
    reason = reasons.BY_NUMBER[rejection.reason.value]
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=reason.name, domain=reasons.DOMAIN, metadata=rejection.metadata)
    ]
    if rejection.violations:
        bad = error_details_pb2.BadRequest()
        for name, description in rejection.violations:
            bad.field_violations.add(field=name, description=description)
        details.append(bad)
    seconds = retry_seconds(rejection)
    if seconds is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=seconds)))
    status = status_pb2.Status(code=reason.grpc_code, message=rejection.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def retry_seconds(rejection: Rejection) -> int | None:
    """Returns the seconds after which a retry may succeed; None: it will not."""
    if not reasons.BY_NUMBER[rejection.reason.value].retryable:
        return None
    return int(rejection.metadata.get(RETRY_AFTER, RETRY_AFTER_SECONDS))


def _nothing(_: str, __: str) -> None:
    """Ignores the end of a stream."""


class GrpcFront:
    """Creates the handlers of a grpc.aio server.

    Args:
        calls: Executes the calls.
        in_flight: Counts the bytes of large requests.
        on_known: Called with the gRPC peer of a connection that presented a valid token.
        access_log: Writes one line per unary call; None: no access log.
        on_defect: Called with the method and exception of an unexpected failure.
        on_stream_end: Called with the method and gRPC code name of each stream that has ended.
        spans: Makes the spans of unary calls; None: they have none.
    """

    def __init__(
        self,
        calls: Calls,
        in_flight: InFlight,
        on_known: Callable[[str], None],
        access_log: AccessLog | None,
        on_defect: Callable[[str, BaseException], None],
        on_stream_end: Callable[[str, str], None] = _nothing,
        spans: CallSpans | None = None,
    ) -> None:
        self._calls = calls
        self._in_flight = in_flight
        self._on_known = on_known
        self._access_log = access_log
        self._on_defect = on_defect
        self._on_stream_end = on_stream_end
        self._spans = spans
        self._unread = UnreadReplies()

    def register(self, server: grpc.aio.Server) -> list[str]:
        """Adds every service to a server; returns their names."""
        handlers: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}
        for method in self._calls.public_methods():
            _, service, name = method.name.split("/")
            # Served as a stream of one request, so that nothing is read before the caller is authenticated.
            handlers.setdefault(service, {})[name] = grpc.stream_unary_rpc_method_handler(
                self._unary(method),
                request_deserializer=None,  # parsed below: grpc would answer malformed bytes with UNKNOWN
                response_serializer=serialize,
            )
        handlers["codeq.v1.ProducerService"] = {
            "Produce": grpc.stream_stream_rpc_method_handler(
                self._stream(PRODUCE, self._produce, _PRODUCE_CODEC),
                request_deserializer=parser(producer_service_pb2.ProduceRequest),
                response_serializer=serialize,
            )
        }
        handlers["codeq.v1.WorkerService"] = {
            "Work": grpc.stream_stream_rpc_method_handler(
                self._stream(WORK, self._work, _WORK_CODEC),
                request_deserializer=parser(worker_service_pb2.WorkRequest),
                response_serializer=bytes,  # the stream encodes its responses itself
            )
        }
        for service, methods in handlers.items():
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
        return list(handlers)

    def _unary(self, method: Method) -> Any:
        parse = method.parse

        async def behaviour(_: Any, context: Any) -> Message | None:
            started = time.perf_counter()
            metadata, peer = dict(context.invocation_metadata()), context.peer()
            authorization = shown_by(metadata, context)
            code, about = "OK", NOTHING_ELSE
            span = None if self._spans is None else self._spans.begin(method.name, metadata)
            try:
                claims = self._calls.known(method.name, authorization)
                claims = claims or await self._calls.authenticate(method.name, authorization)
                self._on_known(peer)
                content = await only_message(context)
                self._unread.refuse_more(peer)
                carry_out = self._calls.carry_out
                if len(content) < LARGE_BYTES:
                    reply = await carry_out(method.name, claims, parse(content), authorization, origin=peer)
                else:
                    async with working_at(self._in_flight, len(content)):
                        reply = await carry_out(method.name, claims, parse(content), authorization, origin=peer)
                if (size := reply.ByteSize()) >= COUNTED_BYTES:
                    if method.reads:
                        self._unread.refuse_more(peer)  # calls that waited together all passed the first check
                    self._unread.hold(context, size)
                return reply  # noqa: TRY300 - the rest handles failures
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            except Exception as problem:  # noqa: BLE001 - every call gets a status
                code, about = self._refuse(method.name, context, problem)
            finally:
                if self._spans is not None:
                    self._spans.end(span, code, about)
                if self._access_log is not None:
                    seconds = time.perf_counter() - started
                    self._access_log(method.name, code, seconds, text_of(metadata.get("x-request-id", "")), about)
            return None

        return behaviour

    def _stream(self, name: str, serve: Callable[[Serving, StreamToken, Any], Awaitable[None]], codec: Codec) -> Any:
        access, authenticator = access_of(name), self._calls.authenticator

        async def validate(token: Authorization) -> Claims:
            authorization = f"Bearer {token}" if isinstance(token, str) else token
            return await authenticator.authenticate(authorization, access.principal, access.scope)

        async def behaviour(_: Any, context: Any) -> None:
            metadata = dict(context.invocation_metadata())
            claims: Claims | None = None
            code = "OK"
            try:
                if self._calls.draining:
                    raise Rejection(Reason.DRAINING, "the server is stopping")  # noqa: TRY301
                shown = shown_by(metadata, context)
                claims = await authenticator.authenticate(shown, access.principal, access.scope)
                self._on_known(context.peer())
                passing = self._calls.passing
                if passing is not None and self._calls.shards.serving is None:
                    await passing.stream(name, context, codec)
                    return
                token = StreamToken(claims, validate, authenticator.clock, bearer(shown), authenticator.revocations)
                await serve(self._calls.shards.current(), token, context)
            except asyncio.CancelledError as cancelled:
                code = "CANCELLED"
                let_go(cancelled)
                raise
            except (Exception, BaseExceptionGroup) as problem:  # noqa: BLE001 - every stream gets a status
                code, _ = self._refuse(name, context, problem, claims)
            finally:
                if PASSED_KEY not in metadata:  # it is counted where it arrived
                    self._on_stream_end(name, code)

        return behaviour

    async def _produce(self, serving: Serving, token: StreamToken, context: Any) -> None:
        await serving.produce(token, context, self._in_flight, self._calls.siblings)

    async def _work(self, serving: Serving, token: StreamToken, context: Any) -> None:
        await serving.work(token, context, self._calls.siblings)

    def _refuse(
        self, name: str, context: Any, problem: BaseException, claims: Claims | None = None
    ) -> tuple[str, Mapping[str, str]]:
        """Fails an RPC with a rejection, or with INTERNAL for a bug, which is logged.

        Args:
            name: Full name of the RPC.
            context: Its context.
            problem: Why it fails.
            claims: Caller of a stream; None: a unary call, or the caller was not accepted.

        Returns:
            Name of the code, and the log details of a rejection.
        """
        about = NOTHING_ELSE
        cause = _first(problem) if isinstance(problem, BaseExceptionGroup) else problem
        if isinstance(cause, REFUSALS):
            refusal = refusal_of(cause)
            code, about = refuse(context, refusal), refusal.about()
            if claims is not None:
                refusal.subject, refusal.tenant = claims.subject, claims.tenant_id
            self._calls.denied(name, refusal, context.peer())
        elif isinstance(cause, grpc.aio.InternalError):
            code = "CANCELLED"  # a write failed because the client is gone
        else:
            self._on_defect(name, cause)
            code = refuse(context, Rejection(Reason.INTERNAL, "internal error"))
        let_go(problem)
        return code, about


@asynccontextmanager
async def working_at(in_flight: InFlight, size: int) -> AsyncIterator[None]:
    """Waits until a large request fits within the limit, and counts it while it is executed.

    Raises:
        Rejection: LIMIT_REACHED: too many bytes are already held.
    """
    if not in_flight.has_room(size):
        raise Rejection(Reason.LIMIT_REACHED, too_many().message)
    in_flight.hold(size)
    try:
        async with in_flight.turn(size):
            yield
    finally:
        in_flight.release(size)


async def only_message(context: Any) -> Any:
    """Reads the message of a unary call that is served as a stream of one.

    Raises:
        Rejection: INVALID_BODY: the call has no message.
        DecodeError: The message is malformed.
    """
    message = await context.read()
    if message is grpc.aio.EOF:
        raise Rejection(Reason.INVALID_BODY, "the call carries no message")
    return message


def refuse(context: Any, rejection: Rejection) -> str:
    """Makes an RPC end with a rejection as soon as its handler returns; returns the name of the code.

    gRPC's own `abort` would create a reference cycle: the call holds the exception, whose traceback holds the call.
    """
    status = rpc_status.to_status(status_of(rejection))
    context.set_code(status.code)
    context.set_details(status.details)
    context.set_trailing_metadata(status.trailing_metadata)
    return reasons.BY_NUMBER[rejection.reason.value].grpc_name


def refusal_of(problem: Rejection | DecodeError) -> Rejection:
    """Returns the rejection for an exception that the caller caused; malformed bytes become INVALID_BODY."""
    if isinstance(problem, Rejection):
        return problem
    return Rejection(Reason.INVALID_BODY, f"malformed request message: {problem}")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Returns the first rejection in a group of exceptions, or else its first exception."""
    leaves: list[BaseException] = []
    stack: list[BaseException] = [group]
    while stack:
        problem = stack.pop()
        if isinstance(problem, BaseExceptionGroup):
            stack.extend(problem.exceptions)
        else:
            leaves.append(problem)
    return next((leaf for leaf in leaves if isinstance(leaf, REFUSALS)), leaves[0])


def serialize(message: Message) -> bytes:
    """Returns a message's bytes."""
    return message.SerializeToString()


def shown_by(metadata: Mapping[str, str | bytes], context: Any) -> Authorization:
    """Returns the authorization header of a call, even if it is empty, or else the certificate of its connection.

    Returns:
        The header as text or the certificate in DER; empty if there is neither.
    """
    header = metadata.get("authorization")
    if header is not None:
        return text_of(header)
    certificate = context.auth_context().get("x509_pem_cert")
    return ssl.PEM_cert_to_DER_cert(certificate[0].decode()) if certificate else ""


def text_of(value: str | bytes) -> str:
    """Returns a metadata value as text."""
    return value if isinstance(value, str) else value.decode("latin-1")
