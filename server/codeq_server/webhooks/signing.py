"""Signatures of requests: the X-CodeQ headers, and those of Standard Webhooks beside them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

ENCODED_PREFIX: Final = "whsec_"
"""Begins a secret whose rest is the key in base64, as Standard Webhooks writes secrets."""


def headers(secrets: Sequence[str], delivery_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Returns the headers that identify and sign a request.

    X-CodeQ-Signature is the HMAC-SHA256 of `timestamp.body` in hexadecimal, with the bytes of the newest secret's text
    as key. webhook-signature has one signature of `id.timestamp.body` for each secret.

    Args:
        secrets: The valid secrets, the newest first; empty: the request is not signed.
        delivery_id: Id of the delivery, without dots; repetitions have the same.
        timestamp: Time of this attempt in Unix seconds.
        body: Body as it is sent.
    """
    seconds = str(timestamp)
    found = {"X-CodeQ-Timestamp": seconds, "webhook-id": delivery_id, "webhook-timestamp": seconds}
    if secrets:
        newest = hmac.new(secrets[0].encode(), f"{seconds}.".encode() + body, hashlib.sha256)
        found["X-CodeQ-Signature"] = newest.hexdigest()
        signed = f"{delivery_id}.{seconds}.".encode() + body
        found["webhook-signature"] = " ".join(_standard(secret, signed) for secret in secrets)
    return found


def is_decodable(secret: str) -> bool:
    """Returns whether a secret is a plain text, or base64 after ENCODED_PREFIX."""
    return not secret.startswith(ENCODED_PREFIX) or _decoded(secret) is not None


def _standard(secret: str, signed: bytes) -> str:
    return "v1," + base64.b64encode(hmac.new(_key(secret), signed, hashlib.sha256).digest()).decode()


def _key(secret: str) -> bytes:
    """Returns the key of Standard Webhooks: the decoded rest of `whsec_…`, or the bytes of any other text."""
    decoded = _decoded(secret) if secret.startswith(ENCODED_PREFIX) else None
    return secret.encode() if decoded is None else decoded


def _decoded(secret: str) -> bytes | None:
    """Returns the decoded rest of `whsec_…`; None: it is not base64."""
    try:
        return base64.b64decode(secret.removeprefix(ENCODED_PREFIX), validate=True)
    except binascii.Error:
        return None
