"""The unary methods of a service, as declared in its descriptor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from codeq.options.v1 import options_pb2
from google.api import annotations_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from codeq_server.auth.access import Access, access_of
from codeq_server.engine.admission import CALL_COST

from .auditing import State
from .counts import parser
from .rate_limits import Limited, limited_of
from .serving import Handler

PAGE_COST: Final = 512
"""Cost of a call that examines thousands of rows for a page, so that only a few run in one turn."""

WAIT_FIELD: Final = "wait_seconds"
CALL_SECONDS: Final = 30.0
"""Time for another process to reply to a call, beyond the wait that its request asks for."""
TENANT_FIELD: Final = "tenant"
"""Field by which a request names the tenant to act on."""
_DRY_RUN_FIELD: Final = "dry_run"
_ADMINISTRATORS: Final = frozenset({options_pb2.PRINCIPAL_ADMIN, options_pb2.PRINCIPAL_OPERATOR})
_OF_ALL_TENANTS: Final = frozenset({"AuditService"})
"""Services on which an operator acts for all tenants unless it names one."""


@dataclass(frozen=True, slots=True)
class Method:
    """A callable unary method.

    Attributes:
        name: Full name such as "/codeq.v1.TaskService/CreateTask".
        access: Callers that may use the method.
        limited: What rate limits count a call as; None: it has no limit.
        handler: Executes the method; None: the shard's current `Serving` executes it.
        reads: Whether the method only reads.
        parse: Parses a request from bytes.
        descriptor: Descriptor of the method.
        cost: Cost of a call to its tenant, not counting the items that the request lists; see `admission`.
        lists: Repeated message fields of the request.
        may_wait: Whether a request can ask to wait for an event.
        names_tenant: Whether a request can name the tenant to act on.
        needs_tenant: Whether each call acts on one tenant.
        administers: Whether the method is an administrator's or an operator's and changes something.
        state: Returns the state that calls which administer the node change, for the audit; None: there is none.
    """

    name: str
    access: Access
    limited: Limited | None
    handler: Handler | None
    reads: bool
    parse: Callable[[bytes], Any]
    descriptor: MethodDescriptor
    cost: int
    lists: tuple[str, ...]
    may_wait: bool
    names_tenant: bool
    needs_tenant: bool
    administers: bool
    state: Callable[[], State | None]

    def items(self, request: Message) -> int:
        """Returns how many items a request lists."""
        items = 0
        for name in self.lists:
            items += len(getattr(request, name))
        return items

    def waits(self, request: Message) -> bool:
        """Returns whether a call with this request may wait for an event."""
        return self.may_wait and bool(getattr(request, WAIT_FIELD))

    @staticmethod
    def is_dry_run(request: Message) -> bool:
        """Returns whether a call with this request changes nothing, whatever the method does otherwise."""
        return bool(getattr(request, _DRY_RUN_FIELD, False))


def call_seconds(request: Message) -> float:
    """Returns the time for another process to reply to a call with this request."""
    seconds: float = CALL_SECONDS + getattr(request, WAIT_FIELD, 0)
    return seconds


def stateless() -> None:
    """Returns the state of a service whose administrative calls change no state that could be shown."""


def internal_methods(service: ServiceDescriptor, like: Method) -> Iterator[Method]:
    """Yields the methods of a service of the shards, which is not public.

    Args:
        service: The service.
        like: The public method whose callers may have its calls made.
    """
    for method in service.methods:
        yield replace(
            like,
            name=f"/{service.full_name}/{method.name}",
            limited=None,
            parse=parser(message_factory.GetMessageClass(method.input_type)),
            descriptor=method,
            lists=(),
            may_wait=False,
            names_tenant=False,
        )


def methods_of(
    service: ServiceDescriptor, handlers: Mapping[str, Handler], state: Callable[[], State | None] = stateless
) -> Iterator[Method]:
    """Yields the methods of a service; see `Method`.

    Args:
        service: The service.
        handlers: Handlers of the methods that belong to no shard, by full name.
        state: Returns the state that its administrative calls change.
    """
    for method in service.methods:
        name = f"/{service.full_name}/{method.name}"
        access = access_of(name)
        reads = method.GetOptions().Extensions[annotations_pb2.http].HasField("get")
        yield Method(
            name=name,
            access=access,
            limited=limited_of(name),
            handler=handlers.get(name),
            reads=reads,
            parse=parser(message_factory.GetMessageClass(method.input_type)),
            descriptor=method,
            cost=PAGE_COST if method.name.startswith("List") else CALL_COST,
            lists=tuple(f.name for f in method.input_type.fields if f.is_repeated and f.message_type is not None),
            may_wait=WAIT_FIELD in method.input_type.fields_by_name,
            names_tenant=TENANT_FIELD in method.input_type.fields_by_name,
            needs_tenant=access.principal != options_pb2.PRINCIPAL_OPERATOR and service.name not in _OF_ALL_TENANTS,
            administers=not reads and access.principal in _ADMINISTRATORS,
            state=state,
        )
