"""codeq webhook …: callbacks of ended tasks, and what is set for their receivers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from codeq_cli import json_text, names, render, usage
from codeq_cli.client_options import ClientOptions, TenantOption, client_command, of_tenant
from codeq_cli.failures import usage_failure
from codeq_cli.rest import members_of, pages

PAGE_SIZE: Final = 500
"""Callbacks per page; the server's maximum."""

COLUMNS: Final = ("deliveryId", "taskId", "status", "state", "attemptsTotal", "nextAttemptAt", "url")
"""Columns of the table of callbacks."""

TIME: Final = "DURATION|RFC3339"

SECRET_COLUMNS: Final = ("endpoint", "fingerprints", "changedAt")
"""Columns of the table of secrets."""

app = typer.Typer(
    no_args_is_help=False, help="Show and control callbacks; needs an administrator's token, for lists also a viewer's."
)
secrets_app = typer.Typer(
    no_args_is_help=False, help="Set the secrets that sign requests; needs an administrator's token."
)
app.add_typer(secrets_app, name="secrets")

Command = Annotated[str | None, typer.Argument(metavar="COMMAND", help="Command of the tasks.")]
TaskOption = Annotated[str | None, typer.Option("--task", metavar="ID", help="Task, in place of a command.")]
Host = Annotated[str, typer.Argument(metavar="HOST:PORT", help="Host and port, as in hooks.example.com:443.")]
Receiver = Annotated[
    str,
    typer.Option(
        "--receiver",
        metavar="URL",
        help="The secrets' endpoint, a URL without its query; default: all endpoints without secrets of their own.",
    ),
]


@app.command("list")
@client_command
def list_(
    options: ClientOptions,
    command: Command = None,
    task: TaskOption = None,
    state: Annotated[
        str | None, typer.Option(metavar="STATE", help="Only PENDING, DELIVERED or GAVE_UP; default: not DELIVERED.")
    ] = None,
    tenant: TenantOption = None,
) -> None:
    """Shows the callbacks of a command that are not delivered, with the hosts that get none, or all of a task."""
    if (command is None) == (task is None):
        raise usage_failure("either COMMAND or --task is required")
    server, others = options.server(), dict[str, str]()
    if task is not None:
        reply = members_of(server.call("GET", f"/tasks/{names.task_id(task)}/webhooks"))
        found = json_text.elements(reply["callbacks"])
    else:
        query = {"command": names.command(command or ""), "pageSize": PAGE_SIZE, **of_tenant(tenant)}
        if state is not None:
            query["state"] = state
        page = pages(server, "/admin/webhooks", query, "callbacks")
        found, others = page.texts, dict(page.others)
    render.show_list("callbacks", found, COLUMNS, options.format, others)
    if options.format is render.Format.TABLE:
        for held in json.loads(others.get("heldHosts", "[]")):
            until = f" until {held['until']}" if "until" in held else ""
            sys.stderr.write(f"no callbacks to {held['host']}: {held['reason']}{until}\n")


@app.command()
@client_command
def retry(
    options: ClientOptions,
    command: Command = None,
    task: TaskOption = None,
    ended_from: Annotated[
        str | None,
        typer.Option("--from", parser=usage.time_or_age, metavar=TIME, help="Only tasks that ended at or after this."),
    ] = None,
    ended_to: Annotated[
        str | None,
        typer.Option("--to", parser=usage.time_or_age, metavar=TIME, help="Only tasks that ended before this."),
    ] = None,
    tenant: TenantOption = None,
) -> None:
    """Attempts callbacks at once: those of a command that were given up, or all of a task that are not delivered."""
    if (command is None) == (task is None):
        raise usage_failure("either COMMAND or --task is required")
    times = {"from": ended_from, "to": ended_to}
    if task is not None and any(times.values()):
        raise usage_failure("--from and --to need COMMAND")
    server, query = options.server(), of_tenant(tenant)
    if task is not None:
        path = f"/tasks/{names.task_id(task)}/webhooks/retry"
        _show(options, server.call("POST", path, body="{}", query=query))
        return
    fields, retried = {"command": json_text.quote(names.command(command or ""))}, 0
    fields |= {name: json_text.quote(time) for name, time in times.items() if time is not None}
    while True:
        reply = members_of(server.call("POST", "/admin/webhooks/retry", body=json_text.join(fields), query=query))
        retried += int(reply.get("retried", "0"))
        if reply.get("nextPageToken", '""') == '""':
            break
        fields["pageToken"] = reply["nextPageToken"]
    render.show_object(json_text.join({"retried": str(retried)}), options.format)


@app.command()
@client_command
def pause(options: ClientOptions, host: Host, tenant: TenantOption = None) -> None:
    """Has the callbacks to a host wait; their tasks are kept meanwhile."""
    _post(options, "pause", {"host": host}, tenant)


@app.command()
@client_command
def resume(options: ClientOptions, host: Host, tenant: TenantOption = None) -> None:
    """Delivers the callbacks to a host again, and at once those that waited."""
    _post(options, "resume", {"host": host}, tenant)


@app.command("test")
@client_command
def send_test(
    options: ClientOptions,
    url: Annotated[str, typer.Argument(metavar="URL", help="URL of the webhook.")],
    tenant: TenantOption = None,
) -> None:
    """Sends a callback of a task that does not exist, and shows the answer."""
    _post(options, "test", {"url": url}, tenant)


@secrets_app.command("list")
@client_command
def list_secrets(options: ClientOptions, tenant: TenantOption = None) -> None:
    """Shows the endpoints that have secrets, with fingerprints of the secrets."""
    reply = members_of(options.server().call("GET", "/admin/webhooks/secrets", query=of_tenant(tenant)))
    render.show_list("endpoints", json_text.elements(reply["endpoints"]), SECRET_COLUMNS, options.format)


@secrets_app.command()
@client_command
def put(
    options: ClientOptions,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="Secrets, one a line, the newest first; - is stdin.")],
    receiver: Receiver = "",
    tenant: TenantOption = None,
) -> None:
    """Sets the secrets that sign requests: one, or two while receivers change over."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise usage_failure(f"{file} cannot be read: {problem}") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    secrets = f"[{', '.join(json_text.quote(line) for line in lines)}]"
    body = json_text.join({"endpoint": json_text.quote(receiver), "secrets": secrets})
    _show(options, options.server().call("PUT", "/admin/webhooks/secrets", body=body, query=of_tenant(tenant)))


@secrets_app.command()
@client_command
def delete(options: ClientOptions, receiver: Receiver = "", tenant: TenantOption = None) -> None:
    """Removes the secrets for an endpoint."""
    query = {"endpoint": receiver, **of_tenant(tenant)}
    _show(options, options.server().call("DELETE", "/admin/webhooks/secrets", query=query))


def _post(options: ClientOptions, action: str, fields: dict[str, str], tenant: str | None) -> None:
    body = json_text.join({name: json_text.quote(value) for name, value in fields.items()})
    _show(options, options.server().call("POST", f"/admin/webhooks/{action}", body=body, query=of_tenant(tenant)))


def _show(options: ClientOptions, reply: str | None) -> None:
    members_of(reply)
    render.show_object(reply or "", options.format)
