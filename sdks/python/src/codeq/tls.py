"""TLS of connections to servers: which certificates are trusted and shown."""

from __future__ import annotations

import contextlib
import os
import pathlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

CA_VARIABLE: Final = "CODEQ_TLS_CA_FILE"
CERTIFICATE_VARIABLE: Final = "CODEQ_TLS_CERT_FILE"
KEY_VARIABLE: Final = "CODEQ_TLS_KEY_FILE"

_ALPN: Final = "h2"

Path = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files for TLS. Changed files are read again for the next connection, unless they cannot be used.

    Attributes:
        ca: Certificates of the authorities that servers' certificates come from; None: the system's roots.
        certificate: Certificate to present, with those between it and its authority; None: none.
        key: Its private key, without a password.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: set both or neither")


Tls = bool | ssl.SSLContext | TlsFiles | None
"""False: plaintext; True: TLS with the system's roots; files; or a custom context. None: the files that the environment
names; plaintext if it names none."""

ContextSource = Callable[[], ssl.SSLContext]
"""Returns the context for the next connection; it may read files."""


def source_of(tls: Tls) -> ContextSource | None:
    """Returns the source of contexts for connections; None: plaintext. Sets ALPN to HTTP/2, on a caller's context too.

    Raises:
        TypeError: It is of another type.
        ValueError: Files cannot be used.
    """
    if tls is None:
        tls = _files_of_environment() or False
    if tls is False:
        return None
    if isinstance(tls, TlsFiles):
        return _Reloaded(tls)
    context = ssl.create_default_context() if tls is True else tls
    if not isinstance(context, ssl.SSLContext):
        raise TypeError("tls takes None, False, True, a codeq.TlsFiles or an ssl.SSLContext")
    context.set_alpn_protocols([_ALPN])
    return lambda: context


def shows_certificate(source: ContextSource | None) -> bool:
    """Returns whether connections show a certificate of files, which may be renewed."""
    return isinstance(source, _Reloaded) and source.files.certificate is not None


def check_alpn(chosen: str | None) -> None:
    """Checks the protocol that a server has chosen.

    Raises:
        ssl.SSLError: It is not HTTP/2.
    """
    if chosen != _ALPN:
        raise ssl.SSLError("the server does not speak HTTP/2")


class _Reloaded:
    """Makes a context of files, and a new one when they have changed."""

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        self._paths = [path for path in (files.ca, files.certificate, files.key) if path is not None]
        self._seen = self._look()
        self._context = self._load()

    def __call__(self) -> ssl.SSLContext:
        seen = self._look()
        if seen != self._seen:
            with contextlib.suppress(ValueError):  # half written, or not all replaced: the next connection tries again
                self._context, self._seen = self._load(), seen
        return self._context

    def _look(self) -> list[object]:
        found: list[object] = []
        for path in self._paths:
            try:
                status = pathlib.Path(path).stat()
            except OSError as error:
                found.append(error.errno)
            else:
                found.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
        return found

    def _load(self) -> ssl.SSLContext:
        ca, certificate, key = self.files.ca, self.files.certificate, self.files.key
        try:
            context = ssl.create_default_context(cafile=ca)
        except OSError as error:
            raise ValueError(f"tls: no certificates in {ca}: {error.strerror or error}") from None
        if certificate is not None:
            try:
                # Never ask for a password: the empty one fails at once.
                context.load_cert_chain(certificate, key, password="")
            except OSError as error:
                reason = error.strerror or error
                raise ValueError(f"tls: {certificate} and {key} are not a certificate and its key: {reason}") from None
        context.set_alpn_protocols([_ALPN])
        return context


def _files_of_environment() -> TlsFiles | None:
    ca, certificate, key = (os.environ.get(name) or None for name in (CA_VARIABLE, CERTIFICATE_VARIABLE, KEY_VARIABLE))
    if (certificate is None) != (key is None):
        raise ValueError(f"{CERTIFICATE_VARIABLE} and {KEY_VARIABLE} belong together: set both or neither")
    return TlsFiles(ca, certificate, key) if ca or certificate else None
