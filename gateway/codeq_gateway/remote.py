"""Sends calls to servers in other processes, over persistent links.

A call that was certainly not executed is retried: on the leader if a server named it, otherwise on the next reachable
server. A call whose link broke before the reply may have been executed: it is retried only if that is safe, otherwise
it fails with an unknown outcome and the caller decides.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Final

import grpc
import grpc.aio
import msgspec
from codeq.v1 import error_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from grpc_status import rpc_status

from codeq_gateway.dispatch import LEADER_GRPC, Admission, Authorization, Call, CallFailed
from codeq_gateway.links import (
    CONNECT_SECONDS,
    SECRET_KEY,
    Credentials,
    Link,
    LostError,
    Messages,
    NotSentError,
    failed,
    plaintext,
)

RETRY_SECONDS: Final = 5.0
"""How long a call is retried, within its own timeout; longer than an election takes."""

PAUSE_SECONDS_MIN: Final = 0.05
"""Initial backoff before a retry; it doubles each time."""

PAUSE_SECONDS_MAX: Final = 0.5
"""Maximum backoff."""

LINKS_MAX: Final = 16
"""Maximum links to servers named by other servers; at the limit, the oldest is closed."""

PROBE_SECONDS: Final = 2.0
"""Timeout of a server's readiness, metrics and authorization checks."""

ADMITTED_SECONDS: Final = 60.0
"""How long a gateway reads a caller's request bodies before it asks the server again; every call is authenticated
regardless."""

ADMITTED_MAX: Final = 1024
"""Maximum entries in the cache of authorized callers; at the limit, it is cleared."""

_ELSEWHERE: Final = frozenset({error_pb2.ERROR_REASON_DRAINING, error_pb2.ERROR_REASON_NOT_LEADER})
"""Rejections of calls that were not executed and that another server may accept."""


