"""The bundle for Docker: a Compose project for development, or for production on one host."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import yaml

from codeq_cli import __version__, env_files, names, tokens
from codeq_cli.failures import usage_failure
from codeq_cli.install.bundle import Bundle, Choices, File, Size, layouts, with_image

_NOT_IN_ENV: Final = "'\\:"
"""Characters that end or change a value in single quotes, or the path of a mount."""

TOOLS: Final = {"docker": "Docker Engine with the Compose plugin: https://docs.docker.com/engine/install"}

_OUTSIDE: Final = re.compile(r"(?:\.\./)+[\w.-]+(?:/[\w.-]+)*")
"""A path that leads out of the folder of a layout."""
_BUILD: Final = re.compile(r"^ *build: .*\n", re.MULTILINE)
_HEADER: Final = re.compile(r"\A(?:#.*\n)+")
_UNITS: Final = {"Mi": "m", "Gi": "g"}
_HEAD: Final = (
    "# Written by `codeq install --target docker --size {size}`. Start it in this folder: docker compose up -d\n"
)


def bundle(choices: Choices) -> Bundle:
    """Returns the bundle.

    Raises:
        Failure: This installation has no layouts.
    """
    return _development(choices) if choices.size is Size.DEV else _production(choices)


def _development(choices: Choices) -> Bundle:
    """Returns one node on loopback, with the well-known tokens of `codeq serve --dev`."""
    layout = layouts() / "deploy" / "docker-compose" / "local-dev"
    files = _files(layout, choices)
    settings = files["codeq.env"].content.decode()
    added = f"# Signs callbacks and signals.\n{env_files.line('WEBHOOK_HMAC_SECRET', choices.webhook_secret)}"
    files["codeq.env"] = File((settings + added).encode(), private=True)
    variables = {"COMPOSE_PROJECT_NAME": choices.release, "CODEQ_TAG": _tag(choices)}
    lines = [env_files.line(name, value) for name, value in variables.items()]
    files[".env"] = File("".join(lines).encode(), private=True)
    notes = [
        "REST is at http://localhost:8080, gRPC on :9091 and :9092, for this machine only, with the token dev-token",
        "add --profile obs for Prometheus and Grafana, --profile loadtest for tasks that come and are worked on",
    ]
    return Bundle(files, [_up(choices, ["compose.yaml"])], TOOLS, notes=notes)


def _production(choices: Choices) -> Bundle:
    """Returns one node for one host, with random tokens and TLS."""
    layout = layouts() / "deploy" / "docker-compose" / "production"
    files = _files(layout, choices)
    example = files.pop("env.example").content.decode()
    unused = "caddy.yaml" if choices.tls is not None else "own-tls.yaml"
    del files[unused]
    if choices.tls is not None:
        del files["Caddyfile"]
    files["size.yaml"] = File(_limits(choices).encode())
    layers = ["compose.yaml", "own-tls.yaml" if choices.tls is not None else "caddy.yaml", "size.yaml"]
    values = {
        "COMPOSE_FILE": ":".join(layers),
        "CODEQ_TAG": _tag(choices),
        "CODEQ_DOMAIN": choices.domain,
        "TLS_DIR": "" if choices.tls is None else _mounted(choices.tls),
        "TENANT": choices.tenant,
        "PRODUCER_TOKEN": tokens.secret(),
        "WORKER_TOKEN": tokens.secret(),
        "WEBHOOK_HMAC_SECRET": choices.webhook_secret,
    }
    example = _HEADER.sub("# Compose reads this file; the server gets only what compose.yaml passes on.\n", example)
    text = f"{env_files.line('COMPOSE_PROJECT_NAME', choices.release)}\n{env_files.filled(example, values)}"
    files[".env"] = File(text.encode(), private=True)
    missing = "" if choices.domain or choices.tls else "the name of this host (--domain), or certificates (--tls-dir)"
    notes = [f"the tokens are in {choices.folder / '.env'}: PRODUCER_TOKEN and WORKER_TOKEN"]
    if choices.size is not Size.SMALL:
        notes.append("one host runs a single node, with the memory of this size; Kubernetes runs several")
    return Bundle(files, [_up(choices, layers)], TOOLS, missing, notes)


def _tag(choices: Choices) -> str:
    """Returns what follows the colon in the image's name; a digest alone decides, if there is one."""
    tag = choices.tag or __version__
    return tag if choices.digest is None else f"{tag}@{choices.digest}"


def _mounted(folder: Path) -> str:
    """Returns the absolute path of a folder that Compose reads from an env file and mounts.

    Raises:
        Failure: The path has a character that cannot be written there.
    """
    path = str(names.written_path("--tls-dir", folder.absolute()))
    if any(sign in path for sign in _NOT_IN_ENV):
        raise usage_failure(f"--tls-dir: {path}: Compose mounts no path with ' \\ or :")
    return path


def _up(choices: Choices, layers: Sequence[str]) -> list[str]:
    """Returns the command that starts the project from any folder; COMPOSE_FILE in .env is for those who are in it."""
    files = [part for name in layers for part in ("--file", str(choices.folder / name))]
    return ["docker", "compose", "--project-directory", str(choices.folder), *files, "up", "--detach"]


def _files(layout: Path, choices: Choices) -> dict[str, File]:
    """Returns the files of a layout, and those outside of it that it mounts."""
    files: dict[str, File] = {}
    for path in sorted(each for each in layout.rglob("*") if each.is_file() and "__pycache__" not in each.parts):
        name = path.relative_to(layout).as_posix()
        content = path.read_bytes()
        if "/" not in name and path.suffix == ".yaml":
            text = _BUILD.sub("", _HEADER.sub(_HEAD.format(size=choices.size), content.decode()))
            text = text.replace("env.example", ".env")
            outside = {match[0] for match in _OUTSIDE.finditer(text)}
            for source in sorted(outside, key=len, reverse=True):
                text = text.replace(source, f"./{_kept_name(source)}")
                files |= _copied(layout / source, _kept_name(source))
            content = with_image(text, choices).encode()
        files[name] = File(content)
    return files


def _kept_name(source: str) -> str:
    """Returns the name in the bundle of a file or folder outside of the layout."""
    return "shared/" + re.sub(r"^(?:\.\./)+", "", source).replace("/", "-")


def _copied(source: Path, name: str) -> dict[str, File]:
    path = source.resolve()
    if path.is_file():
        return {name: File(path.read_bytes())}
    inner = sorted(each for each in path.rglob("*") if each.is_file())
    return {f"{name}/{each.relative_to(path).as_posix()}": File(each.read_bytes()) for each in inner}


def _limits(choices: Choices) -> str:
    """Returns the Compose file that gives the node the memory of the chart's size."""
    path = layouts() / "helm" / "codeq" / f"values-{choices.size}.yaml"
    memory = str(yaml.safe_load(path.read_text())["resources"]["limits"]["memory"])
    limit = memory[:-2] + _UNITS[memory[-2:]]
    return f"# Memory of the size {choices.size}.\nservices:\n  codeq:\n    mem_limit: {limit}\n"
