"""codeq queue …: counts of the tenant's queues."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from codeq_cli import names, render
from codeq_cli.client_options import ClientOptions, client_command
from codeq_cli.rest import members_of, pages

PAGE_SIZE: Final = 500
"""Queues asked for at a time; the largest that the server allows."""

COLUMNS: Final = ("command", "ready", "scheduled", "claimed", "dlq", "oldestAgeSeconds")
"""Columns of the table of queues."""

app = typer.Typer(no_args_is_help=False, help="Counts of the queues; needs an administrator's token.")


@app.command("list")
@client_command
def list_(options: ClientOptions) -> None:
    """Shows every queue of the tenant, in the order of their names."""
    queues = pages(options.server(), "/admin/queues", {"pageSize": PAGE_SIZE}, "queues")
    render.show_list("queues", queues, COLUMNS, options.format)


@app.command()
@client_command
def stats(
    options: ClientOptions,
    command: Annotated[str, typer.Argument(metavar="COMMAND", help="Command: the queue to look at.")],
) -> None:
    """Shows the counts of one queue."""
    reply = options.server().call("GET", f"/admin/queues/{names.command(command)}")
    members_of(reply)
    render.show_object(reply or "", options.format)
