"""Records administrative acts and refused accesses in the audit trail, and tells the log of acts.

A record says who did what from where. It never has content of tasks or tokens: of a request it has only the name of
what the call acts on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import unquote

import msgspec
import structlog
from codeq.v1 import error_pb2
from codeq_gateway import origins
from codeq_internal.v1 import rows_pb2
from google.protobuf.message import Message

from codeq_server.auth.claims import TENANT, Claims
from codeq_server.core.errors import Reason, Rejection
from codeq_server.engine.runner import ShardRunner

OK: Final = "OK"
"""Outcome of an act that was carried out."""

TEXT_CHARS_MAX: Final = 256
"""Maximum characters of a subject or an origin in a record; the rest is left out."""

DENIALS: Final = frozenset(
    {
        Reason.UNAUTHENTICATED,
        Reason.MISSING_SCOPE,
        Reason.NOT_ADMIN,
        Reason.NOT_OPERATOR,
        Reason.NOT_ALLOWED,
        Reason.WRONG_TOKEN_KIND,
        Reason.INVALID_TENANT,
        Reason.COMMAND_NOT_ALLOWED,
    }
)
"""Reasons for which access is refused."""

_ELSEWHERE: Final = frozenset({Reason.NOT_LEADER, Reason.DRAINING})
"""Reasons for which another node has to decide a call, which then records it; this one only if it has begun."""

_OBJECTS: Final = ("command", "task_id", "id", "name", "endpoint", "host")
"""Fields of requests that name what a call acts on."""

State = Mapping[str, object]
"""State before or after an act, as JSON members."""

_log = structlog.get_logger()


class Act:
    """One administrative call.

    Args:
        call: Name of the RPC.
        request: Its request, which is valid.
        subject: Subject of the caller.
        tenant: Tenant on which it acts; empty: the server.
        origin: Address of the caller, as host:port or as gRPC's peer.
        part: Whether another shard records the act, so that this object does not.
    """

    def __init__(
        self, call: str, request: Message, *, subject: str, tenant: str, origin: str, part: bool = False
    ) -> None:
        self._is_part = part
        self._row = rows_pb2.AuditRow(
            subject=_cut(subject),
            tenant=tenant,
            call=call,
            object=_object_of(request),
            outcome=OK,
            origin=written_origin(origin),
        )
        self._runner: ShardRunner | None = None
        """Runner of the shard that has the record."""
        self._key = b""

    def record(
        self, runner: ShardRunner, *, before: State | None = None, after: State | None = None, outcome: str = OK
    ) -> None:
        """Records the act in the batch that decides it; again for an act that takes several batches.

        Args:
            runner: Runner of the shard.
            before: State before the act; None: as recorded.
            after: State after the act; None: as recorded.
            outcome: OK, or the reason of the rejection.

        Raises:
            Rejection: The runner no longer decides.
        """
        if self._is_part:
            runner.changed()
            return
        row = self._row
        if before is not None:
            row.before = _json(before)
        if after is not None:
            row.after = _json(after)
        row.outcome = outcome
        row.count = 0 if outcome == OK else 1
        if self._runner is None:
            self._key = runner.shard.audit.record(row, runner.now())
            self._runner = runner
        elif self._runner is runner:
            runner.shard.audit.rewrite(self._key, row)
        runner.changed()

    def refuse(self, runner: ShardRunner | None, reason: Reason) -> None:
        """Records that the act was rejected, and tells the log, unless the rejection is no outcome of the act.

        Args:
            runner: Runner of the shard; None: this node does not serve it, so that only the log is told.
            reason: Reason of the rejection. One in DENIALS is recorded with the other refused accesses.
        """
        if reason in DENIALS or (reason in _ELSEWHERE and self._runner is None):
            return
        if runner is not None:
            with contextlib.suppress(Rejection):  # the leadership is over, or the server stops
                self.record(runner, outcome=reason.name)
        self.tell(reason.name)

    def leave(self) -> None:
        """Tells the log of an act whose caller left before its outcome was known, if it has been recorded."""
        if self._runner is not None:
            self.tell(Reason.OUTCOME_UNKNOWN.name)

    def tell(self, outcome: str = OK) -> None:
        """Tells the log of the act."""
        if self._is_part:
            return
        row = self._row
        state = {name: getattr(row, name) for name in ("before", "after") if row.HasField(name)}
        _log.info(
            "administered",
            call=row.call,
            tenant=row.tenant,
            subject=row.subject,
            origin=row.origin,
            object=row.object,
            outcome=outcome,
            **state,
        )


def record_denial(runner: ShardRunner, call: str, denial: Rejection, origin: str) -> None:
    """Records a refused access, without waiting; beyond the limit of a minute it is only counted.

    Not in its caller's turn: there are too few records to delay anyone, and the caller has its reply already.

    Args:
        runner: Runner of the shard.
        call: Full name of the method.
        denial: The rejection, whose reason is one of DENIALS.
        origin: Address of the caller, as host:port or as gRPC's peer.
    """
    try:
        now = runner.now()
    except Rejection:
        return  # the leadership is over, or the server stops
    trail = runner.shard.audit
    if trail.admits(denial.reason.name, now):
        row = rows_pb2.AuditRow(
            subject=_cut(denial.subject),
            tenant=denial.tenant if TENANT.fullmatch(denial.tenant) else "",
            call=call.rpartition("/")[2],
            outcome=denial.reason.name,
            origin=written_origin(origin),
            count=1,
        )
        trail.record(row, now)
    runner.changed()


def denial_of(errors: Iterable[error_pb2.ItemError], claims: Claims) -> Rejection | None:
    """Returns the refused access of a call or frame of which items were refused: one, however many; None: none was."""
    for error in errors:
        if error.reason == error_pb2.ERROR_REASON_COMMAND_NOT_ALLOWED:
            denial = Rejection(Reason.COMMAND_NOT_ALLOWED, error.message)
            denial.subject, denial.tenant = claims.subject, claims.tenant_id
            return denial
    return None


def _object_of(request: Message) -> str:
    """Returns the name of what a call acts on; empty: everything of the tenant."""
    for field in _OBJECTS:
        name = getattr(request, field, "")
        if name:
            return str(name)
    return ""


def written_origin(origin: str) -> str:
    """Returns the address of a caller as host:port; gRPC writes ipv4:host:port or ipv6:[host]:port, with escapes."""
    kind, _, address = origin.partition(":")
    if kind in {"ipv4", "ipv6"}:
        host, _, port = unquote(address).rpartition(":")
        origin = origins.written(host.strip("[]"), port)
    return _cut(origin)


def _cut(text: str) -> str:
    """Returns text that came with a token or a connection as a field of a row can hold it."""
    return text[:TEXT_CHARS_MAX].encode(errors="replace").decode()


def _json(state: State) -> str:
    return msgspec.json.encode(state).decode()
