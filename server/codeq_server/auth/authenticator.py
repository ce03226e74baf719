"""Authenticates and authorizes callers by the authorization header, or by the certificate of their connection.

A verdict is cached until its token or certificate expires, so only the first call with a token may have to wait. All
calls with that token share one validation. A certificate is identified at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, Protocol

from mypy_extensions import mypyc_attr

from codeq_server.auth.claims import NEVER, Claims, Token
from codeq_server.auth.revocation import Affects, Authorization, Revocations
from codeq_server.auth.verdict import NOBODY, Verdict, expired, refusing, verdict_of
from codeq_server.core.errors import Reason, Rejection

CACHED_TOKENS_MAX: Final = 1024
"""Maximum number of cached accepted tokens and certificates; at the limit, the one validated first is evicted."""

HEADER_CHARS_MAX: Final = 16 * 1024
"""Maximum characters of an authorization header; a longer one is rejected without being parsed."""

CERTIFICATE_BYTES_MAX: Final = 16 * 1024
"""Maximum bytes of a client's certificate; a longer one counts as none."""

VALIDATIONS_MAX: Final = 256
"""Maximum validations in flight; at the limit, tokens that are not cached are rejected with LIMIT_REACHED."""

VALIDATION_SECONDS_MAX: Final = 5.0
"""Maximum duration of a validation; then its callers get SERVER_UNREACHABLE."""

TROUBLE_SECONDS: Final = 10.0
"""Minimum time between two reports of failed validations."""

_BEARER: Final = "Bearer "

_BUSY: Final = refusing(
    Rejection(Reason.LIMIT_REACHED, f"{VALIDATIONS_MAX} tokens are being validated, the limit: try again")
)
_UNTOLD: Final = refusing(
    Rejection(Reason.SERVER_UNREACHABLE, "the token cannot be validated at the moment: try again")
)

_NO_IDENTITY: Final = refusing(
    Rejection(Reason.UNAUTHENTICATED, "the client certificate is none of the configured identities")
)

Identify = Callable[[bytes], Token | None]
"""Returns what a verified certificate, in DER, stands for, even if it has expired; None: nothing."""

Validation = Callable[[], Awaitable[Token | None]]
"""Validates a token by waiting for something, such as a key; returns its content, or None if it is rejected."""


class Validator(Protocol):
    """Validates the tokens of one kind of caller."""

    def validate(self, token: str) -> Token | Validation | None:
        """Validates a token without blocking the event loop.

        Returns:
            The content of an accepted token, even if it has expired; None for any other token; or, if the answer takes
            time, the validation to await.
        """
        ...


