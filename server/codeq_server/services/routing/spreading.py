"""Calls over all shards that are no lists: reads, changes of what all have in common, and acts with a limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from codeq.v1 import queue_service_pb2, task_pb2
from google.protobuf import message_factory
from google.protobuf.message import Message

from codeq_server.core.errors import Reason, Rejection
from codeq_server.services.audit import OLDEST
from codeq_server.services.listing import NEWEST
from codeq_server.services.page_tokens import invalid_token, last_key, page_token
from codeq_server.services.shards import Shards

from .batches import grouped
from .routed import Outcome, Routed, answers_of, at_once, attempt

Merge = Callable[[Sequence[Any]], Message]
"""Merges the replies of several shards, in the order of shards; may change the first."""

_PAGING: Final = ("page_size", "page_token", "limit", "dry_run", "rate", "tenant", "status", "order_by")
"""Fields that may differ between the calls of one list, and those that can say one thing in several ways."""
_STATUS: Final = "status"
_ORDER: Final = "order_by"
_NEWEST_FIRST: Final = "ListAuditRecords"
"""The list that begins with the newest item unless the request says otherwise."""


async def read(shards: Shards, routed: Routed, merge: Merge, absent: Reason | None = None) -> Message:
    """Reads from all shards at once; see `answers_of` for `absent`.

    Raises:
        Rejection: That of a shard.
    """
    outcomes = await at_once([attempt(shards, shard, routed) for shard in range(shards.count)])
    return merge(answers_of(outcomes, absent))


async def write(shards: Shards, routed: Routed, merge: Merge, absent: Reason | None = None) -> Message:
    """Changes something in all shards: first in shard 0, which judges the request, and then in the others at once.

    A call that fails halfway can be repeated. The first shard that executes it charges and records it.

    Raises:
        Rejection: That of a shard; its message says so if other shards have executed the call.
    """
    outcomes: list[Outcome] = []
    for shard in range(shards.count):
        outcomes.append(await attempt(shards, shard, routed, part=False))
        last = outcomes[-1]
        if not isinstance(last, Rejection):
            break
        if last.reason is not absent:
            raise last
    outcomes += await at_once([attempt(shards, shard, routed) for shard in range(len(outcomes), shards.count)])
    for shard, outcome in enumerate(outcomes):
        if isinstance(outcome, Rejection) and outcome.reason is not absent:
            text = f"{outcome.message} (shard {shard}; other shards have executed the call, so repeat it)"
            raise Rejection(outcome.reason, text, outcome.violations, outcome.metadata)
    return merge(answers_of(outcomes, absent))


class Bounded(NamedTuple):
    """A call that acts on many tasks, up to a limit.

    Attributes:
        sums: Fields of the response that are summed.
        limit: Field of the request with the limit; empty: it has none.
        counted: Field of the response that counts towards the limit.
        limit_default: Limit of a request without one.
        absent: Reason for which a shard has nothing to act on; None: there is none.
    """

    sums: tuple[str, ...]
    limit: str = ""
    counted: str = ""
    limit_default: int = 0
    absent: Reason | None = None


async def in_turn(shards: Shards, routed: Routed, kind: Bounded) -> Message:
    """Acts shard after shard, until the limit is used up or a shard says that there is more.

    If a shard refuses its part after others have acted, the reply says what they did, and its token leads to that
    shard. Each shard charges and records its own part.

    Raises:
        Rejection: That of a shard, if nothing was done.
    """
    request, of = routed.request, list_identity(shards, routed)
    shard, inner = _position(request.page_token, shards.count, of)
    dry = bool(getattr(request, "dry_run", False))
    left = 0 if dry or not kind.limit else getattr(request, kind.limit) or kind.limit_default
    limited, absences, total = left > 0, 0, None
    following = ""
    while shard < shards.count:
        part = routed.copy()
        part.page_token = inner
        if limited:
            setattr(part, kind.limit, left)
        outcome = await attempt(shards, shard, routed, part, part=False)
        if isinstance(outcome, Rejection):
            if outcome.reason is not kind.absent:
                if total is None or not any(getattr(total, name) for name in kind.sums):
                    raise outcome
                following = _token(shard, inner, of)
                break
            absences += 1
            if absences == shards.count:
                raise outcome
            shard, inner = shard + 1, ""
            continue
        answer: Any = outcome
        total = _added(total, answer, kind.sums)
        if limited:
            left -= getattr(answer, kind.counted)
        inner = answer.next_page_token
        if inner:
            following = _token(shard, inner, of)
            break
        shard, inner = shard + 1, ""
        if limited and left <= 0 and shard < shards.count:
            following = _token(shard, inner, of)
            break
    return _told(routed, total, following, kind)


async def redrive(shards: Shards, routed: Routed, kind: Bounded) -> Message:
    """Redrives tasks of a queue: those that are named in their shards, others shard after shard or in the background.

    Raises:
        Rejection: That of a shard.
    """
    request = routed.request
    if not request.task_ids and not request.rate:
        return await in_turn(shards, routed, kind)
    begun, inner = _position(request.page_token, shards.count, list_identity(shards, routed))
    groups: dict[int, list[int]] = {shard: [] for shard in range(begun, shards.count)}
    if request.task_ids:
        groups = grouped({at: shards.shard_of(task_id) for at, task_id in enumerate(request.task_ids)})
    calls = []
    for place, (shard, indexes) in enumerate(groups.items()):
        part = routed.copy()
        part.page_token = inner if shard == begun else ""
        part.task_ids[:] = [request.task_ids[index] for index in indexes]
        if request.rate:
            part.rate = max(1, (request.rate + place) // len(groups))
        calls.append(attempt(shards, shard, routed, part, part=False))
    answers: list[queue_service_pb2.RedriveTasksResponse] = answers_of(await at_once(calls), kind.absent)
    total = queue_service_pb2.RedriveTasksResponse(in_background=bool(request.rate))
    for answer in answers:
        total.matched += answer.matched
        total.redriven += answer.redriven
    return total


def list_identity(shards: Shards, routed: Routed) -> tuple[object, ...]:
    """Returns what a page token of a call over all shards is bound to."""
    request = routed.copy()
    for name in _PAGING:
        if name in request.DESCRIPTOR.fields_by_name:
            request.ClearField(name)
    said = request.SerializeToString(deterministic=True)
    # An order that is not the default of its list.
    order = getattr(routed.request, _ORDER, "")
    usual = OLDEST if routed.method.descriptor.name != _NEWEST_FIRST else NEWEST
    status = _status_of(routed.request)
    return ("shards", shards.count, routed.method.name, routed.tenant, said, "" if order == usual else order, status)


def _status_of(request: Any) -> list[int]:
    """Returns the statuses of the tasks that a request concerns; empty: all, or the usual one."""
    field = request.DESCRIPTOR.fields_by_name.get(_STATUS)
    if field is None:
        return []
    if field.is_repeated:
        return sorted(set(request.status))
    return [request.status] if request.status not in (0, task_pb2.TASK_STATUS_DLQ) else []


def _token(shard: int, inner: str, of: tuple[object, ...]) -> str:
    return page_token(bytes([shard]) + inner.encode(), *of)


def _position(token: str, count: int, of: tuple[object, ...]) -> tuple[int, str]:
    """Returns the shard to go on with, and its own token.

    Raises:
        Rejection: INVALID_PAGE_TOKEN.
    """
    if not token:
        return 0, ""
    content = last_key(token, None, *of)
    if not content or content[0] >= count:
        raise invalid_token()
    return content[0], content[1:].decode("ascii", "replace")


def _added(total: Any, answer: Any, sums: Sequence[str]) -> Any:
    """Returns the sum of two replies, in the first one; None stands for no reply."""
    if total is None:
        return answer
    for name in sums:
        setattr(total, name, getattr(total, name) + getattr(answer, name))
    return total


def _told(routed: Routed, total: Any, following: str, kind: Bounded) -> Message:
    """Returns the reply of a call, with the limit that was applied to the whole of it."""
    response: Any = total
    if total is None:
        response = message_factory.GetMessageClass(routed.method.descriptor.output_type)()
    response.next_page_token = following
    if kind.limit and kind.limit in response.DESCRIPTOR.fields_by_name:
        setattr(response, kind.limit, getattr(routed.request, kind.limit) or kind.limit_default)
    message: Message = response
    return message
