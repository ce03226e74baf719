"""codeq store …: offline work on a store."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import time
from pathlib import Path
from typing import Annotated

import typer

from codeq_cli import render
from codeq_cli.client_options import ClientOptions, output_command
from codeq_cli.failures import ExitCode, Failure

ArtifactsOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of artifacts (LOCAL_ARTIFACTS_DIR); default: next to the store."),
]

app = typer.Typer(no_args_is_help=False, help="Check, back up and restore a store while no server is running on it.")


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
    """Checks that the rows of a store are consistent; changes nothing.

    Shows each difference with the key of its row. Exit code 1: there are differences; 2: the store cannot be read.
    """
    from codeq_server.storage.check import check_store
    from codeq_server.storage.errors import StoreError

    try:
        _refuse_open_store(path)
        differences, summary = check_store(path)
    except StoreError as error:
        raise _unusable(str(error)) from None
    except OSError as error:
        raise _unusable(f"{path}: {error.strerror}") from None
    counts = dataclasses.asdict(summary)
    if options.format is render.Format.TABLE:
        for difference in differences:
            print(difference)
        render.show_object(json.dumps(counts), options.format)
    else:
        found = [{"key": str(each).removesuffix(f": {each.problem}"), "problem": each.problem} for each in differences]
        render.show_object(json.dumps(counts | {"found": found}), options.format)
    if summary.differences:
        raise typer.Exit(ExitCode.REFUSED)


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

    try:
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


def _refuse_open_store(path: Path) -> None:
    """Checks that no process has the store open, because its rows would change while they are read.

    Raises:
        Failure: A process has the store open.
        OSError: The store's lock file cannot be opened.
    """
    try:
        lock = os.open(path / "LOCK", os.O_RDONLY)
    except FileNotFoundError:
        return  # the check itself reports the missing store
    try:
        fcntl.lockf(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _unusable(f"the store {path} is open in another process; stop that process, or check a copy") from None
    finally:
        os.close(lock)


def _unusable(text: str) -> Failure:
    return Failure(text, "STORE_UNUSABLE", ExitCode.USAGE)
