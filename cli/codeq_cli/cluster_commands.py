"""codeq cluster …: the members that replicate the store with each other."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from codeq_cli import json_text, names, render
from codeq_cli.client_options import ClientOptions, client_command
from codeq_cli.rest import members_of

CHANGE_SECONDS_MAX: Final = 30
"""Time that a change of members or leader may take, beside that of any call."""

GROUP_COLUMNS: Final = (
    "shardIdx",
    "selfId",
    "role",
    "leaderId",
    "term",
    "commitIndex",
    "appliedIndex",
    "lag",
    "elections",
)
"""Columns of the table of groups: each as the asked node sees it."""

MEMBER_COLUMNS: Final = ("id", "role", "voter", "raftAddr", "httpAddr", "grpcAddr", "matchIndex", "lag", "active")
"""Columns of the table of a group's members."""

app = typer.Typer(
    no_args_is_help=False, help="Look at and change the members of a cluster; changes need an administrator's token."
)

Id = Annotated[str, typer.Argument(metavar="ID", help="Name of the member, its RAFT_SELF_ID.")]


@app.command()
@client_command
def status(options: ClientOptions) -> None:
    """Shows the groups and their members as the asked node sees them; what each lacks is known to the leader only."""
    _show(options, options.server().call("GET", "/raft/status"))


@app.command()
@client_command
def add(
    options: ClientOptions,
    id_: Id,
    raft_addr: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Address of its Raft transport.")],
    *,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="It takes the place of the member of this name: a new disk, or a new address."),
    ] = False,
) -> None:
    """Takes a node in: as a learner, which becomes a voter when it has caught up."""
    body = {"id": json_text.quote(names.member(id_)), "raftAddr": json_text.quote(raft_addr)}
    if replace:
        body["replace"] = "true"
    _change(options, "POST", "/members", json_text.join(body))


@app.command()
@client_command
def remove(options: ClientOptions, id_: Id) -> None:
    """Takes a member out; it has no vote any more and gets nothing."""
    _change(options, "DELETE", f"/members/{names.member(id_)}", None)


@app.command()
@client_command
def transfer(
    options: ClientOptions,
    id_: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Who shall lead; default: who has most of the log.")
    ] = None,
) -> None:
    """Makes another voter the leader."""
    body = {} if id_ is None else {"id": json_text.quote(names.member(id_))}
    _change(options, "POST", "/transfer", json_text.join(body))


def _change(options: ClientOptions, method: str, path: str, body: str | None) -> None:
    server = options.server()
    reply = server.call(method, f"/admin/cluster{path}", body=body, wait_seconds=CHANGE_SECONDS_MAX)
    _show(options, reply)


def _show(options: ClientOptions, reply: str | None) -> None:
    fields = members_of(reply)
    groups = json_text.elements(fields.get("groups", "[]"))
    if options.format is not render.Format.TABLE or not groups:
        render.show_object(reply or "", options.format)
        return
    render.show_list("groups", groups, GROUP_COLUMNS, options.format)
    for group in groups:
        print()
        members = json_text.elements(json_text.members(group).get("members", "[]"))
        render.show_list("members", members, MEMBER_COLUMNS, options.format)
