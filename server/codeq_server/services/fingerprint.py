"""By what a request with an idempotency key is known when it comes again: see docs/adr/0021."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

import msgspec
from codeq.v1 import task_pb2
from codeq_gateway.surrogates import mark_unpaired

NULL: Final = b"null"
"""Payload of a task that names none."""
DIGEST_BYTES: Final = 16
CANONICAL_VALUES_MAX: Final = 50_000
"""Values of a payload, roughly; one with more counts as it was sent, because the event loop waits meanwhile."""

_decode: Final = msgspec.json.Decoder(float_hook=msgspec.Raw).decode
_encode: Final = msgspec.json.Encoder(order="sorted").encode


def digest_of(specs: Iterable[task_pb2.TaskSpec]) -> bytes:
    """Returns the digest of a request as it was sent, byte for byte, but for keys and ids.

    It is all that rows of servers before this one hold, and all that such a server reads. So it is stored and compared
    with digests of other versions: a field that a spec does not set must never count.
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
    """Returns the digest of what a request means: its payloads in canonical form, and its fields.

    A field counts only where it is not its default, so that to leave it out and to set it to that is the same, and so
    that fields of later versions change no digest of requests without them.

    Args:
        specs: Tasks of the request, with payloads that are JSON.
        max_attempts: What `max_attempts` is where a spec does not say.
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
    """Returns the form that JSON texts of the same meaning share; None: the text has none, and counts as it is.

    White space, the order of keys and the way in which strings are escaped do not matter; numbers count by their text;
    of a key that stands twice in an object the last one counts. None is for texts with more than CANONICAL_VALUES_MAX
    values, with an integer of thousands of digits, or nested deeper than a parser follows.
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
            # A byte that no UTF-8 has stands for what the mark stood for.
            return _encode(_decode(marked)).replace(mark, b"\xff") if mark else None
    except (msgspec.MsgspecError, RecursionError):
        return None


def _add(digest: hashlib.blake2b, parts: Iterable[tuple[bytes, bytes]]) -> None:
    for tag, content in parts:
        digest.update(tag + len(content).to_bytes(4, "big") + content)
    digest.update(b".")
