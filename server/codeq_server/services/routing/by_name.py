"""Lists over all shards that are ordered by name: equal names are one item, and a page token is the last name.

A token of the merged list is a valid token in every shard, because all begin after the same name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from google.protobuf import message_factory
from google.protobuf.message import Message

from codeq_server.services.page_tokens import last_name, page_token
from codeq_server.services.shards import Shards

from .routed import Routed, answers_of, at_once, attempt

PAGE_DEFAULT = 100


class Named(NamedTuple):
    """A list that is ordered by name.

    Attributes:
        items: Field of the response with the items.
        name: Field of an item with its name.
        of: What the shards' page tokens are bound to, before the tenant.
        of_tenant: Whether they are bound to the tenant.
        add: Adds an item to one of the same name from another shard; None: a name is in one shard only.
    """

    items: str
    name: str
    of: str
    of_tenant: bool = True
    add: Callable[[Any, Any], None] | None = None


async def list_by_name(shards: Shards, routed: Routed, kind: Named) -> Message:
    """Returns a page.

    Raises:
        Rejection: That of a shard.
    """
    of = (kind.of, routed.tenant) if kind.of_tenant else (kind.of,)
    answers = answers_of(await at_once([attempt(shards, shard, routed) for shard in range(shards.count)]))
    found: dict[str, Any] = {}
    ends: list[str] = []
    for answer in answers:
        if answer.next_page_token:
            ends.append(last_name(answer.next_page_token, *of))
        for item in getattr(answer, kind.items):
            name = getattr(item, kind.name)
            if name not in found:
                found[name] = item
            elif kind.add is not None:
                kind.add(found[name], item)
    # A shard that has more has told nothing about names after the last one that it examined.
    names = sorted([name for name in found if not ends or name <= min(ends)])
    count = routed.request.page_size or PAGE_DEFAULT
    response: Any = message_factory.GetMessageClass(routed.method.descriptor.output_type)()
    getattr(response, kind.items).extend([found[name] for name in names[:count]])
    last = names[count - 1] if len(names) > count else min(ends, default="")
    if last:
        response.next_page_token = page_token(last.encode(), *of)
    message: Message = response
    return message
