"""The access log of both front ends: one line per unary call, rendered at once and written in batches.

Requests are far more frequent than other events, so their lines bypass the processors of `logs` and share writes; a
line is passed to the writer within FLUSH_SECONDS.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from .lines import cut, json_line, text_line

FLUSH_SECONDS: Final = 0.1
LINES_MAX: Final = 1000
"""Maximum lines buffered for one write."""

_PROBES: Final = frozenset({"/healthz", "/readyz", "/startupz", "/metrics"})
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}", re.ASCII)


class AccessLog:
    """Writes the access log.

    Attributes:
        requests: Whether calls are logged.
        probes: Whether probes and scrapes are logged, too.

    Args:
        put: Writes lines.
        always: Keys and values that each line has.
        as_text: Whether lines are human-readable text, not JSON.
    """

    def __init__(self, put: Callable[[bytes], None], always: Mapping[str, object], *, as_text: bool) -> None:
        self._put = put
        self._always = always
        self._render = text_line if as_text else json_line
        self.requests = self.probes = False
        self._lines: list[bytes] = []
        self._time_of = 0
        self._time = ""

    def grpc(self, method: str, code: str, seconds: float, request_id: str, about: Mapping[str, str]) -> None:
        """Logs a finished unary gRPC call.

        Args:
            method: Full name of the RPC.
            code: Name of its gRPC code, such as "NOT_FOUND".
            seconds: Duration of the call.
            request_id: Id sent by the client; if it is missing or malformed, a new one is logged.
            about: Details of a rejection: reason, tenant, task.
        """
        if self.requests:
            fields = self._fields("grpc_call_finished", "info")
            fields["method"], fields["code"], fields["ms"] = cut(method), code, round(seconds * 1000, 3)
            fields["request_id"] = well_formed_request_id(request_id)
            self._add(fields, about)

    def http(
        self, method: str, route: str, status: int, seconds: float, request_id: str, about: Mapping[str, str]
    ) -> None:
        """Logs an HTTP request that was answered or abandoned; probes and scrapes only at level debug.

        Args:
            method: HTTP method.
            route: Template of the route, which contains no task ids.
            status: HTTP status.
            seconds: Duration of the request.
            request_id: Id that was also sent to the client.
            about: Details of a rejection: reason, tenant, task.
        """
        is_probe = route in _PROBES
        if self.probes if is_probe else self.requests:
            fields = self._fields("http_request_finished", "debug" if is_probe else "info")
            fields["method"], fields["route"], fields["status"] = cut(method), route, status
            fields["ms"], fields["request_id"] = round(seconds * 1000, 3), request_id
            self._add(fields, about)

    def flush(self) -> None:
        """Writes the buffered lines."""
        lines, self._lines = self._lines, []
        if lines:
            self._put(b"".join(lines))

    def _fields(self, event: str, level: str) -> dict[str, object]:
        """Returns the first fields of a line."""
        milliseconds = time.time_ns() // 1_000_000
        if milliseconds != self._time_of:
            now = datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
            self._time_of, self._time = milliseconds, now.replace("+00:00", "Z")
        return {"time": self._time, "level": level, "event": event, **self._always}

    def _add(self, fields: dict[str, object], about: Mapping[str, str]) -> None:
        for name, value in about.items():
            fields[name] = cut(value)
        self._lines.append(self._render(fields))
        if len(self._lines) >= LINES_MAX:
            self.flush()
        elif len(self._lines) == 1:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)


def well_formed_request_id(given: str) -> str:
    """Returns the caller's request id, or a new one if it is missing or malformed."""
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
