"""Verifies that a callback or a signal comes from the server.

Two families of headers carry the same: X-CodeQ-Timestamp with X-CodeQ-Signature, and those of Standard Webhooks. One
valid signature is enough. A request can arrive more than once: remember the id, and ignore an id that was seen before.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence
from typing import Final

TOLERANCE_SECONDS: Final = 300
"""Age of a request, or advance of the sender's clock, at which it is rejected, so that nobody can replay it later."""
_ENCODED_PREFIX: Final = "whsec_"


class WebhookRejected(Exception):  # noqa: N818 - says what happened
    """A request is not signed with a known secret, or is too old."""


def verify(body: bytes, headers: Mapping[str, str], secrets: Sequence[str], *, now: float | None = None) -> str:
    """Verifies a request, and returns its id, which repetitions of the same request share.

    Args:
        body: Body as it was received.
        headers: Headers of the request; their case does not matter.
        secrets: Secrets that may have signed it, such as the new and the old one.
        now: Unix time in seconds; None: the present.

    Raises:
        WebhookRejected: No signature is valid, or the request was signed more than TOLERANCE_SECONDS ago or ahead.
    """
    given = {name.lower(): value for name, value in headers.items()}
    delivery_id = given.get("webhook-id", "")
    at = time.time() if now is None else now
    own = given.get("x-codeq-signature", "").encode()
    if own and (seconds := _recent(given.get("x-codeq-timestamp", ""), at)):
        for secret in secrets:
            mine = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
            if hmac.compare_digest(mine.encode(), own):
                return delivery_id
    signatures = given.get("webhook-signature", "").split()
    if signatures and (seconds := _recent(given.get("webhook-timestamp", ""), at)):
        signed = f"{delivery_id}.{seconds}.".encode() + body
        for secret in secrets:
            digest = hmac.new(_key(secret), signed, hashlib.sha256).digest()
            mine = "v1," + base64.b64encode(digest).decode()
            if any(hmac.compare_digest(mine.encode(), each.encode()) for each in signatures):
                return delivery_id
    raise WebhookRejected("the request is not signed with a known secret, or was not signed just now")


def _recent(seconds: str, now: float) -> str:
    """Returns a timestamp if it is within the tolerance; empty: it is not, or is malformed."""
    if not (seconds.isascii() and seconds.isdigit() and len(seconds) <= 12):
        return ""
    return seconds if abs(int(seconds) - now) <= TOLERANCE_SECONDS else ""


def _key(secret: str) -> bytes:
    """Returns the key of Standard Webhooks: the decoded rest of `whsec_…`, or the bytes of any other text."""
    if secret.startswith(_ENCODED_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(_ENCODED_PREFIX), validate=True)
        except binascii.Error:
            pass
    return secret.encode()
