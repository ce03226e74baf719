"""Lists over all shards that are ordered by time: each page merges pages of the shards.

The token of a merged page has the position in each shard: the shard's own page token, and how many items of the page
that begins there have been used. So every item is listed once as long as nothing changes.
"""

from __future__ import annotations

import base64
import heapq
from collections.abc import Callable
from struct import Struct
from typing import Any, Final, NamedTuple

from codeq.v1 import queue_service_pb2
from google.protobuf import message_factory
from google.protobuf.message import Message

from codeq_server.core.errors import Reason, Rejection
from codeq_server.services.listing import PAGE_BYTES_MAX
from codeq_server.services.page_tokens import invalid_token, last_key, page_token
from codeq_server.services.shards import Shards

from . import merging
from .routed import Outcome, Routed, answers_of, at_once, attempt
from .spreading import list_identity

PAGE_DEFAULT: Final = 100
PAGE_ITEMS_MAX: Final = 500
"""Maximum items of a shard's page."""
HEAD_BYTES: Final = 8
"""Bytes at the start of a shard's token that are the same in all shards, because they identify the list."""
_POSITION: Final = Struct(">HB")
"""Used items, and bytes of the shard's token without its head: 70 at most in the lists that there are."""
_DONE: Final = 0xFFFF
"""In place of the number of used items: the shard has no more."""

GET_QUEUE: Final = "/codeq.v1.QueueService/GetQueue"

Key = tuple[int, ...]
Order = Callable[[Any], Callable[[Any], Key]]
"""Returns, for a request, the function that returns the place of an item in the order."""


class Listing(NamedTuple):
    """A list that is ordered by time.

    Attributes:
        items: Field of the response with the items.
        order: The order; the items of one shard keep theirs.
        absent: Reason for which a shard has nothing to list; None: there is none.
        skips: Whether a shard whose process is down is left out.
    """

    items: str
    order: Order
    absent: Reason | None = None
    skips: bool = False


class Source:
    """The position in one shard's list.

    Attributes:
        shard: The shard.
        token: Token of the page that `items` are on.
        used: How many items of this page have been used.
        done: Whether all items of the shard have been used.
        items: Items of the page; empty: it has not been read.
    """

    def __init__(self, shard: int, token: str = "", used: int = 0, *, done: bool = False) -> None:
        self.shard = shard
        self.token = token
        self.used = used
        self.done = done
        self.items: list[Any] = []
        self._following = ""

    @property
    def is_dry(self) -> bool:
        """Whether a page has to be read to know the next item."""
        return not self.done and self.used >= len(self.items)

    def fill(self, page: Any, items: list[Any]) -> None:
        """Takes a page that has been read from `token` on."""
        self.items = items
        self._following = page.next_page_token
        self._turn()

    def take(self) -> Any:
        """Returns the next item, and passes over it."""
        item = self.items[self.used]
        self.used += 1
        self._turn()
        return item

    def _turn(self) -> None:
        """Goes to the next page if this one is used up."""
        if self.used < len(self.items):
            return
        self.used -= len(self.items)
        self.items = []
        self.token, self._following = self._following, ""
        self.done = not self.token


