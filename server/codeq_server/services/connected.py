"""Who is connected: the open streams of workers."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from codeq.v1 import queue_service_pb2, worker_service_pb2

from codeq_server.auth.claims import Claims
from codeq_server.core.model import Caller

from .auditing import written_origin
from .convert import timestamp
from .page_tokens import last_key, page_token

PAGE_DEFAULT: Final = 100
_NUMBER_BYTES: Final = 8


class Working(Protocol):
    """A stream to a worker."""

    @property
    def credits(self) -> int:
        """Tasks that the client accepts at the moment."""
        ...

    def leased(self) -> int:
        """Returns the number of tasks that were delivered over the stream and are leased."""
        ...


class Connected(NamedTuple):
    """An open stream of a worker."""

    stream: Working
    tenant: str
    worker: str
    commands: tuple[str, ...]
    sdk: str
    version: str
    origin: str
    connected_ms: int


class ConnectedWorkers:
    """The open streams of workers, in the order in which they were opened."""

    def __init__(self) -> None:
        self._numbers = 0
        self._members: dict[int, Connected] = {}

    def enter(
        self,
        stream: Working,
        caller: Caller,
        hello: worker_service_pb2.WorkerHello,
        peer: str,
        unix_seconds: float,
    ) -> int:
        """Adds a stream, and returns the number with which it leaves.

        Args:
            stream: The stream.
            caller: The worker.
            hello: Its first message, of which nothing is kept.
            peer: Its address in gRPC's form.
            unix_seconds: The time.
        """
        self._numbers += 1
        self._members[self._numbers] = Connected(
            stream,
            caller.tenant,
            caller.worker,
            tuple(hello.commands),
            hello.client.sdk,
            hello.client.version,
            written_origin(peer),
            int(unix_seconds * 1000),
        )
        return self._numbers

    def leave(self, number: int) -> None:
        """Removes a stream."""
        del self._members[number]

    def credits(self) -> int:
        """Returns the number of tasks that all workers accept at the moment."""
        return sum([member.stream.credits for member in self._members.values()])

    def page(
        self, claims: Claims, request: queue_service_pb2.ListWorkersRequest
    ) -> queue_service_pb2.ListWorkersResponse:
        """Returns a page of a tenant's workers that take commands which the caller sees.

        Raises:
            Rejection: INVALID_PAGE_TOKEN.
        """
        of = ("workers", claims.tenant_id)
        count = request.page_size or PAGE_DEFAULT
        key = last_key(request.page_token, _NUMBER_BYTES, *of) if request.page_token else b""
        after, last = int.from_bytes(key, "big"), 0
        page = queue_service_pb2.ListWorkersResponse()
        for number, member in self._members.items():
            if number <= after or member.tenant != claims.tenant_id:
                continue
            commands = [command for command in member.commands if claims.sees(command)]
            if member.commands and not commands:
                continue
            if len(page.workers) == count:
                page.next_page_token = page_token(last.to_bytes(_NUMBER_BYTES, "big"), *of)
                break
            page.workers.append(_message(member, commands))
            last = number
        return page


def _message(member: Connected, commands: list[str]) -> queue_service_pb2.ConnectedWorker:
    return queue_service_pb2.ConnectedWorker(
        worker_id=member.worker,
        commands=commands,
        claimed=member.stream.leased(),
        credits=member.stream.credits,
        sdk=member.sdk,
        version=member.version,
        origin=member.origin,
        connected_at=timestamp(member.connected_ms),
    )
