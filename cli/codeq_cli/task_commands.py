"""codeq task …: create, show, claim and end tasks."""

from __future__ import annotations

import enum
from typing import Annotated, Final

import typer

from codeq_cli import artifacts, json_text, names, render, usage
from codeq_cli.client_options import ClientOptions, TenantOption, client_command, of_tenant
from codeq_cli.failures import ExitCode, Failure, usage_failure
from codeq_cli.json_input import json_input
from codeq_cli.rest import members_of, pages

PAGE_SIZE: Final = 500
"""Tasks per page; the server's maximum."""

LIST_LENGTH: Final = 100
"""Default number of tasks in a list."""

COLUMNS: Final = ("id", "command", "status", "priority", "attempts", "createdAt", "error")
"""Columns of a table of tasks."""

DURATION: Final = "DURATION"
"""Placeholder in the help for a value such as 90s, 5m or 1h30m; a bare number is seconds."""

HOURS_12: Final = 12 * 3600
"""Maximum lease length, and maximum nack delay, in seconds."""

YEARS_10: Final = 3650 * 86400
"""Maximum delay and expiry, in seconds."""

app = typer.Typer(no_args_is_help=False, help="Create, show, claim and end tasks.")

Id = Annotated[str, typer.Argument(metavar="ID", help="Id of the task.")]
LeaseToken = Annotated[
    str | None,
    typer.Option(metavar="T", help="Lease token shown by claim; default: your live lease's token."),
]
ArtifactOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=FILE|URL", help="File of the result, uploaded or given by URL; may be repeated."),
]

app.add_typer(artifacts.app, name="artifact")


@app.command()
@client_command
def create(
    options: ClientOptions,
    command: Annotated[str, typer.Argument(metavar="COMMAND", help="Command, which names the task's queue.")],
    payload: Annotated[
        str, typer.Option(metavar="JSON|@FILE|-", help="Payload, one JSON value, sent byte for byte; - reads stdin.")
    ],
    *,
    priority: Annotated[
        int | None, typer.Option(parser=usage.whole(0, 9), metavar="0-9", help="Priority, highest first; default 0.")
    ] = None,
    delay: Annotated[
        int | None,
        typer.Option(parser=usage.duration(0, YEARS_10), metavar=DURATION, help="Deliver after this delay."),
    ] = None,
    run_at: Annotated[
        str | None, typer.Option(parser=usage.time, metavar="RFC3339", help="Do not deliver before this time.")
    ] = None,
    expire: Annotated[
        int | None,
        typer.Option(
            parser=usage.duration(1, YEARS_10), metavar=DURATION, help="End as FAILED if it waits longer than this."
        ),
    ] = None,
    max_attempts: Annotated[
        int | None,
        typer.Option(
            parser=usage.whole(1, 1000),
            metavar="N",
            help="Deliveries before the task goes to the dead-letter queue; default 5.",
        ),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Create the task only once: repeating the command shows the first task."),
    ] = None,
    task_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Id of the task; default: assigned by the server.")
    ] = None,
    webhook: Annotated[
        str | None, typer.Option(metavar="URL", help="URL to which the end of the task is reported.")
    ] = None,
    concurrency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Limits how many tasks with this key run at a time.")
    ] = None,
    rate_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Limits how fast tasks with this key are delivered.")
    ] = None,
    ordering_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Delivers tasks with this key one at a time, in order.")
    ] = None,
) -> None:
    """Creates a task and shows it."""
    if delay is not None and run_at is not None:
        raise usage_failure("--delay and --run-at cannot be combined")
    if idempotency_key is not None and task_id is not None:
        raise usage_failure("--idempotency-key and --task-id cannot be combined")
    fields = {"command": json_text.quote(names.command(command)), "payload": json_input("--payload", payload)}
    _add_numbers(fields, priority=priority, delaySeconds=delay, expireSeconds=expire, maxAttempts=max_attempts)
    if run_at is not None:
        fields["runAt"] = json_text.quote(run_at)
    if idempotency_key is not None:
        fields["idempotencyKey"] = json_text.quote(idempotency_key)
    if task_id is not None:
        fields["taskId"] = json_text.quote(task_id)
    if webhook is not None:
        fields["webhook"] = json_text.quote(webhook)
    for field, key in (("concurrencyKey", concurrency_key), ("rateKey", rate_key), ("orderingKey", ordering_key)):
        if key is not None:
            fields[field] = json_text.quote(key)
    _show_reply(options, options.server().call("POST", "/tasks", body=json_text.join(fields)))


