"""Unary calls, shared by both front ends: gRPC and the gateway in this process.

A call is authenticated according to the option on its RPC and validated by the rules of its request. Calls on the shard
are executed by its current `Serving`, in their tenant's turn, and answered once everything they saw is durable. Calls
on the node are executed at once, whether or not it serves the shard.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.api import annotations_pb2
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from codeq_server.auth.access import Access, access_of
from codeq_server.auth.authenticator import Authenticator
from codeq_server.auth.claims import Claims
from codeq_server.core.errors import CorruptRows, Reason, Rejection
from codeq_server.engine.admission import CALL_COST
from codeq_server.engine.runner import ShardRunner

from .counts import parser
from .serving import SHARD_SERVICES, Handler, Serving, handlers_of
from .validation import check_message

PAGE_COST: Final = 512
"""Cost of a call that examines thousands of rows for a page, so that only a few run in one turn."""

_WAIT_FIELD: Final = "wait_seconds"


@dataclass(frozen=True, slots=True)
class Method:
    """A callable unary method.

    Attributes:
        name: Full name such as "/codeq.v1.TaskService/CreateTask".
        access: Who may call it.
        handler: Executes it; None: the shard's current `Serving` does.
        reads: Whether it only reads.
        parse: Parses its request from bytes.
        descriptor: Its descriptor.
        cost: What a call costs its tenant, not counting the items its request lists; see `admission`.
        lists: Repeated message fields of its request.
        may_wait: Whether its request can ask to wait for something.
    """

    name: str
    access: Access
    handler: Handler | None
    reads: bool
    parse: Callable[[bytes], Any]
    descriptor: MethodDescriptor
    cost: int
    lists: tuple[str, ...]
    may_wait: bool


class Calls:
    """The table of unary methods, built from the services' descriptors.

    Attributes:
        serving: The current `Serving` of the shard; None: this node does not serve it.
        methods: The methods by full name.
        services: The services, those of the shard first.
        draining: Whether the server rejects new calls.

    Args:
        authenticator: Authenticates the callers.
        absence: Returns the rejection of calls on the shard while this node does not serve it.
        stale: Returns a `Serving` for stale reads while this node does not serve the shard; None: no stale reads.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        absence: Callable[[], Rejection],
        stale: Callable[[], Awaitable[Serving]] | None = None,
    ) -> None:
        self.authenticator = authenticator
        self.serving: Serving | None = None
        self._absence = absence
        self._stale = stale
        self.methods: dict[str, Method] = {}
        self.services: list[ServiceDescriptor] = []
        self.draining = False
        for name in SHARD_SERVICES:
            self._add(name, {})

    def register(self, service_name: str, service: object) -> None:
        """Registers a service of the node, whose methods have the names of its RPCs."""
        self._add(service_name, handlers_of(service_name, service))

    def _add(self, service_name: str, handlers: Mapping[str, Handler]) -> None:
        descriptor = descriptor_pool.Default().FindServiceByName(service_name)
        self.services.append(descriptor)
        for method in descriptor.methods:
            name = f"/{service_name}/{method.name}"
            self.methods[name] = Method(
                name=name,
                access=access_of(name),
                handler=handlers.get(name),
                reads=method.GetOptions().Extensions[annotations_pb2.http].HasField("get"),
                parse=parser(message_factory.GetMessageClass(method.input_type)),
                descriptor=method,
                cost=PAGE_COST if method.name.startswith("List") else CALL_COST,
                lists=tuple(f.name for f in method.input_type.fields if f.is_repeated and f.message_type is not None),
                may_wait=_WAIT_FIELD in method.input_type.fields_by_name,
            )

    def present(self, serving: Serving | None) -> None:
        """Sets the `Serving` of the shard from now on; None: this node no longer serves it."""
        self.serving = serving

    def current(self) -> Serving:
        """Returns the current `Serving` of the shard.

        Raises:
            Rejection: This node does not serve the shard.
        """
        if self.serving is None:
            raise self._absence()
        return self.serving

    async def settled(self) -> None:
        """Waits until everything acknowledged so far is in the rows of this server.

        Raises:
            Rejection: This server is not the leader.
        """
        await self.current().runner.wait_durable()

    async def call(self, name: str, request: Message, authorization: str, *, stale: bool = False) -> Message:
        """Returns the response of a call.

        Cancelling the awaiting task means that the caller is gone.

        Args:
            name: Full name of the method.
            request: Its request.
            authorization: Value of the authorization header.
            stale: Whether a follower may answer a read from its own, possibly stale, state.

        Raises:
            Rejection: The call was rejected.
        """
        return await self.carry_out(name, self.authenticate(name, authorization), request, stale=stale)

    def authenticate(self, name: str, authorization: str) -> Claims:
        """Authenticates a call and returns the claims of its caller.

        Args:
            name: Full name of the method.
            authorization: Value of the authorization header.

        Raises:
            Rejection: UNAUTHENTICATED, INVALID_TENANT, MISSING_SCOPE or NOT_ADMIN.
        """
        access = self.methods[name].access
        return self.authenticator.authenticate(authorization, access.principal, access.scope)

    async def carry_out(self, name: str, claims: Claims, request: Message, *, stale: bool = False) -> Message:
        """Returns the response of a call whose caller is authenticated; see `call`.

        Raises:
            Rejection: The call was rejected.
        """
        method = self.methods[name]
        try:
            return await self._carry_out(method, claims, request, stale=stale)
        except Rejection as rejection:
            rejection.tenant, rejection.task_id = claims.tenant_id, _task_id_of(request)
            raise

    async def _carry_out(self, method: Method, claims: Claims, request: Message, *, stale: bool) -> Message:
        if self.draining:
            raise Rejection(Reason.DRAINING, "the server is stopping")
        if method.handler is not None:
            check_message(request)
            return await method.handler(claims, request)
        if stale and self.serving is None and self._stale is not None and method.reads and not _waits(method, request):
            serving = await self._stale()
        else:
            serving = self.current()
        check_message(request)
        cost = method.cost
        for name in method.lists:
            cost += len(getattr(request, name))
        await serving.runner.room(claims.tenant_id, cost)
        try:
            return await serving.handlers[method.name](claims, request)
        except Rejection as rejection:
            await _confirm(serving.runner, method, rejection)
            raise
        except CorruptRows as problem:
            raise Rejection(Reason.CORRUPT_DATA, f"stored data contradict each other: {problem}") from None


def _waits(method: Method, request: Message) -> bool:
    """Returns whether a call waits for a change; such a call is never answered from stale rows."""
    return method.may_wait and bool(getattr(request, _WAIT_FIELD))


def _task_id_of(request: Message) -> str:
    """Returns the id of the task that a call names or is to create; empty: none, or several."""
    task_id = getattr(request, "task_id", "") or getattr(getattr(request, "spec", None), "task_id", "")
    return task_id if isinstance(task_id, str) else ""


async def _confirm(runner: ShardRunner, method: Method, refusal: Rejection) -> None:
    """Waits until the state behind a rejection is durable: it may come from another caller's uncommitted decision.

    Raises:
        Rejection: The leadership has ended, and the call decided nothing.
    """
    try:
        if refusal.reason is not Reason.OUTCOME_UNKNOWN:
            await runner.wait_durable()
        elif method.reads:
            raise refusal
    except Rejection:
        if runner.refusal is not None:
            raise runner.refusal.again() from None
        raise
