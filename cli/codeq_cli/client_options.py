"""The options of every client command, accepted before or after the command's name."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Concatenate, Final, ParamSpec, cast

import typer

from codeq_cli import profile, render
from codeq_cli.failures import Failure, configuration_failure
from codeq_cli.profile import Setting
from codeq_cli.rest import Server, Tls

OutputOption = Annotated[
    render.Format | None,
    typer.Option("-o", "--output", help="Output format; default: table on a terminal, else json."),
]
EndpointOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL[,URL…]",
        help=f"Server, or nodes of a cluster; default: $CODEQ_ENDPOINT, the profile, {profile.DEFAULT_ENDPOINT}.",
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN",
        help="Bearer token; default: $CODEQ_TOKEN ($CODEQ_WORKER_TOKEN for worker calls), the profile. "
        "Other users of this machine can see options.",
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help=f"Profile to use from the profile file; default: ${profile.PROFILE_VARIABLE}."),
]
TenantOption = Annotated[
    str | None, typer.Option(metavar="TENANT", help="Tenant to act on; only an operator may name another one.")
]
CaOption = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        metavar="FILE",
        help="PEM file with the CAs of https servers; default: $CODEQ_TLS_CA_FILE, the system's.",
    ),
]
CertOption = Annotated[
    Path | None,
    typer.Option(
        "--cert", metavar="FILE", help="PEM file with a certificate to present; default: $CODEQ_TLS_CERT_FILE."
    ),
]
KeyOption = Annotated[
    Path | None,
    typer.Option("--key", metavar="FILE", help="PEM file with its private key; default: $CODEQ_TLS_KEY_FILE."),
]
InsecureOption = Annotated[
    bool | None,
    typer.Option("--insecure-skip-verify", help="Accept any certificate of the server: others may read the token."),
]


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """The client options as given.

    Attributes:
        output: --output, if given.
        endpoint: --endpoint, if given.
        token: --token, if given.
        profile: --profile, if given.
        tls_ca: --ca, if given.
        tls_cert: --cert, if given.
        tls_key: --key, if given.
        insecure_skip_verify: Whether --insecure-skip-verify is given.
    """

    output: render.Format | None = None
    endpoint: str | None = None
    token: str | None = None
    profile: str | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure_skip_verify: bool = False

    @property
    def format(self) -> render.Format:
        """Format in use."""
        return self.output or render.default_format()

    def settings(self) -> dict[str, Setting]:
        """Returns the effective settings, each with its source.

        Raises:
            Failure: A setting or the profile file is malformed.
        """
        return profile.resolve({"endpoint": self.endpoint, "token": self.token}, self.profile)

    def server(self, *, as_worker: bool = False) -> Server:
        """Returns the server that the effective settings name.

        Args:
            as_worker: Whether to use the worker token, if one is set.

        Raises:
            Failure: A setting or the profile file is malformed.
        """
        settings = self.settings()
        endpoint, token = settings["endpoint"].value, settings["token"].value
        assert endpoint is not None
        if as_worker and self.token is None:
            token = settings["worker-token"].value or token
        return Server(profile.endpoints(endpoint), token, self._tls())

    def _tls(self) -> Tls:
        """Returns the options of TLS; warns if the server is not checked.

        Raises:
            Failure: A certificate is given without its key, or a key without its certificate.
        """
        ca, cert, key = (
            given or _path_in_environment(variable)
            for given, variable in (
                (self.tls_ca, "CODEQ_TLS_CA_FILE"),
                (self.tls_cert, "CODEQ_TLS_CERT_FILE"),
                (self.tls_key, "CODEQ_TLS_KEY_FILE"),
            )
        )
        if (cert is None) != (key is None):
            raise configuration_failure(
                "--cert and --key ($CODEQ_TLS_CERT_FILE, $CODEQ_TLS_KEY_FILE) belong together: give both or neither"
            )
        if self.insecure_skip_verify:
            print(
                "warning: --insecure-skip-verify: the server's certificate is not checked, so anybody in between can "
                "read the token and change replies",
                file=sys.stderr,
            )
        return Tls(ca, cert, key, self.insecure_skip_verify)


def _path_in_environment(variable: str) -> Path | None:
    text = os.environ.get(variable)
    return Path(text) if text else None


def of_tenant(tenant: str | None) -> dict[str, str | int | list[str]]:
    """Returns the query parameters that name the tenant to act on; None: that of the token."""
    return {} if tenant is None else {"tenant": tenant}


P = ParamSpec("P")


def client_command(function: Callable[Concatenate[ClientOptions, P], None]) -> Callable[..., None]:
    """Turns a function into a command with all client options, passed as its first argument.

    An option after the command's name overrides the same option before it.
    """
    return _with_options(function, _OPTIONS)


def output_command(function: Callable[Concatenate[ClientOptions, P], None]) -> Callable[..., None]:
    """Turns a function into a command with --output that calls no server."""
    return _with_options(function, {"output": OutputOption})


def profile_command(function: Callable[Concatenate[ClientOptions, P], None]) -> Callable[..., None]:
    """Turns a function into a command with --profile that calls no server."""
    return _with_options(function, {"profile": ProfileOption})


def _with_options(
    function: Callable[Concatenate[ClientOptions, P], None], added: Mapping[str, Any]
) -> Callable[..., None]:
    signature = inspect.signature(function, eval_str=True)

    @functools.wraps(function)
    def command(**values: Any) -> None:
        context: typer.Context = values.pop("context")
        given = {name: value for name in added if (value := values.pop(name)) is not None}
        options = replace(context.find_root().ensure_object(ClientOptions), **given)
        try:
            # The signature below has exactly the parameters of the function.
            cast("Callable[..., None]", function)(options, **values)
        except Failure as failure:
            render.show_failure(failure, as_json=options.output is render.Format.JSON)
            raise typer.Exit(failure.exit_code) from None

    def parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

    own = [parameter(each.name, each.annotation, each.default) for each in [*signature.parameters.values()][1:]]
    options = [parameter(name, annotation, None) for name, annotation in added.items()]
    command.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*own, *options, parameter("context", typer.Context)]
    )
    return command


_OPTIONS: Final[dict[str, Any]] = {
    "output": OutputOption,
    "endpoint": EndpointOption,
    "token": TokenOption,
    "profile": ProfileOption,
    "tls_ca": CaOption,
    "tls_cert": CertOption,
    "tls_key": KeyOption,
    "insecure_skip_verify": InsecureOption,
}
