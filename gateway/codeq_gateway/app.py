"""The gateway: turns HTTP requests into dispatcher calls and renders the replies. Connections are handled elsewhere."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec
from codeq.frames import let_go
from codeq.v1 import error_pb2
from google.protobuf.descriptor import ServiceDescriptor
from prometheus_client import CONTENT_TYPE_LATEST

from codeq_gateway import header_fields, openapi, parameters, refusals
from codeq_gateway.bodies import LARGE_BYTES, InFlight, check_head
from codeq_gateway.cors import Cors
from codeq_gateway.dispatch import STALE, Authorization, Call, CallFailed, Dispatcher
from codeq_gateway.exchange import End, Exchange, Headers, Reply
from codeq_gateway.heads import ASTERISK, Head
from codeq_gateway.json_names import JsonNames
from codeq_gateway.metrics import UNKNOWN_ROUTE, HttpMetrics
from codeq_gateway.router import METHODS, MethodNotAllowedError, Router
from codeq_gateway.routes import CALL_SECONDS, Operation, read_operations

CLIENT_CLOSED_STATUS: Final = 499
"""Status recorded for a request whose client disconnected before the reply."""

PAGE_SECONDS: Final = 5.0
"""Timeout for readiness and metrics."""

_OTHER_METHOD: Final = "OTHER"
"""Method recorded for a request whose method is not in METHODS, so clients cannot inject text into metrics or logs."""

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_NO_HEAD: Final = Head("", b"", b"", b"", {}, keep_alive=False, length=0, expects_continue=False)
_SAYS_STALE: Final = (b"x-codeq-consistency", STALE.encode())
"""Header of a reply that may miss acknowledged changes, which the request allowed."""

_LOG: Final = logging.getLogger("codeq.gateway")


class AccessLog(Protocol):
    """Writes one line per request."""

    def __call__(
        self, method: str, route: str, status: int, seconds: float, request_id: str, about: Mapping[str, str]
    ) -> None:
        """Logs a request that was answered or abandoned.

        Args:
            method: HTTP method.
            route: Template of the route.
            status: HTTP status.
            seconds: Duration.
            request_id: Id that was also sent to the client.
            about: Details of a rejection: reason, tenant, task.
        """


@dataclass(frozen=True, slots=True)
class Probes:
    """Startup, readiness and metrics of the process the gateway runs in.

    Attributes:
        ready: Returns whether requests can be served, and a JSON object with details.
        metrics: Returns the metrics in the Prometheus text format.
        starting: Returns why the process has not started up yet; empty: it has.
    """

    ready: Callable[[], Awaitable[tuple[bool, Mapping[str, object]]]]
    metrics: Callable[[], Awaitable[bytes]]
    starting: Callable[[], str] = str


@dataclass(frozen=True, slots=True)
class _Page:
    """A route outside the services: health, metrics, documentation."""

    template: str
    render: Callable[[], Awaitable[Reply]]


class RequestSpans(Protocol):
    """Makes the spans of requests."""

    def begin(self, head: Head, route: str, *, is_tls: bool) -> tuple[Any, Headers]:
        """Returns the span of a request that begins, and the headers for all further work on it."""
        ...

    def end(self, span: Any, status: int, request_id: str, about: Mapping[str, str]) -> None:
        """Ends the span of a request with its HTTP status, its id and the details of a rejection."""
        ...


class Gateway:
    """Serves the unary RPCs of the services under their HTTP rules.

    Args:
        services: Services whose rules become routes.
        dispatcher: Carries out the calls.
        probes: Sources of /startupz, /readyz and /metrics.
        metrics: Counts the requests; the caller exports it.
        access_log: Writes one line per request; None: no access log.
        allowed_hosts: Host names that requests may be addressed to, without port; None: any. Protects a server without
            secrets against DNS rebinding: web pages that make a local browser call it under a name of their own.
        version: Version shown in /openapi.json.
        cors_origins: Origins whose web pages may call; empty: browsers allow only pages of this server's own origin.
        bodies: Counts the bytes of large requests, shared with other front ends; None: the gateway counts its own.
        spans: Makes the spans of requests for RPCs; None: they have none.

    Attributes:
        bodies: Counts the bytes of large requests.
        metrics: Counts the requests.

    Raises:
        TypeError, ValueError: A rule or a type of the services is not supported.
    """

    def __init__(
        self,
        services: Iterable[ServiceDescriptor],
        dispatcher: Dispatcher,
        probes: Probes,
        metrics: HttpMetrics,
        access_log: AccessLog | None = None,
        allowed_hosts: frozenset[str] | None = None,
        version: str = "",
        cors_origins: Sequence[str] = (),
        bodies: InFlight | None = None,
        spans: RequestSpans | None = None,
    ) -> None:
        self.bodies = InFlight() if bodies is None else bodies
        self._dispatcher = dispatcher
        self._spans = spans
        self.metrics = metrics
        self._access_log = access_log
        self._allowed_hosts = allowed_hosts
        self._cors = Cors(cors_origins) if cors_origins else None
        self._ids = map((os.urandom(8).hex() + "{:016x}").format, itertools.count(1))
        self._router: Router[Operation | _Page] = Router()
        operations = list(read_operations(services))
        for operation in operations:
            self._router.add(operation.http_method, operation.segments, operation)
        self._header_fields = {name: field for each in operations for name, field in each.header_fields.items()}
        document = openapi.document(operations, version)
        pages = (
            _still("/healthz", Reply(200, b'{"status":"ok"}\n')),
            _Page("/startupz", lambda: _startup(probes)),
            _Page("/readyz", lambda: _readiness(probes)),
            _Page("/metrics", lambda: _metrics(probes)),
            _still("/openapi.json", Reply(200, document + b"\n")),
        )
        for page in pages:
            self._router.add("GET", [page.template[1:]], page)

    def open(self, head: Head, transport: asyncio.BaseTransport, origin: str) -> Exchange:
        """Begins a request whose head is complete. If the head is rejected, the exchange already has its reply.

        Args:
            head: The head.
            transport: The connection, whose certificate authenticates a request without an Authorization header.
            origin: Address of the client, as host:port.
        """
        exchange = Exchange(head, self._request_id(head.headers), origin)
        exchange.route = UNKNOWN_ROUTE
        if self._cors is not None:
            exchange.fields = self._cors.fields(head.headers)
        try:
            if self._allowed_hosts is not None:
                _check_host(head.host, self._allowed_hosts)
            if head.method == "OPTIONS":
                exchange.reply = self._options(head)
                return exchange
            target, exchange.path_values = self._router.find(head.method, head.path)
            exchange.route = target.template
            if isinstance(target, _Page):
                exchange.page = target.render
            else:
                exchange.operation = target
                if self._spans is not None:
                    is_tls = transport.get_extra_info("ssl_object") is not None
                    exchange.span, exchange.headers = self._spans.begin(head, target.template, is_tls=is_tls)
                exchange.body_bytes_max = target.body_bytes_max
                exchange.authorization = _authorization(head.headers, transport)
                exchange.admission = self._dispatcher.admit(target.call_name, exchange.authorization, origin)
            check_head(head.headers, exchange.body_bytes_max)
        except CallFailed as failed:
            exchange.reply = _failure(failed)
            let_go(failed)
        except Exception:  # noqa: BLE001 - a bug must not end the connection without a reply
            exchange.reply = _defect(exchange)
        return exchange

    def malformed(self, failed: CallFailed) -> Exchange:
        """Returns an exchange with the reply to bytes that are not an HTTP request; it is the connection's last."""
        exchange = Exchange(_NO_HEAD, next(self._ids))
        exchange.reply = _failure(failed)
        return exchange

    def _options(self, head: Head) -> Reply:
        """Returns the reply that lists the methods of a path or, for `*`, of the whole server.

        Raises:
            CallFailed: No route matches the path.
        """
        methods = self._router.methods if head.path == ASTERISK else self._router.methods_of(head.path)
        allow = _allow(methods)
        asked = () if self._cors is None else self._cors.preflight_fields(head.headers, allow[1])
        return Reply(204, b"", headers=[allow, *asked])

    def refuse(self, exchange: Exchange, failed: CallFailed) -> None:
        """Rejects a request before its body is complete."""
        exchange.reply = _failure(failed)

    def answer(self, exchange: Exchange) -> Awaitable[None]:
        """Executes a complete request and sets its reply. Never raises.

        To cancel the task, set `exchange.end` to the reason first; a disconnected client gets no reply.
        """
        return self._answer(exchange) if len(exchange.body) < LARGE_BYTES else self._answer_in_turn(exchange)

    async def _answer_in_turn(self, exchange: Exchange) -> None:
        exchange.deadline = time.perf_counter() + CALL_SECONDS
        try:
            async with self.bodies.turn(len(exchange.body)):
                await self._answer(exchange)
        except asyncio.CancelledError:  # while waiting for its turn
            _uncancel()
            self.cancelled(exchange)

    async def _answer(self, exchange: Exchange) -> None:
        operation = exchange.operation
        # Services name fields as in the protobuf message; errors need the JSON names.
        names: JsonNames | None = None
        try:
            if operation is None:
                assert exchange.page is not None
                exchange.deadline = time.perf_counter() + PAGE_SECONDS
                exchange.reply = await exchange.page()
                return
            call = self._call(operation, exchange)
            if len(exchange.body) >= LARGE_BYTES:
                exchange.body = b""
                await asyncio.sleep(0)  # decoding took a while: yield to other requests
            exchange.deadline = time.perf_counter() + call.timeout_seconds
            names = operation.names
            reply = Reply(*operation.reply(await self._dispatcher.call(call), exchange.refused_items))
            exchange.reply = reply._replace(headers=[*reply.headers, _SAYS_STALE]) if call.consistency else reply
        except CallFailed as failed:
            exchange.reply = _failure(failed, names, exchange)
            let_go(failed)
        except asyncio.CancelledError:
            _uncancel()
            self.cancelled(exchange)
        except Exception:  # noqa: BLE001 - a bug must not end the connection without a reply
            exchange.reply = _defect(exchange)

    def _call(self, operation: Operation, exchange: Exchange) -> Call:
        """Returns the call for a request.

        Raises:
            CallFailed: The request is malformed; the error names the field.
        """
        headers, query, consistency = exchange.headers, exchange.query, ""
        header_fields.refuse_others(self._header_fields, operation.header_fields, headers)
        if query and operation.reads:
            consistency, query = parameters.take_consistency(query)
        request, exchange.refused_items = operation.request(exchange.path_values, query, exchange.body, headers)
        return Call(
            method=operation.call_name,
            request=request,
            authorization=exchange.authorization,
            request_id=exchange.request_id,
            timeout_seconds=operation.timeout_seconds(request),
            consistency=consistency,
            repeatable=operation.is_repeatable(request),
            forward=header_fields.forward(headers),
            origin=exchange.origin,
        )

    def cancelled(self, exchange: Exchange) -> None:
        """Sets the reply of a request whose call was cancelled, unless the client has disconnected."""
        if exchange.end is End.TIMED_OUT:
            reason, message = error_pb2.ERROR_REASON_DEADLINE_EXCEEDED, "the call timed out before a reply"
        else:
            reason, message = error_pb2.ERROR_REASON_DRAINING, "the server is stopping"
        exchange.reply = None if exchange.end is End.DISCONNECTED else _failure(CallFailed(reason, message))

    def note(self, exchange: Exchange, now: float) -> None:
        """Counts and logs a request that was answered or abandoned; `now` is a time of `time.perf_counter`."""
        status = CLIENT_CLOSED_STATUS if exchange.reply is None else exchange.reply.status
        seconds = now - exchange.started
        method = exchange.method if exchange.method in METHODS else _OTHER_METHOD
        self.metrics.observe(method, exchange.route, status, seconds)
        if self._spans is not None and exchange.span is not None:
            self._spans.end(exchange.span, status, exchange.request_id, _about(exchange))
        if self._access_log is not None:
            self._access_log(method, exchange.route, status, seconds, exchange.request_id, _about(exchange))

    def _request_id(self, headers: Headers) -> str:
        """Returns the client's request id if it is well-formed, otherwise a new one."""
        sent = headers.get(b"x-request-id")
        if sent is not None:
            text = sent.decode("latin-1")
            if _REQUEST_ID.fullmatch(text):
                return text
        return next(self._ids)


