"""What a token says about its holder, and the tenant that follows from it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

WILDCARD: Final = "*"
"""Event type that stands for every command."""

ADMIN_SCOPE: Final = "codeq:admin"
"""Scope that makes a producer token an administrator's; the role ADMIN does the same."""

ADMIN_ROLE: Final = "ADMIN"

WORKER_SCOPES: Final = frozenset(
    {"codeq:claim", "codeq:heartbeat", "codeq:abandon", "codeq:nack", "codeq:result", "codeq:subscribe"}
)
"""Every scope of a worker."""

_TENANT_CLAIMS: Final = ("tid", "tenantId", "tenant_id", "organizationId", "organization_id")
TENANT: Final = re.compile(r"[a-z][a-z0-9-]{1,62}", re.ASCII)
"""What names of tenants look like."""


class InvalidTenantError(ValueError):
    """The claims name no tenant, a malformed one, or two different ones. Values are not repeated in the text."""

    def __init__(self) -> None:
        super().__init__("invalid tenant claims")


@dataclass(frozen=True, slots=True)
class Token:
    """What a validator knows about the holder of a token that it accepted.

    Attributes:
        subject: Who holds the token; the worker id of a worker.
        email: Address of the holder; empty when not told.
        scopes: Scopes such as "codeq:claim".
        event_types: Commands that the holder may work on; "*" means all.
        raw: All claims, such as `role` and `tenantId`.
    """

    subject: str
    email: str
    scopes: frozenset[str]
    event_types: frozenset[str]
    raw: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Claims:
    """An authenticated caller.

    Attributes:
        subject: Who calls; the worker id of a worker.
        tenant_id: Tenant whose tasks the caller sees.
        scopes: Scopes such as "codeq:claim".
        event_types: Commands that the caller may work on; "*" means all.
        role: Role in capitals; "USER" when the token names none.
        is_admin: Whether calls for administrators are allowed, if the token is a producer's.
    """

    subject: str
    tenant_id: str
    scopes: frozenset[str]
    event_types: frozenset[str]
    role: str
    is_admin: bool

    @property
    def allows_every_command(self) -> bool:
        """Whether the token is limited to no command."""
        return WILDCARD in self.event_types

    def allows_command(self, command: str) -> bool:
        """Returns whether the caller may work on tasks of the command."""
        return command in self.event_types or WILDCARD in self.event_types


def claims_of(token: Token) -> Claims:
    """Returns the caller that a token stands for.

    Raises:
        InvalidTenantError: No tenant follows from the token.
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
    )


def tenant_of(subject: str, raw: Mapping[str, object]) -> str:
    """Returns the tenant: what all tenant claims that are present agree on, else the subject.

    Raises:
        InvalidTenantError: A claim is no text or malformed, two differ, or there is none and the subject is malformed.
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
