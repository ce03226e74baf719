"""codeq serve, server and gateway, and how they find their settings. Their own code is imported only when used."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from codeq_cli import json_text, render
from codeq_cli.client_options import ClientOptions, client_command
from codeq_cli.failures import configuration_failure
from codeq_cli.rest import members_of

if TYPE_CHECKING:
    from codeq_server.config import GatewaySettings, Settings

app = typer.Typer(no_args_is_help=False)
"""Holds the commands of this module for the table of commands."""

BACKUP_SECONDS_MAX: Final = 30
"""Time that a backup may take, beside that of any call: then the server answers, and goes on by itself."""

ConfigOption = Annotated[
    str | None, typer.Option(metavar="FILE", help="Configuration file; default: $CODEQ_CONFIG_PATH, else none.")
]
DevOption = Annotated[
    bool, typer.Option("--dev", help="Serve loopback only, with the token dev-token where none is configured.")
]


PortOption = Annotated[int | None, typer.Option(help="Port of REST; 0: any free one. Default 8080.")]
HttpHostOption = Annotated[
    str | None, typer.Option(metavar="HOST", help="Host that REST binds; default: all interfaces.")
]
WorkerStreamOption = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="gRPC for workers; '': none. Default :9091.")
]
ProducerStreamOption = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="gRPC for producers; '': none. Default :9092.")
]
StoreOption = Annotated[str | None, typer.Option(metavar="PATH", help="Folder of the store; default ./data.")]
NoFsyncOption = Annotated[
    bool, typer.Option("--no-fsync", help="Acknowledge before the disk has it: a crash may lose tasks.")
]
VerifyOption = Annotated[
    bool, typer.Option("--verify", help="Check every row of the store first; serve only if all of them agree.")
]
LogLevelOption = Annotated[
    str | None, typer.Option(metavar="debug|info|warn|error", help="Lowest level logged; default info.")
]
LogFormatOption = Annotated[
    str | None, typer.Option(metavar="text|json", help="Default: text on a terminal, else json.")
]
ReadyFileOption = Annotated[str | None, typer.Option(metavar="FILE", help="File to write once requests are served.")]


@app.command()
def serve(
    *,
    config: ConfigOption = None,
    dev: DevOption = False,
    port: PortOption = None,
    http_host: HttpHostOption = None,
    worker_stream_addr: WorkerStreamOption = None,
    producer_stream_addr: ProducerStreamOption = None,
    store: StoreOption = None,
    no_fsync: NoFsyncOption = False,
    verify: VerifyOption = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
    ready_file: ReadyFileOption = None,
) -> None:
    """Runs server and gateway in one process until SIGTERM or SIGINT.

    A flag wins over the environment, and that over the file.
    """
    flags = {
        "port": port,
        "http_host": http_host,
        "worker_stream_addr": worker_stream_addr,
        "producer_stream_addr": producer_stream_addr,
        "log_level": log_level,
        "log_format": log_format,
        "ready_file": ready_file,
    }
    settings = load_settings(config, flags, dev=dev, store=store, no_fsync=no_fsync)
    if settings.raft is not None and find_spec("codeq_raft_core") is None:
        raise configuration_failure(
            "RAFT_ENABLED: needs the extension codeq_raft_core, which is not installed; get cargo from "
            "https://rustup.rs and run `make setup-raft`"
        )
    # gRPC would warn each time a child process is started; ours use nothing of it.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    from codeq_server.node.app import serve as run

    raise typer.Exit(run(settings, verify=verify))


@app.command()
def server(
    *,
    config: ConfigOption = None,
    dev: DevOption = False,
    worker_stream_addr: WorkerStreamOption = None,
    producer_stream_addr: ProducerStreamOption = None,
    store: StoreOption = None,
    no_fsync: NoFsyncOption = False,
    verify: VerifyOption = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
    ready_file: ReadyFileOption = None,
) -> None:
    """Runs a server without REST until SIGTERM or SIGINT; `codeq gateway` serves REST for it.

    A flag wins over the environment, and that over the file.
    """
    flags = {
        "worker_stream_addr": worker_stream_addr,
        "producer_stream_addr": producer_stream_addr,
        "log_level": log_level,
        "log_format": log_format,
        "ready_file": ready_file,
    }
    settings = load_settings(config, flags, dev=dev, store=store, no_fsync=no_fsync)
    refuse_silence(settings)
    from codeq_server.node.app import serve as run

    raise typer.Exit(run(settings, verify=verify, rest=False))


@app.command()
def gateway(
    *,
    config: ConfigOption = None,
    dev: Annotated[
        bool, typer.Option("--dev", help="Serve loopback only; the server is 127.0.0.1:9092 if none is configured.")
    ] = False,
    server_addrs: Annotated[
        str | None,
        typer.Option(
            "--server",
            "--server-addrs",
            metavar="HOST:PORT[,…]",
            help="gRPC listeners of the servers: of one, or of every node of a cluster.",
        ),
    ] = None,
    port: PortOption = None,
    http_host: HttpHostOption = None,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
    ready_file: ReadyFileOption = None,
) -> None:
    """Runs a gateway that serves REST for servers in other processes, until SIGTERM or SIGINT.

    A flag wins over the environment, and that over the file.
    """
    flags = {
        "server_addrs": server_addrs,
        "port": port,
        "http_host": http_host,
        "log_level": log_level,
        "log_format": log_format,
        "ready_file": ready_file,
    }
    settings = load_gateway_settings(config, flags, dev=dev)
    from codeq_server.node.gateway_app import serve_gateway

    raise typer.Exit(serve_gateway(settings))


@app.command()
@client_command
def backup(
    options: ClientOptions,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the backup in the server's BACKUP_DIR.")],
) -> None:
    """Has the server make a backup of its store and artifacts while it serves; needs an administrator's token."""
    body = json_text.join({"name": json_text.quote(name)})
    reply = options.server().call("POST", "/admin/backup", body=body, wait_seconds=BACKUP_SECONDS_MAX)
    members_of(reply)
    render.show_object(reply or "", options.format)


