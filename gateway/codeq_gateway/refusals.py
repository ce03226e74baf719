"""The rejections made by the gateway itself, and the JSON body of every failed call."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Final
from urllib.parse import quote_from_bytes

import msgspec
from codeq import reasons
from codeq.v1 import error_pb2

from codeq_gateway.dispatch import LEADER_GRPC, LEADER_HTTP, LEADER_NAME, CallFailed
from codeq_gateway.json_names import JsonNames

NAME_SHOWN_MAX: Final = 128
"""Characters of a client's field name that an error message repeats."""

_AT: Final = re.compile(r"(.*) - at `\$([^`]*)`", re.DOTALL)
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_ENCODE: Final = msgspec.json.Encoder().encode
_LEADER: Final = {LEADER_NAME: "name", LEADER_HTTP: "http", LEADER_GRPC: "grpc"}
"""Metadata keys of a rejection that the body includes, and their JSON names."""

_AT_LIMIT: Final = ("scope", "operation", "subject")
"""Metadata keys of a rejection by a rate limit that the body includes."""

_QUOTA: Final = "quota"
"""Metadata key of a rejection by a quota: its name."""

_LIMIT: Final = "limit"
"""Metadata key of a rejection by a quota: how much it allows."""

_IN_PATH: Final = "/?%:@!$&'()*+,;=~"
"""Characters left as they are; `%` is one of them, so nothing is encoded twice."""

_RATE_LIMITED: Final = reasons.BY_NUMBER[error_pb2.ERROR_REASON_RATE_LIMITED].name
_UNPROCESSABLE: Final = 422
"""Status whose error bodies name the field."""
_RETRY_STATUSES: Final = frozenset({429, 503})


def invalid_field(field: str, description: str) -> CallFailed:
    """Returns the rejection of one field, parameter or header."""
    field = _shown(field)
    return CallFailed(error_pb2.ERROR_REASON_INVALID_FIELD, f"{field}: {description}", [(field, description)])


def invalid_body(message: str) -> CallFailed:
    """Returns the rejection of a body that is not a single JSON object."""
    return CallFailed(error_pb2.ERROR_REASON_INVALID_BODY, message)


def malformed(message: str) -> CallFailed:
    """Returns the rejection of bytes that are not an HTTP request."""
    return CallFailed(error_pb2.ERROR_REASON_INVALID_BODY, message)


def not_implemented(message: str) -> CallFailed:
    """Returns the rejection of an HTTP feature that this server does not implement."""
    return CallFailed(error_pb2.ERROR_REASON_NOT_IMPLEMENTED, message)


def request_timeout(seconds: float) -> CallFailed:
    """Returns the rejection of a request that was not complete in time."""
    return CallFailed(error_pb2.ERROR_REASON_REQUEST_TIMEOUT, f"the request was not complete within {seconds:g} s")


def oversized_body(bytes_max: int) -> CallFailed:
    """Returns the rejection of a body of more than `bytes_max` bytes; 0: of any body."""
    if not bytes_max:
        return invalid_body("this operation takes no body")
    return CallFailed(error_pb2.ERROR_REASON_TOO_LARGE, f"the body is larger than {bytes_max} bytes")


def from_decoding(error: Exception, wanted: Callable[[str], str]) -> CallFailed:
    """Returns the rejection for an msgspec decoding error; it names the field.

    Args:
        error: The error.
        wanted: Describes the values that the field at a path accepts.
    """
    if isinstance(error, msgspec.ValidationError):
        where = _AT.fullmatch(str(error))
        what, path = (where[1], where[2].removeprefix(".")) if where else (str(error), "")
        unknown = _UNKNOWN.fullmatch(what)
        if unknown:
            name = _shown(unknown[1])
            return invalid_field(f"{path}.{name}" if path else name, "unknown field")
        if path:
            return invalid_field(path, what if what.startswith("must ") else wanted(path))
        return invalid_body("the body must be one JSON object")
    if isinstance(error, UnicodeDecodeError):
        return invalid_body("the body is not valid UTF-8")
    if isinstance(error, RecursionError):
        return invalid_body("the body is nested too deeply")
    why = str(error).removeprefix("JSON is malformed: ")
    return invalid_body(f"the body is not valid JSON: {why[:1].lower()}{why[1:]}")


def error_body(failed: CallFailed, names: JsonNames | None) -> bytes:
    """Returns the JSON body of a failed call; `names` are the request's JSON names if a service rejected it."""
    reason = _row(failed)
    violations = failed.violations if names is None else [(names.path(f), names.words(t)) for f, t in failed.violations]
    details = [{"field": field, "description": text} for field, text in violations]
    text = "; ".join(f"{d['field']}: {d['description']}" if d["field"] else d["description"] for d in details)
    body: dict[str, object] = {
        "error": text or failed.message,
        "code": reason.grpc_name,
        "reason": reason.name,
        "details": details,
    }
    if leader := {name: failed.metadata[key] for key, name in _LEADER.items() if key in failed.metadata}:
        body["leader"] = leader
    if reason.name == _RATE_LIMITED and (about := {k: failed.metadata[k] for k in _AT_LIMIT if k in failed.metadata}):
        body |= {**about, "retryAfterSeconds": _retry_seconds(failed)}
    if reason.http_status == _UNPROCESSABLE and details:
        body["field"] = details[0]["field"]
    if _QUOTA in failed.metadata:
        body |= {_QUOTA: failed.metadata[_QUOTA], _LIMIT: int(failed.metadata[_LIMIT])}
    return _ENCODE(body) + b"\n"


def reason_name(failed: CallFailed) -> str:
    """Returns the reason name of a failed call."""
    return _row(failed).name


def error_status(failed: CallFailed) -> int:
    """Returns the HTTP status of a failed call: 307 if the leader's URL is known."""
    if leader_url(failed):
        return 307
    return _row(failed).http_status


def error_headers(failed: CallFailed) -> list[tuple[bytes, bytes]]:
    """Returns the headers that tell a client when to retry or how to authenticate."""
    status = error_status(failed)
    if status in _RETRY_STATUSES and _row(failed).retryable:
        return [(b"retry-after", b"%d" % _retry_seconds(failed))]
    if status == 401:
        return [(b"www-authenticate", b"Bearer")]
    return []


def _retry_seconds(failed: CallFailed) -> int:
    return max(1, math.ceil(failed.retry_after_seconds or 1))


def leader_url(failed: CallFailed) -> str:
    """Returns the base URL of the leader, to which the call should go; empty: unknown."""
    return failed.metadata.get(LEADER_HTTP, "")


def location(base_url: str, path: bytes, query: bytes) -> bytes:
    """Returns the URL of the same path and query on another server, encoded so that it cannot break out of a header."""
    target = quote_from_bytes(path, safe=_IN_PATH) + ("?" + quote_from_bytes(query, safe=_IN_PATH) if query else "")
    return (base_url.rstrip("/") + target).encode()


def _row(failed: CallFailed) -> reasons.Reason:
    return failed.row or reasons.BY_NUMBER.get(failed.reason, reasons.INTERNAL)


def _shown(name: str) -> str:
    return name if len(name) <= NAME_SHOWN_MAX else name[:NAME_SHOWN_MAX] + "…"
