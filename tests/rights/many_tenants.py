"""A server with callers of several tenants and every role: real store, gRPC and REST; validators know them all."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import grpc
import grpc.aio
import httpx
from authority import Files, trusting
from codeq_gateway.app import Gateway, Probes
from codeq_gateway.bodies import InFlight
from codeq_gateway.dispatch import Call
from codeq_gateway.encode import compile_encoder
from codeq_gateway.metrics import HttpMetrics
from codeq_gateway.routes import Operation, read_operations
from codeq_gateway.server import GatewayServer
from codeq_server.auth.authenticator import Authenticator
from codeq_server.auth.claims import WORKER_SCOPES, Token
from codeq_server.auth.mtls import Identities, Identity
from codeq_server.config import Address, ListenerTls, Settings, load
from codeq_server.core.errors import Reason
from codeq_server.node.certificates import Certificates
from codeq_server.node.descriptors import share
from codeq_server.node.listeners import listen, new_server
from codeq_server.node.local_host import LocalHost
from codeq_server.services.calls import Calls
from codeq_server.services.cluster import ClusterService
from codeq_server.services.grpc_front import GrpcFront
from codeq_server.services.local_dispatch import LocalDispatcher
from codeq_server.services.server_info import ServerService
from codeq_server.services.shard_table import ShardTable
from codeq_server.webhooks.outgoing import outgoing_of
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

EVERY_COMMAND = frozenset({"*"})


class Answer(NamedTuple):
    """What a caller gets.

    Attributes:
        reason: Reason of the rejection; empty: none.
        seen: Everything that the caller gets to read, as text.
        status: HTTP status; 0 over gRPC.
        message: The response over gRPC.
    """

    reason: str
    seen: str
    status: int = 0
    message: Any = None


def producer(tenant: str, subject: str = "shop", *, commands: Any = (), scopes: Any = (), **raw: object) -> Token:
    """Returns the content of a producer's token; tenant "": it has none."""
    claims = {"tenantId": tenant, **raw} if tenant else raw
    return Token(subject, "", frozenset(scopes), frozenset(commands), claims)


def worker(tenant: str, subject: str = "w", *, commands: Any = EVERY_COMMAND, scopes: Any = WORKER_SCOPES) -> Token:
    """Returns the content of a worker's token."""
    return Token(subject, "", frozenset(scopes), frozenset(commands), {"tenantId": tenant})


class Connections(NamedTuple):
    """What a client has of its server; see `Server`."""

    channel: grpc.aio.Channel
    blocking: grpc.Channel
    http: httpx.AsyncClient


class Known:
    """Validates the tokens of one kind of caller: each token is a name."""

    def __init__(self, tokens: Mapping[str, Token]) -> None:
        self._tokens = tokens

    def validate(self, token: str) -> Token | None:
        return self._tokens.get(token)


@dataclass
class Server:
    """The running server.

    Attributes:
        calls: Its calls.
        channel: A gRPC channel to it.
        blocking: Another one, for threads.
        http: A client of its REST API.
        operations: REST operations by the name of their RPC.
        connect: Returns the connections of a client that shows the certificate of some files.
    """

    calls: Calls
    channel: grpc.aio.Channel
    blocking: grpc.Channel
    http: httpx.AsyncClient
    operations: dict[str, Operation]
    connect: Callable[[Files | None], AbstractAsyncContextManager[Connections]] | None = None

    @asynccontextmanager
    async def as_client(self, files: Files) -> AsyncIterator[Server]:
        """Yields the server as a client reaches it that shows the certificate of some files."""
        assert self.connect is not None
        async with self.connect(files) as connections:
            yield replace(self, **connections._asdict())

    async def grpc(self, name: str, request: Message, token: str) -> Answer:
        """Calls an RPC over gRPC; token "": none."""
        response_type = message_factory.GetMessageClass(self.calls.methods[name].descriptor.output_type)
        call = self.channel.unary_unary(
            name, request_serializer=type(request).SerializeToString, response_deserializer=response_type.FromString
        )
        metadata = [("authorization", f"Bearer {token}")] if token else []
        try:
            response = await call(request, metadata=metadata, timeout=20)
        except grpc.aio.AioRpcError as error:
            return refused(error)
        return Answer("", f"{response}{response.SerializeToString()!r}", 0, response)

    async def stream(self, name: str, messages: Sequence[Message], token: str) -> Answer:
        """Opens a stream, sends messages, half-closes and reads to the end; token "": none."""
        service, method = name.removeprefix("/").split("/")
        descriptor = descriptor_pool.Default().FindServiceByName(service).methods_by_name[method]
        response_type = message_factory.GetMessageClass(descriptor.output_type)
        return await asyncio.to_thread(self._stream, name, messages, token, response_type.FromString)

    def _stream(self, name: str, messages: Sequence[Message], token: str, parse: Any) -> Answer:
        # The asyncio client loses the status of a call that ends while it sends.
        serialize: Any = lambda message: message.SerializeToString()  # noqa: E731
        open_stream: Any = self.blocking.stream_stream(name, request_serializer=serialize, response_deserializer=parse)
        seen: list[Message] = []
        try:
            metadata = [("authorization", f"Bearer {token}")] if token else []
            for message in open_stream(iter(messages), metadata=metadata, timeout=20):
                seen.append(message)  # noqa: PERF402 - kept if the stream fails
        except grpc.RpcError as error:
            answer = refused(error)
            return answer._replace(seen=f"{seen}{answer.seen}")
        return Answer("", f"{seen}")

    async def rest(self, name: str, request: Message, token: str) -> Answer:
        """Calls an RPC over REST; token "": none."""
        operation = self.operations[name]
        method, path, body = over_http(operation, request)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        reply = await self.http.request(method, path, content=body, headers=headers)
        reason = "" if reply.status_code < 400 else reply.json()["reason"]
        return Answer(reason, f"{reply.text}{dict(reply.headers)}", reply.status_code)


