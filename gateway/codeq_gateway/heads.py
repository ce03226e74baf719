"""Parses the heads of HTTP/1.1 requests by RFC 9110 and RFC 9112, strictly wherever the RFCs leave a choice.

Heads that another parser might read differently are rejected: a proxy in front of this server must never disagree with
it about where a request ends or which host it is for.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from codeq.v1 import error_pb2

from codeq_gateway import header_fields, refusals
from codeq_gateway.dispatch import CallFailed

HEADERS_MAX: Final = 100
"""Maximum header lines of a request."""

CHUNKED: Final = -1
"""Length of a body with chunked transfer coding."""

ASTERISK: Final = b"*"
"""Path of a request about the server as a whole."""

_CACHED_MAX: Final = 512
"""Maximum number of parsed blocks of header lines in the cache."""

_CACHED_BYTES_MAX: Final = 1_024
"""Maximum bytes of a block of header lines that is cached."""

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE: Final = re.compile(rb"(%b) ([!-~\x80-\xff]+) HTTP/([0-9])\.([0-9])" % _TOKEN)
_PLAIN_LINE: Final = re.compile(rb"(%b) (/[!\"$&->@-~]*)(?:\?([!\"$&-~]*))? HTTP/1\.1\r\n" % _TOKEN)
"""The usual request line: a path and an optional query, without escapes."""
_FIELD_LINES: Final = re.compile(rb"(?:%b:[\t -~\x80-\xff]*\r\n)*" % _TOKEN)
_FOLDED: Final = re.compile(rb"(?m)^[\t ]")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_AUTHORITY: Final = rb"(?:\[[0-9A-Za-z:._~!$&'()*+,;=-]+\]|(?:[0-9A-Za-z._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?"
_HOST: Final = re.compile(_AUTHORITY)
_ABSOLUTE: Final = re.compile(rb"(?i:https?)://(%b)((?:/[^?]*)?)(?:\?(.*))?" % _AUTHORITY)
_BAD_ENCODING: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class Head(NamedTuple):
    """The head of a request.

    Attributes:
        method: Method.
        path: Path as sent; ASTERISK: the request is about the server as a whole.
        query: Query as sent, without the question mark.
        host: Authority to which the request is addressed, in lower case; empty: none.
        headers: Values by lower-case name, without surrounding white space. Repeated headers are joined into one
            comma-separated list.
        keep_alive: Whether the connection may be kept after the reply.
        length: Bytes of the body; CHUNKED: the body marks its own end.
        expects_continue: Whether the client waits for 100 Continue before it sends the body.
    """

    method: str
    path: bytes
    query: bytes
    host: bytes
    headers: Mapping[bytes, bytes]
    keep_alive: bool
    length: int
    expects_continue: bool


def read_head(block: bytes) -> Head:
    """Parses the lines of a request head, each with its CRLF, without the final empty line.

    Raises:
        CallFailed: The head is malformed or unsupported; the rest of the connection cannot be parsed.
    """
    plain = _PLAIN_LINE.match(block)
    if plain is not None:
        fields, is_old = block[plain.end() :], False
        method, path, query = plain.groups(b"")
        authority = None
    else:
        fields, is_old, method, authority, path, query = _read_line(block)
    read = _read_framing_cached if len(fields) <= _CACHED_BYTES_MAX else _read_framing
    headers, host, keep_alive, length, expects_continue = read(fields, is_old)
    if authority is not None:
        host = authority.lower()
    return Head(method.decode(), path, query, host, headers, keep_alive, length, expects_continue)


def _read_line(block: bytes) -> tuple[bytes, bool, bytes, bytes | None, bytes, bytes]:
    """Returns the lines after the request line, whether it is HTTP/1.0, method, authority, path and query."""
    line_end = block.index(b"\r\n")
    line = _REQUEST_LINE.fullmatch(block, 0, line_end)
    if line is None:
        raise refusals.malformed("the request line is not METHOD TARGET HTTP/1.1")
    method, target, major, minor = line.groups()
    if major != b"1":
        raise CallFailed(error_pb2.ERROR_REASON_HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.1 and HTTP/1.0 are supported")
    return block[line_end + 2 :], minor == b"0", method, *_read_target(method, target)


def check_trailers(block: bytes) -> None:
    """Checks the trailers of a chunked body, lines with their CRLF; their content is ignored.

    Raises:
        CallFailed: A line is malformed, or there are too many.
    """
    _check_fields(block)


def _check_fields(block: bytes) -> None:
    if block.count(b"\r\n") > HEADERS_MAX:
        raise CallFailed(error_pb2.ERROR_REASON_HEAD_TOO_LARGE, f"more than {HEADERS_MAX} headers")
    if not _FIELD_LINES.fullmatch(block):
        what = "is folded over several lines" if _FOLDED.search(block) else "is malformed"
        raise refusals.malformed(f"a header {what}")


def _read_framing(block: bytes, is_old: bool) -> tuple[Mapping[bytes, bytes], bytes, bool, int, bool]:  # noqa: FBT001
    """Returns headers, host, whether the connection may be kept, length, and whether 100 Continue is expected."""
    headers = _read_fields(block)
    host = headers.get(b"host")
    if host is None:
        if not is_old:
            raise refusals.malformed("the header Host is missing")
    elif not _HOST.fullmatch(host):
        raise refusals.malformed("the header Host is malformed")
    length = _read_length(headers, is_old=is_old)
    keep_alive = not is_old and b"close" not in _members(headers.get(b"connection", b""))
    expects_continue = not is_old and length != 0 and _expects_continue(headers.get(b"expect"))
    return headers, (host or b"").lower(), keep_alive, length, expects_continue


_read_framing_cached = functools.lru_cache(maxsize=_CACHED_MAX)(_read_framing)
"""Cached `_read_framing`, because clients repeat the same lines in most requests. Rejected input is not cached."""


def _read_fields(block: bytes) -> dict[bytes, bytes]:
    _check_fields(block)
    headers: dict[bytes, bytes] = {}
    for line in block[:-2].split(b"\r\n") if block else ():
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b"\t ")
        if name in headers:
            if name in header_fields.SINGLE:
                raise refusals.malformed(f"the header {name.decode()} is given more than once")
            value = headers[name] + b", " + value
        headers[name] = value
    return headers


def _read_target(method: bytes, target: bytes) -> tuple[bytes | None, bytes, bytes]:
    """Returns authority (None: none given), path and query of a request target."""
    if b"#" in target or (b"%" in target and _BAD_ENCODING.search(target)):
        raise refusals.malformed("the request target is malformed")
    if target.startswith(b"/"):
        path, _, query = target.partition(b"?")
        return None, path, query
    if method == b"CONNECT":
        raise refusals.not_implemented("CONNECT is not supported: this server is not a proxy")
    if target == ASTERISK and method == b"OPTIONS":
        return None, ASTERISK, b""
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or not absolute[1]:
        raise refusals.malformed("the request target is malformed")
    path = absolute[2]
    if not path:  # RFC 9112, 3.2.4: OPTIONS without a path is about the whole server
        path = ASTERISK if method == b"OPTIONS" and absolute[3] is None else b"/"
    return absolute[1], path, absolute[3] or b""


def _read_length(headers: Mapping[bytes, bytes], *, is_old: bool) -> int:
    """Returns the length of the body."""
    coding = headers.get(b"transfer-encoding")
    length = headers.get(b"content-length")
    if coding is None:
        if length is None:
            return 0
        if not _LENGTH.fullmatch(length):
            raise refusals.malformed("content-length: must be a number of bytes")
        return int(length)
    if length is not None:
        raise refusals.malformed("content-length and transfer-encoding cannot be combined")
    if is_old:
        raise refusals.malformed("transfer-encoding: not allowed in HTTP/1.0")
    if coding.lower() == b"chunked":
        return CHUNKED
    codings = _members(coding)
    if codings[-1] != b"chunked" or b"chunked" in codings[:-1] or b"" in codings:
        raise refusals.malformed("transfer-encoding: the last coding, and only the last, must be chunked")
    raise refusals.not_implemented("transfer-encoding: only chunked is supported")


def _expects_continue(expectation: bytes | None) -> bool:
    if expectation is None:
        return False
    if expectation.lower() != b"100-continue":
        raise CallFailed(error_pb2.ERROR_REASON_EXPECTATION_FAILED, "expect: only 100-continue is supported")
    return True


def _members(value: bytes) -> list[bytes]:
    """Returns the members of a comma-separated list, in lower case."""
    return [member.strip(b"\t ") for member in value.lower().split(b",")]
