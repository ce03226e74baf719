"""Objects that a handled exception would keep alive."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Iterator

import pytest
from codeq.frames import let_go


class Request:
    """A large object that a call references."""


async def _of_group(_: Request) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0))
        raise ValueError


async def _of_future(_: Request) -> None:
    future = asyncio.get_running_loop().create_future()
    future.set_exception(ValueError())
    await future


async def _of_local(_: Request) -> None:
    kept = ValueError()
    raise kept from KeyError()


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("call", [_of_group, _of_future, _of_local])
async def test_handled_exception_keeps_no_request_alive(call: Callable[[Request], Awaitable[None]]) -> None:
    request = Request()
    alive = weakref.ref(request)
    try:
        await call(request)
    except (ValueError, ExceptionGroup) as problem:
        let_go(problem)
    del request
    assert alive() is None
