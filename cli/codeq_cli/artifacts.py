"""codeq task artifact …, and the artifacts sent with a result."""

from __future__ import annotations

import base64
import json
import mimetypes
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import quote

import typer

from codeq_cli import json_text, names, render
from codeq_cli.client_options import ClientOptions, client_command
from codeq_cli.failures import usage_failure

CONTENT_BYTES_MAX: Final = 6 * 1024 * 1024
"""Largest file sent, in bytes; the server enforces its own limit."""

app = typer.Typer(no_args_is_help=False, help="Download files attached to results.")


@app.callback()
def group() -> None:
    """Keeps `get` a subcommand, although it is the only command of the group."""


@app.command()
@client_command
def get(
    options: ClientOptions,
    task_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the task.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the artifact, as shown in the result.")],
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="File to write; default: stdout.")] = None,
) -> None:
    """Fetches an artifact that the server stores."""
    content = options.server().download(f"/tasks/{names.task_id(task_id)}/artifacts/{quote(name, safe='')}")
    if file is None:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
        return
    try:
        file.write_bytes(content)
    except OSError as error:
        raise usage_failure(f"--file: {file}: {error.strerror}") from None
    render.show_object(json.dumps({"file": str(file), "size": len(content)}), options.format)


def fields(given: Sequence[str]) -> dict[str, str]:
    """Returns the request field for artifacts given as NAME=FILE or NAME=URL; without artifacts, returns no field.

    Raises:
        Failure: An artifact is malformed or too large, or its file cannot be read.
    """
    if not given:
        return {}
    return {"artifacts": f"[{','.join(map(_artifact, given))}]"}


def _artifact(text: str) -> str:
    name, _, source = text.partition("=")
    if not name or not source:
        raise usage_failure("--artifact: must be NAME=FILE or NAME=URL")
    artifact = {"name": json_text.quote(name)}
    if "://" in source:
        return json_text.join(artifact | {"url": json_text.quote(source)})
    try:
        with Path(source).open("rb") as file:
            content = file.read(CONTENT_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        raise usage_failure(f"--artifact: {source}: {getattr(error, 'strerror', error)}") from None
    if len(content) > CONTENT_BYTES_MAX:
        raise usage_failure(f"--artifact: {source}: larger than {CONTENT_BYTES_MAX} bytes")
    artifact["contentBase64"] = json_text.quote(base64.b64encode(content).decode())
    if (kind := mimetypes.guess_type(name)[0]) is not None:
        artifact["contentType"] = json_text.quote(kind)
    return json_text.join(artifact)
