"""codeq queue …: the tenant's queues."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from codeq_cli import names, render
from codeq_cli.client_options import ClientOptions, client_command
from codeq_cli.rest import members_of, pages

PAGE_SIZE: Final = 500
"""Queues asked for at a time; the largest that the server allows."""

COLUMNS: Final = (
    "command",
    "ready",
    "scheduled",
    "claimed",
    "dlq",
    "oldestAgeSeconds",
    "createdRate",
    "completedRate",
    "paused",
)
"""Columns of the table of queues."""

app = typer.Typer(no_args_is_help=False, help="Look at, pause and resume queues; needs an administrator's token.")


Command = Annotated[str, typer.Argument(metavar="COMMAND", help="Command: the queue.")]


@app.command("list")
@client_command
def list_(options: ClientOptions) -> None:
    """Shows every queue of the tenant, in the order of their names."""
    queues = pages(options.server(), "/admin/queues", {"pageSize": PAGE_SIZE}, "queues")
    render.show_list("queues", queues, COLUMNS, options.format)


@app.command()
@client_command
def stats(options: ClientOptions, command: Command) -> None:
    """Shows the counts of one queue."""
    _show(options, options.server().call("GET", f"/admin/queues/{names.command(command)}"))


@app.command()
@client_command
def pause(options: ClientOptions, command: Command) -> None:
    """Stops the deliveries of a queue: its tasks are accepted, and those that are claimed run on."""
    _show(options, options.server().call("POST", f"/admin/queues/{names.command(command)}/pause", body="{}"))


@app.command()
@client_command
def resume(options: ClientOptions, command: Command) -> None:
    """Lets the deliveries of a queue go on."""
    _show(options, options.server().call("POST", f"/admin/queues/{names.command(command)}/resume", body="{}"))


def _show(options: ClientOptions, reply: str | None) -> None:
    members_of(reply)
    render.show_object(reply or "", options.format)
