"""codeq init: writes a configuration of a server with random tokens, and a profile for it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import typer

from codeq_cli import env_files, names, new_files, profile, tokens
from codeq_cli.client_options import ClientOptions, profile_command
from codeq_cli.failures import ExitCode, Failure

app = typer.Typer(no_args_is_help=False)
"""Holds this module's command for the table of commands."""

ENV_SUFFIX: Final = ".env"

_YAML_HEAD: Final = """\
# Configuration of a codeq server, with its tokens: keep it private.
#   codeq doctor --config {path}    examines it and this machine
#   codeq serve --config {path}     starts the server
# docs/configuration.md lists all settings.
"""
_ENV_HEAD: Final = """\
# Settings of a codeq server, with its tokens, for a shell or systemd: keep them private.
#   set -a; . {path}; set +a; codeq doctor && codeq serve
# docs/configuration.md lists all settings.
"""


@app.command()
@profile_command
def init(
    options: ClientOptions,
    file: Annotated[
        Path, typer.Option(metavar="FILE", help="File to write; a name that ends in .env: variables instead of YAML.")
    ] = Path("codeq.yaml"),
    tenant: Annotated[str, typer.Option(metavar="TENANT", help="Tenant of the tokens.")] = "default",
    no_profile: Annotated[bool, typer.Option("--no-profile", help="Leave the profile file as it is.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file, and the tokens of the profile.")] = False,
) -> None:
    """Writes a configuration of a server with random tokens, and puts them into the profile of the client commands.

    --profile NAME, or $CODEQ_PROFILE, names the profile. Store and backups get folders below the current one.
    A server then starts with `codeq serve --config codeq.yaml`.
    """
    producer, worker = tokens.secret(), tokens.secret()
    kept, name = {"token": producer, "worker-token": worker}, profile.chosen(options.profile)
    settings = _settings(producer, worker, names.tenant_of_tokens(tenant))
    new_files.check(names.written_path("--file", file), force=force)
    if not no_profile:
        if not force:
            _refuse_stored(kept, name)
        profile.check_writable(name)
    text = _variables(settings, file) if file.name.endswith(ENV_SUFFIX) else _document(settings, file)
    new_files.write(file, text.encode(), private=True, force=force)
    print(f"{file} written")
    if no_profile:
        return
    where = profile.store(kept, name)
    print(f"tokens set in {where}" + (f", profile {name}" if name else ""))


def _refuse_stored(kept: Mapping[str, str], name: str | None) -> None:
    """Rejects replacing tokens of a profile.

    Raises:
        Failure: The profile has tokens, or the file is unusable.
    """
    stored = profile.stored(name)
    for key in kept:
        if key in stored:
            where = "the top level" if name is None else f"profile {name}"
            text = f"{profile.file_path()} has a {key} in {where}; use --force, --profile NAME or --no-profile"
            raise Failure(text, "EXISTS", ExitCode.USAGE)


def _settings(producer: str, worker: str, tenant: str) -> dict[str, object]:
    """Returns the settings to start from, by field of the server's settings."""
    folder = names.written_path("the current folder", Path.cwd())  # absolute: the server may be started elsewhere
    return {
        "port": 8080,
        "worker_stream_addr": ":9091",
        "producer_stream_addr": ":9092",
        "persistence_config": {"path": str(folder / "data")},
        "backup_dir": str(folder / "backups"),
        "producer_auth_provider": "static",
        "producer_auth_config": tokens.producer(producer, tenant),
        "worker_auth_provider": "static",
        "worker_auth_config": tokens.worker(worker, tenant),
        "webhook_hmac_secret": tokens.secret(),
    }


def _document(settings: Mapping[str, object], path: Path) -> str:
    import yaml
    from codeq_server.config.declaration import file_key

    named = {file_key(name): value for name, value in settings.items()}
    return _YAML_HEAD.format(path=shlex.quote(str(path))) + yaml.safe_dump(named, sort_keys=False)


def _variables(settings: Mapping[str, object], path: Path) -> str:
    from codeq_server.config.declaration import variable

    texts = {name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in settings.items()}
    lines = [env_files.line(variable(name), text) for name, text in texts.items()]
    sourced = str(path) if path.is_absolute() else f"./{path}"  # without a slash, a shell would search $PATH
    return _ENV_HEAD.format(path=shlex.quote(sourced)) + "".join(lines)
