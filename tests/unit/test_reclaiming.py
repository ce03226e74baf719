"""The store is asked to reclaim space again and again, but never after `stop`."""

from __future__ import annotations

import asyncio
import threading

import pytest
from codeq_server.engine import reclaiming
from codeq_server.engine.reclaiming import Reclaiming
from codeq_server.storage.errors import StoreFailed
from held_log import turns, until


async def test_reclaiming_continues_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reclaiming, "LOOK_SECONDS", 0.001)
    asked: list[str] = []

    def reclaim() -> None:
        asked.append(threading.current_thread().name)
        raise StoreFailed("no room")

    running = Reclaiming(reclaim)
    running.start()
    await until(lambda: len(asked) >= 3)
    await running.stop()
    assert threading.current_thread().name not in asked


async def test_stop_waits_for_the_running_reclaim_and_starts_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reclaiming, "LOOK_SECONDS", 0.001)
    begun, may_end = threading.Event(), threading.Event()
    ended: list[bool] = []

    def reclaim() -> None:
        begun.set()
        ended.append(may_end.wait(30))

    running = Reclaiming(reclaim)
    running.start()
    await until(begun.is_set)
    stopping = asyncio.ensure_future(running.stop())
    await turns()
    assert not stopping.done()
    may_end.set()
    await stopping
    assert ended == [True]


async def test_stop_before_start_does_nothing() -> None:
    await Reclaiming(lambda: None).stop()
