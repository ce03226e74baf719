"""codeq subscription …: which URLs get signals when work becomes ready."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from codeq_cli import names, render
from codeq_cli.client_options import ClientOptions, TenantOption, client_command, of_tenant
from codeq_cli.rest import pages

PAGE_SIZE: Final = 500
"""Subscriptions per page; the server's maximum."""
COLUMNS: Final = ("subscriptionId", "callbackUrl", "eventTypes", "deliveryMode", "groupId", "expiresAt", "subject")
"""Columns of the table of subscriptions."""

app = typer.Typer(no_args_is_help=False, help="Show and end subscriptions to signals; needs an administrator's token.")


@app.command("list")
@client_command
def list_(options: ClientOptions, *, tenant: TenantOption = None) -> None:
    """Shows all subscriptions of the tenant, ordered by id."""
    query = {"pageSize": PAGE_SIZE, **of_tenant(tenant)}
    found = pages(options.server(), "/admin/subscriptions", query, "subscriptions").texts
    render.show_list("subscriptions", found, COLUMNS, options.format)


@app.command()
@client_command
def delete(
    options: ClientOptions,
    subscription: Annotated[str, typer.Argument(metavar="ID", help="Id of the subscription.")],
    *,
    tenant: TenantOption = None,
) -> None:
    """Ends a subscription; its worker may make a new one."""
    path = f"/admin/subscriptions/{names.subscription(subscription)}"
    options.server().call("DELETE", path, query=of_tenant(tenant))
