"""codeq bench: loads a server through the Python SDK, and says what the client itself costs."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import codeq
import typer

from codeq_cli import bench as load
from codeq_cli import names, render, usage
from codeq_cli.client_options import ClientOptions, output_command
from codeq_cli.failures import ExitCode, Failure, usage_failure

app = typer.Typer(no_args_is_help=False)
"""Holds this module's command for the table of commands."""


@app.command()
@output_command
def bench(
    options: ClientOptions,
    scenario: Annotated[
        load.Scenario, typer.Argument(metavar="cycle|create", help="Create and complete tasks, or only create them.")
    ] = load.Scenario.CYCLE,
    *,
    producer_addr: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Default: $CODEQ_PRODUCER_ADDR, else localhost:9092.")
    ] = None,
    worker_addr: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Default: $CODEQ_WORKER_ADDR, else localhost:9091.")
    ] = None,
    command: Annotated[str, typer.Option(metavar="NAME", help="Command of the tasks; nobody else should use it.")] = (
        "BENCH"
    ),
    seconds: Annotated[
        float, typer.Option(parser=usage.number(0.1, 3600), metavar="N", help="Length of the measured window.")
    ] = 10,
    warmup: Annotated[float, typer.Option(parser=usage.number(0, 600), metavar="N", help="Seconds before it.")] = 2,
    callers: Annotated[int, typer.Option(min=1, max=4096, help="Callers that create at the same time.")] = 32,
    batch: Annotated[int, typer.Option(min=1, max=1000, help="Tasks per call.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, max=4096, help="Handlers that run at the same time.")] = 256,
    payload_bytes: Annotated[int, typer.Option(min=0, max=65536, help="Size of the filler in each payload.")] = 100,
    rate: Annotated[
        float,
        typer.Option(parser=usage.number(0, 1_000_000), metavar="N", help="Tasks per second; 0: as many as possible."),
    ] = 0,
) -> None:
    """Loads a server through the Python SDK, and shows rates, latencies and the CPU time of the client.

    Only what the server has acknowledged counts. The client is one Python process, on one core: if it is the limit, the
    server can do more than is shown. Tokens are those of the client commands.
    """
    settings = options.settings()
    token = settings["token"].value
    try:
        report = load.run(
            load.Load(
                scenario=scenario,
                producer_address=producer_addr,
                worker_address=worker_addr,
                token=token,
                worker_token=settings["worker-token"].value or token,
                command=names.command(command),
                warmup=warmup,
                seconds=seconds,
                callers=callers,
                batch=batch,
                concurrency=concurrency,
                payload_bytes=payload_bytes,
                rate=rate,
            )
        )
    except* codeq.CodeqError as errors:
        raise _failure(errors) from None
    except* ValueError as errors:
        raise usage_failure(str(_first(errors))) from None
    except* load.UndeliveredError as errors:
        raise _undelivered(errors, command) from None
    if report["clientIsLimit"]:
        print("warning: the client used its core up, so the server can do more than is shown", file=sys.stderr)
    render.show_object(json.dumps(report), options.format)


def _undelivered(errors: BaseExceptionGroup, command: str) -> Failure:
    error = _first(errors)
    assert isinstance(error, load.UndeliveredError)
    fate = f"{error.left} of them are left in {command}" if error.left else "they are cancelled"
    text = f"{error}, and {fate}; check --worker-addr, and that nothing else uses the command"
    return Failure(text, "NOT_DELIVERED", ExitCode.CONNECTION_FAILED)


def _first(errors: BaseExceptionGroup) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _failure(errors: BaseExceptionGroup) -> Failure:
    """Returns the failure for the first error of the SDK."""
    error = _first(errors)
    assert isinstance(error, codeq.CodeqError)
    is_away = error.reason in {"DEADLINE_EXCEEDED", "UNAVAILABLE"}
    return Failure(error.message, error.reason, ExitCode.CONNECTION_FAILED if is_away else ExitCode.REFUSED)
