"""codeq usage: what the tenant uses."""

from __future__ import annotations

import typer

from codeq_cli.client_options import ClientOptions, TenantOption, client_command, of_tenant
from codeq_cli.tenant_commands import show_tenant

app = typer.Typer(no_args_is_help=False)


@app.command()
@client_command
def usage(options: ClientOptions, tenant: TenantOption = None) -> None:
    """Shows what the tenant uses, and the limits in force."""
    show_tenant(options, options.server().call("GET", "/usage", query=of_tenant(tenant)))
