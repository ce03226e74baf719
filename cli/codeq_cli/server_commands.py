"""codeq serve, server, gateway and backup, and their settings. Server code is imported only when needed."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from codeq_cli import json_text, render
from codeq_cli.client_options import ClientOptions, client_command
from codeq_cli.failures import configuration_failure
from codeq_cli.rest import members_of

if TYPE_CHECKING:
    from codeq_server.config import GatewaySettings, ProcessSettings, Settings

app = typer.Typer(no_args_is_help=False)
"""Holds this module's commands for the table of commands."""

BACKUP_SECONDS_MAX: Final = 30
"""Extra time for a backup, on top of the usual reply time; after it, the server replies and continues in the
background."""


class Mode(enum.StrEnum):
    """Commands that use a configuration."""

    SERVE = "serve"
    SERVER = "server"
    GATEWAY = "gateway"


ConfigOption = Annotated[
    str | None, typer.Option(metavar="FILE", help="Configuration file; default: $CODEQ_CONFIG_PATH, else none.")
]
DevOption = Annotated[
    bool, typer.Option("--dev", help="Serve only on loopback, with the token dev-token if no token is configured.")
]


PortOption = Annotated[int | None, typer.Option(help="REST port; 0: any free one. Default 8080.")]
HttpHostOption = Annotated[
    str | None, typer.Option(metavar="HOST", help="Host on which REST listens; default: all interfaces.")
]
WorkerStreamOption = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Address of the gRPC listener for workers; '' turns it off. Default :9091."),
]
ProducerStreamOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT", help="Address of the gRPC listener for producers; '' turns it off. Default :9092."
    ),
]
StoreOption = Annotated[str | None, typer.Option(metavar="PATH", help="Folder of the store; default ./data.")]
NoFsyncOption = Annotated[
    bool, typer.Option("--no-fsync", help="Acknowledge before data is on disk: a crash may lose tasks.")
]
VerifyOption = Annotated[
    bool, typer.Option("--verify", help="Check every row of the store first; serve only if it is consistent.")
]
LogLevelOption = Annotated[
    str | None, typer.Option(metavar="debug|info|warn|error", help="Minimum log level; default info.")
]
LogFormatOption = Annotated[
    str | None, typer.Option(metavar="text|json", help="Log format; default: text on a terminal, else json.")
]
ReadyFileOption = Annotated[str | None, typer.Option(metavar="FILE", help="File to write once the process is ready.")]


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

    Flags override the environment, which overrides the file.
    """
    flags = {
        "port": port,
        "http_host": http_host,
        "worker_stream_addr": worker_stream_addr,
        "producer_stream_addr": producer_stream_addr,
        "persistence_config.path": store,
        "persistence_config.fsync_on_commit": False if no_fsync else None,
        "log_level": log_level,
        "log_format": log_format,
        "ready_file": ready_file,
    }
    refuse_foreign_module()
    from codeq_server.node.place import taken

    child = taken(os.environ)
    settings = load_settings(config, flags, dev=dev)
    if settings.raft is not None and find_spec("codeq_raft_core") is None:
        raise configuration_failure(
            "RAFT_ENABLED: needs the extension codeq_raft_core, which is not installed; get cargo from "
            "https://rustup.rs and run `make setup-raft`"
        )
    # gRPC would warn at each start of a child process, but this server's child processes do not use gRPC.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    _silence_grpc()
    from codeq_server.node.process import serve as run

    _run(lambda: run(settings, verify=verify, child=child))


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

    Flags override the environment, which overrides the file.
    """
    flags = {
        "worker_stream_addr": worker_stream_addr,
        "producer_stream_addr": producer_stream_addr,
        "persistence_config.path": store,
        "persistence_config.fsync_on_commit": False if no_fsync else None,
        "log_level": log_level,
        "log_format": log_format,
        "ready_file": ready_file,
    }
    refuse_foreign_module()
    from codeq_server.node.place import taken

    child = taken(os.environ)
    settings = load_settings(config, flags, dev=dev)
    refuse_silence(settings)
    _silence_grpc()
    from codeq_server.node.process import serve as run

    _run(lambda: run(settings, verify=verify, rest=False, child=child))