@mypyc_attr(allow_interpreted_subclasses=True)  # tests extend it
class Authenticator:
    """Authenticates callers by the validators of producers and workers. A token may be valid for both.

    Attributes:
        clock: Returns the Unix time in seconds, to which the expiry of tokens is compared.
        revocations: Those who rely on tokens after their validation.
    """

    def __init__(
        self,
        producer: Validator,
        worker: Validator,
        *,
        producer_identify: Identify | None = None,
        worker_identify: Identify | None = None,
        producer_as_worker: bool = False,
        admins_operate: bool = False,
        clock: Callable[[], float] = time.time,
        on_trouble: Callable[[Exception], None] | None = None,
    ) -> None:
        """Creates an authenticator.

        Args:
            producer: Validates tokens of producers.
            worker: Validates tokens of workers.
            producer_identify: Identifies certificates of producers; None: they stand for nobody.
            worker_identify: Identifies certificates of workers; None: they stand for nobody.
            producer_as_worker: Whether a token valid only for producers may also do everything a worker may, for its
                commands.
            admins_operate: Whether administrators may do everything that an operator may for the server.
            clock: Returns the Unix time in seconds.
            on_trouble: Called with the exception of a failed validation, at most once in TROUBLE_SECONDS.
        """
        self._producer = producer
        self._worker = worker
        self._producer_identify = producer_identify
        self._worker_identify = worker_identify
        self._producer_as_worker = producer_as_worker
        self._admins_operate = admins_operate
        self.clock = clock
        self.revocations = Revocations()
        self._revoked = 0
        """Number of revocations so far: a validation that overlaps one may have seen the state before it."""
        self._on_trouble = on_trouble
        self._troubled_at = -TROUBLE_SECONDS
        self._verdicts: dict[Authorization, Verdict] = {}
        """Verdicts on accepted tokens by header, and on certificates, in the order of their validation."""
        self._validations: dict[str, asyncio.Task[Verdict]] = {}
        """Validations in flight, by header."""

    def known(self, authorization: Authorization, principal: int, scope: str = "") -> Claims | None:
        """Returns the caller, or None if the token's validation has to be awaited, with `authenticate`.

        Args:
            authorization: Header as received, such as "Bearer t0k3n", or certificate; empty if there was neither.
            principal: Number of the codeq.options.v1.Principal that the RPC requires.
            scope: Scope that the token must carry; empty: none.

        Raises:
            Rejection: UNAUTHENTICATED, WRONG_TOKEN_KIND, INVALID_TENANT, MISSING_SCOPE, NOT_ADMIN, NOT_OPERATOR or
                NOT_ALLOWED; LIMIT_REACHED or SERVER_UNREACHABLE if the token cannot be validated at the moment.
        """
        verdict = self._kept(authorization) or self._judge(authorization)
        return None if isinstance(verdict, asyncio.Task) else verdict.claims(principal, scope)

    async def authenticate(self, authorization: Authorization, principal: int, scope: str = "") -> Claims:
        """Returns the caller, once its token is validated; see `known`.

        Raises:
            Rejection: The same as for `known`.
        """
        verdict = self._kept(authorization) or self._judge(authorization)
        if isinstance(verdict, asyncio.Task):
            verdict = await asyncio.shield(verdict)  # others may be waiting for it
        return verdict.claims(principal, scope)

    async def revoke(self, affects: Affects) -> None:
        """Forgets the verdicts on tokens about which a validator has changed its mind, and tells who relies on them.

        The verdicts are forgotten at once. Streams and waiting calls are told in later turns of the event loop.
        """
        self._revoked += 1
        headers = [each for each in self._verdicts if isinstance(each, str)]
        for header in [each for each in headers if affects(each.removeprefix(_BEARER))]:
            del self._verdicts[header]
        await self.revocations.announce(affects)

    def _kept(self, authorization: Authorization) -> Verdict | None:
        """Returns the cached verdict on a header or certificate; drops it if that has expired."""
        verdict = self._verdicts.get(authorization)
        if verdict is not None and verdict.expires_at != NEVER and verdict.expires_at <= self.clock():
            del self._verdicts[authorization]
            return None
        return verdict

    def _judge(self, authorization: Authorization) -> Verdict | asyncio.Task[Verdict]:
        token = bearer(authorization)
        if not token:
            return NOBODY
        if isinstance(token, bytes):
            return self._identified(token)
        header = _BEARER + token  # each token is cached once, however its header is written
        found = self._kept(header) or self._validations.get(header)
        if found is not None:
            return found
        try:
            answers = self._producer.validate(token), self._worker.validate(token)
        except Exception as problem:  # noqa: BLE001 - a validator's failure concerns only its tokens
            return self._fail(problem)
        producer, worker = answers
        if not callable(producer) and not callable(worker):
            return self._decide(header, producer, worker)
        if len(self._validations) >= VALIDATIONS_MAX:
            return _BUSY
        validating = asyncio.get_running_loop().create_task(
            self._validate(token, self._revoked, *answers), name="token-validation"
        )
        self._validations[header] = validating
        validating.add_done_callback(lambda _: self._validations.pop(header))
        return validating

    def _identified(self, certificate: bytes) -> Verdict:
        """Returns the verdict on a certificate."""
        as_producer, as_worker = self._producer_identify, self._worker_identify
        if as_producer is None and as_worker is None:
            return NOBODY
        producer = None if as_producer is None else as_producer(certificate)
        worker = None if as_worker is None else as_worker(certificate)
        if producer is None and worker is None:
            return _NO_IDENTITY
        return self._decide(certificate, producer, worker)

    async def _validate(
        self, token: str, revoked: int, producer: Token | Validation | None, worker: Token | Validation | None
    ) -> Verdict:
        try:
            async with asyncio.timeout(VALIDATION_SECONDS_MAX):
                while True:
                    producer_token = await producer() if callable(producer) else producer
                    worker_token = await worker() if callable(worker) else worker
                    if revoked == self._revoked:
                        break
                    revoked = self._revoked
                    producer, worker = self._producer.validate(token), self._worker.validate(token)
        except Exception as problem:  # noqa: BLE001 - as above
            return self._fail(problem)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # What it waited for was cancelled, such as a request that it shares; its callers were not.
            return self._fail(RuntimeError("a validation was cancelled from within"))
        return self._decide(_BEARER + token, producer_token, worker_token)

    def _decide(
        self, authorization: Authorization, producer_token: Token | None, worker_token: Token | None
    ) -> Verdict:
        """Returns the verdict on a validated token or certificate, and caches it if that is accepted."""
        accepted = [token for token in (producer_token, worker_token) if token is not None]
        if not accepted:  # rejected tokens must not evict accepted ones
            return verdict_of(None, None)
        now = self.clock()
        if not any(token.expires_at > now for token in accepted):
            return refusing(expired(accepted[-1].expires_at, authorization))
        shown = (
            authorization
            if isinstance(authorization, bytes)
            else authorization.removeprefix(_BEARER).encode(errors="surrogatepass")
        )
        digest = hashlib.sha256(shown).digest()
        producer_token, worker_token = _usable(producer_token, now, digest), _usable(worker_token, now, digest)
        if len(self._verdicts) >= CACHED_TOKENS_MAX:
            del self._verdicts[next(iter(self._verdicts))]
        verdict = self._verdicts[authorization] = verdict_of(
            producer_token,
            worker_token,
            producer_as_worker=self._producer_as_worker,
            admins_operate=self._admins_operate,
        )
        return verdict

    def _fail(self, problem: Exception) -> Verdict:
        """Reports a failed validation, and returns the verdict for its callers: the token may be good."""
        now = self.clock()
        if self._on_trouble is not None and not 0 <= now - self._troubled_at < TROUBLE_SECONDS:
            self._troubled_at = now
            self._on_trouble(problem)
        return _UNTOLD


def _usable(token: Token | None, now: float, digest: bytes) -> Token | None:
    return replace(token, digest=digest) if token is not None and token.expires_at > now else None


def bearer(authorization: Authorization) -> Authorization:
    """Returns the token in an authorization header, or the certificate; empty: there is none, or it is too long."""
    if isinstance(authorization, bytes):
        return authorization if len(authorization) <= CERTIFICATE_BYTES_MAX else ""
    if len(authorization) > HEADER_CHARS_MAX:
        return ""
    scheme, _, token = authorization.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
