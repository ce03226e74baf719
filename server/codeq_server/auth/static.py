"""The `static` provider: one configured token that never expires and carries fixed claims."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from codeq_server.auth.claims import Token

DEFAULT_SUBJECT = "static"
"""Default subject of a static token."""


@dataclass(frozen=True, slots=True)
class StaticToken:
    """Configuration of the provider; its keys are the camelCase forms of these names.

    Attributes:
        token: The secret itself; not blank.
        subject: Holder of the token; the worker id of a worker.
        email: Email address of the holder; stored but not used.
        scopes: Scopes of a worker, or "codeq:admin", "codeq:operator" or "codeq:viewer".
        event_types: Commands of the holder; "*" means all.
        raw: Further claims, such as `role` and `tenantId`.
    """

    token: str = field(repr=False)
    subject: str = DEFAULT_SUBJECT
    email: str = ""
    scopes: frozenset[str] = frozenset()
    event_types: frozenset[str] = frozenset()
    raw: Mapping[str, object] = field(default_factory=dict)

    @property
    def content(self) -> Token:
        """The content of the token."""
        subject = self.subject.strip() or DEFAULT_SUBJECT
        return Token(subject, self.email, self.scopes, self.event_types, self.raw)


class StaticValidator:
    """Accepts exactly one token."""

    def __init__(self, config: StaticToken) -> None:
        self._secret = config.token.strip().encode()
        self._token = config.content

    def validate(self, token: str) -> Token | None:
        """Returns the token's content, or None if it is not the configured token. Compares in constant time."""
        return self._token if hmac.compare_digest(token.encode(errors="replace"), self._secret) else None
