"""Checker rules about audit records."""

from __future__ import annotations

from collections.abc import Iterator

from codeq_internal.v1 import rows_pb2

from codeq_server.core import keys


class AuditRows:
    """The audit records read so far.

    Attributes:
        latest_ms: Time of the last one; 0: none.
    """

    def __init__(self) -> None:
        self.latest_ms = 0
        self._number = 0

    def row(self, key: bytes, value: bytes) -> Iterator[str]:
        """Processes a row; yields its problems. Rows are removed oldest first, so that none is missing in between."""
        at_ms, number = keys.split_audit_key(key)
        if rows_pb2.AuditRow.FromString(value).at_ms != at_ms:
            yield "the value has another time"
        if self._number and number != self._number + 1:
            yield f"follows record {self._number}, so that records are missing"
        self.latest_ms, self._number = at_ms, number