@app.command()
@client_command
def get(options: ClientOptions, task_id: Id) -> None:
    """Shows a task and its last ten deliveries."""
    _show_reply(options, options.server().call("GET", f"/tasks/{names.task_id(task_id)}"))


class Order(enum.StrEnum):
    """Sort orders of a list."""

    NEWEST = "newest"
    OLDEST = "oldest"


@app.command("list")
@client_command
def list_(
    options: ClientOptions,
    *,
    command: Annotated[str | None, typer.Option(metavar="COMMAND", help="Only tasks of this queue.")] = None,
    status: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only tasks in these statuses, such as PENDING,CLAIMED.")
    ] = None,
    created_from: Annotated[
        str | None,
        typer.Option(parser=usage.time, metavar="RFC3339", help="Only tasks accepted at or after this time."),
    ] = None,
    created_to: Annotated[
        str | None, typer.Option(parser=usage.time, metavar="RFC3339", help="Only tasks accepted before this time.")
    ] = None,
    order: Annotated[Order, typer.Option(help="Sort order.")] = Order.NEWEST,
    limit: Annotated[
        int, typer.Option(parser=usage.whole(1, 100_000), metavar="N", help="Maximum number of tasks to show.")
    ] = LIST_LENGTH,
    all_: Annotated[bool, typer.Option("--all", help="Show all tasks; ignores --limit.")] = False,
    page_token: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="nextPageToken of the previous reply.")
    ] = None,
) -> None:
    """Shows tasks of the tenant, queue by queue, newest first; says if there are more."""
    most = None if all_ else limit
    query: dict[str, str | int | list[str]] = {
        "pageSize": PAGE_SIZE if most is None else min(most, PAGE_SIZE),
        "orderBy": order.value,
    }
    if command is not None:
        query["command"] = names.command(command)
    if status is not None:
        query["status"] = [name.strip().upper() for name in status.split(",")]
    others = {"createdFrom": created_from, "createdTo": created_to, "pageToken": page_token}
    query |= {name: text for name, text in others.items() if text is not None}
    tasks = pages(options.server(), "/tasks", query, "tasks", most)
    render.show_page("tasks", tasks, COLUMNS, options.format, also="--all for all tasks")


@app.command()
@client_command
def result(
    options: ClientOptions,
    task_id: Id,
    wait: Annotated[
        int, typer.Option(parser=usage.duration(0, 60), metavar=DURATION, help="Wait for the task to end, at most 60s.")
    ] = 0,
) -> None:
    """Shows a task's result; JSON and YAML include the task.

    Fails with RESULT_NOT_FOUND if the task does not end within the wait.
    """
    path = f"/tasks/{names.task_id(task_id)}/result"
    reply = options.server().call("GET", path, query={"waitSeconds": wait}, wait_seconds=wait)
    _show_reply(options, reply, table_field="result")