def load_settings(
    config: str | None,
    flags: Mapping[str, object],
    *,
    dev: bool,
    store: str | None = None,
    no_fsync: bool = False,
) -> Settings:
    """Returns the settings of a server.

    Args:
        config: Configuration file; None: the one that the environment names, if any.
        flags: Flags by the names of the settings; None: not given.
        dev: Whether to start for development.
        store: Folder that replaces the configured one of the store, the rest of its configuration unchanged.
        no_fsync: Whether to turn fsync off.

    Raises:
        Failure: They cannot be used; the text begins with the setting as the operator wrote it.
    """
    from codeq_server.config import ConfigError, load, refuse_pair

    try:
        settings = load(config, os.environ, flags, dev)
        path = settings.persistence.path if store is None else Path(store)
        if settings.raft is not None and path is not None and not (path / "CURRENT").is_file():
            refuse_pair(settings.raft)  # where there is a store, the start finds out whether it is a member already
    except ConfigError as error:
        raise configuration_failure(f"{error.key}: {error.message}") from None
    persistence = settings.persistence
    for flag, given in (("--store", store is not None), ("--no-fsync", no_fsync)):
        if given and persistence.path is None:
            raise configuration_failure(f"{flag}: has no meaning with the provider {persistence.provider}")
    if store == "":
        raise configuration_failure("--store: expected a path")
    if store is not None:
        persistence = dataclasses.replace(persistence, path=Path(store))
    if no_fsync:
        persistence = dataclasses.replace(persistence, fsync_on_commit=False)
    return dataclasses.replace(settings, persistence=persistence)


def load_gateway_settings(config: str | None, flags: Mapping[str, object], *, dev: bool) -> GatewaySettings:
    """Returns the settings of a gateway in a process of its own.

    Args:
        config: Configuration file; None: the one that the environment names, if any.
        flags: Flags by the names of the settings; None: not given.
        dev: Whether to start for development.

    Raises:
        Failure: They cannot be used; the text begins with the setting as the operator wrote it.
    """
    from codeq_server.config import ConfigError, load_gateway

    try:
        return load_gateway(config, os.environ, flags, dev)
    except ConfigError as error:
        raise configuration_failure(f"{error.key}: {error.message}") from None


def refuse_silence(settings: Settings) -> None:
    """Refuses a server without REST and without gRPC.

    Raises:
        Failure: No listener is configured.
    """
    if settings.worker_stream is None and settings.producer_stream is None:
        raise configuration_failure("PRODUCER_STREAM_ADDR: a server without REST needs a gRPC listener")
