"""The unary methods of a service, as declared in its descriptor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.api import annotations_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from codeq_server.auth.access import Access, access_of
from codeq_server.engine.admission import CALL_COST

from .counts import parser
from .rate_limits import Limited, limited_of
from .serving import Handler

PAGE_COST: Final = 512
"""Cost of a call that examines thousands of rows for a page, so that only a few run in one turn."""

_WAIT_FIELD: Final = "wait_seconds"
TENANT_FIELD: Final = "tenant"
"""Field by which a request names the tenant to act on."""


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

    def items(self, request: Message) -> int:
        """Returns how many items a request lists."""
        items = 0
        for name in self.lists:
            items += len(getattr(request, name))
        return items

    def waits(self, request: Message) -> bool:
        """Returns whether a call with this request may wait for an event."""
        return self.may_wait and bool(getattr(request, _WAIT_FIELD))


def methods_of(service: ServiceDescriptor, handlers: Mapping[str, Handler]) -> Iterator[Method]:
    """Yields the methods of a service; `handlers` execute those that belong to no shard, by full name."""
    for method in service.methods:
        name = f"/{service.full_name}/{method.name}"
        yield Method(
            name=name,
            access=access_of(name),
            limited=limited_of(name),
            handler=handlers.get(name),
            reads=method.GetOptions().Extensions[annotations_pb2.http].HasField("get"),
            parse=parser(message_factory.GetMessageClass(method.input_type)),
            descriptor=method,
            cost=PAGE_COST if method.name.startswith("List") else CALL_COST,
            lists=tuple(f.name for f in method.input_type.fields if f.is_repeated and f.message_type is not None),
            may_wait=_WAIT_FIELD in method.input_type.fields_by_name,
            names_tenant=TENANT_FIELD in method.input_type.fields_by_name,
        )
