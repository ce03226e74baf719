"""codeq queue …: the tenant's queues."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from codeq_cli import names, render
from codeq_cli.client_options import ClientOptions, client_command
from codeq_cli.failures import usage_failure
from codeq_cli.rest import members_of, pages

PAGE_SIZE: Final = 500
"""Queues per page; the server's maximum."""

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

app = typer.Typer(no_args_is_help=False, help="Show and control queues; needs an administrator's token.")


Command = Annotated[str, typer.Argument(metavar="COMMAND", help="Command of the queue.")]


@app.command("list")
@client_command
def list_(options: ClientOptions) -> None:
    """Shows every queue of the tenant, ordered by name."""
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
    """Pauses the deliveries of a queue, which need not exist yet. It still accepts tasks; claimed tasks continue."""
    _show(options, options.server().call("POST", f"/admin/queues/{names.command(command)}/pause", body="{}"))


@app.command()
@client_command
def resume(options: ClientOptions, command: Command) -> None:
    """Resumes the deliveries of a queue."""
    _show(options, options.server().call("POST", f"/admin/queues/{names.command(command)}/resume", body="{}"))


@app.command()
@client_command
def purge(
    options: ClientOptions,
    command: Command,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Required: a purge cannot be undone.")] = False,
) -> None:
    """Ends every task now waiting in a queue, including scheduled tasks, as CANCELLED.

    The purge runs in the background. While it runs, the queue shows purging and delivers nothing.
    """
    if not yes:
        raise usage_failure("--yes is required: a purge ends every task waiting in the queue")
    _show(options, options.server().call("POST", f"/admin/queues/{names.command(command)}/purge", body="{}"))


def _show(options: ClientOptions, reply: str | None) -> None:
    members_of(reply)
    render.show_object(reply or "", options.format)
