"""codeq health: whether the server or gateway with this configuration answers on this machine."""

from __future__ import annotations

import http.client
import ssl
from typing import Annotated, Final

import typer

from codeq_cli.failures import ExitCode, Failure, connection_failure
from codeq_cli.server_commands import ConfigOption, load_gateway_settings

app = typer.Typer(no_args_is_help=False)
"""Holds this module's command for the table of commands."""

REPLY_SECONDS_MAX: Final = 3.0
SHOWN_BYTES_MAX: Final = 4096
UNUSED: Final = {"server_addrs": "localhost:1", "gateway_secret": "0" * 32}
"""What a gateway must have besides its settings of REST, which are those of a server."""


@app.command()
def health(
    *,
    config: ConfigOption = None,
    ready: Annotated[
        bool, typer.Option("--ready", help="Also require that calls are answered or redirected (/readyz).")
    ] = False,
) -> None:
    """Checks that the process which has this configuration answers over HTTP, for health checks of containers."""
    settings = load_gateway_settings(config, UNUSED, dev=False)
    host, port = settings.http_host or "localhost", settings.port
    path = "/readyz" if ready else "/healthz"
    connection: http.client.HTTPConnection
    if settings.http_tls is None:
        connection = http.client.HTTPConnection(host, port, timeout=REPLY_SECONDS_MAX)
    else:  # the certificate names the hosts that clients use, and this is the own machine
        context = ssl._create_unverified_context()  # noqa: S323, SLF001
        connection = http.client.HTTPSConnection(host, port, timeout=REPLY_SECONDS_MAX, context=context)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        text = reply.read(SHOWN_BYTES_MAX).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        raise connection_failure(f"no server answers at {host}:{port}: {error}") from None
    finally:
        connection.close()
    if reply.status != http.client.OK:
        raise Failure(f"{path} of {host}:{port} replied {reply.status}: {text}", "UNHEALTHY", ExitCode.REFUSED)
    print(text)
