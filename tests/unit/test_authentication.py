"""The authentication of a server: what keeps its validators current goes on, whatever happens."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from codeq_server.config.provider import Built, ProviderLog
from codeq_server.node.authentication import RESTART_SECONDS, Authentication
from held_log import turns, until
from scripted_validator import Nobody, clocked, in_clocked_loop


def test_upkeep_that_fails_is_reported_and_goes_on_until_the_server_stops(capsys: pytest.CaptureFixture[str]) -> None:
    begun: list[Any] = []

    async def fail(revoke: Any) -> None:
        begun.append(revoke)
        raise RuntimeError("out of luck")

    async def test() -> None:
        authentication = Authentication(of(lambda _: Built(Nobody(), (fail,)), lambda _: Built(Nobody())))
        assert begun == []
        authentication.start()
        for count in (1, 2):
            await until(lambda count=count: len(begun) == count)  # type: ignore[misc]
            clocked().forward(RESTART_SECONDS)
        assert begun[0] == authentication.authenticator.revoke
        authentication.stop()
        await turns()
        assert [task for task in asyncio.all_tasks() if task.get_name() == "token-upkeep"] == []

    in_clocked_loop(test())
    assert "token_upkeep_failed" in capsys.readouterr().out


def of(producer: Any, worker: Any) -> Any:
    """Returns settings whose providers are built by two functions."""
    roles = {"producer": SimpleNamespace(build=producer), "worker": SimpleNamespace(build=worker)}
    return SimpleNamespace(**roles, allow_producer_as_worker=False, admins_operate=False)


def test_events_of_providers_name_their_role() -> None:
    def troubled(log: ProviderLog) -> Built:
        log.unusable(Path("tokens.json"), "is not JSON")
        log.reloaded(Path("tokens.json"), 2, 0)
        log.provider("keys_not_fetched", "issuer a: no answer")
        log.provider("keys_fetched", "issuer a: its keys can be fetched again")
        return Built(Nobody())

    with structlog.testing.capture_logs() as events:
        Authentication(of(troubled, troubled))
    assert [each["event"] for each in events[:4]] == [
        "token_file_rejected",
        "token_file_read",
        "keys_not_fetched",
        "keys_fetched",
    ]
    assert [each["role"] for each in events] == ["producer"] * 4 + ["worker"] * 4
    assert [each["log_level"] for each in events[:4]] == ["error", "info", "warning", "info"]


def test_upkeep_that_returns_is_done() -> None:
    begun: list[Any] = []

    async def once(revoke: Any) -> None:
        begun.append(revoke)

    async def test() -> None:
        authentication = Authentication(of(lambda _: Built(Nobody(), (once,)), lambda _: Built(Nobody())))
        authentication.start()
        await until(lambda: len(begun) == 1)
        await turns()
        clocked().forward(10 * RESTART_SECONDS)
        await turns()
        assert len(begun) == 1
        assert [task for task in asyncio.all_tasks() if task.get_name() == "token-upkeep"] == []
        authentication.stop()

    in_clocked_loop(test())
