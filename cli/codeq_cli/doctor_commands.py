"""codeq doctor: examines a configuration and this machine. Server code is imported only when needed."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from codeq_cli import render
from codeq_cli.client_options import ClientOptions, output_command
from codeq_cli.failures import ExitCode
from codeq_cli.server_commands import ConfigOption, DevOption, Mode

if TYPE_CHECKING:
    from codeq_cli.doctor import Finding

app = typer.Typer(no_args_is_help=False)
"""Holds this module's command for the table of commands."""


@app.command()
@output_command
def doctor(
    options: ClientOptions,
    config: ConfigOption = None,
    dev: DevOption = False,
    mode: Annotated[Mode, typer.Option(help="Command that is to be started.")] = Mode.SERVE,
) -> None:
    """Examines a configuration and this machine, and says what to do about each thing that it finds.

    Looks at settings, tokens, versions, open files, the clock, ports, names, certificates, disks, and the store if no
    server has it open. Exit code 1: something must be mended.
    """
    from codeq_cli import doctor as examination

    findings = examination.examine(config, os.environ, dev=dev, mode=mode)
    counts = Counter(finding.level for finding in findings)
    errors, warnings = counts[examination.Level.ERROR], counts[examination.Level.WARNING]
    if options.format is render.Format.TABLE:
        for finding in findings:
            _print(finding)
        print(f"{errors} to mend, {warnings} warnings, {counts[examination.Level.OK]} fine")
    else:
        listed = [dataclasses.asdict(finding) for finding in findings]
        render.show_object(json.dumps({"errors": errors, "warnings": warnings, "findings": listed}), options.format)
    if errors:
        raise typer.Exit(ExitCode.REFUSED)


def _print(finding: Finding) -> None:
    print(render.printable(f"{finding.level.upper():<8} {finding.check}: {finding.text}"))
    if finding.remedy:
        print(render.printable(f"         -> {finding.remedy}"))
