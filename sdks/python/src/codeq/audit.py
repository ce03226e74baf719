"""Audit records: who administered what, and who was refused access."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from codeq.records import OrderBy, to_datetime
from codeq.v1 import audit_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which records to read; empty and None: all.

    Attributes:
        call: Name of an RPC, such as "PauseQueue".
        subject: Subject of the callers.
        from_time: Earliest time, inclusive.
        to_time: Latest time, exclusive.
        order_by: "newest" or "oldest" first.
        page_size: Maximum number of records of a page; 0: 100.
    """

    call: str = ""
    subject: str = ""
    from_time: datetime | None = None
    to_time: datetime | None = None
    order_by: OrderBy = "newest"
    page_size: int = 0

    def fields(self) -> dict[str, object]:
        """Returns the filter as fields of a request."""
        return {
            "call": self.call,
            "subject": self.subject,
            "from": self.from_time,
            "to": self.to_time,
            "order_by": self.order_by,
            "page_size": self.page_size,
        }


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """An administrative act, or a refused access.

    Attributes:
        at: Time of the decision.
        subject: Subject of the caller's token; empty if the token was not accepted.
        tenant: Tenant that the call acted on; empty: the whole server.
        call: Name of the RPC.
        object: What the call acted on, such as the command of a queue.
        outcome: "OK", or the reason of the rejection.
        origin: Address of the caller, as host:port.
        count: Number of refusals that the record stands for; 0: it is an act.
        before: State before the act, as JSON.
        after: State after the act, as JSON.
    """

    at: datetime
    subject: str
    tenant: str
    call: str
    object: str
    outcome: str
    origin: str
    count: int
    before: str | None = None
    after: str | None = None

    @classmethod
    def from_message(cls, message: pb.AuditRecord) -> Self:
        """Returns the record in a message."""
        return cls(
            at=to_datetime(message.at),
            subject=message.subject,
            tenant=message.tenant,
            call=message.call,
            object=message.object,
            outcome=message.outcome,
            origin=message.origin,
            count=message.count,
            before=message.before if message.HasField("before") else None,
            after=message.after if message.HasField("after") else None,
        )


AuditPage = tuple[list[AuditRecord], str]
"""Records, and the token of the next page; empty: none."""


def page_of(message: pb.ListAuditRecordsResponse) -> AuditPage:
    """Returns the page in a message."""
    return [AuditRecord.from_message(each) for each in message.records], message.next_page_token