@app.command()
def gateway(
    *,
    config: ConfigOption = None,
    dev: Annotated[
        bool, typer.Option("--dev", help="Serve only on loopback; the server defaults to 127.0.0.1:9092.")
    ] = False,
    server_addrs: Annotated[
        str | None,
        typer.Option(
            "--server",
            "--server-addrs",
            metavar="HOST:PORT[,…]",
            help="gRPC listener of one server, or of every node of a cluster.",
        ),
    ] = None,
    port: PortOption = None,
    http_host: HttpHostOption = None,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
    ready_file: ReadyFileOption = None,
) -> None:
    """Runs a standalone gateway that serves REST for other server processes, until SIGTERM or SIGINT.

    Flags override the environment, which overrides the file.
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
    _silence_grpc()
    from codeq_server.node.gateway_app import serve_gateway

    _run(lambda: serve_gateway(settings))


@app.command()
@client_command
def backup(
    options: ClientOptions,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the backup in the server's BACKUP_DIR.")],
) -> None:
    """Makes a backup of a running server's store and artifacts; needs an operator's token."""
    body = json_text.join({"name": json_text.quote(name)})
    reply = options.server().call("POST", "/admin/backup", body=body, wait_seconds=BACKUP_SECONDS_MAX)
    members_of(reply)
    render.show_object(reply or "", options.format)


def _run(serve: Callable[[], int]) -> NoReturn:
    """Serves and exits.

    Raises:
        Failure: The settings cannot be used: a file that they name, or with the store that they name.
    """
    from codeq_server.config import ConfigError

    try:
        code = serve()
    except ConfigError as error:
        raise configuration_failure(f"{error.key}: {error.message}") from None
    raise typer.Exit(code)


def check_files(settings: ProcessSettings, *, rest: bool = True) -> None:
    """Checks the files of TLS that settings name.

    Args:
        settings: Settings of a process.
        rest: Whether it serves REST.

    Raises:
        Failure: A file cannot be used; the message begins with its setting.
    """
    from codeq_server.config import ConfigError
    from codeq_server.node import certificates

    try:
        certificates.check_files(settings, rest=rest)
    except ConfigError as error:
        raise configuration_failure(f"{error.key}: {error.message}") from None


def _silence_grpc() -> None:
    """Keeps gRPC's core from writing to stderr whenever a stranger fails a handshake, unless it is asked to."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def load_settings(config: str | None, flags: Mapping[str, object], *, dev: bool) -> Settings:
    """Returns the settings of a server.

    Args:
        config: Configuration file; None: the file that the environment names, if any.
        flags: Flags by setting name; None: not given.
        dev: Whether --dev is given.

    Raises:
        Failure: A setting is invalid; the message begins with its name as the operator wrote it.
    """
    from codeq_server.config import ConfigError, load, refuse_pair
    from codeq_server.config.files import file_problem

    try:
        settings = load(config, os.environ, flags, dev)
        path = settings.persistence.path
        if settings.raft is not None and path is not None and file_problem(path / "CURRENT"):
            refuse_pair(settings.raft)  # with an existing store, startup checks whether it is already a member
    except ConfigError as error:
        raise configuration_failure(f"{error.key}: {error.message}") from None
    return settings


def load_gateway_settings(config: str | None, flags: Mapping[str, object], *, dev: bool) -> GatewaySettings:
    """Returns the settings of a standalone gateway.

    Args:
        config: Configuration file; None: the file that the environment names, if any.
        flags: Flags by setting name; None: not given.
        dev: Whether --dev is given.

    Raises:
        Failure: A setting is invalid; the message begins with its name as the operator wrote it.
    """
    from codeq_server.config import ConfigError, load_gateway

    try:
        return load_gateway(config, os.environ, flags, dev)
    except ConfigError as error:
        raise configuration_failure(f"{error.key}: {error.message}") from None


def refuse_silence(settings: Settings) -> None:
    """Checks that a server without REST has a gRPC listener.

    Raises:
        Failure: No listener is configured.
    """
    if settings.worker_stream_addr is None and settings.producer_stream_addr is None:
        raise configuration_failure("PRODUCER_STREAM_ADDR: a server without REST needs a gRPC listener")


def refuse_foreign_module() -> None:
    """Checks that the module `codeq` is the SDK, and not the module of the unrelated distribution with this name.

    Raises:
        Failure: The module belongs to the other distribution, which was installed over the SDK.
    """
    import codeq

    if not hasattr(codeq, "__version__"):
        raise configuration_failure(
            f"{codeq.__file__}: not the SDK of this server, but a module of the unrelated distribution `codeq`: "
            "install codeq-server into an environment without it"
        )
