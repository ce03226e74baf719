"""Running a worker for the length of a block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import codeq
from codeq.worker_handlers import Handler


@asynccontextmanager
async def running(worker: codeq.AsyncWorker, handler: Handler, *commands: str) -> AsyncIterator[asyncio.Task[None]]:
    """Runs the worker, and stops it at the end."""
    run = asyncio.create_task(worker.run(handler, commands=commands, handle_signals=False))
    try:
        yield run
    finally:
        worker.stop()
        await asyncio.wait_for(run, 20)
