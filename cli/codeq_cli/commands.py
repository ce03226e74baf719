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
from codeq_cli.client_options import ClientOptions, EndpointOption, OutputOption, ProfileOption, TokenOption
from codeq_cli.failures import ExitCode, Failure

_EPILOG: Final = (
    "Exit codes: 0 done; 1 rejected, or no such task, result or queue; 2 invalid usage, input or configuration; "
    "3 nothing to claim; 4 no connection, or no usable reply."
)

_MODULES: Final = {
    "serve": "server_commands",
    "server": "server_commands",
    "gateway": "server_commands",
    "backup": "server_commands",
    "task": "task_commands",
    "queue": "queue_commands",
    "dlq": "dlq_commands",
    "cluster": "cluster_commands",
    "config": "config_commands",
    "store": "store_commands",
}
"""Module of each command, in the order of the help. Its app is the command group, or (server_commands) contains it."""


class _LazyGroup(TyperGroup):
    """Imports a command's module when the command is looked up."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the base class's signature
        return list(_MODULES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        module = _MODULES.get(cmd_name)
        if module is None:
            return None
        group: Any = typer.main.get_group(import_module(f"codeq_cli.{module}").app)
        command = group.commands.get(cmd_name) if module == "server_commands" else group
        command.name, command.epilog = cmd_name, _EPILOG
        return command


app = typer.Typer(cls=_LazyGroup, add_completion=True, pretty_exceptions_enable=False, epilog=_EPILOG)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"codeq version {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    output: OutputOption = None,
    endpoint: EndpointOption = None,
    token: TokenOption = None,
    profile: ProfileOption = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Runs codeq, a durable multitenant task queue, and manages its tasks, queues and clusters."""
    context.obj = ClientOptions(output, endpoint, token, profile)
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
    except typer.TyperException as error:
        render.show_failure(usage.failure_of(error), as_json=False)
        return ExitCode.USAGE
    return code if isinstance(code, int) else ExitCode.OK
