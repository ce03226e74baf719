"""codeq install: writes a bundle for Docker or Kubernetes, and starts it if asked to."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer

from codeq_cli import names, render, tokens
from codeq_cli.client_options import ClientOptions, output_command
from codeq_cli.failures import ExitCode, Failure, usage_failure
from codeq_cli.install import compose, kubernetes
from codeq_cli.install.bundle import IMAGE, Bundle, Choices, Size, Target
from codeq_cli.json_input import text_input

app = typer.Typer(no_args_is_help=False)
"""Holds this module's command for the table of commands."""

_SECRET_OPTION: Final = "--webhook-hmac-secret"  # noqa: S105 - the name of the option

T = TypeVar("T", Target, Size)

_NAME: Final = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_DOMAIN: Final = re.compile(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}")
_PART: Final = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_IMAGE: Final = re.compile(
    rf"(?P<repository>(?:{_PART}(?::[0-9]{{1,5}})?/)?{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_IMAGE_CHARACTERS_MAX: Final = 255
_TLS_FILES: Final = ("tls.crt", "tls.key")
_SECRET: Final = re.compile(r"[A-Za-z0-9_./+=-]{16,128}")  # is not quoted in env files


@app.command()
@output_command
def install(
    options: ClientOptions,
    *,
    target: Annotated[Target | None, typer.Option(help="Where it is to run; default: docker.")] = None,
    size: Annotated[Size | None, typer.Option(help="Size; default: dev for docker, small for kubernetes.")] = None,
    release: Annotated[str, typer.Option(metavar="NAME", help="Compose project, or Helm release.")] = "codeq",
    namespace: Annotated[str | None, typer.Option(metavar="NAME", help="Kubernetes namespace; default: codeq.")] = None,
    output_dir: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder to write; without --force it must be empty or missing.")
    ] = Path("codeq-install"),
    image: Annotated[
        str,
        typer.Option(metavar="REPOSITORY[:TAG][@DIGEST]", help="Image; without tag and digest in this version."),
    ] = IMAGE,
    domain: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the host or ingress: Caddy gets certificates for it.")
    ] = "",
    tls_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="With docker: folder with tls.crt and tls.key, instead of Caddy."),
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(metavar="TENANT", help="Tenant of the tokens; default: default.")
    ] = None,
    webhook_hmac_secret: Annotated[
        str | None,
        typer.Option(
            metavar="@FILE|-|SECRET",
            help="Secret that signs callbacks: in a file, on stdin, or as given, which other users of this machine "
            "can see; default: a random one.",
        ),
    ] = None,
    execute: Annotated[bool, typer.Option("--execute", help="Also start it, with docker compose or helm.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the files of an earlier bundle, with new secrets.")
    ] = False,
    no_prompt: Annotated[
        bool, typer.Option("--no-prompt", help="Ask nothing; without a terminal nothing is asked anyway.")
    ] = False,
) -> None:
    """Writes what runs codeq with Docker or on Kubernetes, with random secrets, and says how to start it."""
    asks = not no_prompt and sys.stdin.isatty() and sys.stderr.isatty()
    target = target or (_ask("Where is it to run", Target, Target.DOCKER) if asks else Target.DOCKER)
    usual = Size.DEV if target is Target.DOCKER else Size.SMALL
    size = size or (_ask("Which size", Size, usual) if asks else usual)
    if asks and not domain and tls_dir is None and target is Target.DOCKER and size is not Size.DEV:
        domain = typer.prompt("Name of this host, for certificates (empty: later)", default="", err=True)
    _refuse_unused(target, size, {"--domain": domain, "--tenant": tenant, "--tls-dir": tls_dir}, namespace)
    secret = None if webhook_hmac_secret is None else text_input(_SECRET_OPTION, webhook_hmac_secret).strip("\r\n")
    choices = _checked(
        size,
        release,
        "codeq" if namespace is None else namespace,
        output_dir,
        image,
        domain,
        tls_dir,
        "default" if tenant is None else tenant,
        tokens.secret() if secret is None else secret,
    )
    bundle = (compose if target is Target.DOCKER else kubernetes).bundle(choices)
    if execute and bundle.missing:
        raise usage_failure(f"--execute needs {bundle.missing}")
    bundle.write(output_dir, force=force)
    _tell(bundle, choices, options.format)
    if execute:
        _start(bundle)


def _ask(question: str, kind: type[T], default: T) -> T:
    """Asks for one of several values until the answer is one."""
    names = [each.value for each in kind]
    while True:
        answer = typer.prompt(f"{question} ({', '.join(names)})", default=default.value, err=True)
        if answer in names:
            return kind(answer)


