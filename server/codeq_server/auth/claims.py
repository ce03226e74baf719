"""Claims of a token, and the tenant and the rights derived from them."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from codeq_server.core.errors import Reason, Rejection

WILDCARD: Final = "*"
"""Event type that stands for every command."""

ADMIN_SCOPE: Final = "codeq:admin"
"""Scope that makes the holder of a producer token an administrator; the role ADMIN does the same."""

ADMIN_ROLE: Final = "ADMIN"

OPERATOR_SCOPE: Final = "codeq:operator"
"""Scope that makes the holder of a producer token an operator of the whole server. No role does the same: often the
tenants themselves assign roles."""

VIEWER_SCOPE: Final = "codeq:viewer"
"""Scope that makes the holder of a token a viewer, who only reads; the role VIEWER does the same."""

DEFAULT_ROLE: Final = "USER"
"""Role of a token whose claims name none."""

VIEWER_ROLE: Final = "VIEWER"

RIGHTS_SCOPES: Final = frozenset({ADMIN_SCOPE, OPERATOR_SCOPE, VIEWER_SCOPE})
"""Every scope with a meaning on a producer token."""

EVERY_COMMAND: Final = frozenset({WILDCARD})

WORKER_SCOPES: Final = frozenset(
    {"codeq:claim", "codeq:heartbeat", "codeq:abandon", "codeq:nack", "codeq:result", "codeq:subscribe"}
)
"""Every scope of a worker."""

NEVER: Final = math.inf
"""Expiry of a token that does not expire."""

_NO_TENANT: Final = ""
"""Tenant of operators whose token names none."""

NO_TENANT_CLAIM: Final = object()
"""Value of `tenantId` if the configured tenant claim is missing: no other claim and no subject stands for it."""

_TENANT_CLAIMS: Final = ("tid", "tenantId", "tenant_id", "organizationId", "organization_id")
_CAPITALS: Final = str.maketrans(string.ascii_lowercase, string.ascii_uppercase)
"""Makes capitals of ASCII letters only: capitals of some other letters are ASCII, such as that of a dotless i."""
_SEPARATORS: Final = re.compile(r"[\s,]+")

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
        event_types: Commands of the holder; "*" means all.
        raw: All claims, such as `role` and `tenantId`.
        expires_at: When the token ends, in seconds of Unix time; NEVER if it does not.
        digest: SHA-256 of the token; the authenticator sets it.
    """

    subject: str
    email: str
    scopes: frozenset[str]
    event_types: frozenset[str]
    raw: Mapping[str, object]
    expires_at: float = NEVER
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class Claims:
    """An authenticated caller.

    Attributes:
        subject: Subject of the caller; the worker id of a worker.
        tenant_id: Tenant whose tasks the caller sees; empty: none, which only operators have.
        scopes: Scopes such as "codeq:claim".
        event_types: Commands that the caller may work on; "*" means all.
        role: Role in capitals; "USER" if the token names none.
        is_admin: Whether the caller administers the tenant, if the token is a producer's.
        expires_at: When the token ends, in seconds of Unix time; NEVER if it does not.
        is_operator: Whether the caller operates the whole server, if the token is a producer's.
        is_viewer: Whether the caller only reads, and without the content of tasks unless the server shows it.
        commands: Commands whose tasks the caller sees, creates and changes; "*" means all. A worker sees all.
        token_key: SHA-256 of the token. Claims of different tokens may be equal.
    """

    subject: str
    tenant_id: str
    scopes: frozenset[str]
    event_types: frozenset[str]
    role: str
    is_admin: bool
    expires_at: float = NEVER
    is_operator: bool = False
    is_viewer: bool = False
    commands: frozenset[str] = EVERY_COMMAND
    token_key: bytes = field(default=b"", compare=False, repr=False)

    @property
    def allows_every_command(self) -> bool:
        """Whether the caller may work on every command."""
        return WILDCARD in self.event_types

    def allows_command(self, command: str) -> bool:
        """Returns whether the caller may work on tasks of the command."""
        return command in self.event_types or WILDCARD in self.event_types

    @property
    def seen_commands(self) -> frozenset[str] | None:
        """Commands whose tasks the caller sees; None: all."""
        return None if WILDCARD in self.commands else self.commands

    def sees(self, command: str) -> bool:
        """Returns whether the caller sees, and as a producer may create and change, tasks of the command."""
        return command in self.commands or WILDCARD in self.commands

    def check_command(self, command: str) -> None:
        """Checks that the caller sees the tasks of the command.

        Raises:
            Rejection: COMMAND_NOT_ALLOWED.
        """
        if not self.sees(command):
            raise Rejection(Reason.COMMAND_NOT_ALLOWED, f"the token does not allow the command {command}")

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
        InvalidTenantError: No valid tenant can be derived from the token, and it is not an operator's.
    """
    roles = roles_of(token.raw)
    is_admin = ADMIN_ROLE in roles or ADMIN_SCOPE in token.scopes
    is_operator = OPERATOR_SCOPE in token.scopes
    return Claims(
        subject=token.subject,
        tenant_id=tenant_of(token.subject, token.raw, token.scopes),
        scopes=token.scopes,
        event_types=token.event_types,
        role=roles[0] if roles else DEFAULT_ROLE,
        is_admin=is_admin,
        expires_at=token.expires_at,
        is_operator=is_operator,
        is_viewer=not (is_admin or is_operator) and (_is_viewer(token.raw) or VIEWER_SCOPE in token.scopes),
        token_key=token.digest,
    )


def roles_of(raw: Mapping[str, object]) -> list[str]:
    """Returns the roles of the claims `role`, a string, and `roles`, an array of strings; in capitals."""
    several = raw.get("roles")
    named = [raw.get("role"), *(several if isinstance(several, list | tuple) else ())]
    return [role for each in named if isinstance(each, str) and (role := each.strip().translate(_CAPITALS))]


def _is_viewer(raw: Mapping[str, object]) -> bool:
    """Returns whether a claim names the viewer's role, in whatever form: a role that takes rights away counts anyhow.

    A role that gives rights counts only as `roles_of` reads it.
    """
    for claim in ("role", "roles"):
        value = raw.get(claim)
        for text in value if isinstance(value, list | tuple) else (value,):
            if isinstance(text, str) and VIEWER_ROLE in _SEPARATORS.split(text.translate(_CAPITALS)):
                return True
    return False


def tenant_of(subject: str, raw: Mapping[str, object], scopes: frozenset[str] = frozenset()) -> str:
    """Returns the tenant named by the tenant claims, which must agree; without any of them, the subject.

    An operator needs no tenant: its token may have no tenant claim and any subject, or lack the configured claim, and
    then the tenant is empty.

    Raises:
        InvalidTenantError: A claim is not a string or is malformed, two claims differ, or no claim is given and the
            subject is malformed.
    """
    is_operator = OPERATOR_SCOPE in scopes
    if is_operator and raw.get("tenantId") is NO_TENANT_CLAIM:
        return _NO_TENANT
    named = [_tenant(raw[claim]) for claim in _TENANT_CLAIMS if claim in raw]
    if not named:
        if is_operator and TENANT.fullmatch(subject.strip()) is None:
            return _NO_TENANT
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
