"""A certificate authority for tests: it signs certificates for the loopback and writes them as PEM files."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True)
class Pair:
    """A certificate with its key, as PEM."""

    certificate: bytes
    key: bytes

    @property
    def der(self) -> bytes:
        """The certificate in DER."""
        return ssl.PEM_cert_to_DER_cert(self.certificate.decode())

    @property
    def serial(self) -> int:
        """Serial number of the certificate."""
        return x509.load_pem_x509_certificate(self.certificate).serial_number


@dataclass(frozen=True)
class Files:
    """Files of one party.

    Attributes:
        certificate: Its certificate.
        key: The private key.
        ca: Certificate of the authority.
    """

    certificate: Path
    key: Path
    ca: Path

    @property
    def server_env(self) -> dict[str, str]:
        """Variables of a server that uses them for all listeners."""
        return {"TLS_CERT_FILE": str(self.certificate), "TLS_KEY_FILE": str(self.key)}

    def write(self, pair: Pair) -> None:
        """Replaces certificate and key, each at once."""
        replace(self.certificate, pair.certificate)
        replace(self.key, pair.key)


LOOPBACK = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
"""Alternative names of a server that listens on the loopback."""


class Authority:
    """An authority with a key of its own."""

    def __init__(self, name: str = "authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        key = self._key.public_key()
        builder = _begun(self._name, self._name, key, days=30)
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        builder = builder.add_extension(constraints, critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        self.pem = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def sign(
        self,
        name: str | Sequence[str] = "server",
        days: float = 30,
        *,
        names: Sequence[x509.GeneralName] = LOOPBACK,
        units: Sequence[str] = (),
        organization: str = "",
    ) -> Pair:
        """Returns a certificate.

        Args:
            name: Common name, or several.
            days: Validity from now on; below 0: it has expired.
            names: Alternative names; none: it lacks the extension.
            units: Organizational units of the subject.
            organization: Organization of the subject; empty: none.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = [
            *(x509.NameAttribute(NameOID.COMMON_NAME, each) for each in ([name] if isinstance(name, str) else name)),
            *(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit) for unit in units),
            *([x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)] if organization else []),
        ]
        builder = _begun(x509.Name(subject), self._name, key.public_key(), days)
        usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        signed = builder.sign(self._key, hashes.SHA256())
        return Pair(
            signed.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )

    def files(self, folder: Path, name: str = "server", days: float = 30, pair: Pair | None = None) -> Files:
        """Returns the files of a party with a new certificate, or with the given one."""
        folder.mkdir(parents=True, exist_ok=True)
        files = Files(folder / f"{name}.pem", folder / f"{name}.key", folder / "ca.pem")
        replace(files.ca, self.pem)
        files.write(pair or self.sign(name, days))
        return files


def trusting(files: Files, *, certificate: bool = False) -> ssl.SSLContext:
    """Returns the context of a client that trusts the authority of some files, and presents their certificate."""
    context = ssl.create_default_context(cafile=files.ca)
    if certificate:
        context.load_cert_chain(files.certificate, files.key)
    return context


def replace(path: Path, content: bytes) -> None:
    """Replaces a file at once."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(content)
    draft.replace(path)


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=max(1.0, 1 - days)))
        .not_valid_after(now + datetime.timedelta(days=days))
    )
