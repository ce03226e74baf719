"""Which files of TLS each kind of connection uses, and which combinations of these settings make no sense."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from codeq_server.config.declaration import settings_of

if TYPE_CHECKING:
    from codeq_server.config.settings import ProcessSettings
    from codeq_server.config.sources import GivenSettings

OWN: Final = ("http_", "grpc_")
"""Prefixes of settings for some listeners only."""


@dataclass(frozen=True, slots=True)
class ListenerTls:
    """Files of a listener.

    Attributes:
        name: Setting that names the certificate.
        certificate: PEM file with its certificate, and those between it and the CA.
        key: PEM file with the private key.
        client_ca: PEM file with the CAs of clients; None: clients present no certificates.
        requires_client: Whether a client without a certificate is rejected.
        client_ca_name: Setting that names these CAs.
    """

    name: str
    certificate: Path
    key: Path
    client_ca: Path | None
    requires_client: bool
    client_ca_name: str = "tls_client_ca_file"

    @property
    def key_name(self) -> str:
        """Setting that names the key."""
        return self.name.replace("cert", "key")

    def asks_clients(self, *, over_grpc: bool) -> bool:
        """Returns whether it asks clients for certificates: gRPC does only if it requires them."""
        return self.client_ca is not None and (self.requires_client or not over_grpc)


@dataclass(frozen=True, slots=True)
class ClientTls:
    """Files of connections to servers.

    Attributes:
        name: Setting that names the CAs; it stands for all of them in messages.
        ca: PEM file with the CAs of servers.
        certificate: PEM file with the certificate to present; None: none.
        key: PEM file with its private key.
    """

    name: str
    ca: Path
    certificate: Path | None
    key: Path | None


def tls_of(settings: Any, prefix: str) -> ListenerTls | None:
    """Returns the files of the listeners whose own settings have a prefix; None: they use plaintext.

    A listener's own certificate and key replace the common ones together; the other settings replace them one by one.
    """
    source = prefix if getattr(settings, f"{prefix}tls_cert_file") is not None else ""
    certificate, key = getattr(settings, f"{source}tls_cert_file"), getattr(settings, f"{source}tls_key_file")
    if certificate is None or key is None:
        return None
    own = f"{prefix}tls_client_ca_file"
    client_ca_name = own if getattr(settings, own) is not None else "tls_client_ca_file"
    auth = getattr(settings, f"{prefix}tls_client_auth") or settings.tls_client_auth
    client_ca = getattr(settings, client_ca_name)
    return ListenerTls(f"{source}tls_cert_file", certificate, key, client_ca, auth == "require", client_ca_name)


def client_tls_of(settings: ProcessSettings) -> ClientTls | None:
    """Returns the files of connections to servers; None: they use plaintext."""
    ca = settings.server_tls_ca_file
    if ca is None:
        return None
    return ClientTls("server_tls_ca_file", ca, settings.server_tls_cert_file, settings.server_tls_key_file)


def check(given: GivenSettings, settings: ProcessSettings) -> None:
    """Rejects incomplete files of TLS, and settings of TLS without effect.

    Raises:
        ConfigError: A file is missing, or a setting needs another one.
    """
    names = settings_of(type(settings))
    prefixes = [prefix for prefix in OWN if f"{prefix}tls_cert_file" in names]
    for prefix in ("", *prefixes, "server_"):
        _check_pair(given, settings, prefix)
    if not any(given.has(f"{prefix}tls_cert_file") for prefix in ("", *OWN)):
        _refuse_alone(given, settings, "")
    for prefix in prefixes:
        tls = tls_of(settings, prefix)
        if tls is None:
            _refuse_alone(given, settings, prefix)
        elif tls.requires_client and tls.client_ca is None:
            name = f"{prefix}tls_client_auth" if given.has(f"{prefix}tls_client_auth") else "tls_client_auth"
            raise given.error(name, f"require needs {given.key('tls_client_ca_file')}, the CAs of the clients")
    if settings.server_tls_ca_file is None and settings.server_tls_cert_file is not None:
        raise given.error("server_tls_cert_file", f"needs {given.key('server_tls_ca_file')}, the CAs of the servers")
    for name in names:
        path = getattr(settings, name)
        if "tls_" in name and path is not None and name.endswith("_file"):
            given.check_file(name, path)


def _check_pair(given: GivenSettings, settings: ProcessSettings, prefix: str) -> None:
    certificate, key = f"{prefix}tls_cert_file", f"{prefix}tls_key_file"
    for name, other in ((certificate, key), (key, certificate)):
        if getattr(settings, name) is not None and getattr(settings, other) is None:
            raise given.error(name, f"needs {given.key(other)}: certificate and key belong together")


def _refuse_alone(given: GivenSettings, settings: ProcessSettings, prefix: str) -> None:
    """Rejects settings about clients' certificates if there is no TLS."""
    ca, auth = f"{prefix}tls_client_ca_file", f"{prefix}tls_client_auth"
    for name, is_set in ((ca, given.has(ca)), (auth, getattr(settings, auth, None) == "require")):
        if is_set:
            raise given.error(name, f"has no effect without {given.key(f'{prefix}tls_cert_file')}")
