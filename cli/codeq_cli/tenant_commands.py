"""codeq tenant …: what tenants use, and their limits."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from codeq_cli import json_text, names, render
from codeq_cli.client_options import ClientOptions, client_command
from codeq_cli.failures import usage_failure
from codeq_cli.rest import members_of, pages

PAGE_SIZE: Final = 500
"""Tenants per page; the server's maximum."""

COLUMNS: Final = (
    "name",
    "waitingTasks",
    "leases",
    "storedBytes",
    "queues",
    "streams",
    "createdTotal",
    "rateLimitedTotal",
    "quotaRefusedTotal",
)
"""Columns of the table of tenants."""

RATES: Final = ("producer", "worker", "admin", "producerToken", "workerToken", "adminToken")
"""Limits that are rates."""

QUOTAS: Final = (
    "waitingTasksMax",
    "storedBytesMax",
    "leasesMax",
    "queuesMax",
    "streamsMax",
    "newQueuesPerMinute",
)
"""Limits that are numbers."""

INHERIT: Final = "inherit"
"""Value of a limit that is to be inherited."""

_RATE: Final = re.compile(r"([0-9]{1,10})/([0-9]{1,10})")
_NUMBER: Final = re.compile(r"[0-9]{1,18}")

app = typer.Typer(no_args_is_help=False, help="Show and limit tenants; needs an operator's token.")

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="Name of the tenant; _default for the limits that tenants without their own inherit."
    ),
]


@app.command("list")
@client_command
def list_(options: ClientOptions) -> None:
    """Shows every tenant that has queues, limits of its own or recorded usage, ordered by name."""
    tenants = pages(options.server(), "/admin/tenants", {"pageSize": PAGE_SIZE}, "tenants").texts
    if options.format is render.Format.TABLE:
        tenants = [_row(each) for each in tenants]
    render.show_list("tenants", tenants, COLUMNS, options.format)


@app.command()
@client_command
def show(options: ClientOptions, name: Name) -> None:
    """Shows the limits in force for a tenant, and what it uses."""
    show_tenant(options, options.server().call("GET", f"/admin/tenants/{names.tenant(name)}"))


@app.command("set")
@client_command
def set_(
    options: ClientOptions,
    name: Name,
    limits: Annotated[
        list[str],
        typer.Argument(
            metavar="LIMIT=VALUE…",
            help=f"Limits: {', '.join(QUOTAS)} with a number, 0 for none; {', '.join(RATES)} with the cost per minute "
            f"and the burst, such as producer=6000/100, 0/0 for none; {INHERIT} as value for the default.",
        ),
    ],
) -> None:
    """Changes limits of a tenant; they take effect at once, and all others stay as they are."""
    path = f"/admin/tenants/{names.tenant(name)}"
    show_tenant(options, options.server().call("PATCH", path, body=_change(limits)))


def _change(limits: Sequence[str]) -> str:
    """Returns the request for limits as given.

    Raises:
        Failure: A limit is unknown, or its value malformed.
    """
    wanted: dict[str, Any] = {}
    inherit: list[str] = []
    for each in limits:
        name, _, value = each.partition("=")
        if name not in (*RATES, *QUOTAS):
            raise usage_failure(f"{name!r} is not a limit; limits are {', '.join((*QUOTAS, *RATES))}")
        if name in wanted or name in inherit:
            raise usage_failure(f"{name} is given twice")
        if value == INHERIT:
            inherit.append(name)
        elif name in QUOTAS:
            if not _NUMBER.fullmatch(value):
                raise usage_failure(f"{name}: {value!r} is neither a number nor {INHERIT}")
            wanted[name] = int(value)
        else:
            rate = _RATE.fullmatch(value)
            if rate is None:
                raise usage_failure(f"{name}: {value!r} is neither PER-MINUTE/BURST, such as 6000/100, nor {INHERIT}")
            per_minute, burst = int(rate[1]), int(rate[2])
            if (per_minute == 0) != (burst == 0):  # the server would not limit anything
                raise usage_failure(f"{name}: {value} is no limit: both numbers must be above 0, or both 0 for none")
            wanted[name] = {"requestsPerMinute": per_minute, "burstSize": burst}
    return json.dumps({"limits": wanted, "inherit": inherit})


def show_tenant(options: ClientOptions, reply: str | None) -> None:
    """Prints a tenant: in a table its name, the limits in force and its usage.

    Raises:
        Failure: The reply is no tenant.
    """
    fields = members_of(reply)
    if options.format is render.Format.TABLE:
        own, effective = members_of(fields.get("limits")), members_of(fields.get("effective"))
        shown = {"name": fields.get("name", '""')}
        shown |= {name: json_text.quote(_limit(value, own=name in own)) for name, value in effective.items()}
        reply = json_text.join(shown | _usage(fields))
    render.show_object(reply or "", options.format)


def _limit(text: str, *, own: bool) -> str:
    """Returns a limit as shown in a table: as it is written, with a mark if it is the tenant's own."""
    value: Any = json.loads(text)
    if isinstance(value, dict):
        value = f"{value.get('requestsPerMinute', 0)}/{value.get('burstSize', 0)}"
    return f"{value} (own)" if own else str(value)


def _row(tenant: str) -> str:
    """Returns a tenant with its usage, as one object without inner ones."""
    fields = members_of(tenant)
    return json_text.join({"name": fields.get("name", '""')} | _usage(fields))


def _usage(fields: dict[str, str]) -> dict[str, str]:
    return members_of(fields["usage"]) if "usage" in fields else {}
