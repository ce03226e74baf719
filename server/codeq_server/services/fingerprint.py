"""Fingerprints by which a repeated request with an idempotency key is recognised: see docs/adr/0021."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from codeq.v1 import task_pb2
from codeq_gateway.surrogates import mark_unpaired
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.timestamp_pb2 import Timestamp

from .spec_fields import DESCRIBING

NULL: Final = b"null"
"""Payload of a task without one."""
DIGEST_BYTES: Final = 16
CANONICAL_VALUES_MAX: Final = 50_000
"""Approximate limit on a payload's JSON values. A larger payload is fingerprinted as sent, because canonicalizing it
would block the event loop."""

_TAGS: Final = {
    "command": b"c",
    "payload": b"p",
    "priority": b"n",
    "max_attempts": b"a",
    "run_at": b"r",
    "delay_seconds": b"d",
    "expire_seconds": b"e",
}
"""Tags used in stored digests; the tag of any other field is its number."""
_MORE: Final = tuple(field for field in DESCRIBING if field.name not in {"command", "payload"})
_DEFAULTS: Final = {field.name: None if field.message_type else field.default_value for field in _MORE}

_decode: Final = msgspec.json.Decoder(float_hook=msgspec.Raw).decode
_encode: Final = msgspec.json.Encoder(order="sorted").encode


def digest_of(specs: Iterable[task_pb2.TaskSpec]) -> bytes:
    """Returns the digest of a request as sent, byte for byte, except for keys and ids.

    Earlier versions of the server store and compare only this digest. It must stay comparable across versions: a field
    that a spec does not set must never change it.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for spec in specs:
        parts = [(_TAGS["command"], spec.command.encode()), (_TAGS["payload"], spec.payload or NULL)]
        parts += [_part(spec, field) for field in _MORE if _is_set(spec, field)]
        _add(digest, parts)
    return digest.digest()


def meaning_of(specs: Sequence[task_pb2.TaskSpec], defaults: Sequence[Mapping[str, int | str]]) -> bytes:
    """Returns the digest of a request's meaning: its payloads in canonical form, and its fields.

    A field counts only if it differs from its default. Omitting a field is therefore the same as setting it to the
    default, and fields of later versions do not change the digest of requests without them.

    Args:
        specs: Tasks of the request; their payloads are valid JSON.
        defaults: For each task, the defaults of fields that are not constants of the proto, by the names of the fields.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES, person=b"meaning")
    for spec, own in zip(specs, defaults, strict=True):
        payload = spec.payload or NULL
        canonical = canonical_json(payload)
        content = (b"t", payload) if canonical is None else (_TAGS["payload"], canonical)
        parts = [(_TAGS["command"], spec.command.encode()), content]
        usual = {**_DEFAULTS, **own}
        parts += [
            _part(spec, field)
            for field in _MORE
            if _is_set(spec, field) and getattr(spec, field.name) != usual[field.name]
        ]
        _add(digest, parts)
    return digest.digest()


def canonical_json(text: bytes) -> bytes | None:
    """Returns the canonical form of a JSON text; None: the text has no canonical form, and is compared as is.

    White space, the order of keys and the escaping of strings do not matter; numbers are compared by their text; of
    duplicate keys in an object the last one counts. Returns None for texts with more than CANONICAL_VALUES_MAX values,
    with an integer of thousands of digits, or nested too deeply for the parser.
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


def _is_set(spec: task_pb2.TaskSpec, field: FieldDescriptor) -> bool:
    return bool(spec.HasField(field.name) if field.has_presence else getattr(spec, field.name))


def _part(spec: task_pb2.TaskSpec, field: FieldDescriptor) -> tuple[bytes, bytes]:
    """Returns tag and content of a field."""
    value = getattr(spec, field.name)
    if isinstance(value, Timestamp):
        content = f"{value.seconds}.{value.nanos:09}".encode()
    else:
        content = value if isinstance(value, bytes) else str(value).encode()
    return _TAGS.get(field.name) or b"f%d:" % field.number, content


def _add(digest: hashlib.blake2b, parts: Iterable[tuple[bytes, bytes]]) -> None:
    for tag, content in parts:
        digest.update(tag + len(content).to_bytes(4, "big") + content)
    digest.update(b".")
