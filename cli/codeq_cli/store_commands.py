"""codeq store …: offline work on a store."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codeq_cli import render, store_lock
from codeq_cli.client_options import ClientOptions, output_command
from codeq_cli.failures import ExitCode, Failure

if TYPE_CHECKING:
    from codeq_server.storage.findings import Difference, Summary

ArtifactsOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of artifacts (LOCAL_ARTIFACTS_DIR); default: next to the store."),
]

app = typer.Typer(
    no_args_is_help=False, help="Check, back up, restore and reshard a store while no server is running on it."
)


@app.callback()
def group() -> None:
    """Makes the files that these commands write private, like the files of a server."""
    from codeq_server.node.private_files import write_privately

    write_privately()


@app.command()
@output_command
def check(
    options: ClientOptions,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of the store; no server may have it open.")],
) -> None:
    """Checks that the rows of a store, or of each shard of a server, are consistent; changes nothing.

    Shows each difference with the key of its row. Exit code 1: there are differences; 2: the store cannot be read.
    """
    from codeq_server.storage.layout import shard_path, stored_shards

    try:
        shards = stored_shards(path)
        checked = [_check(shard_path(path, shard)) for shard in range(shards)] if shards > 1 else [_check(path)]
    except OSError as error:
        raise _unusable(f"{path}: {error.strerror}") from None
    told = []
    for shard, (differences, summary) in enumerate(checked):
        counts = ({"shard": shard} if shards > 1 else {}) | dataclasses.asdict(summary)
        if options.format is render.Format.TABLE:
            for difference in differences:
                print(difference)
            render.show_object(json.dumps(counts), options.format)
        keys = [str(each).removesuffix(f": {each.problem}") for each in differences]
        found = [{"key": key, "problem": each.problem} for key, each in zip(keys, differences, strict=True)]
        told.append(counts | {"found": found})
    if options.format is not render.Format.TABLE:
        render.show_object(json.dumps({"shards": told} if shards > 1 else told[0]), options.format)
    if any(summary.differences for _, summary in checked):
        raise typer.Exit(ExitCode.REFUSED)


def _check(path: Path) -> tuple[list[Difference], Summary]:
    """Checks the store in a folder.

    Raises:
        Failure: The store cannot be read, or is open.
        OSError: The store's lock file cannot be opened.
    """
    from codeq_server.storage.check import check_store
    from codeq_server.storage.errors import StoreError

    _refuse_open_store(path)
    try:
        return check_store(path)
    except StoreError as error:
        raise _unusable(str(error)) from None


@app.command()
@output_command
def backup(
    options: ClientOptions,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of the store; no server may have it open.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the backup; it must not exist.")],
    artifacts: ArtifactsOption = None,
) -> None:
    """Backs up a store: a folder with all its rows and artifacts. For a running server use `codeq backup`."""
    from codeq_server.storage.backup import back_up_closed
    from codeq_server.storage.errors import StoreError
    from codeq_server.storage.layout import shard_path, stored_shards

    try:
        if (shards := stored_shards(path)) > 1:
            text = f"{path} holds the stores of {shards} shards; back up each one: {shard_path(path, 0)}, …"
            raise _unusable(text)
        back_up_closed(path, directory, artifacts or path.parent / "artifacts")
    except StoreError as error:
        raise _unusable(str(error)) from None
    render.show_object(json.dumps({"backup": str(directory)}), options.format)


@app.command()
@output_command
def restore(
    options: ClientOptions,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the backup; it is not changed.")],
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of the store to create; it must not exist.")],
    artifacts: ArtifactsOption = None,
) -> None:
    """Checks a backup, then restores it as a store and puts its artifacts into their folder.

    Ids and lease tokens issued since the backup are never issued again.
    """
    from codeq_server.storage.backup import restore as restore_store
    from codeq_server.storage.errors import StoreError

    try:
        restore_store(directory, path, int(time.time()), artifacts or path.parent / "artifacts")
    except StoreError as error:
        raise _unusable(str(error)) from None
    except OSError as error:
        raise _unusable(f"{directory}: {error.strerror}") from None
    render.show_object(json.dumps({"store": str(path)}), options.format)


@app.command()
@output_command
def reshard(
    options: ClientOptions,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of the store; no server may have it open.")],
    to: Annotated[int, typer.Option("--to", metavar="M", min=1, help="New number of shards (numShards).")],
    present: Annotated[
        int | None,
        typer.Option("--from", metavar="N", min=1, help="Present number of shards; another one is an error."),
    ] = None,
    artifacts: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of artifacts: the server's LOCAL_ARTIFACTS_DIR; without it, they are beside the stores.",
        ),
    ] = None,
) -> None:
    """Changes the number of shards of a store; every task keeps its id and its place in its queue.

    The stores are checked before and after. The old ones stay in a folder beside PATH, which the output names.
    """
    from codeq_server.storage.errors import StoreError
    from codeq_server.storage.resharding.reshard import reshard as reshard_stores

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        done = reshard_stores(path, to, expected=present or 0, artifacts=artifacts, say=say)
    except StoreError as error:
        raise _unusable(str(error)) from None
    render.show_object(json.dumps(dataclasses.asdict(done)), options.format)


def _refuse_open_store(path: Path) -> None:
    """Checks that no process has the store open, because its rows would change while they are read.

    Raises:
        Failure: A process has the store open.
        OSError: The store's lock file cannot be opened.
    """
    if store_lock.is_open(path):
        raise _unusable(f"the store {path} is open in another process; stop that process, or check a copy")


def _unusable(text: str) -> Failure:
    return Failure(text, "STORE_UNUSABLE", ExitCode.USAGE)
