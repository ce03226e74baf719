"""The gateway as an ASGI application: from HTTP requests to calls of a dispatcher and back."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import msgspec
from codeq.v1 import error_pb2
from google.protobuf.descriptor import ServiceDescriptor
from prometheus_client import CONTENT_TYPE_LATEST

from codeq_gateway import openapi, refusals
from codeq_gateway.bodies import JSON_TYPE, BodyReader, ClientLeftError, Headers
from codeq_gateway.dispatch import Call, CallFailed, Dispatcher
from codeq_gateway.metrics import UNKNOWN_ROUTE, HttpMetrics
from codeq_gateway.router import MethodNotAllowedError, Router
from codeq_gateway.routes import Operation, read_operations
from codeq_gateway.watch import CallWatches, End, Receive

CLIENT_CLOSED_STATUS: Final = 499
"""Status under which a request counts whose client left before the reply."""

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_LOG: Final = logging.getLogger("codeq.gateway")

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class AccessLog(Protocol):
    """Takes one line for each request."""

    def __call__(self, method: str, route: str, status: int, seconds: float, request_id: str) -> None:
        """Notes a request that has been answered or given up; `route` is its template."""


@dataclass(frozen=True, slots=True)
class Probes:
    """What the gateway shows about the process it runs in.

    Attributes:
        ready: Returns whether requests can be served, and a JSON object that tells more.
        metrics: Returns the metrics in Prometheus' text format.
    """

    ready: Callable[[], tuple[bool, Mapping[str, object]]]
    metrics: Callable[[], bytes]


class Reply(NamedTuple):
    """An HTTP reply.

    Attributes:
        status: HTTP status.
        body: Body; empty: none.
        content_type: Content type of the body.
        headers: Further headers.
    """

    status: int
    body: bytes
    content_type: bytes = JSON_TYPE
    headers: Iterable[tuple[bytes, bytes]] = ()


@dataclass(frozen=True, slots=True)
class _Page:
    """A route that no service has: health, metrics, documentation."""

    template: str
    render: Callable[[], Reply]


class Gateway:
    """ASGI application that serves the unary RPCs of services under their HTTP rules.

    Args:
        services: Services whose rules become routes.
        dispatcher: Carries out the calls.
        probes: What /readyz and /metrics show.
        metrics: Counts the requests; shown by whoever collects it.
        access_log: Takes a line for each request; None: nobody does.
        allowed_hosts: Host names that requests may be addressed to, without port; None: any. Guards a server without
            secrets from web pages that make a browser on its machine call it under a name of their own.
        version: Version that /openapi.json tells.

    Raises:
        TypeError, ValueError: A rule or a type of the services is of a form that is not built.
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
    ) -> None:
        self._bodies = BodyReader()
        self._watches = CallWatches()
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._access_log = access_log
        self._allowed_hosts = allowed_hosts
        self._router: Router[Operation | _Page] = Router()
        operations = list(read_operations(services))
        for operation in operations:
            self._router.add(operation.http_method, operation.segments, operation)
        document = openapi.document(operations, version)
        pages = (
            _Page("/healthz", lambda: Reply(200, b'{"status":"ok"}')),
            _Page("/readyz", lambda: _readiness(*probes.ready())),
            _Page("/metrics", lambda: Reply(200, probes.metrics(), CONTENT_TYPE_LATEST.encode())),
            _Page("/openapi.json", lambda: Reply(200, document)),
        )
        for page in pages:
            self._router.add("GET", [page.template[1:]], page)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answers one HTTP request."""
        if scope["type"] != "http":
            raise ValueError(f"no protocol for {scope['type']}")
        started = time.perf_counter()
        method = scope["method"]
        headers = dict(scope["headers"])
        request_id = _request_id(headers)
        route = UNKNOWN_ROUTE
        json_path: Callable[[str], str] = str
        try:
            self._check_host(headers)
            target, path_values = self._router.find(method, scope["raw_path"])
            route = target.template
            if isinstance(target, _Page):
                reply = target.render()
            else:
                body = await self._bodies.read(receive, headers, target.body_bytes_max)
                request = target.request(path_values, scope["query_string"], body)
                call = Call(
                    method=target.call_name,
                    request=request,
                    authorization=headers.get(b"authorization", b"").decode("latin-1"),
                    request_id=request_id,
                    timeout_seconds=target.timeout_seconds(request),
                )
                json_path = target.json_path  # services name fields as their request does, not as its JSON
                reply = Reply(*target.reply(await self._call(call, receive)))
        except CallFailed as failed:
            reply = _failure(failed, json_path)
        except asyncio.CancelledError:
            # Only a server that stops cancels requests: the client is told before the connection ends.
            _uncancel()
            reply = _failure(CallFailed(error_pb2.ERROR_REASON_DRAINING, "the server is stopping"), json_path)
        except ClientLeftError:
            self._note(method, route, CLIENT_CLOSED_STATUS, started, request_id)
            return
        except Exception:  # noqa: BLE001 - a defect must not end the connection without a reply
            _LOG.exception("request %s failed: %s %s", request_id, method, route)
            reply = _failure(CallFailed(error_pb2.ERROR_REASON_UNSPECIFIED, "internal error"), json_path)
        await _send_reply(send, reply, request_id)
        self._note(method, route, reply.status, started, request_id)

    async def _call(self, call: Call, receive: Receive) -> Any:
        """Returns the dispatcher's response, unless the client leaves or the time is over."""
        watch = self._watches.open(receive, call.timeout_seconds)
        try:
            return await self._dispatcher.call(call)
        except asyncio.CancelledError:
            if watch.end is None:
                raise
            _uncancel()
            if watch.end is End.DISCONNECTED:
                raise ClientLeftError from None
            message = f"no reply within {call.timeout_seconds:.0f} seconds"
            raise CallFailed(error_pb2.ERROR_REASON_DEADLINE_EXCEEDED, message) from None
        finally:
            self._watches.close(watch)

    def _check_host(self, headers: Headers) -> None:
        if self._allowed_hosts is None:
            return
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
        if name not in self._allowed_hosts:
            raise refusals.invalid_field("Host", f"this server does not answer to the name {name!r}")

    def _note(self, method: str, route: str, status: int, started: float, request_id: str) -> None:
        seconds = time.perf_counter() - started
        self._metrics.observe(method, route, status, seconds)
        if self._access_log is not None:
            self._access_log(method, route, status, seconds, request_id)


