"""Entry point of `codeq`: the commands, and how each of them ends."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated, Final

import typer

from codeq_cli import (
    cluster_commands,
    config_commands,
    dlq_commands,
    queue_commands,
    render,
    server_commands,
    store_commands,
    task_commands,
)
from codeq_cli.client_options import ClientOptions, EndpointOption, OutputOption, TokenOption
from codeq_cli.failures import ExitCode, Failure, usage_failure

_EPILOG: Final = (
    "Exit codes: 0 done; 1 the server refused, or it is not there; 2 wrong usage, input or configuration; "
    "3 nothing to claim; 4 no connection, or no usable reply."
)

app = typer.Typer(add_completion=True, pretty_exceptions_enable=False, epilog=_EPILOG)
app.command(epilog=_EPILOG)(server_commands.serve)
app.command(epilog=_EPILOG)(server_commands.server)
app.command(epilog=_EPILOG)(server_commands.gateway)
app.command(epilog=_EPILOG)(server_commands.backup)
app.add_typer(task_commands.app, name="task", epilog=_EPILOG)
app.add_typer(queue_commands.app, name="queue", epilog=_EPILOG)
app.add_typer(dlq_commands.app, name="dlq", epilog=_EPILOG)
app.add_typer(cluster_commands.app, name="cluster", epilog=_EPILOG)
app.add_typer(config_commands.app, name="config", epilog=_EPILOG)
app.add_typer(store_commands.app, name="store", epilog=_EPILOG)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"codeq version {version('codeq-cli')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    output: OutputOption = None,
    endpoint: EndpointOption = None,
    token: TokenOption = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Starts codeq, a durable multitenant task queue, and talks to it."""
    context.obj = ClientOptions(output, endpoint, token)
    if context.invoked_subcommand is None:
        print(context.get_help())


def _open_standard_files() -> None:
    """Opens nothing in the place of stdin, stdout and stderr that the caller has closed.

    The next files and sockets would take their numbers, and what is printed would go there.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115 - it stays open


def main() -> int:
    """Runs the command line of this process and returns its exit code."""
    _open_standard_files()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # some locales cannot encode every name
    try:
        code = app(standalone_mode=False, prog_name="codeq")
        sys.stdout.flush()
    except Failure as failure:
        render.show_failure(failure, as_json=False)
        return failure.exit_code
    except typer.TyperException as error:
        render.show_failure(_usage_failure(error), as_json=False)
        return ExitCode.USAGE
    except BrokenPipeError:
        # The reader of our output left. Without this, the interpreter would complain when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.REFUSED
    return code if isinstance(code, int) else ExitCode.OK


def _usage_failure(error: typer.TyperException) -> Failure:
    context: typer.Context | None = getattr(error, "ctx", None)
    hint = "" if context is None else f" See {context.command_path} --help."
    return usage_failure(" ".join(error.format_message().split()) + hint)


if __name__ == "__main__":
    sys.exit(main())
