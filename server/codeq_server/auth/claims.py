"""Claims of a token, and the tenant derived from them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from codeq_server.core.errors import Reason, Rejection

WILDCARD: Final = "*"
"""Event type that stands for every command."""

ADMIN_SCOPE: Final = "codeq:admin"
"""Scope that makes the holder of a producer token an administrator; the role ADMIN does the same."""

ADMIN_ROLE: Final = "ADMIN"

WORKER_SCOPES: Final = frozenset(
    {"codeq:claim", "codeq:heartbeat", "codeq:abandon", "codeq:nack", "codeq:result", "codeq:subscribe"}
)
"""Every scope of a worker."""

NEVER: Final = math.inf
"""Expiry of a token that does not expire."""

_TENANT_CLAIMS: Final = ("tid", "tenantId", "tenant_id", "organizationId", "organization_id")
TENANT: Final = re.compile(r"[a-z][a-z0-9-]{1,62}", re.ASCII)
"""Pattern of tenant names."""


class InvalidTenantError(ValueError):
    """The claims contain no tenant, a malformed one, or two different ones. The text repeats no values."""

    def __init__(self) -> None:
        super().__init__("invalid tenant claims")


@dataclass(frozen=True, slots=True)
class Token:
    """Content of an accepted token.

    Attributes:
        subject: Holder of the token; the worker id of a worker.
        email: Email address of the holder; empty if not given.
        scopes: Scopes such as "codeq:claim".
        event_types: Commands that the holder may work on; "*" means all.
        raw: All claims, such as `role` and `tenantId`.
        expires_at: When the token ends, in seconds of Unix time; NEVER if it does not.
    """

    subject: str
    email: str
    scopes: frozenset[str]
    event_types: frozenset[str]
    raw: Mapping[str, object]
    expires_at: float = NEVER


@dataclass(frozen=True, slots=True)
class Claims:
    """An authenticated caller.

    Attributes:
        subject: Subject of the caller; the worker id of a worker.
        tenant_id: Tenant whose tasks the caller sees.
        scopes: Scopes such as "codeq:claim".
        event_types: Commands that the caller may work on; "*" means all.
        role: Role in capitals; "USER" if the token names none.
        is_admin: Whether administrative calls are allowed, if the token is a producer's.
        expires_at: When the token ends, in seconds of Unix time; NEVER if it does not.
    """

    subject: str
    tenant_id: str
    scopes: frozenset[str]
    event_types: frozenset[str]
    role: str
    is_admin: bool
    expires_at: float = NEVER

    @property
    def allows_every_command(self) -> bool:
        """Whether the token allows every command."""
        return WILDCARD in self.event_types

    def allows_command(self, command: str) -> bool:
        """Returns whether the caller may work on tasks of the command."""
        return command in self.event_types or WILDCARD in self.event_types

    def require(self, scope: str) -> None:
        """Checks that the caller has a scope.

        Raises:
            Rejection: MISSING_SCOPE.
        """
        if scope not in self.scopes:
            raise Rejection(Reason.MISSING_SCOPE, f"missing scope {scope}")

    def patience(self, seconds: float, now: float) -> float:
        """Returns how long a call of the caller may wait: the given seconds, but not past the end of the token.

        Args:
            seconds: How long the caller is willing to wait.
            now: Unix time in seconds.
        """
        return max(0.0, min(seconds, self.expires_at - now))


def claims_of(token: Token) -> Claims:
    """Returns the claims of a token's holder.

    Raises:
        InvalidTenantError: No valid tenant can be derived from the token.
    """
    named = token.raw.get("role")
    role = named.strip().upper() if isinstance(named, str) else ""
    return Claims(
        subject=token.subject,
        tenant_id=tenant_of(token.subject, token.raw),
        scopes=token.scopes,
        event_types=token.event_types,
        role=role or "USER",
        is_admin=role == ADMIN_ROLE or ADMIN_SCOPE in token.scopes,
        expires_at=token.expires_at,
    )


def tenant_of(subject: str, raw: Mapping[str, object]) -> str:
    """Returns the tenant named by the tenant claims, which must agree; without any of them, the subject.

    Raises:
        InvalidTenantError: A claim is not a string or is malformed, two claims differ, or no claim is given and the
            subject is malformed.
    """
    named = [_tenant(raw[claim]) for claim in _TENANT_CLAIMS if claim in raw]
    if not named:
        return _tenant(subject)
    if any(tenant != named[0] for tenant in named):
        raise InvalidTenantError
    return named[0]


def _tenant(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidTenantError
    tenant = value.strip()
    if TENANT.fullmatch(tenant) is None:
        raise InvalidTenantError
    return tenant