def _request_id(headers: Headers) -> str:
    """Returns the client's id of the request where it is well-formed, else a new one."""
    sent = headers.get(b"x-request-id")
    if sent is not None:
        text = sent.decode("latin-1")
        if _REQUEST_ID.fullmatch(text):
            return text
    return os.urandom(16).hex()


def _uncancel() -> None:
    """Tells the current task that its cancellation has been dealt with."""
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()


def _failure(failed: CallFailed, json_path: Callable[[str], str]) -> Reply:
    headers = refusals.error_headers(failed)
    if isinstance(failed, MethodNotAllowedError):
        headers.append((b"allow", ", ".join(failed.allowed).encode()))
    return Reply(refusals.error_status(failed), refusals.error_body(failed, json_path), headers=headers)


def _readiness(ready: bool, more: Mapping[str, object]) -> Reply:  # noqa: FBT001 - the pair that a probe returns
    return Reply(200 if ready else 503, msgspec.json.encode({"ready": ready, **more}))


async def _send_reply(send: Send, reply: Reply, request_id: str) -> None:
    headers = [(b"x-request-id", request_id.encode()), *reply.headers]
    if reply.body:
        headers.append((b"content-type", reply.content_type))
    if reply.status != 204:
        headers.append((b"content-length", b"%d" % len(reply.body)))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
