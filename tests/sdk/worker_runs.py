"""Running a worker for the length of a block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import codeq
from codeq.worker_handlers import Handler


@asynccontextmanager
async def running(worker: codeq.AsyncWorker, handler: Handler, *commands: str) -> AsyncIterator[asyncio.Task[None]]:
    """Runs the worker, and stops it at the end; running tasks may finish, even if the block has stopped it already."""
    run = asyncio.create_task(worker.run(handler, commands=commands, handle_signals=False))
    try:
        yield run
    finally:
        worker.stop(drain_seconds=20)
        await asyncio.wait_for(run, 30)
