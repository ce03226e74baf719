"""Page tokens: the last key looked at, bound to the list and the filters they were given out for."""

from __future__ import annotations

import base64
import hashlib
from typing import Final

from codeq_server.core.errors import Reason, Rejection

_DIGEST_BYTES: Final = 8


def page_token(last: bytes, *of: object) -> str:
    """Returns the token of the page that begins after the key `last`; `of` says whose and which list."""
    return base64.urlsafe_b64encode(_digest(of) + last).decode().rstrip("=")


def last_key(token: str, key_bytes: int | None, *of: object) -> bytes:
    """Returns the key in a token.

    Args:
        token: What the client sent.
        key_bytes: Length of the list's keys; None: they differ.
        of: The same as when the token was made.

    Raises:
        Rejection: INVALID_PAGE_TOKEN.
    """
    try:
        content = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except ValueError:
        content = b""
    key = content[_DIGEST_BYTES:]
    if content[:_DIGEST_BYTES] != _digest(of) or key_bytes not in (None, len(key)):
        text = "is malformed or belongs to other filters"
        raise Rejection(Reason.INVALID_PAGE_TOKEN, f"page_token: {text}", (("page_token", text),))
    return key


def _digest(of: tuple[object, ...]) -> bytes:
    """Returns what tells lists apart; it keeps no secret, and a key alone opens nothing."""
    return hashlib.blake2b(repr(of).encode(), digest_size=_DIGEST_BYTES).digest()