def refused(error: Any) -> Answer:
    """Returns the answer of a call that failed."""
    status: Any = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    assert status is not None, error
    status.details[0].Unpack(info)
    return Answer(info.reason, f"{error.details()}{status}")


def over_http(operation: Operation, request: Message) -> tuple[str, str, bytes | None]:
    """Returns method, path with query, and body of the HTTP request for an RPC's request."""
    path, fields = operation.template, {field.name: value for field, value in request.ListFields()}
    for parameter in operation.path_parameters:
        value = fields.pop(parameter.field.name, "")
        path = path.replace("{" + parameter.name + "}", quote(str(value), safe="") or "%20")
    encoded = json.loads(compile_encoder(request.DESCRIPTOR)(request))
    body: bytes | None = None
    if operation.body_field:
        body = json.dumps(encoded.get(operation.body_field, {})).encode()
    elif operation.body_bytes_max:
        kept = {request.DESCRIPTOR.fields_by_name[name].json_name for name in fields}
        return operation.http_method, path, json.dumps({k: v for k, v in encoded.items() if k in kept}).encode()
    query: list[str] = []
    for name, parameter in operation.query.items():
        if parameter.field.name in fields:
            values = encoded[name]
            for value in values if isinstance(values, list) else [values]:
                text = value if isinstance(value, str) else json.dumps(value)
                query.append(f"{name}={quote(text, safe='')}")
    return operation.http_method, path + ("?" + "&".join(query) if query else ""), body


def fill(message: Message, values: Mapping[str, Any]) -> Message:
    """Sets the fields of a message, and of those nested in it, whose names have a value; returns it.

    A repeated field gets one item. A value that is a mapping has the values of one type of message by its name; None is
    no value.
    """
    values = {**values, **values.get(message.DESCRIPTOR.name, {})}
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None and field.message_type.file.package == "codeq.v1":
            inner = getattr(message, field.name)
            fill(inner.add() if field.is_repeated else inner, values)
            if not field.is_repeated:
                inner.SetInParent()
        elif values.get(field.name) is not None:
            _set(message, field, values[field.name])
    return message


def _set(message: Message, field: FieldDescriptor, value: Any) -> None:
    if field.is_repeated:
        getattr(message, field.name).extend(value if isinstance(value, list) else [value])
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)


def _host_of(settings: Settings, stack: AsyncExitStack) -> LocalHost:
    """Returns a host that makes requests to URLs of tenants until the stack closes."""
    outgoing = outgoing_of(settings)
    stack.push_async_callback(outgoing.sender.close)
    files = share(1024, http=100, grpc=100, grpc_ports=1, peers=0)
    return LocalHost(settings, files, _never, verify=False, outgoing=outgoing)


