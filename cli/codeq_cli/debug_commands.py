"""codeq profile and codeq logs: what the debug port of a server on this machine tells and changes."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated, Final

import typer

from codeq_cli.failures import ExitCode, Failure, connection_failure, usage_failure

app = typer.Typer(no_args_is_help=False)
"""Holds this module's commands for the table of commands."""

logs_app = typer.Typer(no_args_is_help=True, help="Shows and changes the level of a server's log.")
app.add_typer(logs_app, name="logs")

PATHS: Final = {"cpu": "/debug/pprof/profile", "heap": "/debug/pprof/heap"}
SUFFIXES: Final = {"pprof": "pb.gz", "speedscope": "speedscope.json"}
LEVEL_PATH: Final = "/debug/log-level"
SECONDS_MORE: Final = 15.0
"""Time for a reply beyond the length of the profile."""
SECONDS_MAX: Final = 300

AddressOption = Annotated[
    str,
    typer.Option(
        "--addr", metavar="HOST:PORT", envvar="CODEQ_PPROF_ADDR", help="Debug port of the server (CODEQ_PPROF=1)."
    ),
]


@app.command()
def profile(
    kind: Annotated[str, typer.Argument(metavar="cpu|heap", help="What to profile.")],
    seconds: Annotated[int, typer.Option(min=1, max=SECONDS_MAX, help="Length of the profile.")] = 10,
    form: Annotated[str, typer.Option("--format", metavar="pprof|speedscope", help="Format of the file.")] = "pprof",
    file: Annotated[Path | None, typer.Option(help="File to write; default: codeq-KIND and a suffix.")] = None,
    addr: AddressOption = "127.0.0.1:6060",
) -> None:
    """Profiles a server on this machine that was started with CODEQ_PPROF=1."""
    if kind not in PATHS or form not in SUFFIXES:
        raise usage_failure(f"the kind must be one of {', '.join(PATHS)}, the format one of {', '.join(SUFFIXES)}")
    made = _ask(addr, "GET", f"{PATHS[kind]}?seconds={seconds}&format={form}", None, seconds + SECONDS_MORE)
    path = file or Path(f"codeq-{kind}.{SUFFIXES[form]}")
    try:
        path.write_bytes(made)
    except OSError as error:
        raise usage_failure(f"cannot write {path}: {error.strerror}") from None
    viewer = f"go tool pprof -http : {path}" if form == "pprof" else "https://www.speedscope.app"
    print(f"{path}: {len(made)} bytes; open it with {viewer}")


@logs_app.command()
def level(
    wanted: Annotated[str | None, typer.Argument(metavar="debug|info|warn|error", help="New level.")] = None,
    addr: AddressOption = "127.0.0.1:6060",
) -> None:
    """Shows the level of a server's log, or changes it until the server stops."""
    from codeq_server.profiling.listener import LEVELS

    if wanted is not None and wanted not in LEVELS:
        raise usage_failure(f"the level must be one of {', '.join(LEVELS)}")
    if wanted is None:
        shown = _ask(addr, "GET", LEVEL_PATH, None, SECONDS_MORE)
    else:
        shown = _ask(addr, "PUT", LEVEL_PATH, wanted.encode(), SECONDS_MORE)
    print(shown.decode().strip())


def _ask(address: str, method: str, path: str, body: bytes | None, seconds: float) -> bytes:
    """Returns the body of a reply.

    Raises:
        Failure: No server answers at the address, or it refuses the request.
    """
    request = urllib.request.Request(f"http://{address}{path}", data=body, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback needs no proxy
    try:
        with opener.open(request, timeout=seconds) as reply:
            content: bytes = reply.read()
            return content
    except urllib.error.HTTPError as error:
        raise Failure(error.read().decode("latin-1").strip(), "REFUSED", ExitCode.REFUSED) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "reason", error)
        text = f"no debug port answers at {address}; start the server with CODEQ_PPROF=1: {why}"
        raise connection_failure(text) from None
