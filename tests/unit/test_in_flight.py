"""The limits on the bytes of large requests that are buffered and processed at a time."""

from __future__ import annotations

import asyncio

import pytest
from codeq_gateway.bodies import HELD_BYTES_MAX, WORKED_BYTES_MAX, InFlight
from codeq_gateway.dispatch import CallFailed

MANY = WORKED_BYTES_MAX // 4


async def _work(in_flight: InFlight, size: int, began: list[int], number: int, end: asyncio.Event) -> None:
    async with in_flight.turn(size):
        began.append(number)
        await end.wait()


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_large_requests_wait_for_their_turn_in_order() -> None:
    in_flight, began, ends = InFlight(), list[int](), [asyncio.Event() for _ in range(7)]
    tasks = [asyncio.create_task(_work(in_flight, MANY, began, number, end)) for number, end in enumerate(ends)]
    await _settle()
    assert began == [0, 1, 2, 3]
    tasks[4].cancel()
    await _settle()
    ends[1].set()
    await _settle()
    assert began == [0, 1, 2, 3, 5]
    tasks[0].cancel()
    await _settle()
    assert began == [0, 1, 2, 3, 5, 6]
    for end in ends:
        end.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(20), in_flight.turn(WORKED_BYTES_MAX):
        pass


async def test_request_larger_than_the_limit_is_processed_alone() -> None:
    in_flight = InFlight()
    async with asyncio.timeout(20):
        async with in_flight.turn(2 * WORKED_BYTES_MAX):
            pass
        async with in_flight.turn(1):
            pass


def test_requests_beyond_the_byte_limit_are_rejected_until_others_finish() -> None:
    in_flight = InFlight()
    in_flight.take(HELD_BYTES_MAX)
    with pytest.raises(CallFailed, match="too many large requests in flight"):
        in_flight.take(1)
    in_flight.release(1)
    in_flight.take(1)