@asynccontextmanager
async def serving(
    folder: Path,
    producers: Mapping[str, Token],
    workers: Mapping[str, Token],
    *,
    viewers_see_content: bool = False,
    producer_as_worker: bool = False,
    admins_operate: bool = False,
    certified: Certified | None = None,
) -> AsyncIterator[Server]:
    """Serves within the block; a token is a name in one of the mappings, or in both; so is that of a certificate."""
    environment = {
        "PERSISTENCE_CONFIG": json.dumps({"path": str(folder / "store"), "fsyncOnCommit": False}),
        "BACKUP_DIR": str(folder / "backups"),
    }
    (folder / "backups").mkdir()
    async with AsyncExitStack() as stack:
        settings = load(None, environment, {}, dev=True)
        host = _host_of(settings, stack)
        authenticator = Authenticator(
            Known(producers),
            Known(workers),
            producer_identify=None if certified is None else identities_of(producers).identify,
            worker_identify=None if certified is None else identities_of(workers).identify,
            producer_as_worker=producer_as_worker,
            admins_operate=admins_operate,
        )
        listener = None if certified is None else certified.listener
        certificates = Certificates(listener, listener, None, "codeq")
        calls = Calls(authenticator, ShardTable(host.absence, host.stale), viewers_see_content=viewers_see_content)
        await host.start(calls.shards.present, lambda: None)
        stack.push_async_callback(host.close)
        calls.register("codeq.v1.ClusterService", ClusterService(host.cluster, fsync=False))
        server_service = ServerService(
            version="1",
            mode="single",
            fsync=False,
            persistence_provider="rocksdb",
            num_shards=1,
            backups=host.upkeep.backups,
            settled=calls.settled,
            on_trouble=_never,
        )
        calls.register("codeq.v1.ServerService", server_service)
        server = new_server(100)
        GrpcFront(calls, InFlight(), lambda _: None, None, _never).register(server)
        port = listen(server, Address("127.0.0.1", 0), certificates.grpc_credentials())
        await server.start()
        stack.push_async_callback(server.stop, None)
        stack.push_async_callback(host.drain, 0)
        dispatcher, probes = LocalDispatcher(calls, _forward), Probes(_ready, _no_metrics)
        gateway = GatewayServer(
            Gateway(calls.services, dispatcher, probes, HttpMetrics(), access_log=None, version="1"),
            "127.0.0.1",
            0,
            tls=certificates.http,
        )
        http_port = await gateway.start()
        stack.push_async_callback(gateway.stop, 0)

        connect = partial(_connected, port, http_port)
        operations = {operation.call_name: operation for operation in read_operations(calls.services)}
        first = None if certified is None else certified.stranger
        connections = await stack.enter_async_context(connect(first))
        yield Server(calls, *connections, operations, connect)


@asynccontextmanager
async def _connected(port: int, http_port: int, files: Files | None) -> AsyncIterator[Connections]:
    """Connects to gRPC and REST; with files, over TLS."""
    address, url = f"127.0.0.1:{port}", f"127.0.0.1:{http_port}"
    if files is None:
        channel, blocking = grpc.aio.insecure_channel(address), grpc.insecure_channel(address)
        http = httpx.AsyncClient(base_url=f"http://{url}", timeout=20)
    else:
        shown = grpc.ssl_channel_credentials(
            files.ca.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
        )
        channel, blocking = grpc.aio.secure_channel(address, shown), grpc.secure_channel(address, shown)
        http = httpx.AsyncClient(base_url=f"https://{url}", timeout=20, verify=trusting(files, certificate=True))
    async with channel, http:
        with blocking:
            yield Connections(channel, blocking, http)


class Certified(NamedTuple):
    """TLS of a server that requires certificates.

    Attributes:
        listener: Its files.
        stranger: Files of a client with no identity, for calls with tokens.
    """

    listener: ListenerTls
    stranger: Files


def identities_of(tokens: Mapping[str, Token]) -> Identities:
    """Returns identities of certificates whose common names are names of tokens, with the claims of these tokens."""
    found = []
    for name, token in tokens.items():
        raw: Any = token.raw
        roles = frozenset([*raw.get("roles", []), *([raw["role"]] if "role" in raw else [])])
        tenant = raw.get("tenantId", "")
        found.append(Identity(name, token.subject, tenant, "", token.scopes, token.event_types, roles))
    return Identities("cn", found)


def basic(content: bytes) -> str:
    """Returns bytes in base64, as JSON shows them."""
    return base64.b64encode(content).decode()


def reasons() -> frozenset[str]:
    """Returns the reasons of rejections for lack of rights."""
    denied = {
        Reason.UNAUTHENTICATED,
        Reason.WRONG_TOKEN_KIND,
        Reason.MISSING_SCOPE,
        Reason.INVALID_TENANT,
        Reason.NOT_ADMIN,
        Reason.NOT_OPERATOR,
        Reason.NOT_ALLOWED,
        Reason.COMMAND_NOT_ALLOWED,
    }
    return frozenset(reason.name for reason in denied)


async def _forward(leader: str, call: Call) -> Message:
    raise AssertionError(leader, call)


async def _ready() -> tuple[bool, Mapping[str, object]]:
    return True, {}


async def _no_metrics() -> bytes:
    return b""


def _never(*problem: object) -> None:
    raise AssertionError(problem)
