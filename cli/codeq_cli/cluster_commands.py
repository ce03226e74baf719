"""codeq cluster …: the members of a Raft cluster."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from codeq_cli import json_text, names, render
from codeq_cli.client_options import ClientOptions, client_command, output_command
from codeq_cli.failures import ExitCode, Failure
from codeq_cli.rest import members_of

CHANGE_SECONDS_MAX: Final = 30
"""Extra time for a change of members or of the leader, on top of the usual reply time."""

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
"""Columns of the table of groups, as seen by the queried node."""

MEMBER_COLUMNS: Final = (
    "id",
    "role",
    "voter",
    "raftAddr",
    "httpAddr",
    "grpcAddr",
    "matchIndex",
    "lag",
    "active",
    "problem",
)
"""Columns of the table of a group's members."""

app = typer.Typer(
    no_args_is_help=False, help="Show and change the members of a cluster; changes need an operator's token."
)

Id = Annotated[str, typer.Argument(metavar="ID", help="Name of the member: its RAFT_SELF_ID.")]


@app.command()
@client_command
def status(options: ClientOptions) -> None:
    """Shows the groups and their members as the queried node sees them; only the leader knows how far others lag."""
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
        typer.Option("--replace", help="Replace the member of the same name, which has a new disk or address."),
    ] = False,
) -> None:
    """Adds a node as a learner, which becomes a voter once it has caught up."""
    body = {"id": json_text.quote(names.member(id_)), "raftAddr": json_text.quote(raft_addr)}
    if replace:
        body["replace"] = "true"
    _change(options, "POST", "/members", json_text.join(body))


@app.command()
@client_command
def remove(options: ClientOptions, id_: Id) -> None:
    """Removes a member; it no longer votes or receives the log."""
    _change(options, "DELETE", f"/members/{names.member(id_)}", None)


@app.command()
@client_command
def transfer(
    options: ClientOptions,
    id_: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="New leader; default: the voter whose log is most up to date.")
    ] = None,
) -> None:
    """Transfers leadership to another voter."""
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
        fields = json_text.members(group)
        print(f"\nshard {fields.get('shardIdx', '0')}" if len(groups) > 1 else "")
        members = json_text.elements(fields.get("members", "[]"))
        render.show_list("members", members, MEMBER_COLUMNS, options.format)


@app.command()
@output_command
def init(
    options: ClientOptions,
    id_: Id,
    raft_addr: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Address of its Raft transport.")],
    from_store: Annotated[
        Path, typer.Option("--from-store", metavar="PATH", help="Store of a single node; no server may have it open.")
    ],
) -> None:
    """Turns the store of a single node into the first member of a new cluster; then add other members to it."""
    from codeq_server.replication.raft.conversion import found_from_store

    names.member(id_)
    with _conversion():
        found_from_store(from_store, id_, raft_addr, os.urandom)
    render.show_object(json.dumps({"store": str(from_store), "id": id_}), options.format)


@app.command()
@output_command
def leave(
    options: ClientOptions,
    store: Annotated[Path, typer.Argument(metavar="PATH", help="Store of a member; no server may have it open.")],
    *,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Convert despite other voters, if they are lost for good; data that only they have is lost."
        ),
    ] = False,
) -> None:
    """Turns the store of a cluster's last voter into the store of a single node."""
    from codeq_server.replication.raft.conversion import leave as leave_cluster

    with _conversion():
        leave_cluster(store, force=force)
    render.show_object(json.dumps({"store": str(store)}), options.format)


@contextmanager
def _conversion() -> Iterator[None]:
    """Runs a conversion of a store: keeps its files private, and turns errors into failures.

    Raises:
        Failure: The store cannot be converted.
    """
    from codeq_server.node.private_files import write_privately
    from codeq_server.storage.errors import StoreError

    write_privately()
    try:
        yield
    except StoreError as error:
        raise Failure(str(error), "STORE_UNUSABLE", ExitCode.USAGE) from None