class Links:
    """Links to servers by address: the configured servers, and servers named by other servers.

    Args:
        pool: Holds the messages of call streams.
        secret: Shared secret that servers require of gateways.
        configured: Addresses whose links are opened at once and kept open.
        credentials: Returns credentials for connections to servers.
    """

    def __init__(
        self,
        pool: DescriptorPool,
        secret: str,
        configured: Sequence[str] = (),
        credentials: Credentials = plaintext,
    ) -> None:
        self._secret, self._credentials = secret, credentials
        self._messages = Messages(pool)
        self._changed = asyncio.Event()
        self._configured = frozenset(configured)
        self._links: dict[str, Link] = {}
        self._closing: set[asyncio.Task[None]] = set()
        for address in configured:
            self.to(address)

    @property
    def messages(self) -> Messages:
        """Messages of call streams."""
        return self._messages

    def to(self, address: str) -> Link:
        """Returns the link to a server; creates it if needed."""
        link = self._links.get(address)
        if link is None:
            named = [other for other in self._links if other not in self._configured]
            if len(named) >= LINKS_MAX:
                self._give_up(self._links.pop(named[0]))
            link = self._links[address] = Link(
                address, ((SECRET_KEY, self._secret),), self._messages, self._on_change, self._credentials
            )
        return link

    def up(self) -> list[Link]:
        """Returns the links that are up."""
        return [each for each in self._links.values() if each.is_up]

    def after(self, link: Link | None) -> Link | None:
        """Returns the next link that is up, in order of creation; None: no link is up."""
        links = list(self._links.values())
        first = links.index(link) + 1 if link in links else 0
        return next((each for each in links[first:] + links[:first] if each.is_up), None)

    async def change(self, seconds: float) -> None:
        """Waits until a link is opened or lost, for at most `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def close(self) -> None:
        """Closes every link."""
        links = [self._give_up(link) for link in self._links.values()]
        self._links.clear()
        await asyncio.gather(*links, *self._closing)

    def _on_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _give_up(self, link: Link) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(link.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task


class Responses:
    """Response classes of services."""

    def __init__(self, services: Iterable[ServiceDescriptor]) -> None:
        self._classes = {
            f"/{service.full_name}/{method.name}": message_factory.GetMessageClass(method.output_type)
            for service in services
            for method in service.methods
        }

    def parse(self, call: Call, content: bytes) -> Message:
        """Parses the response of a call."""
        return self._classes[call.method].FromString(content)


class RemoteDispatcher:
    """Executes the gateway's calls on the leader of several servers.

    Args:
        addresses: gRPC listeners of the servers, host:port each; the first reachable server is tried first.
        pool: Holds the messages of call streams.
        services: Services of the calls.
        secret: Shared secret that servers require of gateways.
        retry_seconds: How long a call is retried.
        credentials: Returns credentials for connections to servers.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        pool: DescriptorPool,
        services: Iterable[ServiceDescriptor],
        secret: str,
        retry_seconds: float = RETRY_SECONDS,
        credentials: Credentials = plaintext,
    ) -> None:
        self._retry_seconds = retry_seconds
        self._responses = Responses(services)
        self._links = Links(pool, secret, addresses, credentials)
        self._admitted: dict[tuple[str, Authorization], float] = {}
        """Calls that a server recently authorized, by method and token or certificate, each with its expiry."""
        self._tokenless_until = 0.0
        """Time until which unauthenticated calls are rejected without asking a server."""
        self._preferred: Link | None = self._links.to(addresses[0])

    @property
    def is_up(self) -> bool:
        """Whether a server can be reached."""
        return self._choose() is not None

    async def call(self, call: Call) -> Message:
        """Returns the response message.

        Raises:
            CallFailed: The call was rejected, no server could be reached, or its outcome is unknown.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + min(self._retry_seconds, call.timeout_seconds)
        tries = 0
        while True:
            tries += 1
            pause = min(PAUSE_SECONDS_MIN * 2**tries, PAUSE_SECONDS_MAX) * random.uniform(0.5, 1)
            link = self._choose()
            try:
                return self._responses.parse(call, await _ask(link, call))
            except CallFailed as refused:
                if _is_final(refused, call):
                    raise
                self._leave(link, refused)
                if loop.time() + pause >= give_up:
                    raise
            except NotSentError:
                if loop.time() + pause >= give_up:
                    raise _unreachable() from None
            except LostError:
                if not call.repeatable or loop.time() + pause >= give_up:
                    raise _unknown() from None
            # The first retry goes to another server at once; later retries wait, so that servers can elect a leader.
            if tries > 1 or self._choose() in {None, link}:
                await self._links.change(pause)

    def admit(self, method: str, authorization: Authorization, origin: str) -> Admission | None:
        """Checks whether a caller may make a call; see `Dispatcher.admit`.

        Raises:
            CallFailed: The call has no token, and a server recently rejected a call without one.
        """
        now = asyncio.get_running_loop().time()
        if not authorization and now < self._tokenless_until:
            raise CallFailed(error_pb2.ERROR_REASON_UNAUTHENTICATED, "missing bearer token")
        if self._admitted.get((method, authorization), 0) > now:
            return None
        return partial(self._ask_admission, method, authorization, origin)

    async def _ask_admission(self, method: str, authorization: Authorization, origin: str) -> None:
        """Asks any one of the servers whether a caller may make a call.

        Raises:
            CallFailed: The caller may not make the call, or no server answers.
        """
        if self._choose() is None:
            await self._links.change(self._retry_seconds)
        link, messages = self._choose(), self._links.messages
        if link is None:
            raise _unreachable()
        request = messages.authorize_request(method=method)
        messages.set_caller(request, authorization, origin)
        try:
            await link.ask("Authorize", request, messages.authorize_response, PROBE_SECONDS)
        except grpc.aio.AioRpcError as error:
            status = rpc_status.from_call(error)
            if not authorization and error.code() is grpc.StatusCode.UNAUTHENTICATED:
                self._tokenless_until = asyncio.get_running_loop().time() + ADMITTED_SECONDS
            raise (_unreachable() if status is None else failed(status, messages.reasons)) from None
        if len(self._admitted) >= ADMITTED_MAX:
            self._admitted.clear()
        self._admitted[method, authorization] = asyncio.get_running_loop().time() + ADMITTED_SECONDS

    async def readiness(self) -> tuple[bool, Mapping[str, object]]:
        """Returns readiness and details of the preferred server, or if it is not ready, of another one that is."""
        link = self._choose()
        if link is None:
            return False, {"server": None, "reason": "no server can be reached"}
        told = await self._readiness_of(link)
        if told[0]:
            return told
        others = [each for each in self._links.up() if each is not link]
        answers = await asyncio.gather(*map(self._readiness_of, others))
        return next((each for each in answers if each[0]), told)

    async def _readiness_of(self, link: Link) -> tuple[bool, Mapping[str, object]]:
        messages = self._links.messages
        try:
            answer = await link.ask(
                "GetReadiness", messages.readiness_request(), messages.readiness_response, PROBE_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            return False, {"server": link.address, "reason": f"the server does not answer: {error.code().name}"}
        return answer.ready, {"server": link.address, **msgspec.json.decode(answer.details or b"{}")}

    async def metrics(self) -> bytes:
        """Returns the metrics of the preferred server; empty if it does not answer."""
        link, messages = self._choose(), self._links.messages
        if link is None:
            return b""
        try:
            answer = await link.ask("GetMetrics", messages.metrics_request(), messages.metrics_response, PROBE_SECONDS)
        except grpc.aio.AioRpcError:
            return b""
        text: bytes = answer.text
        return text

    async def close(self) -> None:
        """Closes every link. Calls in flight fail."""
        await self._links.close()

    def _choose(self) -> Link | None:
        """Returns the link to the leader, as far as is known; None: no server can be reached."""
        if self._preferred is None or not self._preferred.is_up:
            found = self._links.after(self._preferred)
            if found is None:
                return None
            self._preferred = found
        return self._preferred

    def _leave(self, link: Link | None, refused: CallFailed) -> None:
        """Switches from a server that does not accept calls to the leader it named, or else to the next server."""
        leader = refused.metadata.get(LEADER_GRPC)
        if leader:
            self._preferred = self._links.to(leader)
        elif link is self._preferred:
            self._preferred = self._links.after(link)


class Forwarder:
    """Forwards single calls to the leader: one hop, because a server never forwards a forwarded call.

    Args:
        pool: Holds the messages of call streams.
        services: Services of the calls.
        secret: Shared secret that servers require of gateways.
        credentials: Returns credentials for connections to servers.
    """

    def __init__(
        self,
        pool: DescriptorPool,
        services: Iterable[ServiceDescriptor],
        secret: str,
        credentials: Credentials = plaintext,
    ) -> None:
        self._links = Links(pool, secret, credentials=credentials)
        self._responses = Responses(services)

    async def call(self, address: str, call: Call) -> Message:
        """Returns the response of the server at an address.

        Raises:
            CallFailed: The call was rejected, the server could not be reached, or the outcome is unknown.
        """
        link = self._links.to(address)
        loop = asyncio.get_running_loop()
        give_up = loop.time() + CONNECT_SECONDS
        while not link.is_up and loop.time() < give_up:
            await self._links.change(give_up - loop.time())
        try:
            return self._responses.parse(call, await link.call(call))
        except NotSentError:
            raise _unreachable() from None
        except LostError:
            raise _unknown() from None

    async def close(self) -> None:
        """Closes every link."""
        await self._links.close()


async def _ask(link: Link | None, call: Call) -> bytes:
    if link is None:
        raise NotSentError
    return await link.call(call)


def _is_final(refused: CallFailed, call: Call) -> bool:
    """Returns whether a rejection is final, so that no other server is tried."""
    may_be_repeated = refused.reason == error_pb2.ERROR_REASON_OUTCOME_UNKNOWN and call.repeatable
    return refused.reason not in _ELSEWHERE and not may_be_repeated


def _unreachable() -> CallFailed:
    return CallFailed(error_pb2.ERROR_REASON_SERVER_UNREACHABLE, "no server can be reached", (), 1)


def _unknown() -> CallFailed:
    return CallFailed(
        error_pb2.ERROR_REASON_OUTCOME_UNKNOWN,
        "the connection to the server was lost before its reply; the call may have been executed",
        (),
        1,
    )
