"""The `static` provider: configured tokens that never expire and carry fixed claims."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple

from codeq_server.auth.claims import Token

DEFAULT_SUBJECT = "static"
"""Default subject of a static token."""


@dataclass(frozen=True, slots=True)
class StaticToken:
    """One configured token; its keys are the camelCase forms of these names.

    Attributes:
        token: The secret itself; blank if only its digest is known.
        subject: Holder of the token; the worker id of a worker.
        email: Email address of the holder; stored but not used.
        scopes: Scopes of a worker, or "codeq:admin", "codeq:operator" or "codeq:viewer".
        event_types: Commands of the holder; "*" means all.
        raw: Further claims, such as `role` and `tenantId`.
        token_sha256: SHA-256 of the secret as 64 hexadecimal digits; empty if the secret itself is given.
    """

    token: str = field(repr=False)
    subject: str = DEFAULT_SUBJECT
    email: str = ""
    scopes: frozenset[str] = frozenset()
    event_types: frozenset[str] = frozenset()
    raw: Mapping[str, object] = field(default_factory=dict)
    token_sha256: str = field(default="", repr=False)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the secret, in UTF-8 and without surrounding space."""
        return bytes.fromhex(self.token_sha256) if self.token_sha256 else digest_of(self.token.strip())

    @property
    def content(self) -> Token:
        """The content of the token."""
        subject = self.subject.strip() or DEFAULT_SUBJECT
        return Token(subject, self.email, self.scopes, self.event_types, self.raw)


class Replacement(NamedTuple):
    """Other tokens for a validator.

    Attributes:
        tokens: Content of each token by digest.
        changed: Digests of the tokens that are added, removed or changed by it.
    """

    tokens: Mapping[bytes, Token]
    changed: AbstractSet[bytes]


class StaticValidator:
    """Accepts the configured tokens, which may be replaced at any time."""

    def __init__(self, *tokens: StaticToken) -> None:
        self._tokens: Mapping[bytes, Token] = _by_digest(tokens)

    def validate(self, token: str) -> Token | None:
        """Returns the token's content, or None if it is not a configured token.

        The look-up compares digests, not secrets. Its time depends on the bytes of the digest, which callers cannot
        choose: to use what they measure, they would have to find a secret with a given SHA-256.
        """
        return self._tokens.get(digest_of(token))

    def compared(self, tokens: Iterable[StaticToken]) -> Replacement:
        """Returns what `replace` with these tokens changes; blocks, and may be called in another thread."""
        before, after = self._tokens, _by_digest(tokens)
        changed = {digest for digest in before.keys() | after.keys() if before.get(digest) != after.get(digest)}
        return Replacement(after, changed)

    def replace(self, replacement: Replacement) -> None:
        """Accepts the tokens of the replacement instead of the present ones."""
        self._tokens = replacement.tokens


def digest_of(secret: str) -> bytes:
    """Returns the SHA-256 of a secret in UTF-8."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()


def _by_digest(tokens: Iterable[StaticToken]) -> dict[bytes, Token]:
    return {token.digest: token.content for token in tokens}
