"""A script that delivers tasks once."""

from __future__ import annotations

from codeq.v1 import task_pb2
from scripted_server import Work, delivery, settled, welcome_worker


class OneDelivery:
    """A script that delivers tasks and collects their outcomes."""

    def __init__(self, *ids: str, lease_seconds: int = 60) -> None:
        self._ids, self._lease_seconds = ids, lease_seconds
        self.outcomes: list[task_pb2.Outcome] = []

    async def __call__(self, stream: Work) -> None:
        await welcome_worker(stream, lease_seconds=self._lease_seconds)
        await stream.write(delivery(*self._ids))
        async for request in stream:
            self.outcomes += request.outcomes
            if request.outcomes:
                await stream.write(settled(len(request.outcomes)))
