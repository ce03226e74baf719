"""The options of every client command, accepted before or after the command's name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Concatenate, Final, ParamSpec, cast

import typer

from codeq_cli import profile, render
from codeq_cli.failures import Failure
from codeq_cli.profile import Setting
from codeq_cli.rest import Server

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


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """The client options as given.

    Attributes:
        output: --output, if given.
        endpoint: --endpoint, if given.
        token: --token, if given.
        profile: --profile, if given.
    """

    output: render.Format | None = None
    endpoint: str | None = None
    token: str | None = None
    profile: str | None = None

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
        return Server(profile.endpoints(endpoint), token)


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
}
