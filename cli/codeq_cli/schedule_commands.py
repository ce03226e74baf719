"""codeq schedule …: tasks created at given times."""

from __future__ import annotations

import enum
from typing import Annotated, Final

import typer

from codeq_cli import json_text, names, render, usage
from codeq_cli.client_options import ClientOptions, TenantOption, client_command, of_tenant
from codeq_cli.failures import usage_failure
from codeq_cli.json_input import json_input
from codeq_cli.rest import Query, Server, members_of, pages

PAGE_SIZE: Final = 500
"""Schedules per page; the server's maximum."""

COLUMNS: Final = (
    "name",
    "command",
    "when",
    "timeZone",
    "paused",
    "finished",
    "firedTotal",
    "skippedTotal",
    "missedTotal",
)
"""Columns of the table of schedules."""

FIRE_COLUMNS: Final = ("scheduledAt", "firedAt", "kind", "taskId")
"""Columns of the table of fires."""

MOVED_COLUMNS: Final = ("name", "moved", "before", "after")
"""Columns of the table of recomputed schedules: first stored instant before and after."""

DURATION: Final = "DURATION"
"""Placeholder in the help for a value such as 90s, 5m or 1h30m; a bare number is seconds."""

DAY: Final = 86_400
YEARS_10: Final = 3650 * DAY

app = typer.Typer(
    no_args_is_help=False,
    help="Create tasks at given times; needs an administrator's token, to show schedules also a viewer's.",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the schedule.")]


class Overlap(enum.StrEnum):
    """What happens at an instant while a task of the schedule has not ended."""

    ALLOW = "allow"
    SKIP = "skip"
    QUEUE_ONE = "queueOne"
    CANCEL_RUNNING = "cancelRunning"


class Misfire(enum.StrEnum):
    """What happens to missed instants."""

    ONE = "one"
    SKIP = "skip"
    ALL = "all"


Cron = Annotated[
    str | None,
    typer.Option("--cron", metavar="CRON", help='Cron expression of 5 or 6 fields, or @daily, "@every 1h", …'),
]
Every = Annotated[str | None, typer.Option("--every", metavar="90s|1h30m", help="Interval between the instants.")]
At = Annotated[str | None, typer.Option("--at", parser=usage.time, metavar="RFC3339", help="The only instant.")]
Zone = Annotated[
    str | None,
    typer.Option("--time-zone", metavar="ZONE", help="Time zone of CRON, such as Europe/Berlin; default UTC."),
]
Payload = Annotated[
    str,
    typer.Option(
        "--payload",
        metavar="JSON|@FILE|-",
        help="Payload; in its strings {{scheduledAt}} becomes the instant. Default null.",
    ),
]
Priority = Annotated[
    int | None,
    typer.Option("--priority", parser=usage.whole(0, 9), metavar="0-9", help="Priority of the tasks; default 0."),
]
Attempts = Annotated[
    int | None,
    typer.Option("--max-attempts", parser=usage.whole(1, 1000), metavar="N", help="Deliveries of a task; default 5."),
]
Delay = Annotated[
    int | None,
    typer.Option("--delay", parser=usage.duration(0, YEARS_10), metavar=DURATION, help="Delay of the tasks."),
]
Expire = Annotated[
    int | None,
    typer.Option("--expire", parser=usage.duration(1, YEARS_10), metavar=DURATION, help="Expiry of waiting tasks."),
]
OverlapOption = Annotated[
    Overlap | None, typer.Option("--overlap", help="What to do while an earlier task has not ended; default allow.")
]
MisfireOption = Annotated[
    Misfire | None,
    typer.Option("--misfire", help="Which missed instants to fire: the latest one (default), none, or all."),
]
MisfireMax = Annotated[
    int | None,
    typer.Option("--misfire-max", parser=usage.whole(1, 100), metavar="N", help="Most instants of all; default 100."),
]
Jitter = Annotated[
    int | None,
    typer.Option("--jitter", parser=usage.duration(0, DAY), metavar=DURATION, help="Longest random delay of a fire."),
]
Start = Annotated[
    str | None, typer.Option("--start", parser=usage.time, metavar="RFC3339", help="No instants before this time.")
]
End = Annotated[
    str | None, typer.Option("--end", parser=usage.time, metavar="RFC3339", help="No instants after this time.")
]


@app.command()
@client_command
def put(
    options: ClientOptions,
    name: Name,
    command: Annotated[str, typer.Option(metavar="COMMAND", help="Command of the tasks.")],
    *,
    cron: Cron = None,
    every: Every = None,
    at: At = None,
    time_zone: Zone = None,
    payload: Payload = "null",
    priority: Priority = None,
    max_attempts: Attempts = None,
    delay: Delay = None,
    expire: Expire = None,
    overlap: OverlapOption = None,
    misfire: MisfireOption = None,
    misfire_max: MisfireMax = None,
    jitter: Jitter = None,
    start: Start = None,
    end: End = None,
    paused: Annotated[bool, typer.Option("--paused", help="Do not fire until resumed.")] = False,
    tenant: TenantOption = None,
) -> None:
    """Creates a schedule or replaces its definition, and shows it with its next ten instants."""
    if sum(each is not None for each in (cron, every, at)) != 1:
        raise usage_failure("exactly one of --cron, --every and --at is needed")
    texts = {
        "command": names.command(command),
        "cron": cron,
        "every": every,
        "at": at,
        "timeZone": time_zone,
        "overlap": overlap,
        "misfire": misfire,
        "startAt": start,
        "endAt": end,
    }
    numbers = {
        "priority": priority,
        "maxAttempts": max_attempts,
        "delaySeconds": delay,
        "expireSeconds": expire,
        "misfireMax": misfire_max,
        "jitterSeconds": jitter,
    }
    fields = {field: json_text.quote(str(value)) for field, value in texts.items() if value is not None}
    fields |= {field: str(value) for field, value in numbers.items() if value is not None}
    fields |= {"payload": json_input("--payload", payload)} | ({"paused": "true"} if paused else {})
    _show(options, options.server().call("PUT", _path(name), body=json_text.join(fields), query=of_tenant(tenant)))


@app.command()
@client_command
def get(options: ClientOptions, name: Name, tenant: TenantOption = None) -> None:
    """Shows a schedule with its next ten instants."""
    _show(options, options.server().call("GET", _path(name), query=of_tenant(tenant)))


@app.command("list")
@client_command
def list_(options: ClientOptions, tenant: TenantOption = None) -> None:
    """Shows every schedule of the tenant, ordered by name."""
    schedules = _all(options.server(), of_tenant(tenant))
    if options.format is render.Format.TABLE:
        schedules = [_row(each) for each in schedules]
    render.show_list("schedules", schedules, COLUMNS, options.format)


@app.command()
@client_command
def delete(options: ClientOptions, name: Name, tenant: TenantOption = None) -> None:
    """Removes a schedule with its history; tasks that it created stay."""
    options.server().call("DELETE", _path(name), query=of_tenant(tenant))


@app.command()
@client_command
def pause(options: ClientOptions, name: Name, tenant: TenantOption = None) -> None:
    """Stops a schedule from firing."""
    _post(options, name, "pause", tenant)


@app.command()
@client_command
def resume(options: ClientOptions, name: Name, tenant: TenantOption = None) -> None:
    """Lets a paused schedule fire again; its misfire policy says what happens to the instants of the pause."""
    _post(options, name, "resume", tenant)


@app.command()
@client_command
def trigger(options: ClientOptions, name: Name, tenant: TenantOption = None) -> None:
    """Creates a task now, even if the schedule is paused, and shows the fire."""
    _post(options, name, "trigger", tenant)


@app.command()
@client_command
def backfill(
    options: ClientOptions,
    name: Name,
    start: Annotated[
        str, typer.Option("--from", parser=usage.time_or_age, metavar="RFC3339|AGE", help="First instant.")
    ],
    end: Annotated[
        str, typer.Option("--to", parser=usage.time_or_age, metavar="RFC3339|AGE", help="End of the range, exclusive.")
    ],
    tenant: TenantOption = None,
) -> None:
    """Creates the tasks of past instants, at most 1000, each once."""
    body = json_text.join({"from": json_text.quote(start), "to": json_text.quote(end)})
    reply = options.server().call("POST", f"{_path(name)}/backfill", body=body, query=of_tenant(tenant))
    _show_fires(options, reply)


@app.command()
@client_command
def history(options: ClientOptions, name: Name, tenant: TenantOption = None) -> None:
    """Shows the last hundred fires of a schedule with the ids of their tasks, the latest first."""
    _show_fires(options, options.server().call("GET", f"{_path(name)}/history", query=of_tenant(tenant)))


@app.command()
@client_command
def recompute(
    options: ClientOptions,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Name of the schedule; default: all of the tenant.")
    ] = None,
    tenant: TenantOption = None,
) -> None:
    """Computes the stored instants again with the server's time zone data, and shows which schedules moved."""
    server, query = options.server(), of_tenant(tenant)
    found = [_name(each) for each in _all(server, query)] if name is None else [names.schedule(name)]
    rows = []
    for each in found:
        reply = members_of(server.call("POST", f"{_path(each)}/recompute", body="{}", query=query))
        rows.append(json_text.join({"name": json_text.quote(each)} | reply))
    if options.format is render.Format.TABLE:
        rows = [_moved(each) for each in rows]
    render.show_list("schedules", rows, MOVED_COLUMNS, options.format)


