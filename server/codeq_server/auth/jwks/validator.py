"""Validates the tokens of an identity provider."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from codeq_server.auth.authenticator import Validation
from codeq_server.auth.claims import Token
from codeq_server.auth.jwks.config import JwksConfig
from codeq_server.auth.jwks.document import KeyDocument
from codeq_server.auth.jwks.keys import Key
from codeq_server.auth.jwks.store import KeyStore, Lookup
from codeq_server.auth.jwks.tokens import (
    ForOthersError,
    Jwt,
    RefusedError,
    checked_expiry,
    content_of,
    needed_key,
    parsed,
)
from codeq_server.auth.revocation import Revoke

REPORT_SECONDS: Final = 10.0
"""Shortest time between two reports of rejected tokens."""


class JwksValidator:
    """Accepts tokens of one issuer.

    A signature is verified on the event loop: it takes less than a thread would, except with the two largest curves,
    and once per token, since verdicts are cached.
    """

    def __init__(
        self,
        config: JwksConfig,
        *,
        clock: Callable[[], float] = time.time,
        report: Callable[[str, str], None] = lambda _event, _details: None,
    ) -> None:
        """Creates a validator; keys are fetched by `warm_up`, or when the first token comes.

        Args:
            config: Its configuration.
            clock: Returns the Unix time in seconds.
            report: Called with an event and its details: `keys_not_fetched`, KEYS_FETCHED, `keys_ignored`, or
                `token_rejected` at most once in REPORT_SECONDS. Details name the issuer, and hold nothing of a token.
                Tokens of other issuers or for others are reported only until the first one is accepted: then the
                configuration is right, and they are meant for another validator.

        Raises:
            OSError: The file with CAs cannot be read, or holds none.
        """
        self._config, self._clock, self._log = config, clock, report
        self._reported_at = -math.inf
        self._has_accepted = False
        self._store = KeyStore(
            KeyDocument(config).load,
            refresh_seconds=config.refresh_seconds,
            stale_seconds=config.stale_seconds,
            clock=clock,
            report=self._report,
        )

    async def warm_up(self, revoke: Revoke) -> None:
        """Fetches the keys, so that the first token need not wait for them."""
        del revoke
        await self._store.warm_up()

    def validate(self, token: str) -> Token | Validation | None:
        """Validates a token; see `Validator`. The issuer is asked only for tokens that would be accepted with a key.

        Raises:
            KeysUnavailableError: The key that it needs cannot be fetched at the moment.
        """
        jwt = parsed(token)
        if jwt is None:
            return None
        try:
            return self._judged(jwt)
        except RefusedError as reason:
            self._reject(reason)
            return None

    def _judged(self, jwt: Jwt) -> Token | Validation:
        expires_at = checked_expiry(jwt.claims, self._config, self._clock())
        content = content_of(jwt.claims, self._config, expires_at)
        found = self._store.find(needed_key(jwt, self._config))
        if not callable(found):
            return self._verified(jwt, found, content)
        return lambda: self._awaited(jwt, found, content)

    async def _awaited(self, jwt: Jwt, lookup: Lookup, content: Token) -> Token | None:
        key = await lookup()
        try:
            return self._verified(jwt, key, content)
        except RefusedError as reason:
            self._reject(reason)
            return None

    def _verified(self, jwt: Jwt, key: Key | None, content: Token) -> Token:
        if key is None:
            raise RefusedError("the issuer has no such key, or several that fit")
        if not key.has_signed(jwt.signed, jwt.signature):
            raise RefusedError("its signature is wrong")
        self._has_accepted = True
        return content

    def _report(self, event: str, details: str) -> None:
        self._log(event, f"issuer {self._config.issuer}: {details}")

    def _reject(self, reason: RefusedError) -> None:
        if self._has_accepted and isinstance(reason, ForOthersError):
            return
        now = self._clock()
        if not 0 <= now - self._reported_at < REPORT_SECONDS:
            self._reported_at = now
            self._report("token_rejected", str(reason))