async def list_by_time(shards: Shards, routed: Routed, kind: Listing) -> Message:
    """Returns a page: up to `page_size` items, or 2 MiB. It may be short or empty although more pages follow.

    Raises:
        Rejection: INVALID_PAGE_TOKEN, or that of a shard.
    """
    request, of = routed.request, list_identity(shards, routed)
    sources = sources_of(request.page_token, shards.count, of)
    order, count = kind.order(request), request.page_size or PAGE_DEFAULT
    unread = [source for source in sources if not source.done]
    reader = _Reader(shards, routed, kind, -(-count // len(unread)))
    found: list[Any] = []
    size = 0
    # The page also ends if a shard has examined its share of rows and still knows no item.
    is_over = not await reader.fill(
        [source for source in sources if not source.done], may_lack=bool(request.page_token)
    )
    heads = [(order(source.items[source.used]), source.shard) for source in sources if source.items]
    heapq.heapify(heads)
    while heads and not is_over and len(found) < count and size < PAGE_BYTES_MAX:
        source = sources[heapq.heappop(heads)[1]]
        found.append(source.take())
        size += found[-1].ByteSize()
        if source.is_dry and len(found) < count:
            is_over = not await reader.fill([source], may_lack=True)
        if source.items:
            heapq.heappush(heads, (order(source.items[source.used]), source.shard))
    response: Any = message_factory.GetMessageClass(routed.method.descriptor.output_type)()
    getattr(response, kind.items).extend(found)
    if not all(source.done for source in sources):
        response.next_page_token = token_of(sources, of)
    await _add_rest(shards, routed, response, reader.pages)
    message: Message = response
    return message


class _Reader:
    """Reads pages of the shards.

    Attributes:
        pages: The pages read so far.

    Args:
        shards: The shards.
        routed: The call.
        kind: The list.
        chunk: Items wanted at a time.
    """

    def __init__(self, shards: Shards, routed: Routed, kind: Listing, chunk: int) -> None:
        self.pages: list[Any] = []
        self._shards = shards
        self._routed = routed
        self._kind = kind
        self._chunk = chunk

    async def fill(self, sources: list[Source], *, may_lack: bool) -> bool:
        """Reads the next pages of some shards at once; returns whether the next item of each is known then.

        Args:
            sources: The positions in these shards.
            may_lack: Whether all of them may lack what is listed.

        Raises:
            Rejection: That of a shard.
        """
        outcomes = await at_once([self._read(source) for source in sources])
        lacking = 0
        for source, outcome in zip(sources, outcomes, strict=True):
            if not isinstance(outcome, Rejection):
                self.pages.append(outcome)
                source.fill(outcome, list(getattr(outcome, self._kind.items)))
                continue
            is_absent = outcome.reason is self._kind.absent
            lacking += is_absent
            is_down = self._kind.skips and outcome.reason is Reason.SERVER_UNREACHABLE
            if not (is_absent or is_down) or (lacking == len(sources) and not may_lack):
                raise outcome
            source.done = True
        return not any(source.is_dry for source in sources)

    async def _read(self, source: Source) -> Outcome:
        part = self._routed.copy()
        part.page_token = source.token
        part.page_size = min(PAGE_ITEMS_MAX, source.used + self._chunk)
        return await attempt(self._shards, source.shard, self._routed, part)


async def _add_rest(shards: Shards, routed: Routed, response: Any, pages: list[Any]) -> None:
    """Adds to a page what is not one of its items."""
    if isinstance(response, queue_service_pb2.ListDeadLettersResponse):
        if not routed.request.page_token:
            response.groups.extend(merging.groups(pages))
        request = queue_service_pb2.GetQueueRequest(command=routed.request.command, tenant=routed.request.tenant)
        calls = [_queue(shards, shard, routed, request) for shard in range(shards.count)]
        counted = answers_of(await at_once(calls), Reason.QUEUE_NOT_FOUND)
        response.total = sum([answer.queue.dlq for answer in counted])
    elif "held_hosts" in response.DESCRIPTOR.fields_by_name:
        response.held_hosts.extend(merging.held_hosts(pages))
        response.paused_hosts.extend(sorted({host for page in pages for host in page.paused_hosts}))


async def _queue(shards: Shards, shard: int, routed: Routed, request: Message) -> Outcome:
    try:
        return await shards.call(shard, GET_QUEUE, request, routed.caller, part=True)
    except Rejection as rejection:
        return rejection


def token_of(sources: list[Source], of: tuple[object, ...]) -> str:
    """Returns the page token of the positions in all shards."""
    head, parts = b"", []
    for source in sources:
        if source.done:
            parts.append(_POSITION.pack(_DONE, 0))
            continue
        inner = _bytes_of(source.token)
        head = head or inner[:HEAD_BYTES]
        rest = inner[HEAD_BYTES:]
        parts += [_POSITION.pack(source.used, len(rest)), rest]
    return page_token(head.ljust(HEAD_BYTES, b"\0") + b"".join(parts), *of)


def sources_of(token: str, count: int, of: tuple[object, ...]) -> list[Source]:
    """Returns the positions in all shards that a page token has; empty: the starts of the lists.

    Raises:
        Rejection: INVALID_PAGE_TOKEN.
    """
    if not token:
        return [Source(shard) for shard in range(count)]
    content = last_key(token, None, *of)
    head, at = content[:HEAD_BYTES], HEAD_BYTES
    sources = []
    for shard in range(count):
        if len(content) < at + _POSITION.size:
            raise invalid_token()
        used, length = _POSITION.unpack_from(content, at)
        at += _POSITION.size
        inner = content[at : at + length]
        at += length
        if used == _DONE and not length:
            sources.append(Source(shard, done=True))
        elif used > PAGE_ITEMS_MAX or len(inner) != length:
            raise invalid_token()
        else:
            sources.append(Source(shard, _text_of(head + inner) if inner else "", used))
    if at != len(content) or all(source.done for source in sources):
        raise invalid_token()
    return sources


def _bytes_of(token: str) -> bytes:
    return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))


def _text_of(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
