"""The `mtls` provider: what the certificate of a connection stands for. Its TLS handshake has verified it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID, ObjectIdentifier

from codeq_server.auth.claims import NO_TENANT_CLAIM, Token

NAME_CHARS_MAX: Final = 512
"""Maximum characters of a certificate's name: a longer one stands for nobody."""

REPORT_SECONDS: Final = 10.0
"""Shortest time between two reports of certificates without an identity."""

ANY_TEXT: Final = "*"
"""Stands for any text in the pattern of a name."""

_SANS: Final[dict[str, type[x509.GeneralName]]] = {
    "san-uri": x509.UniformResourceIdentifier,
    "san-dns": x509.DNSName,
    "san-email": x509.RFC822Name,
}
_UNITS: Final[dict[str, ObjectIdentifier]] = {
    "o": NameOID.ORGANIZATION_NAME,
    "ou": NameOID.ORGANIZATIONAL_UNIT_NAME,
}


class NoIdentityError(Exception):
    """A certificate stands for nobody. The text says why."""


class OtherNameError(NoIdentityError):
    """No identity has the certificate's name; another provider may know it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What certificates with certain names stand for.

    Attributes:
        match: The name; ANY_TEXT stands for any text, once.
        subject: Subject; empty: the name.
        tenant: Tenant; empty: as `tenant_from` says.
        tenant_from: Part of the certificate's subject that names the tenant: o or ou; empty: none. Without both there
            is no tenant; the subject is no substitute.
        scopes: Scopes.
        event_types: Commands.
        roles: Roles.
    """

    match: str
    subject: str
    tenant: str
    tenant_from: str
    scopes: frozenset[str]
    event_types: frozenset[str]
    roles: frozenset[str]

    def matches(self, name: str) -> bool:
        """Returns whether certificates of this name have the identity."""
        before, star, after = self.match.partition(ANY_TEXT)
        if not star:
            return name == self.match
        return len(name) >= len(before) + len(after) and name.startswith(before) and name.endswith(after)


class Identities:
    """Identifies certificates.

    Args:
        part: Part of a certificate that is its name: cn, san-uri, san-dns or san-email.
        identities: The identities; the first that matches counts.
        clock: Returns the Unix time in seconds.
        report: Called with `certificate_rejected` and why, at most once in REPORT_SECONDS; about names of no identity
            only until a certificate had one: then the configuration is right, and others are meant for other providers.
    """

    def __init__(
        self,
        part: str,
        identities: Sequence[Identity],
        *,
        clock: Callable[[], float] = time.time,
        report: Callable[[str, str], None] = lambda _event, _details: None,
    ) -> None:
        self._part = part
        self._identities = tuple(identities)
        self._clock = clock
        self._report = report
        self._reported_at = -math.inf
        self._has_identified = False

    def identify(self, certificate: bytes) -> Token | None:
        """Returns what a certificate, in DER, stands for until it expires; None: nobody."""
        try:
            token = self._identified(certificate)
        except NoIdentityError as reason:
            self._reject(reason)
            return None
        self._has_identified = True
        return token

    def _identified(self, certificate: bytes) -> Token:
        try:
            parsed = x509.load_der_x509_certificate(certificate)
            name = _only(_names(parsed, self._part), self._part)
            expires_at = parsed.not_valid_after_utc.timestamp()
            for identity in self._identities:
                if identity.matches(name):
                    by_part = identity.tenant_from
                    tenant = _unit(parsed, by_part) if by_part else identity.tenant or NO_TENANT_CLAIM
                    raw = {"roles": sorted(identity.roles), "tenantId": tenant}
                    return Token(identity.subject or name, "", identity.scopes, identity.event_types, raw, expires_at)
        except NoIdentityError:
            raise
        except Exception as problem:  # noqa: BLE001 - exceptions of the parser have no common class
            raise NoIdentityError(f"the certificate cannot be read: {problem}") from None
        raise OtherNameError(f"no identity matches its name {name!r}")

    def _reject(self, reason: NoIdentityError) -> None:
        if self._has_identified and isinstance(reason, OtherNameError):
            return
        now = self._clock()
        if not 0 <= now - self._reported_at < REPORT_SECONDS:
            self._reported_at = now
            self._report("certificate_rejected", str(reason))


def _names(certificate: x509.Certificate, part: str) -> list[str]:
    kind = _SANS.get(part)
    if kind is None:
        return _values(certificate, NameOID.COMMON_NAME)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names if isinstance(name, kind)]


def _only(names: Sequence[str], part: str) -> str:
    """Returns the name of a certificate.

    Raises:
        NoIdentityError: It has none, several, or an unusable one.
    """
    if len(names) != 1:
        raise NoIdentityError(f"it has {len(names)} names of the kind {part}, not one")
    (name,) = names
    if not 0 < len(name) <= NAME_CHARS_MAX or not name.isprintable() or name.strip() != name:
        raise NoIdentityError(f"its {part} is empty, too long or has unusual characters")
    return name


def _unit(certificate: x509.Certificate, part: str) -> str | None:
    """Returns the only value of a part of the subject; None, which is no tenant: there is none, or several."""
    values = _values(certificate, _UNITS[part])
    return values[0] if len(values) == 1 else None


def _values(certificate: x509.Certificate, part: ObjectIdentifier) -> list[str]:
    return [str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(part)]
