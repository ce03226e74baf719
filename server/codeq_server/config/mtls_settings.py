"""Settings of the provider `mtls`, for which certificates of clients are identities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from codeq_server.auth.claims import OPERATOR_SCOPE, TENANT
from codeq_server.auth.static import StaticValidator
from codeq_server.config.declaration import Group, required, setting
from codeq_server.config.forms import Choice, Items, Text, Texts
from codeq_server.config.given import Given
from codeq_server.config.provider import Built, Provider, ProviderLog
from codeq_server.config.static_settings import COMMAND

IDENTITIES_MAX: Final = 1_000
"""Maximum number of identities of one provider."""

_NAME: Final = Text(1, 512)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentitySettings:
    """What the certificates of one name, or of similar names, stand for."""

    match: str = required(
        Text(1, 512, r"[^*]*\*?[^*]*", "a name of 1 to 512 characters with at most one `*`"),
        "name of the certificate; `*` stands for any text, also for `/` and `.`, once",
    )
    subject: str = setting(_NAME, "", "identity of the caller; a worker's id", unset="the name of the certificate")
    tenant: str = setting(
        Text(pattern=TENANT.pattern, expects=f"a name that matches `{TENANT.pattern}`"),
        "",
        "[tenant](#tokens). Give it or `tenantFrom`; only an operator needs neither",
    )
    tenant_from: str = setting(
        Choice(["o", "ou"]), "", "part of the certificate's subject that names the tenant: organization or unit"
    )
    scopes: frozenset[str] = setting(Texts(Text(1)), frozenset(), "as of a static token")
    event_types: frozenset[str] = setting(Texts(COMMAND), frozenset(), "as of a static token")
    roles: frozenset[str] = setting(Texts(Text(1)), frozenset(), "[`ADMIN` or `VIEWER`](security.md#roles)")


@dataclass(frozen=True, slots=True, kw_only=True)
class MtlsAuthSettings:
    """Configuration of the provider `mtls`."""

    subject: str = setting(
        Choice(["cn", "san-uri", "san-dns", "san-email"]),
        "cn",
        "part of a certificate that is its name: the common name, or the subject's alternative name of this kind. A "
        "certificate with none or several of them stands for nobody",
    )
    identities: tuple[IdentitySettings, ...] = required(
        Items(Group(IdentitySettings), 1, IDENTITIES_MAX, "identities"),
        "what certificates stand for, in order; the first with a matching name counts",
    )


class MtlsProvider(Provider[MtlsAuthSettings]):
    """Accepts the certificates that clients show in the TLS handshake, and no tokens."""

    tables = (MtlsAuthSettings, IdentitySettings)
    takes_certificates = True

    def read(self, given: Given, role: str, *, files: bool) -> MtlsAuthSettings:
        """Returns the configuration; see `Provider.read`."""
        del files
        settings = _GROUP.read(given)
        names: dict[str, int] = {}
        for number, identity in enumerate(settings.identities):
            item = given.inner("identities", None).item(number, None)
            first = names.setdefault(identity.match, number)
            if first != number:
                raise item.inner("match", None).error(f"is the same as that of [{first}]")
            _check(item, identity, role)
        return settings

    def show(self, config: MtlsAuthSettings) -> object:
        """Returns the configuration; it has no secrets."""
        return _GROUP.show(config)

    def build(self, config: MtlsAuthSettings, key: str, role: str, log: ProviderLog) -> Built:
        """Returns what identifies certificates; see `Provider.build`."""
        del key, role
        # Imported only here: it loads a library for certificates, which takes as long as a command of the CLI.
        from codeq_server.auth.mtls import Identities, Identity  # noqa: PLC0415

        identities = [
            Identity(
                match=each.match,
                subject=each.subject.strip(),
                tenant=each.tenant,
                tenant_from=each.tenant_from,
                scopes=each.scopes,
                event_types=each.event_types,
                roles=each.roles,
            )
            for each in config.identities
        ]
        return Built(StaticValidator(), identify=Identities(config.subject, identities, report=log.provider).identify)


_GROUP: Final = Group(MtlsAuthSettings)


def _check(given: Given, identity: IdentitySettings, role: str) -> None:
    """Checks that an identity may do something, for one tenant.

    Raises:
        ConfigError: It may not.
    """
    if identity.tenant and identity.tenant_from:
        raise given.inner("tenantFrom", None).error("is given together with tenant: give one of them")
    if role == "worker" and not (identity.scopes and identity.event_types):
        raise given.error("a worker needs scopes and eventTypes: without them it may do nothing")
    is_operator = role == "producer" and OPERATOR_SCOPE in identity.scopes
    if not identity.tenant and not identity.tenant_from and not is_operator:
        raise given.inner("tenant", None).error("is required, or tenantFrom instead")
