"""codeq top: the busiest queues, the workers and the cluster, shown again and again."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Annotated, Final, NamedTuple

import typer

from codeq_cli import json_text, render
from codeq_cli.client_options import ClientOptions, TenantOption, client_command, of_tenant
from codeq_cli.cluster_commands import MEMBER_COLUMNS
from codeq_cli.queue_commands import COLUMNS, PAGE_SIZE
from codeq_cli.rest import Server, members_of, pages

SUMS: Final = ("ready", "scheduled", "claimed", "dlq", "createdRate", "completedRate")
"""Members of queues that the first table adds up."""
OLDEST: Final = "oldestAgeSeconds"
INTERVAL_MAX: Final = 3600
QUEUES_MAX: Final = 1000
WORKERS_MAX: Final = 500
"""Workers that are read, those connected for the longest."""
WORKER_COLUMNS: Final = ("workerId", "commands", "claimed", "credits", "sdk", "version", "origin", "connectedAt")
LINES_BESIDE: Final = 10
"""Lines of a terminal that show no queue, worker or member: sums, headings, gaps and the cursor."""
CLEAR: Final = "\x1b[H\x1b[2J"
"""Clears a terminal."""

app = typer.Typer(no_args_is_help=False)
"""Holds this module's command for the table of commands."""


@app.command()
@client_command
def top(
    options: ClientOptions,
    interval: Annotated[int, typer.Option(min=1, max=INTERVAL_MAX, help="Seconds between two looks.")] = 2,
    count: Annotated[
        int | None, typer.Option(min=1, help="Looks; default: until interrupted, or one if stdout is no terminal.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=QUEUES_MAX, help="Queues to show.")] = 20,
    once: Annotated[bool, typer.Option("--once", help="Looks once, as --count 1.")] = False,
    tenant: TenantOption = None,
) -> None:
    """Shows the queues with the most work, their sums and rates, the connected workers, and the members of the cluster.

    On a terminal, it shows as many queues and workers as fit.
    """
    server, is_live = options.server(), sys.stdout.isatty()
    left = 1 if once else count if count is not None else None if is_live else 1
    while left is None or left > 0:
        seen = _look(server, tenant)
        if is_live and options.format is render.Format.TABLE:
            sys.stdout.write(CLEAR)
            _show_tables(seen, *_fitting(limit, len(seen.members)))
        elif options.format is render.Format.TABLE:
            _show_tables(seen, limit, WORKERS_MAX)
        else:
            others = {"sums": json_text.join(seen.sums), "workers": _list(seen.workers), "members": _list(seen.members)}
            render.show_list("queues", seen.queues[:limit], COLUMNS, options.format, others)
        if left is not None:
            left -= 1
        if left is None or left > 0:
            time.sleep(interval)


class Seen(NamedTuple):
    """What one look shows: the sums of all queues, and queues, workers and members as JSON texts, busiest first."""

    sums: dict[str, str]
    queues: list[str]
    workers: list[str]
    members: list[str]


def _look(server: Server, tenant: str | None) -> Seen:
    query = {"pageSize": PAGE_SIZE, **of_tenant(tenant)}
    queues = _busiest(pages(server, "/admin/queues", query, "queues").texts, "ready", OLDEST)
    workers = _busiest(pages(server, "/admin/workers", query, "workers", WORKERS_MAX).texts, "claimed")
    sums = {name: _text(sum(_number(fields, name) for _, fields in queues)) for name in SUMS}
    return Seen(
        {"queues": str(len(queues)), **sums},
        [text for text, _ in queues],
        [text for text, _ in workers],
        _members(server),
    )


def _busiest(texts: list[str], *names: str) -> list[tuple[str, dict[str, str]]]:
    """Returns objects with their members, those with the largest numbers first."""
    read = [(text, members_of(text)) for text in texts]
    return sorted(read, key=lambda each: [_number(each[1], name) for name in names], reverse=True)


def _members(server: Server) -> list[str]:
    """Returns the members of all groups, each as its JSON text; a single node has none."""
    groups = members_of(server.call("GET", "/raft/status")).get("groups", "[]")
    found: list[str] = []
    for group in json_text.elements(groups):
        found += json_text.elements(members_of(group).get("members", "[]"))
    return found


def _fitting(limit: int, members: int) -> tuple[int, int]:
    """Returns how many queues and workers fit on the terminal, which shows at least one of each."""
    free = shutil.get_terminal_size().lines - LINES_BESIDE - members
    queues = min(limit, max(1, free * 2 // 3))
    return queues, max(1, free - queues)


def _show_tables(seen: Seen, queues: int, workers: int) -> None:
    tables = [
        ("sums", [json_text.join(seen.sums)], tuple(seen.sums)),
        ("queues", seen.queues[:queues], COLUMNS),
        ("workers", seen.workers[:workers], WORKER_COLUMNS),
        ("members", seen.members, MEMBER_COLUMNS),
    ]
    for number, (name, items, columns) in enumerate(table for table in tables if table[1]):
        if number:
            print()
        render.show_list(name, items, columns, render.Format.TABLE)


def _list(texts: list[str]) -> str:
    return f"[{','.join(texts)}]"


def _number(fields: dict[str, str], name: str) -> float:
    """Returns a number of an object; 0: it is missing."""
    try:
        return float(fields.get(name, "0"))
    except ValueError:
        return 0.0


def _text(number: float) -> str:
    """Returns a number with at most three digits after the point."""
    return f"{round(number, 3):g}" if number != int(number) else str(int(number))