@app.command()
@client_command
def claim(
    options: ClientOptions,
    commands: Annotated[
        str | None, typer.Option(metavar="A,B", help="Commands to claim from; default: all that the token allows.")
    ] = None,
    lease: Annotated[
        int | None,
        typer.Option(
            parser=usage.duration(1, HOURS_12),
            metavar=DURATION,
            help="Length of the lease; default: of the policy, or 60s.",
        ),
    ] = None,
    wait: Annotated[
        int, typer.Option(parser=usage.duration(0, 30), metavar=DURATION, help="Wait for a task, at most 30s.")
    ] = 0,
) -> None:
    """Claims one task and shows it with its lease token. Exit code 3: nothing to claim."""
    fields: dict[str, str] = {}
    if commands is not None:
        wanted = [json_text.quote(names.command(name.strip())) for name in commands.split(",")]
        fields["commands"] = f"[{','.join(wanted)}]"
    _add_numbers(fields, leaseSeconds=lease, waitSeconds=wait)
    reply = options.server(as_worker=True).call("POST", "/tasks/claim", body=json_text.join(fields), wait_seconds=wait)
    if reply is None:
        raise Failure("nothing to claim", "NOTHING_TO_CLAIM", ExitCode.NOTHING_TO_CLAIM)
    _show_reply(options, reply)


@app.command()
@client_command
def heartbeat(
    options: ClientOptions,
    task_id: Id,
    extend: Annotated[
        int | None,
        typer.Option(
            parser=usage.duration(1, HOURS_12),
            metavar=DURATION,
            help="New length of the lease, counted from now; default: its original length.",
        ),
    ] = None,
    lease_token: LeaseToken = None,
) -> None:
    """Extends the lease of a task; never shortens it."""
    fields = _lease_fields(lease_token)
    _add_numbers(fields, extendSeconds=extend)
    _post(options, task_id, "heartbeat", fields)


@app.command()
@client_command
def complete(
    options: ClientOptions,
    task_id: Id,
    result: Annotated[
        str | None, typer.Option(metavar="JSON|@FILE|-", help="Result, sent byte for byte; default: no result.")
    ] = None,
    artifact: ArtifactOption = None,
    lease_token: LeaseToken = None,
) -> None:
    """Ends a claimed task as COMPLETED and shows its result."""
    fields = {"status": '"COMPLETED"', **_lease_fields(lease_token), **artifacts.fields(artifact or ())}
    if result is not None:
        fields["result"] = json_input("--result", result)
    _post(options, task_id, "result", fields)


@app.command()
@client_command
def fail(
    options: ClientOptions,
    task_id: Id,
    error: Annotated[str, typer.Option(metavar="TEXT", help="Error; must not be blank.")],
    artifact: ArtifactOption = None,
    lease_token: LeaseToken = None,
) -> None:
    """Ends a claimed task as FAILED, without a retry, and shows its result."""
    if not error.strip():
        raise usage_failure("--error: must not be blank")
    fields = {"status": '"FAILED"', "error": json_text.quote(error), **_lease_fields(lease_token)}
    fields |= artifacts.fields(artifact or ())
    _post(options, task_id, "result", fields)


@app.command()
@client_command
def nack(
    options: ClientOptions,
    task_id: Id,
    delay: Annotated[
        int | None,
        typer.Option(
            parser=usage.duration(0, HOURS_12),
            metavar=DURATION,
            help="Delay before the retry, at most 12h; default: the server's backoff policy.",
        ),
    ] = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Reason; stored as the task's error.")] = None,
    lease_token: LeaseToken = None,
) -> None:
    """Returns a task for a retry, or to the dead-letter queue after its last delivery, and shows the new status."""
    fields = _lease_fields(lease_token)
    _add_numbers(fields, delaySeconds=delay)
    if reason is not None:
        fields["reason"] = json_text.quote(reason)
    _post(options, task_id, "nack", fields)


@app.command()
@client_command
def abandon(
    options: ClientOptions,
    task_id: Id,
    delay: Annotated[
        int | None,
        typer.Option(
            parser=usage.duration(0, HOURS_12),
            metavar=DURATION,
            help="Delay before the next claim, at most 12h; default: none, and the task keeps its place.",
        ),
    ] = None,
    park_key: Annotated[
        bool,
        typer.Option(
            "--park-key", help="For the delay, deliver no task with the same rate key, or without one concurrency key."
        ),
    ] = False,
    lease_token: LeaseToken = None,
) -> None:
    """Returns a task unused, at once or after a delay: it keeps its attempts."""
    fields = _lease_fields(lease_token)
    _add_numbers(fields, delaySeconds=delay)
    if park_key:
        fields["parkKey"] = "true"
    _post(options, task_id, "abandon", fields)


