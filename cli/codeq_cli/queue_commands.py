"""codeq queue …: counts of the tenant's queues."""

from __future__ import annotations

import json
from typing import Annotated, Final

import typer

from codeq_cli import json_text, names, render
from codeq_cli.client_options import ClientOptions, client_command
from codeq_cli.failures import connection_failure
from codeq_cli.rest import members_of

PAGE_SIZE: Final = 500
"""Queues asked for at a time; the largest that the server allows."""

COLUMNS: Final = ("command", "ready", "scheduled", "claimed", "dlq", "oldestAgeSeconds")
"""Columns of the table of queues."""

app = typer.Typer(no_args_is_help=False, help="Counts of the queues; needs an administrator's token.")


@app.command("list")
@client_command
def list_(options: ClientOptions) -> None:
    """Shows every queue of the tenant, in the order of their names."""
    server = options.server()
    queues: list[str] = []
    token = ""
    seen = set()
    while token not in seen:
        seen.add(token)
        query: dict[str, str | int] = {"pageSize": PAGE_SIZE} | ({"pageToken": token} if token else {})
        page = members_of(server.call("GET", "/admin/queues", query=query))
        try:
            queues += json_text.elements(page.get("queues", "[]"))
            next_token = json.loads(page.get("nextPageToken", '""'))
        except ValueError:
            raise connection_failure("the reply is not a page of queues; check the endpoint") from None
        if not next_token:
            break
        token = str(next_token)
    else:
        raise connection_failure("the server repeats a page of queues")
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
