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
from datetime import datetime
from typing import Final

from codeq.arguments import several
from codeq.errors import WebhookRejected

__all__ = ["TOLERANCE_SECONDS", "WebhookRejected", "verify"]

TOLERANCE_SECONDS: Final = 300
"""Age of a request, or advance of the sender's clock, at which it is rejected, so that nobody can replay it later."""
_ENCODED_PREFIX: Final = "whsec_"


def verify(
    body: bytes, headers: Mapping[str, str], secrets: Sequence[str], *, now: float | datetime | None = None
) -> str:
    """Verifies a request, and returns its id, which repetitions of the same request share.

    Args:
        body: Body as it was received.
        headers: Headers of the request; their case does not matter.
        secrets: Secrets that may have signed it, such as the new and the old one.
        now: Unix time in seconds, or a datetime with a time zone, such as the time of a server in tests with a clock of
            its own; None: the present.

    Raises:
        WebhookRejected: The request is not signed, no signature is of a known secret, or the request was signed more
            than TOLERANCE_SECONDS ago or ahead; `message` says which.
        TypeError: The secrets are a str instead of a list of them.
        ValueError: `now` has no time zone.
    """
    known = several(secrets, "secrets")
    given = {name.lower(): value for name, value in headers.items()}
    delivery_id = given.get("webhook-id", "")
    at = _unix_seconds(now)
    signed_at: list[str] = []
    if own := given.get("x-codeq-signature", "").encode():
        seconds = given.get("x-codeq-timestamp", "")
        signed_at.append(seconds)
        for secret in known if _is_recent(seconds, at) else ():
            mine = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
            if hmac.compare_digest(mine.encode(), own):
                return delivery_id
    if signatures := given.get("webhook-signature", "").split():
        seconds = given.get("webhook-timestamp", "")
        signed_at.append(seconds)
        signed = f"{delivery_id}.{seconds}.".encode() + body
        for secret in known if _is_recent(seconds, at) else ():
            digest = hmac.new(_key(secret), signed, hashlib.sha256).digest()
            mine = "v1," + base64.b64encode(digest).decode()
            if any(hmac.compare_digest(mine.encode(), each.encode()) for each in signatures):
                return delivery_id
    if not signed_at:
        raise WebhookRejected("the request is not signed")
    if not any(_is_recent(seconds, at) for seconds in signed_at):
        raise WebhookRejected(f"the time of the request is more than {TOLERANCE_SECONDS} seconds off")
    raise WebhookRejected("the request is not signed with a known secret")


def _unix_seconds(now: float | datetime | None) -> float:
    if now is None:
        return time.time()
    if isinstance(now, datetime):
        if now.utcoffset() is None:
            raise ValueError("now needs a time zone")
        return now.timestamp()
    return now


def _is_recent(seconds: str, now: float) -> bool:
    """Returns whether a timestamp is well formed and within the tolerance."""
    is_number = seconds.isascii() and seconds.isdigit() and len(seconds) <= 12
    return is_number and abs(int(seconds) - now) <= TOLERANCE_SECONDS


def _key(secret: str) -> bytes:
    """Returns the key of Standard Webhooks: the decoded rest of `whsec_…`, or the bytes of any other text."""
    if secret.startswith(_ENCODED_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(_ENCODED_PREFIX), validate=True)
        except binascii.Error:
            pass
    return secret.encode()