def _refuse_unused(target: Target, size: Size, given: Mapping[str, object], namespace: str | None) -> None:
    """Refuses options that a bundle would ignore.

    Raises:
        Failure: One is given.
    """
    if target is Target.KUBERNETES:
        if given["--tls-dir"] is not None:
            raise usage_failure("--tls-dir is for --target docker; the chart has them in secrets: see its tls.*")
        return
    if namespace is not None:
        raise usage_failure("--namespace is for --target kubernetes")
    if size is Size.DEV:
        for option, value in given.items():
            if value:
                raise usage_failure(f"{option} is not for --size dev, which has well-known tokens and no TLS")


def _checked(
    size: Size,
    release: str,
    namespace: str,
    folder: Path,
    image: str,
    domain: str,
    tls: Path | None,
    tenant: str,
    webhook_secret: str,
) -> Choices:
    """Returns the choices.

    Raises:
        Failure: One is malformed.
    """
    for option, name in (("--release", release), ("--namespace", namespace)):
        if not _NAME.fullmatch(name):
            raise usage_failure(f"{option}: {name!r} is not a name of at most 40 of a-z 0-9 -, beginning with a letter")
    if str(folder).startswith("-"):
        raise usage_failure(f"--output-dir: {str(folder)!a} would be an option of the commands to run")
    found = _IMAGE.fullmatch(image)
    if found is None or len(found["repository"]) > _IMAGE_CHARACTERS_MAX:
        raise usage_failure(f"--image: {image!a} is not REPOSITORY, REPOSITORY:TAG or either with @sha256:…")
    if domain and not _DOMAIN.fullmatch(domain):
        raise usage_failure(f"--domain: {domain!r} is not a name such as queue.example.com")
    if tls is not None:
        _check_tls(names.written_path("--tls-dir", tls))
    if not _SECRET.fullmatch(webhook_secret):
        raise usage_failure(f"{_SECRET_OPTION}: must be 16 to 128 of A-Z a-z 0-9 _ . / + = -")
    return Choices(
        size=size,
        release=release,
        namespace=namespace,
        folder=names.written_path("--output-dir", folder),
        repository=found["repository"],
        tag=found["tag"],
        digest=found["digest"],
        domain=domain,
        tls=tls,
        tenant=names.tenant_of_tokens(tenant),
        webhook_secret=webhook_secret,
    )


def _check_tls(folder: Path) -> None:
    """Checks that the files of TLS are there and can be read.

    Raises:
        Failure: One is missing, or cannot be read.
    """
    for name in _TLS_FILES:
        path = folder / name
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise usage_failure(f"--tls-dir: {path} is not a file")
            path.open("rb").close()
        except OSError as error:
            raise usage_failure(f"--tls-dir: {path}: {error.strerror}") from None


def _tell(bundle: Bundle, choices: Choices, output: render.Format) -> None:
    commands = [shlex.join(command) for command in bundle.commands]
    if output is not render.Format.TABLE:
        told = {"folder": str(choices.folder), "files": sorted(bundle.files), "next": commands}
        told |= {"missing": bundle.missing, "notes": list(bundle.notes)}
        render.show_object(json.dumps(told), output)
        return
    print(f"{len(bundle.files)} files written to {choices.folder}")
    for note in bundle.notes:
        print(f"- {note}")
    if bundle.missing:
        print(f"- still missing: {bundle.missing}")
    print("Next:")
    for command in commands:
        print(f"  {command}")


def _has_compose() -> bool:
    """Returns whether docker has its Compose plugin."""
    asked = ["docker", "compose", "version"]
    return subprocess.run(asked, check=False, capture_output=True).returncode == 0  # noqa: S603 - a constant


def _start(bundle: Bundle) -> None:
    """Runs the commands of a bundle.

    Raises:
        Failure: A tool is missing, or a command has failed.
    """
    if missing := [program for program in bundle.tools if shutil.which(program) is None]:
        programs = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
        sources = ", ".join(bundle.tools[program] for program in missing)
        commands = " && ".join(map(shlex.join, bundle.commands))
        raise Failure(f"{programs}; get {sources}; then run: {commands}", "TOOL_MISSING", ExitCode.REFUSED)
    if "docker" in bundle.tools and not _has_compose():
        text = f"docker has no Compose plugin; get {bundle.tools['docker']}, then run: {shlex.join(bundle.commands[0])}"
        raise Failure(text, "TOOL_MISSING", ExitCode.REFUSED)
    for command in bundle.commands:
        print(f"+ {shlex.join(command)}", file=sys.stderr, flush=True)
        try:
            code = subprocess.run(command, check=False).returncode  # noqa: S603 - made here, of checked choices
        except OSError as error:
            raise Failure(f"{command[0]}: {error.strerror}", "COMMAND_FAILED", ExitCode.REFUSED) from None
        if code != 0:
            raise Failure(f"{command[0]} has failed with exit code {code}", "COMMAND_FAILED", ExitCode.REFUSED)
