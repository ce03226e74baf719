"""Startup summary of a server: a ready file for programs, and a few lines on the terminal."""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from codeq_server.config import DEV_TOKEN, Address, RestSettings, Settings


@dataclass(frozen=True, slots=True)
class Ready:
    """Addresses of a server's listeners; None: no such listener."""

    http: Address | None
    worker: Address | None
    producer: Address | None


def write_ready_file(path: Path, ready: Ready) -> None:
    """Writes the addresses and the process id as JSON, atomically.

    Raises:
        OSError: The file cannot be written, or exists and was not written by a server.
    """
    if _writer_of(path) == 0:
        raise FileExistsError(errno.EEXIST, "it exists and is not a server's ready file")
    content = {
        **{
            name: None if address is None else reachable(address)
            for name, address in (("http", ready.http), ("worker", ready.worker), ("producer", ready.producer))
        },
        "pid": os.getpid(),
    }
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    draft.write_text(json.dumps(content) + "\n")
    draft.replace(path)


def forget_ready_file(path: Path) -> None:
    """Removes the ready file if this process wrote it."""
    with suppress(OSError):
        if _writer_of(path) == os.getpid():
            path.unlink()


def _writer_of(path: Path) -> int | None:
    """Returns the id of the process that wrote a ready file; 0: not a ready file; None: no file, or an empty one."""
    try:
        text = path.read_bytes()
        content = json.loads(text) if text else None
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        return 0
    if not text:
        return None
    pid = content.get("pid") if isinstance(content, dict) else None
    return pid if type(pid) is int else 0


def reachable(address: Address) -> str:
    """Returns an address in the form in which a local client can reach it."""
    return str(Address(address.host or "localhost", address.port))


def rest_line(settings: RestSettings, http: Address | None) -> list[str]:
    """Returns the summary line of the REST API, if it is served."""
    if http is None:
        return []
    return [f"  REST       {_scheme(settings)}://{reachable(http)}/v1/codeq  (also /openapi.json, /metrics, /readyz)"]


def _scheme(settings: RestSettings) -> str:
    return "http" if settings.http_tls is None else "https"


def text(settings: Settings, ready: Ready, version: str, unready: str = "") -> str:
    """Returns the summary: addresses, storage and, with --dev, a command that creates a first task.

    `unready` is the reason why calls are not answered yet; empty: they are.
    """
    persistence = settings.persistence
    fsync = "fsync on" if persistence.fsync_on_commit else "WITHOUT fsync: a crash may lose acknowledged tasks"
    lost = "memory: lost when the server stops"
    store = lost if persistence.path is None else f"{persistence.path} ({fsync})"
    lines = [
        f"codeq {version} has started but is not ready yet: {unready}" if unready else f"codeq {version} is ready",
        *rest_line(settings, ready.http),
        *(f"  workers    {reachable(a)}  (gRPC)" for a in [ready.worker] if a is not None),
        *(f"  producers  {reachable(a)}  (gRPC)" for a in [ready.producer] if a is not None),
        f"  store      {store}",
    ]
    if settings.dev:
        # The operator's own token is never shown.
        token = DEV_TOKEN if settings.auth.producer.sole_secret == DEV_TOKEN else "$PRODUCER_TOKEN"
        lines.append(f"  token      {token}")
    if settings.dev and ready.http is not None and not unready:
        url = f"{_scheme(settings)}://{reachable(ready.http)}"
        lines += [
            "",
            "Create a first task:",
            f'  curl -X POST {url}/v1/codeq/tasks -H "Authorization: Bearer {token}" \\',
            """    -H 'Content-Type: application/json' -d '{"command":"HELLO","payload":{"name":"world"}}'""",
        ]
    return "\n".join(lines) + "\n"
