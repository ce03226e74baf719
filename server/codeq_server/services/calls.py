"""Unary calls as both fronts make them: gRPC and the gateway in this process share everything here.

A call is authenticated by the option on its RPC, validated by the rules on its request, carried out by the method of
the registered service, and answered when what it saw is durable.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from codeq_server.auth.access import Access, access_of
from codeq_server.auth.authenticator import Authenticator
from codeq_server.auth.claims import Claims
from codeq_server.core.errors import Reason, Rejection
from codeq_server.engine.runner import ShardRunner

from .validation import check_message

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
    """

    name: str
    access: Access
    handler: Handler
    request_class: type[Message]
    descriptor: MethodDescriptor


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
        try:
            return await method.handler(claims, request)
        except Rejection:
            # A refusal, too, may rest on what another caller decided a moment ago.
            await self._runner.wait_durable()
            raise
