"""Unary calls as both fronts make them: gRPC and the gateway in this process share everything here.

A call is authenticated by the option on its RPC, validated by the rules on its request, carried out by the method of
the registered service when it is its tenant's turn, and answered when what it saw is durable.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from codeq_server.auth.access import Access, access_of
from codeq_server.auth.authenticator import Authenticator
from codeq_server.auth.claims import Claims
from codeq_server.core.errors import Reason, Rejection
from codeq_server.engine.admission import CALL_COST
from codeq_server.engine.runner import ShardRunner

from .validation import check_message

PAGE_COST: Final = 512
"""Cost of a call that looks at thousands of rows for a page: not many of them in one turn."""

Handler = Callable[[Claims, Any], Awaitable[Message]]


@dataclass(frozen=True, slots=True)
class Method:
    """A unary method that can be called.

    Attributes:
        name: Full name such as "/codeq.v1.TaskService/CreateTask".
        access: Who may call it.
        handler: What carries it out.
        request_class: Class of its request.
        descriptor: Its descriptor.
        cost: What a call costs its tenant beside what its request lists; see `admission`.
        lists: Fields of its request that hold many messages.
    """

    name: str
    access: Access
    handler: Handler
    request_class: type[Message]
    descriptor: MethodDescriptor
    cost: int
    lists: tuple[str, ...]


class Calls:
    """The table of unary methods, made from the services' descriptors."""

    def __init__(self, authenticator: Authenticator, runner: ShardRunner) -> None:
        self.authenticator = authenticator
        self._runner = runner
        self.methods: dict[str, Method] = {}
        self.services: list[ServiceDescriptor] = []
        self.draining = False

    def register(self, service_name: str, service: object) -> None:
        """Registers a service whose methods have the names of its RPCs; streams are registered elsewhere."""
        descriptor = descriptor_pool.Default().FindServiceByName(service_name)
        self.services.append(descriptor)
        for method in descriptor.methods:
            name = f"/{service_name}/{method.name}"
            self.methods[name] = Method(
                name=name,
                access=access_of(name),
                handler=getattr(service, method.name),
                request_class=message_factory.GetMessageClass(method.input_type),
                descriptor=method,
                cost=PAGE_COST if method.name.startswith("List") else CALL_COST,
                lists=tuple(f.name for f in method.input_type.fields if f.is_repeated and f.message_type is not None),
            )

    async def call(self, name: str, request: Message, authorization: str) -> Message:
        """Returns the response of a call.

        Cancelling the awaiting task means that the caller is gone.

        Raises:
            Rejection: The call was refused.
        """
        method = self.methods[name]
        claims = self.authenticator.authenticate(authorization, method.access.principal, method.access.scope)
        if self.draining:
            raise Rejection(Reason.DRAINING, "the server is stopping")
        check_message(request)
        cost = method.cost + sum(len(getattr(request, name)) for name in method.lists)
        await self._runner.room(claims.tenant_id, cost)
        try:
            return await method.handler(claims, request)
        except Rejection:
            # A refusal, too, may rest on what another caller decided a moment ago.
            await self._runner.wait_durable()
            raise
