"""codeq dlq …: show the tasks that failed too often, and redrive them."""

from __future__ import annotations

import sys
from typing import Annotated, Final

import typer

from codeq_cli import json_text, names, render, usage
from codeq_cli.client_options import ClientOptions, TenantOption, client_command, of_tenant
from codeq_cli.failures import usage_failure
from codeq_cli.rest import Items, members_of, pages

LIST_LENGTH: Final = 100
"""Default number of dead letters in a list."""

OVERVIEW_COLUMNS: Final = ("command", "dlq", "failedTotal")
"""Columns of the table of queues that have dead letters."""

COLUMNS: Final = ("id", "priority", "attempts", "finishedAt", "error")
"""Columns of the table of dead letters."""

app = typer.Typer(
    no_args_is_help=False,
    help="Show and redrive dead letters; needs an administrator's token, to show them also a viewer's.",
)

Command = Annotated[str, typer.Argument(metavar="COMMAND", help="Command of the queue.")]


@app.command("list")
@client_command
def list_(
    options: ClientOptions,
    command: Annotated[
        str | None, typer.Argument(metavar="[COMMAND]", help="Command of the queue; default: list the queues.")
    ] = None,
    limit: Annotated[
        int, typer.Option(parser=usage.whole(1, 500), metavar="N", help="Maximum number of tasks to show.")
    ] = LIST_LENGTH,
    page_token: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="nextPageToken of the previous reply.")
    ] = None,
    tenant: TenantOption = None,
) -> None:
    """Shows the dead letters of a queue, oldest first; JSON and YAML also group them by error.

    Without COMMAND it shows the queues that have dead letters.
    """
    if command is None:
        _show_overview(options, tenant)
        return
    query = {"pageSize": limit, **of_tenant(tenant)}
    if page_token is not None:
        query["pageToken"] = page_token
    reply = options.server().call("GET", f"/admin/queues/{names.command(command)}/dlq", query=query)
    fields = members_of(reply)
    if options.format is render.Format.TABLE:
        token = str(json_text.parse(fields.get("nextPageToken", '""')))
        render.show_page("tasks", Items(json_text.elements(fields.get("tasks", "[]")), token), COLUMNS, options.format)
    else:
        render.show_object(reply or "", options.format)


def _show_overview(options: ClientOptions, tenant: str | None) -> None:
    queues = pages(options.server(), "/admin/queues", {"pageSize": 500, **of_tenant(tenant)}, "queues").texts
    affected = [queue for queue in queues if json_text.members(queue).get("dlq", "0") != "0"]
    render.show_list("queues", affected, OVERVIEW_COLUMNS, options.format)


@app.command()
@client_command
def redrive(
    options: ClientOptions,
    command: Command,
    *,
    status: Annotated[str, typer.Option(help="Status of the tasks: DLQ, FAILED or CANCELLED.")] = "DLQ",
    error: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only tasks whose error contains this text.")
    ] = None,
    ended_from: Annotated[
        str | None,
        typer.Option(parser=usage.time, metavar="RFC3339", help="Only tasks that ended at or after this time."),
    ] = None,
    ended_to: Annotated[
        str | None, typer.Option(parser=usage.time, metavar="RFC3339", help="Only tasks that ended before this time.")
    ] = None,
    task_ids: Annotated[str | None, typer.Option("--ids", metavar="A,B", help="Only the tasks with these ids.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count the tasks; change nothing.")] = False,
    limit: Annotated[
        int | None,
        typer.Option(parser=usage.whole(1, 10_000), metavar="N", help="Maximum number of tasks; default 1000."),
    ] = None,
    rate: Annotated[
        int | None,
        typer.Option(parser=usage.whole(1, 10_000), metavar="N", help="Tasks per second, in the background."),
    ] = None,
    page_token: Annotated[str | None, typer.Option(metavar="TOKEN", help="nextPageToken of the last call.")] = None,
    tenant: TenantOption = None,
) -> None:
    """Requeues ended tasks at the tail of their queue, with zero attempts.

    Redriving a long queue takes several calls: repeat the command with the nextPageToken until none is shown.
    """
    if rate is not None and (dry_run or limit is not None):
        raise usage_failure("--rate cannot be combined with --dry-run or --limit")
    fields = {"status": json_text.quote(status.upper())}
    texts = {"errorContains": error, "endedFrom": ended_from, "endedTo": ended_to, "pageToken": page_token}
    fields |= {name: json_text.quote(text) for name, text in texts.items() if text is not None}
    fields |= {name: str(number) for name, number in {"limit": limit, "rate": rate}.items() if number is not None}
    if dry_run:
        fields["dryRun"] = "true"
    if task_ids is not None:
        ids = [json_text.quote(names.task_id(each.strip())) for each in task_ids.split(",")]
        fields["taskIds"] = f"[{','.join(ids)}]"
    path = f"/admin/queues/{names.command(command)}/dlq/redrive"
    reply = options.server().call("POST", path, body=json_text.join(fields), query=of_tenant(tenant))
    fields_of = members_of(reply)
    if fields_of.get("inBackground") == "true":
        # The counts are not known yet: zeros would look as if nothing matched.
        reply = json_text.join({"inBackground": "true", "rate": str(rate)})
        sys.stderr.write(f"redriving in the background, {rate} a second; codeq dlq list shows the rest\n")
    render.show_object(reply or "", options.format)