def _path(name: str) -> str:
    return f"/admin/schedules/{names.schedule(name)}"


def _all(server: Server, query: Query) -> list[str]:
    return pages(server, "/admin/schedules", {"pageSize": PAGE_SIZE, **query}, "schedules").texts


def _post(options: ClientOptions, name: str, action: str, tenant: str | None) -> None:
    _show(options, options.server().call("POST", f"{_path(name)}/{action}", body="{}", query=of_tenant(tenant)))


def _show(options: ClientOptions, reply: str | None) -> None:
    members_of(reply)
    render.show_object(reply or "", options.format)


def _show_fires(options: ClientOptions, reply: str | None) -> None:
    fields = members_of(reply)
    if options.format is render.Format.TABLE:
        render.show_list("fires", json_text.elements(fields.get("fires", "[]")), FIRE_COLUMNS, options.format)
    else:
        render.show_object(reply or "", options.format)


def _name(schedule: str) -> str:
    return str(json_text.parse(members_of(schedule).get("name", '""')))


def _row(schedule: str) -> str:
    """Returns a schedule as one object without inner ones."""
    fields = members_of(schedule)
    spec = members_of(fields.get("spec"))
    when = next((spec[name] for name in ("cron", "every", "at") if name in spec), '""')
    return json_text.join(fields | spec | {"when": when})


def _moved(row: str) -> str:
    """Returns a recomputed schedule with its first instants only."""
    fields = members_of(row)
    first = {name: json_text.elements(fields.get(name, "[]"))[:1] for name in ("before", "after")}
    return json_text.join(fields | {name: found[0] if found else '""' for name, found in first.items()})
