"""The options that every client command takes, in front of the command's name or behind it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Concatenate, Final, ParamSpec, cast

import typer

from codeq_cli import profile, render
from codeq_cli.failures import Failure
from codeq_cli.rest import Server

OutputOption = Annotated[
    render.Format | None,
    typer.Option("-o", "--output", help="How results are printed; default: a table on a terminal, else JSON."),
]
EndpointOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help=f"The server; default: $CODEQ_ENDPOINT, the profile file, {profile.DEFAULT_ENDPOINT}.",
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN",
        help="Bearer token; default: $CODEQ_TOKEN, the profile file. Others on this machine can see an option.",
    ),
]


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """The client options as given.

    Attributes:
        output: Format asked for; None: none was.
        endpoint: --endpoint, if given.
        token: --token, if given.
    """

    output: render.Format | None = None
    endpoint: str | None = None
    token: str | None = None

    @property
    def format(self) -> render.Format:
        """Format in use."""
        return self.output or render.default_format()

    def flags(self) -> dict[str, str | None]:
        """Returns the settings given as options."""
        return {"endpoint": self.endpoint, "token": self.token}

    def server(self) -> Server:
        """Returns the server that the settings in force name.

        Raises:
            Failure: A setting or the profile file is malformed.
        """
        settings = profile.resolve(self.flags())
        endpoint = settings["endpoint"].value
        assert endpoint is not None
        return Server(endpoint, settings["token"].value)


P = ParamSpec("P")


def client_command(function: Callable[Concatenate[ClientOptions, P], None]) -> Callable[..., None]:
    """Makes a function a command that takes every client option; they are its first argument.

    An option behind the command's name wins over the same option in front of it.
    """
    return _with_options(function, _OPTIONS)


def output_command(function: Callable[Concatenate[ClientOptions, P], None]) -> Callable[..., None]:
    """Makes a function a command that takes --output and talks to no server."""
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


_OPTIONS: Final[dict[str, Any]] = {"output": OutputOption, "endpoint": EndpointOption, "token": TokenOption}
