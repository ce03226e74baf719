"""codeq config …: settings of the client commands, and checks of server configurations."""

from __future__ import annotations

import enum
import json
import sys
from typing import Annotated

import typer

from codeq_cli import json_text, profile, render
from codeq_cli.client_options import ClientOptions, client_command, output_command
from codeq_cli.failures import ExitCode, Failure
from codeq_cli.server_commands import (
    ConfigOption,
    DevOption,
    Mode,
    check_files,
    load_gateway_settings,
    load_settings,
    refuse_silence,
)

app = typer.Typer(
    no_args_is_help=False, help="Set endpoint and tokens of the client commands; check a server's configuration."
)


class Key(enum.StrEnum):
    """Keys of the profile."""

    ENDPOINT = "endpoint"
    TOKEN = "token"  # noqa: S105 - the name of the setting
    WORKER_TOKEN = "worker-token"  # noqa: S105


KeyArgument = Annotated[Key, typer.Argument(metavar="endpoint|token|worker-token", help="Setting.")]


@app.command("set")
@client_command
def set_(
    options: ClientOptions,
    key: KeyArgument,
    value: Annotated[str, typer.Argument(help="Value; an empty value removes the setting.")],
) -> None:
    """Stores a setting in the profile file, ~/.codeq/config.yaml or $CODEQ_CONFIG_DIR/config.yaml.

    --profile NAME stores it in that profile, creating the profile if needed.
    """
    path = profile.store({key.value: value}, options.profile)
    where = path if options.profile is None else f"{path}, profile {options.profile}"
    print(f"{key.value} {'set' if value else 'removed'} in {where}")


@app.command()
@client_command
def get(options: ClientOptions, key: KeyArgument) -> None:
    """Prints the effective value of a setting; tokens in full."""
    value = options.settings()[key.value].value
    if value is None:
        raise Failure(f"{key.value} is not set", "NOT_SET", ExitCode.REFUSED)
    print(value)


@app.command()
@client_command
def show(options: ClientOptions) -> None:
    """Shows the effective settings and their sources; tokens are masked."""
    rows = []
    for key, setting in options.settings().items():
        masked = "********" if key != Key.ENDPOINT and setting.value is not None else setting.value
        fields = {"key": key, "value": masked, "source": setting.source}
        rows.append(json_text.join({name: json.dumps(text) for name, text in fields.items()}))
    render.show_list("settings", rows, ("key", "value", "source"), options.format)


@app.command("check")
@output_command
def check_(
    options: ClientOptions,
    config: ConfigOption = None,
    dev: DevOption = False,
    mode: Annotated[Mode, typer.Option(help="Command that will use the configuration.")] = Mode.SERVE,
) -> None:
    """Checks a configuration (file, environment and files of TLS) and shows the effective settings, secrets masked.

    Starts nothing.
    """
    from codeq_server.config import describe

    if mode is Mode.GATEWAY:
        gateway = load_gateway_settings(config, {}, dev=dev)
        check_files(gateway)
        notes, shown = gateway.notes, describe(gateway)
    else:
        settings = load_settings(config, {}, dev=dev)
        if mode is Mode.SERVER:
            refuse_silence(settings)
        check_files(settings, rest=mode is Mode.SERVE)
        notes, shown = settings.notes, describe(settings)
    for note in notes:
        print(f"warning: {note.key}: {note.message}", file=sys.stderr)
    render.show_object(json.dumps(shown), options.format)