@app.command()
@client_command
def progress(
    options: ClientOptions,
    task_id: Id,
    value: Annotated[
        str, typer.Argument(metavar="JSON|@FILE|-", help="Progress, one JSON value, sent byte for byte; - reads stdin.")
    ],
    extend: Annotated[
        int | None,
        typer.Option(
            parser=usage.duration(1, HOURS_12),
            metavar=DURATION,
            help="Also extend the lease, counted from now; default: leave it as is.",
        ),
    ] = None,
    lease_token: LeaseToken = None,
) -> None:
    """Stores the progress of a claimed task, at most 64 KiB, replacing the previous value."""
    fields = {"progress": json_input("JSON", value), **_lease_fields(lease_token)}
    _add_numbers(fields, extendSeconds=extend)
    _post(options, task_id, "progress", fields)


@app.command()
@client_command
def explain(options: ClientOptions, task_id: Id) -> None:
    """Shows what a task is waiting for."""
    _show_reply(options, options.server().call("GET", f"/tasks/{names.task_id(task_id)}/explain"))


@app.command()
@client_command
def cancel(
    options: ClientOptions,
    task_id: Id,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Reason; stored as the task's error.")] = None,
) -> None:
    """Cancels a task that has not ended, in any state, notifies its worker, and shows the task."""
    fields = {} if reason is None else {"reason": json_text.quote(reason)}
    _post(options, task_id, "cancel", fields, as_worker=False)


@app.command()
@client_command
def redrive(options: ClientOptions, task_id: Id, tenant: TenantOption = None) -> None:
    """Requeues a task that is DLQ, FAILED or CANCELLED; needs an administrator's token."""
    _post(options, task_id, "redrive", {}, as_worker=False, tenant=tenant)


@app.command()
@client_command
def cleanup(
    options: ClientOptions,
    before: Annotated[
        str, typer.Option(parser=usage.time, metavar="RFC3339", help="Delete tasks that ended before this time.")
    ],
    limit: Annotated[
        int | None,
        typer.Option(parser=usage.whole(1, 10_000), metavar="N", help="Maximum number of tasks; default 1000."),
    ] = None,
    page_token: Annotated[str | None, typer.Option(metavar="TOKEN", help="nextPageToken of the last call.")] = None,
    tenant: TenantOption = None,
) -> None:
    """Deletes ended tasks before their retention expires; needs an administrator's token.

    Deleting many tasks takes several calls: repeat the command with the nextPageToken until none is shown.
    """
    fields = {"before": json_text.quote(before)}
    _add_numbers(fields, limit=limit)
    if page_token is not None:
        fields["pageToken"] = json_text.quote(page_token)
    body, query = json_text.join(fields), of_tenant(tenant)
    _show_reply(options, options.server().call("POST", "/admin/tasks/cleanup", body=body, query=query))


def _lease_fields(lease_token: str | None) -> dict[str, str]:
    return {} if lease_token is None else {"leaseToken": json_text.quote(lease_token)}


def _add_numbers(fields: dict[str, str], **numbers: int | None) -> None:
    fields.update({name: str(number) for name, number in numbers.items() if number is not None})


def _post(
    options: ClientOptions,
    task_id: str,
    action: str,
    fields: dict[str, str],
    *,
    as_worker: bool = True,
    tenant: str | None = None,
) -> None:
    path, server = f"/tasks/{names.task_id(task_id)}/{action}", options.server(as_worker=as_worker)
    _show_reply(options, server.call("POST", path, body=json_text.join(fields), query=of_tenant(tenant)))


def _show_reply(options: ClientOptions, reply: str | None, *, table_field: str | None = None) -> None:
    fields = members_of(reply)
    if table_field is not None:
        members_of(fields.get(table_field))
    render.show_object(reply or "", options.format, table_field=table_field)
