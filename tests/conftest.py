"""Fixtures shared by tests of every kind."""

from __future__ import annotations

import importlib
import inspect
import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from codeq_server import is_compiled
from server_process import ServerProcess

BUILD = "compiled" if is_compiled() else "interpreted"
HTTP_SECONDS_MAX = 60.0
"""How long calls of tests wait that name no bound of their own; httpx's 5 s are too short on a busy machine."""


def pytest_configure() -> None:
    """Sets the bound of calls, and has all calls that name no authority share a TLS context.

    A context of its own for each call, with all public authorities, took a sixth of the tests' CPU time.
    """
    bound: httpx.Timeout = inspect.signature(httpx.Client).parameters["timeout"].default
    bound.connect = bound.read = bound.write = bound.pool = HTTP_SECONDS_MAX
    own = httpx.create_ssl_context
    shared: dict[str, ssl.SSLContext] = {}

    def context(verify: ssl.SSLContext | str | bool = True, *rest: object, **more: object) -> ssl.SSLContext:
        if verify is not True or rest or more.get("cert") is not None:
            return own(verify, *rest, **more)
        authorities = os.environ.get("SSL_CERT_FILE", "")  # some suites have one of their own
        if authorities not in shared:
            shared[authorities] = own()
        return shared[authorities]

    importlib.import_module("httpx._transports.default").create_ssl_context = context


def pytest_report_header() -> str:
    """Reports which build is tested. TESTED_BUILD names the expected build; any other fails the run."""
    meant = os.environ.get("TESTED_BUILD", BUILD)
    if meant != BUILD:
        raise pytest.UsageError(f"the tests import the {BUILD} build, not the {meant} one")
    return f"codeq: {BUILD}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out tests that replace functions of the product if the build is compiled, as its functions are fixed."""
    if BUILD == "compiled":
        fixed = [item for item in items if item.get_closest_marker("interpreted")]
        items[:] = [item for item in items if item not in fixed]
        config.hook.pytest_deselected(items=fixed)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server with a fresh store, started with --dev. A test that leaves it running also tests that it stops."""
    with ServerProcess(tmp_path / "server") as started:
        yield started
        print(started.log)
        if started.is_running:
            assert started.stop() == 0
