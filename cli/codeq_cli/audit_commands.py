"""codeq audit …: who administered what, and who was refused access."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from codeq_cli import render, usage
from codeq_cli.client_options import ClientOptions, TenantOption, client_command, of_tenant
from codeq_cli.rest import pages
from codeq_cli.task_commands import Order

PAGE_SIZE: Final = 500
"""Records per page; the server's maximum."""
LIST_LENGTH: Final = 100
"""Default number of records in a list."""
COLUMNS: Final = ("at", "tenant", "subject", "origin", "call", "object", "before", "after", "outcome", "count")
"""Columns of the table of records."""
TIME: Final = "DURATION|RFC3339"
"""Placeholder in the help for a time, or for a duration such as 24h before now."""

app = typer.Typer(no_args_is_help=False, help="Show the audit; needs an administrator's or an operator's token.")


@app.command("list")
@client_command
def list_(
    options: ClientOptions,
    *,
    call: Annotated[str | None, typer.Option(metavar="RPC", help="Only this call, such as PauseQueue.")] = None,
    subject: Annotated[str | None, typer.Option(metavar="SUBJECT", help="Only calls of this subject.")] = None,
    since: Annotated[
        str | None,
        typer.Option(parser=usage.time_or_age, metavar=TIME, help="Only records made at or after this time."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(parser=usage.time_or_age, metavar=TIME, help="Only records made before this time.")
    ] = None,
    order: Annotated[Order, typer.Option(help="Sort order.")] = Order.NEWEST,
    limit: Annotated[
        int, typer.Option(parser=usage.whole(1, 100_000), metavar="N", help="Maximum number of records to show.")
    ] = LIST_LENGTH,
    all_: Annotated[bool, typer.Option("--all", help="Show all records; ignores --limit.")] = False,
    page_token: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="nextPageToken of the previous reply.")
    ] = None,
    tenant: TenantOption = None,
) -> None:
    """Shows administrative acts and refused accesses, newest first; says if there are more.

    An administrator sees those of its tenant. An operator sees all, or with --tenant those of one tenant.
    """
    most = None if all_ else limit
    query: dict[str, str | int | list[str]] = {
        "pageSize": PAGE_SIZE if most is None else min(most, PAGE_SIZE),
        "orderBy": order.value,
        **of_tenant(tenant),
    }
    others = {"call": call, "subject": subject, "from": since, "to": until, "pageToken": page_token}
    query |= {name: text for name, text in others.items() if text is not None}
    records = pages(options.server(), "/admin/audit", query, "records", most)
    render.show_page("records", records, COLUMNS, options.format, also="--all for all records")
