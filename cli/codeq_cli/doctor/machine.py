"""Checks of the machine: open files, the clock, and the installed versions."""

from __future__ import annotations

import ctypes
import platform
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Final

import codeq
from codeq_server import is_compiled
from codeq_server.config import ProcessSettings, Settings
from codeq_server.node.app import files_of
from codeq_server.node.descriptors import FILES_MIN, TooFewFilesError, raise_limit

from codeq_cli import __version__
from codeq_cli.doctor.findings import Finding, error, fine, warning

FILES: Final = "open files"
CLOCK: Final = "clock"
VERSIONS: Final = "versions"

RELEASED: Final = 1_767_225_600
"""2026-01-01, in seconds since 1970: no clock that is right shows an earlier time."""

_TIMEX_BYTES: Final = 256
"""More than the size of the kernel's structure."""
_TIME_ERROR: Final = 5
"""The kernel's state of a clock that nothing synchronizes."""
_RAISE: Final = "raise it with `ulimit -Hn`, LimitNOFILE of systemd, or --ulimit nofile of Docker"


def check_files(settings: ProcessSettings | None, *, rest: bool) -> Iterator[Finding]:
    """Yields a finding about the limit on open files; without settings only about the least one."""
    try:
        if not isinstance(settings, Settings):
            yield fine(FILES, f"this process may open {raise_limit()} files")
            return
        files = files_of(settings, rest=rest)
    except TooFewFilesError as few:
        yield error(FILES, str(few), f"set the limit to 65536, at least {FILES_MIN}: {_RAISE}")
        return
    if files.grpc < settings.grpc_connections_max or (rest and files.http < settings.http_connections_max):
        text = (
            f"this process may open {files.limit} files, enough for {files.http} HTTP connections and {files.grpc} on "
            "each gRPC port, which is less than configured"
        )
        yield warning(FILES, text, f"set the limit to 65536: {_RAISE}")
    else:
        yield fine(FILES, f"this process may open {files.limit} files")


def check_clock(now: float | None = None) -> Iterator[Finding]:
    """Yields a finding about the clock of this machine; `now` replaces its time."""
    seconds = time.time() if now is None else now
    shown = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
    remedy = "start chrony or systemd-timesyncd: leases, delays and the validity of tokens follow the clock"
    if seconds < RELEASED:
        yield error(CLOCK, f"it is {shown} UTC by the clock of this machine, which is in the past", remedy)
    elif _is_unsynchronized():
        yield warning(CLOCK, "nothing synchronizes the clock of this machine, as far as its kernel knows", remedy)
    else:
        yield fine(CLOCK, f"it is {shown} UTC")


def _is_unsynchronized() -> bool:
    """Returns whether the kernel says that nothing synchronizes its clock; False if it cannot be asked."""
    try:
        state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return False
    return state == _TIME_ERROR


def check_versions(settings: ProcessSettings | None) -> Iterator[Finding]:
    """Yields findings about the installed distributions that a server with these settings needs."""
    sdk = getattr(codeq, "__version__", None)
    if sdk is None:
        text = f"{codeq.__file__} belongs to the unrelated distribution `codeq`, not to this server's SDK"
        yield error(VERSIONS, text, "install codeq-server into an environment without it")
    elif sdk != __version__:
        text = f"codeq-server is {__version__}, but codeq-sdk is {sdk}"
        yield warning(VERSIONS, text, "install both in the same version")
    if isinstance(settings, Settings):
        if settings.raft is not None and find_spec("codeq_raft_core") is None:
            text = "RAFT_ENABLED: the extension codeq_raft_core is not installed"
            yield error(VERSIONS, text, "install the distribution codeq-raft-core, or run `make setup-raft` in a clone")
        if settings.tracing_enabled and find_spec("opentelemetry.sdk") is None:
            text = "TRACING_ENABLED: the package opentelemetry-sdk is not installed"
            yield error(VERSIONS, text, "pip install 'codeq-server[tracing]'")
    build = "compiled" if is_compiled() else "interpreted"
    yield fine(VERSIONS, f"codeq {__version__} ({build}), Python {platform.python_version()}")
