"""codeq queue …: the tenant's queues."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from codeq_cli import names, render
from codeq_cli.client_options import ClientOptions, client_command
from codeq_cli.failures import usage_failure
from codeq_cli.rest import members_of, pages

PAGE_SIZE: Final = 500
"""Queues asked for at a time; the largest that the server allows."""

COLUMNS: Final = (
    "command",
    "ready",
    "scheduled",
    "claimed",
    "dlq",
    "failedTotal",
    "oldestAgeSeconds",
    "createdRate",
    "completedRate",
    "paused",
)
"""Columns of the table of queues."""

app = typer.Typer(no_args_is_help=False, help="Look at and control queues; needs an administrator's token.")


Command = Annotated[str, typer.Argument(metavar="COMMAND", help="Command: the queue.")]


@app.command("list")
@client_command
def list_(options: ClientOptions) -> None:
    """Shows every queue of the tenant, in the order of their names."""
    queues = pages(options.server(), "/admin/queues", {"pageSize": PAGE_SIZE}, "queues")
    render.show_list("queues", queues.texts, COLUMNS, options.format)


@app.command()
@client_command
def stats(options: ClientOptions, command: Command) -> None:
    """Shows the counts of one queue."""
    _show(options, options.server().call("GET", f"/admin/queues/{names.command(command)}"))


@app.command()
@client_command
def pause(options: ClientOptions, command: Command) -> None:
    """Stops the deliveries of a queue, which need not exist yet: tasks are accepted, and those claimed run on."""
    _show(options, options.server().call("POST", f"/admin/queues/{names.command(command)}/pause", body="{}"))


@app.command()
@client_command
def resume(options: ClientOptions, command: Command) -> None:
    """Lets the deliveries of a queue go on."""
    _show(options, options.server().call("POST", f"/admin/queues/{names.command(command)}/resume", body="{}"))


@app.command()
@client_command
def purge(
    options: ClientOptions,
    command: Command,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Needed: it cannot be taken back.")] = False,
) -> None:
    """Ends every task that waits in a queue now, scheduled ones too, as CANCELLED.

    The work goes on in the background while the queue shows purging; until then nothing is delivered.
    """
    if not yes:
        raise usage_failure("--yes is needed: every task that waits in the queue ends")
    _show(options, options.server().call("POST", f"/admin/queues/{names.command(command)}/purge", body="{}"))


def _show(options: ClientOptions, reply: str | None) -> None:
    members_of(reply)
    render.show_object(reply or "", options.format)