def _about(exchange: Exchange) -> Mapping[str, str]:
    """Returns the log details of a rejection; adds the task id from the path unless one is there already."""
    about = {} if exchange.reply is None else exchange.reply.about
    operation = exchange.operation
    if not about or "task_id" in about or operation is None:
        return about
    named = zip(operation.path_parameters, exchange.path_values, strict=False)
    ids = [value for parameter, value in named if parameter.field.name == "task_id"]
    return {**about, "task_id": ids[0]} if ids else about


def _authorization(headers: Headers, transport: asyncio.BaseTransport) -> Authorization:
    header = headers.get(b"authorization")
    if header is not None:
        return header.decode("latin-1")  # even if it is empty
    tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    return "" if tls is None else tls.getpeercert(binary_form=True) or ""


def _check_host(authority: bytes, allowed: frozenset[str]) -> None:
    host = authority.decode("ascii")
    name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
    if name not in allowed:
        raise refusals.invalid_field("Host", f"{name!r} is not an allowed host name of this server")


def _uncancel() -> None:
    """Marks the current task's cancellation as handled."""
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()


def _still(template: str, reply: Reply) -> _Page:
    """Returns a page with a fixed reply."""

    async def render() -> Reply:
        return reply

    return _Page(template, render)


async def _startup(probes: Probes) -> Reply:
    why = probes.starting()
    told = {"started": False, "reason": why} if why else {"started": True}
    return Reply(503 if why else 200, msgspec.json.encode(told) + b"\n")


