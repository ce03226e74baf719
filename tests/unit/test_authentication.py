"""The authentication of a server: what keeps its validators current goes on, whatever happens."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from codeq_server.config.provider import Built
from codeq_server.node.authentication import RESTART_SECONDS, Authentication
from held_log import turns, until
from scripted_validator import Nobody, clocked, in_clocked_loop


def test_upkeep_that_fails_is_reported_and_goes_on_until_the_server_stops(capsys: pytest.CaptureFixture[str]) -> None:
    begun: list[Any] = []

    async def fail(revoke: Any) -> None:
        begun.append(revoke)
        raise RuntimeError("out of luck")

    async def test() -> None:
        roles = {
            "producer": SimpleNamespace(build=lambda _: Built(Nobody(), (fail,))),
            "worker": SimpleNamespace(build=lambda _: Built(Nobody())),
        }
        authentication = Authentication(SimpleNamespace(**roles, allow_producer_as_worker=False, admins_operate=False))  # type: ignore[arg-type]
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
