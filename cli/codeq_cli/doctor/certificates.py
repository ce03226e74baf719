"""Checks of certificates and keys: do they belong together, when do they end, who can read the keys?"""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from codeq_server.config import ConfigError, ProcessSettings, RestSettings, Settings
from codeq_server.node.certificates import WARN_SECONDS, check_files
from cryptography import x509

from codeq_cli.doctor.findings import Finding, error, fine, warning

CHECK: Final = "certificates"
_DAY: Final = 86_400


def check_certificates(settings: ProcessSettings, *, rest: bool) -> Iterator[Finding]:
    """Yields findings about the files of TLS that the settings name."""
    try:
        check_files(settings, rest=rest)
    except ConfigError as wrong:
        remedy = f"replace the file that {wrong.key} names: certificate and key in PEM, the key without a password"
        yield error(CHECK, f"{wrong.key}: {wrong.message}", remedy)
    certificates, keys = _files(settings)
    for path in certificates:
        yield from _ends(path)
    for path in keys:
        try:
            mode = path.stat().st_mode
        except OSError:
            continue  # found above
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            yield warning(CHECK, f"every user of this machine can read the private key {path}", f"chmod o= {path}")


def _files(settings: ProcessSettings) -> tuple[list[Path], list[Path]]:
    """Returns the files with certificates, CAs among them, and those with private keys; each once."""
    certificates: list[Path | None] = []
    keys: list[Path | None] = []
    listeners = [settings.http_tls] if isinstance(settings, RestSettings) else []
    if isinstance(settings, Settings):
        listeners.append(settings.grpc_tls)
        if settings.raft is not None:
            certificates += [settings.raft.tls_cert, settings.raft.tls_ca]
            keys.append(settings.raft.tls_key)
    for tls in listeners:
        if tls is not None:
            certificates += [tls.certificate, tls.client_ca]
            keys.append(tls.key)
    if settings.server_tls is not None:
        certificates += [settings.server_tls.ca, settings.server_tls.certificate]
        keys.append(settings.server_tls.key)
    return [*dict.fromkeys(filter(None, certificates))], [*dict.fromkeys(filter(None, keys))]


def _ends(path: Path) -> Iterator[Finding]:
    """Yields a finding about the validity of the certificate in a file that ends first."""
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError):
        return  # found by reading the files as the server does
    now = time.time()
    begins = max(each.not_valid_before_utc.timestamp() for each in found)
    ends = min(each.not_valid_after_utc.timestamp() for each in found)
    day = time.strftime("%Y-%m-%d", time.gmtime(ends))
    if ends <= now:
        yield error(CHECK, f"{path} has expired on {day}", "replace it; a running server reads it again")
    elif begins > now:
        text = f"{path} is valid only from {time.strftime('%Y-%m-%d %H:%M', time.gmtime(begins))} UTC on"
        yield error(CHECK, text, "correct the clock of this machine, or replace the certificate")
    elif ends - now < WARN_SECONDS:
        text = f"{path} expires on {day}, in {int((ends - now) // _DAY)} days"
        yield warning(CHECK, text, "renew it; a running server reads it again")
    else:
        yield fine(CHECK, f"{path} is valid until {day}")