async def _readiness(probes: Probes) -> Reply:
    ready, more = await probes.ready()
    return Reply(200 if ready else 503, msgspec.json.encode({"ready": ready, **more}) + b"\n")


async def _metrics(probes: Probes) -> Reply:
    return Reply(200, await probes.metrics(), CONTENT_TYPE_LATEST.encode())


def _failure(failed: CallFailed, names: JsonNames | None = None, exchange: Exchange | None = None) -> Reply:
    headers = refusals.error_headers(failed)
    if isinstance(failed, MethodNotAllowedError):
        headers.append(_allow(failed.allowed))
    if exchange is not None and (base := refusals.leader_url(failed)):
        headers.append((b"location", refusals.location(base, exchange.path, exchange.query)))
    about = {"reason": refusals.reason_name(failed), **failed.about}
    body = refusals.error_body(failed, names)
    return Reply(refusals.error_status(failed), body, headers=headers, about=about)


def _allow(methods: Iterable[str]) -> tuple[bytes, bytes]:
    return b"allow", ", ".join(methods).encode()


def _defect(exchange: Exchange) -> Reply:
    fields = {"request_id": exchange.request_id, "method": exchange.method, "route": exchange.route}
    _LOG.exception("request_failed", extra={"fields": fields})
    return _failure(CallFailed(error_pb2.ERROR_REASON_UNSPECIFIED, "internal error"))
