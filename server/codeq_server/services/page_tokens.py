"""Page tokens: the last key examined, bound to the list and filters they were issued for."""

from __future__ import annotations

import base64
import hashlib
from typing import Final

from codeq_server.core.errors import Reason, Rejection

_DIGEST_BYTES: Final = 8


def page_token(last: bytes, *of: object) -> str:
    """Returns the token of the page that begins after the key `last`; `of` identifies the tenant, list and filters."""
    return base64.urlsafe_b64encode(_digest(of) + last).decode().rstrip("=")


def last_key(token: str, key_bytes: int | None, *of: object) -> bytes:
    """Returns the key in a token.

    Args:
        token: Token sent by the client.
        key_bytes: Length of the list's keys; None: it varies.
        of: The same values as when the token was created.

    Raises:
        Rejection: INVALID_PAGE_TOKEN.
    """
    try:
        content = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except ValueError:
        content = b""
    key = content[_DIGEST_BYTES:]
    if content[:_DIGEST_BYTES] != _digest(of) or key_bytes not in (None, len(key)):
        raise invalid_token()
    return key


def invalid_token() -> Rejection:
    """Returns the rejection of a page token that this list did not issue."""
    text = "is malformed, or was issued for other filters"
    return Rejection(Reason.INVALID_PAGE_TOKEN, f"page_token: {text}", (("page_token", text),))


def last_name(token: str, *of: object) -> str:
    """Returns the name in a token of a list that is ordered by ASCII names; empty: the token is that of the first page.

    Raises:
        Rejection: INVALID_PAGE_TOKEN.
    """
    return last_key(token, None, *of).decode("ascii", "replace") if token else ""


def _digest(of: tuple[object, ...]) -> bytes:
    """Returns a digest that identifies a list; it need not be secret, since a key alone grants no access."""
    return hashlib.blake2b(repr(of).encode(), digest_size=_DIGEST_BYTES).digest()
