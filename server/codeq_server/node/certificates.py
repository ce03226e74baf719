"""Certificates of listeners and of connections to servers: read, checked, and read again when their files change.

A changed set of files is tried apart from the one in use, which stays until the new one has proved usable: files that
are half written or do not belong together change nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast

import grpc
import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from codeq_server.config import ClientTls, ConfigError, ListenerTls, ProcessSettings, RestSettings, Settings
from codeq_server.config.declaration import variable

LOOK_SECONDS = 1.0
"""Interval between looks at the files."""

FILE_BYTES_MAX: Final = 1 << 20
"""Maximum size of one file; a bundle of all public CAs has a quarter of it."""

WARN_SECONDS: Final = 14 * 86_400
"""Time before a certificate expires from which the log warns."""

WARN_AGAIN_SECONDS: Final = 86_400
"""Interval between two such warnings."""

_log = structlog.get_logger()

T = TypeVar("T")


class UnusableError(Exception):
    """A file cannot be used; the text says which and why, and repeats nothing of its contents.

    Attributes:
        index: Number of the file in its set.
    """

    def __init__(self, index: int, text: str) -> None:
        super().__init__(text)
        self.index = index


class Identity(NamedTuple):
    """A usable set of files.

    Attributes:
        context: For HTTP.
        pair: For gRPC.
        not_after: Time at which the first certificate of the file expires, in seconds since 1970.
    """

    context: ssl.SSLContext
    pair: grpc.ServerCertificateConfiguration
    not_after: float


class PemFiles(Generic[T]):
    """Files that belong together, and what is made of their contents.

    Args:
        files: The files by the settings that name them.
        build: Makes a value of their contents; raises UnusableError. It may read the files itself.

    Raises:
        ConfigError: They cannot be used.

    Attributes:
        setting: Setting that names the first file, or the one that could not be used at the last change.
        value: Made of the last usable contents.
        reloads: Number of changes that took effect.
        rejections: Number of changes that could not be used.
    """

    def __init__(self, files: Mapping[str, Path], build: Callable[[Sequence[bytes]], T]) -> None:
        self._settings, self._paths, self._build = list(files), list(files.values()), build
        self.setting = self._settings[0]
        self.reloads = self.rejections = 0
        self._seen: object = None
        """State of the files at the last look; None: look closer at the next one."""
        self._suspect: tuple[bytes, UnusableError] | None = None
        """Digest of contents that could not be used, and why; reported if they are still there at the next look."""
        self._reported = b""
        try:
            contents = _read(self._paths)
            self.value = build(contents)
        except UnusableError as error:
            raise ConfigError(variable(self._settings[error.index]), str(error)) from None
        self._digest = _digest(contents)

    def look(self) -> str | None:
        """Takes over changed files if they are usable. It reads files, so a thread runs it.

        Returns:
            None: nothing is new; an empty text: they changed, or are as before after they could not be used; otherwise
            why they cannot be used, once per contents.
        """
        state = [_identity(path) for path in self._paths]
        if self._suspect is not None and state == self._seen:
            (self._reported, reason), self._suspect = self._suspect, None
            self.setting = self._settings[reason.index]
            self.rejections += 1
            return str(reason)
        if state == self._seen:
            return None
        self._seen, self._suspect = state, None
        try:
            contents = _read(self._paths)
        except UnusableError as error:
            self._suspected(str(error).encode(), error)
            return None
        digest = _digest(contents)
        if digest == self._digest:
            was_reported, self._reported = bool(self._reported), b""
            return "" if was_reported else None
        try:
            value = self._build(contents)
            if _read(self._paths) != contents:
                self._seen = None  # they changed meanwhile
                return None
        except UnusableError as error:
            self._suspected(digest, error)
            return None
        self.value, self._digest, self._reported = value, digest, b""
        self.setting = self._settings[0]
        self.reloads += 1
        return ""

    def _suspected(self, digest: bytes, reason: UnusableError) -> None:
        """Remembers contents that cannot be used: whoever replaces files one by one may not be done."""
        if digest != self._reported:
            self._suspect = (digest, reason)


def listener_files(tls: ListenerTls) -> PemFiles[Identity]:
    """Returns the files of a listener.

    Raises:
        ConfigError: They cannot be used.
    """
    files = {tls.name: tls.certificate, tls.key_name: tls.key}
    if tls.client_ca is not None:
        files[tls.client_ca_name] = tls.client_ca

    def build(contents: Sequence[bytes]) -> Identity:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        not_after = _load_pair(context, (tls.certificate, tls.key), contents)
        authorities = None
        if tls.client_ca is not None:
            authorities = contents[2]
            _load_authorities(context, tls.client_ca, contents, 2)
            context.verify_mode = ssl.CERT_REQUIRED if tls.requires_client else ssl.CERT_OPTIONAL
        pair = grpc.ssl_server_certificate_configuration([(contents[1], contents[0])], authorities)
        return Identity(context, pair, not_after)

    return PemFiles(files, build)


def client_files(tls: ClientTls) -> PemFiles[grpc.ChannelCredentials]:
    """Returns the files of connections to servers.

    Raises:
        ConfigError: They cannot be used.
    """
    files = {tls.name: tls.ca}
    pair = (tls.certificate, tls.key) if tls.certificate is not None and tls.key is not None else None
    if pair is not None:
        files |= zip(("server_tls_cert_file", "server_tls_key_file"), pair, strict=True)

    def build(contents: Sequence[bytes]) -> grpc.ChannelCredentials:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _load_authorities(context, tls.ca, contents, 0)
        if pair is None:
            return grpc.ssl_channel_credentials(contents[0])
        _load_pair(context, pair, contents, 1)
        return grpc.ssl_channel_credentials(contents[0], contents[2], contents[1])

    return PemFiles(files, build)


def member_files(certificate: Path, key: Path, authority: Path) -> PemFiles[tuple[bytes, bytes, bytes]]:
    """Returns the files of a member of a cluster; their value is the contents of CA, key and certificate.

    Raises:
        ConfigError: They cannot be used.
    """

    def build(contents: Sequence[bytes]) -> tuple[bytes, bytes, bytes]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _load_pair(context, (certificate, key), contents)
        _load_authorities(context, authority, contents, 2)
        return contents[2], contents[1], contents[0]

    return PemFiles({"raft.tls_cert": certificate, "raft.tls_key": key, "raft.tls_ca": authority}, build)


def check_files(settings: ProcessSettings, *, rest: bool = True) -> None:
    """Reads the files of TLS of a process that is not started.

    Args:
        settings: Settings of the process.
        rest: Whether it serves REST.

    Raises:
        ConfigError: They cannot be used.
    """
    if rest and isinstance(settings, RestSettings) and settings.http_tls is not None:
        listener_files(settings.http_tls)
    if settings.server_tls is not None:
        client_files(settings.server_tls)
    if not isinstance(settings, Settings):
        return
    if settings.grpc_tls is not None:
        listener_files(settings.grpc_tls)
    raft = settings.raft
    if raft is not None and raft.tls_cert is not None and raft.tls_key is not None and raft.tls_ca is not None:
        member_files(raft.tls_cert, raft.tls_key, raft.tls_ca)


class Certificates(Collector):
    """The files of TLS of a process, watched while it runs.

    Args:
        http: Files of HTTP; None: plaintext.
        grpc_: Files of gRPC; None: plaintext.
        servers: Files of connections to servers; None: plaintext.
        process: Prefix of the metrics' names: "codeq" or "codeq_gateway".

    Raises:
        ConfigError: Files cannot be used.
    """

    def __init__(
        self, http: ListenerTls | None, grpc_: ListenerTls | None, servers: ClientTls | None, process: str
    ) -> None:
        self._process = process
        self._http = None if http is None else listener_files(http)
        self._grpc = None if grpc_ is None else listener_files(grpc_)
        self._requires_client = grpc_ is not None and grpc_.requires_client
        self._servers = None if servers is None else client_files(servers)
        self._watched: dict[str, PemFiles[Any]] = {
            name: files
            for name, files in (("http", self._http), ("grpc", self._grpc), ("servers", self._servers))
            if files is not None
        }
        self._on_member_change: Callable[[bytes, bytes, bytes], None] | None = None
        self._warned: dict[str, tuple[float, float]] = {}
        """Expiry that was warned of, by listener, and when."""
        self._task: asyncio.Task[None] | None = None

    @property
    def http(self) -> Callable[[], ssl.SSLContext] | None:
        """Returns the context for the next HTTP connection; None: HTTP is plaintext."""
        files = self._http
        return None if files is None else lambda: files.value.context

    def grpc_credentials(self) -> grpc.ServerCredentials | None:
        """Returns new credentials for one gRPC port; None: gRPC is plaintext."""
        files = self._grpc
        if files is None:
            return None
        current = files.value.pair

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            """Called by gRPC's threads for each connection, so it only looks at memory; None: unchanged."""
            nonlocal current
            if files.value.pair is current:
                return None
            current = files.value.pair
            return current

        # The stubs of gRPC do not know None.
        return grpc.dynamic_ssl_server_credentials(current, cast("Any", fetch), self._requires_client)

    def server_credentials(self) -> grpc.ChannelCredentials | None:
        """Returns credentials for the next connection to a server; None: plaintext."""
        return None if self._servers is None else self._servers.value

    def watch_member(
        self, files: PemFiles[tuple[bytes, bytes, bytes]], on_change: Callable[[bytes, bytes, bytes], None]
    ) -> None:
        """Watches the files of a member of a cluster, too; `on_change` gets CA, key and certificate."""
        self._watched["members"] = files
        self._on_member_change = on_change

    def start(self) -> None:
        """Starts watching."""
        self._warn()
        if self._watched:
            self._task = asyncio.get_running_loop().create_task(self._watch(), name="certificates")

    async def stop(self) -> None:
        """Stops watching."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def collect(self) -> Iterator[Metric]:
        """Yields the expiry of each listener's certificate, and the reloads."""
        if not self._watched:
            return
        expiry = GaugeMetricFamily(
            f"{self._process}_tls_certificate_expiry_timestamp_seconds",
            "When the certificate of a kind of listener expires, in seconds since 1970.",
            labels=("listener",),
        )
        for name, not_after in self._expiries():
            expiry.add_metric((name,), not_after)
        yield expiry
        reloads = CounterMetricFamily(
            f"{self._process}_tls_reloads", "Changes of files of TLS, by outcome.", labels=("files", "outcome")
        )
        for name, files in self._watched.items():
            reloads.add_metric((name, "loaded"), files.reloads)
            reloads.add_metric((name, "rejected"), files.rejections)
        yield reloads

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for name, files in self._watched.items():
                outcome = await asyncio.to_thread(files.look)
                if outcome:
                    hint = "connections get the certificate and CAs from before; replace the files"
                    _log.error(
                        "tls_files_rejected", files=name, setting=variable(files.setting), error=outcome, hint=hint
                    )
                elif outcome is not None:
                    if name == "members" and self._on_member_change is not None:
                        self._on_member_change(*files.value)
                    _log.info("tls_files_reloaded", files=name, setting=variable(files.setting))
            self._warn()

    def _expiries(self) -> Iterator[tuple[str, float]]:
        for name, files in (("http", self._http), ("grpc", self._grpc)):
            if files is not None:
                yield name, files.value.not_after

    def _warn(self) -> None:
        """Warns of certificates that expire soon, once a day each."""
        now = time.time()
        for name, not_after in self._expiries():
            warned_of, warned_at = self._warned.get(name, (0.0, 0.0))
            if not_after - now >= WARN_SECONDS or (warned_of == not_after and now < warned_at + WARN_AGAIN_SECONDS):
                continue
            self._warned[name] = (not_after, now)
            days = int((not_after - now) // 86_400)
            _log.warning(
                "certificate_expires" if not_after > now else "certificate_expired",
                listener=name,
                days=days,
                hint="replace the files; they are reloaded without a restart",
            )


def _identity(path: Path) -> object:
    """Returns what changes when a file does, whether it is written, replaced, or reached by other links."""
    try:
        status = path.stat()
    except OSError as error:
        return error.errno
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read(paths: Sequence[Path]) -> list[bytes]:
    contents = []
    for index, path in enumerate(paths):
        try:
            with path.open("rb") as file:
                content = file.read(FILE_BYTES_MAX + 1)
        except OSError as error:
            raise UnusableError(index, f"cannot read {path}: {error.strerror}") from None
        if len(content) > FILE_BYTES_MAX:
            raise UnusableError(index, f"{path} is larger than {FILE_BYTES_MAX} bytes")
        contents.append(content)
    return contents


def _digest(contents: Sequence[bytes]) -> bytes:
    return b"".join(hashlib.sha256(content).digest() for content in contents)


def _load_pair(context: ssl.SSLContext, paths: tuple[Path, Path], contents: Sequence[bytes], first: int = 0) -> float:
    """Loads a certificate and its key, which follow each other in the set, and returns when the certificate expires."""
    certificate, key = paths
    try:
        not_after = x509.load_pem_x509_certificates(contents[first])[0].not_valid_after_utc.timestamp()
    except ValueError:
        raise UnusableError(first, f"{certificate} contains no certificate in PEM") from None
    try:
        serialization.load_pem_private_key(contents[first + 1], None)
    except TypeError:
        raise UnusableError(first + 1, f"{key} has a password, and must have none") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableError(first + 1, f"{key} contains no private key in PEM") from None
    try:
        # Never ask for a password: the empty one fails at once.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "malformed"
        text = f"{certificate} and {key} are not a certificate and its key: {reason}"
        raise UnusableError(first + 1, text) from None
    return not_after


def _load_authorities(context: ssl.SSLContext, path: Path, contents: Sequence[bytes], index: int) -> None:
    try:
        context.load_verify_locations(cadata=contents[index].decode("ascii"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or "it is not PEM"
        raise UnusableError(index, f"{path} contains no certificate: {reason}") from None
