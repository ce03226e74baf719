"""The table of `codeq` commands; a command's module is imported only when the command is used."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from codeq_cli import __version__, render, usage
from codeq_cli.client_options import (
    CaOption,
    CertOption,
    ClientOptions,
    EndpointOption,
    InsecureOption,
    KeyOption,
    OutputOption,
    ProfileOption,
    TokenOption,
)
from codeq_cli.failures import ExitCode, Failure, usage_failure

_CLIENT_CODES: Final = (
    "Exit codes: 0 done; 1 rejected, or no such task, result or queue; 2 invalid usage, input or configuration; "
    "3 nothing to claim; 4 no connection, or no usable reply."
)
_SERVER_CODES: Final = (
    "Exit codes: 0 stopped as requested; 1 could not start or continue; 2 invalid usage or configuration."
)
_HEALTH_CODES: Final = "Exit codes: 0 healthy; 1 not ready; 2 invalid usage or configuration; 4 no reply."
_STORE_CODES: Final = (
    "Exit codes: 0 done; 1 check found differences; 2 invalid usage, unusable store or backup, or existing target."
)
_CONFIG_CODES: Final = "Exit codes: 0 done; 1 get: the setting has no value; 2 invalid usage or configuration."
_INIT_CODES: Final = "Exit codes: 0 done; 2 invalid usage, or --force would be needed."
_DOCTOR_CODES: Final = "Exit codes: 0 fine, or only warnings; 1 something must be mended; 2 invalid usage."
_INSTALL_CODES: Final = (
    "Exit codes: 0 done; 1 a tool is missing or has failed; 2 invalid usage, or the folder is not empty."
)

_MODULES: Final = {
    "serve": ("server_commands", _SERVER_CODES),
    "server": ("server_commands", _SERVER_CODES),
    "gateway": ("server_commands", _SERVER_CODES),
    "health": ("health_command", _HEALTH_CODES),
    "backup": ("server_commands", _CLIENT_CODES),
    "task": ("task_commands", _CLIENT_CODES),
    "queue": ("queue_commands", _CLIENT_CODES),
    "dlq": ("dlq_commands", _CLIENT_CODES),
    "schedule": ("schedule_commands", _CLIENT_CODES),
    "topic": ("topic_commands", _CLIENT_CODES),
    "tenant": ("tenant_commands", _CLIENT_CODES),
    "top": ("top_commands", _CLIENT_CODES),
    "bench": ("bench_commands", _CLIENT_CODES),
    "usage": ("usage_commands", _CLIENT_CODES),
    "subscription": ("subscription_commands", _CLIENT_CODES),
    "webhook": ("webhook_commands", _CLIENT_CODES),
    "cluster": ("cluster_commands", _CLIENT_CODES),
    "audit": ("audit_commands", _CLIENT_CODES),
    "config": ("config_commands", _CONFIG_CODES),
    "install": ("install_commands", _INSTALL_CODES),
    "init": ("init_commands", _INIT_CODES),
    "doctor": ("doctor_commands", _DOCTOR_CODES),
    "store": ("store_commands", _STORE_CODES),
    "profile": ("debug_commands", _CLIENT_CODES),
    "logs": ("debug_commands", _CLIENT_CODES),
}
"""Module of each command and the exit codes that its help shows, in the order of the help. The module's app is the
command group, or contains the command."""


class _LazyGroup(TyperGroup):
    """Imports a command's module when the command is looked up."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the base class's signature
        return list(_MODULES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name not in _MODULES:
            return None
        module, exit_codes = _MODULES[cmd_name]
        group: Any = typer.main.get_group(import_module(f"codeq_cli.{module}").app)
        command = group.commands.get(cmd_name, group)
        command.name, command.epilog = cmd_name, exit_codes
        return command


app = typer.Typer(cls=_LazyGroup, add_completion=True, pretty_exceptions_enable=False, epilog=_CLIENT_CODES)


def _show_version(wanted: bool) -> None:
    if wanted:
        from codeq_server import is_compiled

        print(f"codeq version {__version__} ({'compiled' if is_compiled() else 'interpreted'})")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    output: OutputOption = None,
    endpoint: EndpointOption = None,
    token: TokenOption = None,
    profile: ProfileOption = None,
    tls_ca: CaOption = None,
    tls_cert: CertOption = None,
    tls_key: KeyOption = None,
    insecure_skip_verify: InsecureOption = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Runs codeq, a durable multitenant task queue, and manages its tasks, queues and clusters."""
    context.obj = ClientOptions(
        output, endpoint, token, profile, tls_ca, tls_cert, tls_key, insecure_skip_verify=bool(insecure_skip_verify)
    )
    if context.invoked_subcommand is None:
        print(context.get_help())


def run(arguments: Sequence[str]) -> int:
    """Runs a command line and returns its exit code.

    Raises:
        BrokenPipeError: The reader of stdout has closed the pipe.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # some locales cannot encode every name
    try:
        code = app(list(arguments), standalone_mode=False, prog_name="codeq")
    except Failure as failure:
        render.show_failure(failure, as_json=False)
        return failure.exit_code
    except typer.Abort:  # of a question
        render.show_failure(usage_failure("the input ended before an answer"), as_json=False)
        return ExitCode.USAGE
    except UnicodeEncodeError:
        render.show_failure(usage_failure("an argument is not valid UTF-8"), as_json=False)
        return ExitCode.USAGE
    except OSError as error:
        if error.filename is None:
            raise
        render.show_failure(usage_failure(f"{error.filename}: {error.strerror}"), as_json=False)
        return ExitCode.USAGE
    except typer.TyperException as error:
        render.show_failure(usage.failure_of(error), as_json=False)
        return ExitCode.USAGE
    return code if isinstance(code, int) else ExitCode.OK
