"""Fingerprints by which a repeated request with an idempotency key is recognised: see docs/adr/0021."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

import msgspec
from codeq.v1 import task_pb2
from codeq_gateway.surrogates import mark_unpaired

NULL: Final = b"null"
"""Payload of a task without one."""
DIGEST_BYTES: Final = 16
CANONICAL_VALUES_MAX: Final = 50_000
"""Approximate limit on a payload's JSON values. A larger payload is fingerprinted as sent, because canonicalizing it
would block the event loop."""

_decode: Final = msgspec.json.Decoder(float_hook=msgspec.Raw).decode
_encode: Final = msgspec.json.Encoder(order="sorted").encode


def digest_of(specs: Iterable[task_pb2.TaskSpec]) -> bytes:
    """Returns the digest of a request as sent, byte for byte, except for keys and ids.

    Earlier versions of the server store and compare only this digest. It must stay comparable across versions: a field
    that a spec does not set must never change it.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for spec in specs:
        parts: list[tuple[bytes, bytes]] = [(b"c", spec.command.encode()), (b"p", spec.payload or NULL)]
        if spec.priority:
            parts.append((b"n", str(spec.priority).encode()))
        if spec.HasField("max_attempts"):
            parts.append((b"a", str(spec.max_attempts).encode()))
        if spec.HasField("run_at"):
            parts.append((b"r", f"{spec.run_at.seconds}.{spec.run_at.nanos:09}".encode()))
        if spec.HasField("delay_seconds"):
            parts.append((b"d", str(spec.delay_seconds).encode()))
        if spec.HasField("expire_seconds"):
            parts.append((b"e", str(spec.expire_seconds).encode()))
        _add(digest, parts)
    return digest.digest()


def meaning_of(specs: Iterable[task_pb2.TaskSpec], max_attempts: int) -> bytes:
    """Returns the digest of a request's meaning: its payloads in canonical form, and its fields.

    A field counts only if it differs from its default: omitting it and setting it to the default are the same, and
    fields of later versions do not change the digest of requests without them.

    Args:
        specs: Tasks of the request; their payloads are valid JSON.
        max_attempts: Default of `max_attempts`.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES, person=b"meaning")
    for spec in specs:
        payload = spec.payload or NULL
        canonical = canonical_json(payload)
        content = (b"t", payload) if canonical is None else (b"p", canonical)
        parts: list[tuple[bytes, bytes]] = [(b"c", spec.command.encode()), content]
        if spec.priority:
            parts.append((b"n", str(spec.priority).encode()))
        if spec.max_attempts not in {0, max_attempts}:
            parts.append((b"a", str(spec.max_attempts).encode()))
        if spec.HasField("run_at"):
            parts.append((b"r", f"{spec.run_at.seconds}.{spec.run_at.nanos:09}".encode()))
        if spec.delay_seconds:
            parts.append((b"d", str(spec.delay_seconds).encode()))
        if spec.HasField("expire_seconds"):
            parts.append((b"e", str(spec.expire_seconds).encode()))
        _add(digest, parts)
    return digest.digest()


def canonical_json(text: bytes) -> bytes | None:
    """Returns the canonical form of a JSON text; None: it has none, and is compared as it is.

    White space, the order of keys and the escaping of strings do not matter; numbers are compared by their text; of
    duplicate keys in an object the last one counts. None for texts with more than CANONICAL_VALUES_MAX values, with an
    integer of thousands of digits, or nested too deeply for the parser.
    """
    if text.count(b",") + text.count(b"[") + text.count(b"{") > CANONICAL_VALUES_MAX:
        return None
    try:
        try:
            return _encode(_decode(text))
        except msgspec.ValidationError:
            return None
        except msgspec.DecodeError:
            marked, mark = mark_unpaired(text)
            # 0xFF, which never occurs in UTF-8, stands for the marked surrogates.
            return _encode(_decode(marked)).replace(mark, b"\xff") if mark else None
    except (msgspec.MsgspecError, RecursionError):
        return None


def _add(digest: hashlib.blake2b, parts: Iterable[tuple[bytes, bytes]]) -> None:
    for tag, content in parts:
        digest.update(tag + len(content).to_bytes(4, "big") + content)
    digest.update(b".")
