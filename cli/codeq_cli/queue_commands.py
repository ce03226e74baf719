"""codeq queue …: the tenant's queues."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from codeq_cli import names, render
from codeq_cli.client_options import ClientOptions, TenantOption, client_command, of_tenant
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

app = typer.Typer(
    no_args_is_help=False, help="Show and control queues; needs an administrator's token, to show them also a viewer's."
)


Command = Annotated[str, typer.Argument(metavar="COMMAND", help="Command of the queue.")]


@app.command("list")
@client_command
def list_(options: ClientOptions, tenant: TenantOption = None) -> None:
    """Shows every queue of the tenant, ordered by name."""
    queues = pages(options.server(), "/admin/queues", {"pageSize": PAGE_SIZE, **of_tenant(tenant)}, "queues")
    render.show_list("queues", queues.texts, COLUMNS, options.format)


@app.command()
@client_command
def stats(options: ClientOptions, command: Command, tenant: TenantOption = None) -> None:
    """Shows the counts of one queue."""
    path = f"/admin/queues/{names.command(command)}"
    _show(options, options.server().call("GET", path, query=of_tenant(tenant)))


@app.command()
@client_command
def pause(options: ClientOptions, command: Command, tenant: TenantOption = None) -> None:
    """Pauses the deliveries of a queue, which need not exist yet. It still accepts tasks; claimed tasks continue."""
    _post(options, command, "pause", tenant)


@app.command()
@client_command
def resume(options: ClientOptions, command: Command, tenant: TenantOption = None) -> None:
    """Resumes the deliveries of a queue."""
    _post(options, command, "resume", tenant)


@app.command()
@client_command
def purge(
    options: ClientOptions,
    command: Command,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Required: a purge cannot be undone.")] = False,
    tenant: TenantOption = None,
) -> None:
    """Ends every task now waiting in a queue, including scheduled tasks, as CANCELLED.

    The purge runs in the background. While it runs, the queue shows purging and delivers nothing.
    """
    if not yes:
        raise usage_failure("--yes is required: a purge ends every task waiting in the queue")
    _post(options, command, "purge", tenant)


def _post(options: ClientOptions, command: str, action: str, tenant: str | None) -> None:
    path = f"/admin/queues/{names.command(command)}/{action}"
    _show(options, options.server().call("POST", path, body="{}", query=of_tenant(tenant)))


def _show(options: ClientOptions, reply: str | None) -> None:
    members_of(reply)
    render.show_object(reply or "", options.format)
