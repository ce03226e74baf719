"""codeq topic …: the policies of the tenant's queues."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from codeq_cli import names, render
from codeq_cli.client_options import ClientOptions, TenantOption, client_command, of_tenant
from codeq_cli.failures import usage_failure
from codeq_cli.json_input import json_input
from codeq_cli.rest import members_of, pages

PAGE_SIZE: Final = 500
"""Topics per page; the server's maximum."""

COLUMNS: Final = ("topicName", "version", "policy", "updatedAt")
"""Columns of the table of topics."""

app = typer.Typer(
    no_args_is_help=False,
    help="Show and set the policies of queues; needs an administrator's token, to show them also a viewer's.",
)

Command = Annotated[str, typer.Argument(metavar="COMMAND", help="Command, whose queue need not exist.")]


@app.command("list")
@client_command
def list_(options: ClientOptions, tenant: TenantOption = None) -> None:
    """Shows every topic of the tenant, ordered by name."""
    topics = pages(options.server(), "/admin/topics", {"pageSize": PAGE_SIZE, **of_tenant(tenant)}, "topics")
    render.show_list("topics", topics.texts, COLUMNS, options.format)


@app.command()
@client_command
def get(options: ClientOptions, command: Command, tenant: TenantOption = None) -> None:
    """Shows the policy of a command."""
    path = f"/admin/topics/{names.command(command)}"
    _show(options, options.server().call("GET", path, query=of_tenant(tenant)))


@app.command()
@client_command
def put(
    options: ClientOptions,
    command: Command,
    policy: Annotated[
        str,
        typer.Argument(
            metavar="POLICY|@FILE|-",
            help='The whole policy, such as {"maxConsumers": 20, "maxAttempts": 5}; @FILE reads a file, - reads stdin.',
        ),
    ],
    tenant: TenantOption = None,
) -> None:
    """Sets the whole policy of a command; it takes effect at once."""
    body = json_input("POLICY", policy)
    if not body.lstrip().startswith("{"):
        raise usage_failure("POLICY must be a JSON object")
    path = f"/admin/topics/{names.command(command)}"
    _show(options, options.server().call("PUT", path, body=body, query=of_tenant(tenant)))


@app.command()
@client_command
def delete(options: ClientOptions, command: Command, tenant: TenantOption = None) -> None:
    """Removes the policy of a command, if it has one; its queue and tasks stay."""
    path = f"/admin/topics/{names.command(command)}"
    options.server().call("DELETE", path, query={"deletionPolicy": "Delete", **of_tenant(tenant)})


def _show(options: ClientOptions, reply: str | None) -> None:
    members_of(reply)
    render.show_object(reply or "", options.format)
