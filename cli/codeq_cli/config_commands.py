"""codeq config …: the profile of the client commands, and a check of a server's configuration."""

from __future__ import annotations

import enum
import json
from typing import Annotated

import typer

from codeq_cli import json_text, profile, render
from codeq_cli.client_options import ClientOptions, client_command, output_command
from codeq_cli.failures import ExitCode, Failure
from codeq_cli.server_commands import (
    ConfigOption,
    DevOption,
    load_gateway_settings,
    load_settings,
    refuse_silence,
)

app = typer.Typer(
    no_args_is_help=False, help="Endpoint and token of the client commands; check of a server's settings."
)


class Key(enum.StrEnum):
    """Keys of the profile."""

    ENDPOINT = "endpoint"
    TOKEN = "token"  # noqa: S105 - the name of the setting


class Mode(enum.StrEnum):
    """Commands that a configuration is for."""

    SERVE = "serve"
    SERVER = "server"
    GATEWAY = "gateway"


KeyArgument = Annotated[Key, typer.Argument(metavar="endpoint|token", help="Setting.")]


@app.command("set")
def set_(key: KeyArgument, value: Annotated[str, typer.Argument(help="Value; an empty one removes it.")]) -> None:
    """Keeps a setting in the profile file, ~/.codeq/config.yaml or $CODEQ_CONFIG_DIR/config.yaml."""
    path = profile.store(key.value, value)
    print(f"{key.value} {'set' if value else 'removed'} in {path}")


@app.command()
@client_command
def get(options: ClientOptions, key: KeyArgument) -> None:
    """Prints the value in force of a setting, the token in full."""
    value = profile.resolve(options.flags())[key.value].value
    if value is None:
        raise Failure(f"{key.value} is not set", "NOT_SET", ExitCode.REFUSED)
    print(value)


@app.command()
@client_command
def show(options: ClientOptions) -> None:
    """Shows the settings in force and where each is from; the token is masked."""
    rows = []
    for key, setting in profile.resolve(options.flags()).items():
        masked = "********" if key == Key.TOKEN and setting.value is not None else setting.value
        fields = {"key": key, "value": masked, "source": setting.source}
        rows.append(json_text.join({name: json.dumps(text) for name, text in fields.items()}))
    render.show_list("settings", rows, ("key", "value", "source"), options.format)


@app.command("check")
@output_command
def check_(
    options: ClientOptions,
    config: ConfigOption = None,
    dev: DevOption = False,
    mode: Annotated[Mode, typer.Option(help="Command that will use it.")] = Mode.SERVE,
) -> None:
    """Checks a configuration, file and environment, and shows the settings in force with secrets masked.

    Starts nothing.
    """
    from codeq_server.config import describe, describe_gateway

    if mode is Mode.GATEWAY:
        shown = describe_gateway(load_gateway_settings(config, {}, dev=dev))
    else:
        settings = load_settings(config, {}, dev=dev)
        if mode is Mode.SERVER:
            refuse_silence(settings)
        shown = describe(settings)
    render.show_object(json.dumps(shown), options.format)
