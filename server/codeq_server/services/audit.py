"""AuditService: who administered what, and who was refused access."""

from __future__ import annotations

import asyncio
from typing import Final

from codeq.v1 import audit_service_pb2 as pb
from codeq_internal.v1 import rows_pb2

from codeq_server.auth.claims import Claims
from codeq_server.core import keys
from codeq_server.core.errors import CorruptRows, Reason, Rejection
from codeq_server.core.listing import Walk
from codeq_server.core.parsing import parsed
from codeq_server.engine.runner import ShardRunner

from .convert import timestamp, unix_ms
from .listing import PAGE_ROWS_MAX
from .page_tokens import last_key, page_token

PAGE_DEFAULT: Final = 100
OLDEST: Final = "oldest"
"""Value of `order_by` for oldest first."""
_TIME_MS_MAX: Final = (1 << 64) - 1


class AuditService:
    """Shows the audit trail. Methods have the names and contracts of the proto's RPCs."""

    def __init__(self, runner: ShardRunner) -> None:
        self._runner = runner

    async def ListAuditRecords(  # noqa: N802
        self, claims: Claims, request: pb.ListAuditRecordsRequest
    ) -> pb.ListAuditRecordsResponse:
        """Returns a page of records."""
        if claims.seen_commands is not None:
            raise Rejection(
                Reason.COMMAND_NOT_ALLOWED, "the records concern every command, and the token does not allow all"
            )
        runner, wanted = self._runner, _Filter(claims, request)
        count = request.page_size or PAGE_DEFAULT
        walk = Walk(*keys.audited_between(wanted.from_ms, wanted.to_ms), back=request.order_by != OLDEST)
        if request.page_token:
            walk.go_on(last_key(request.page_token, keys.KEY_BYTES[keys.AUDIT], *wanted.said))
        runner.now()  # raises if the runner no longer decides
        response = pb.ListAuditRecordsResponse()
        last = b""
        while not walk.done and len(response.records) < count and walk.examined < PAGE_ROWS_MAX:
            for key, value in walk.read(runner.shard, PAGE_ROWS_MAX - walk.examined):
                last = key
                row = _parsed(key, value)
                if wanted.matches(row):
                    response.records.append(_message(row))
                    if len(response.records) == count:
                        break
            await asyncio.sleep(0)
        await runner.wait_durable()
        if len(response.records) == count or not walk.done:
            response.next_page_token = page_token(last, *wanted.said)
        return response


class _Filter:
    """What a request asks for."""

    def __init__(self, claims: Claims, request: pb.ListAuditRecordsRequest) -> None:
        self._tenant = request.tenant if claims.is_operator else claims.tenant_id
        """Tenant of the records; empty: every tenant, and the server."""
        self._call, self._subject = request.call, request.subject
        from_time, to_time = getattr(request, "from"), request.to
        self.from_ms = _within(unix_ms(from_time)) if request.HasField("from") else 0
        self.to_ms = _within(unix_ms(to_time)) if request.HasField("to") else _TIME_MS_MAX
        order = request.order_by == OLDEST
        self.said = ("audit", self._tenant, self._call, self._subject, order, self.from_ms, self.to_ms)

    def matches(self, row: rows_pb2.AuditRow) -> bool:
        """Returns whether a record matches."""
        return (
            (not self._tenant or row.tenant == self._tenant)
            and (not self._call or row.call == self._call)
            and (not self._subject or row.subject == self._subject)
        )


def _within(at_ms: int) -> int:
    return min(max(at_ms, 0), _TIME_MS_MAX)


def _parsed(key: bytes, value: bytes) -> rows_pb2.AuditRow:
    try:
        return parsed(rows_pb2.AuditRow, key, value)
    except CorruptRows as problem:
        raise Rejection(Reason.CORRUPT_DATA, f"the stored audit records are unreadable: {problem}") from None


def _message(row: rows_pb2.AuditRow) -> pb.AuditRecord:
    return pb.AuditRecord(
        at=timestamp(row.at_ms),
        subject=row.subject,
        tenant=row.tenant,
        call=row.call,
        object=row.object,
        before=row.before if row.HasField("before") else None,
        after=row.after if row.HasField("after") else None,
        outcome=row.outcome,
        origin=row.origin,
        count=row.count,
    )
