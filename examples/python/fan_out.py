"""Creates 10,000 tasks from an iterator, works on them, and adds up the results."""

from __future__ import annotations

import asyncio

import codeq

COUNT = 10_000


async def main() -> None:
    """Reads the tasks only as fast as the server accepts them."""
    total, left = 0, COUNT
    done = asyncio.Event()
    worker = codeq.AsyncWorker(concurrency=256)

    @worker.task("SQUARE")
    async def square(task: codeq.Task[int]) -> None:
        nonlocal total, left
        total += task.payload**2
        left -= 1
        if left == 0:
            done.set()

    async with asyncio.TaskGroup() as group, codeq.AsyncProducer() as producer:
        group.create_task(worker.run())
        tasks = (codeq.NewTask("SQUARE", number) for number in range(COUNT))
        failed = [result async for result in producer.create_all(tasks) if isinstance(result, codeq.CodeqError)]
        await done.wait()
        worker.stop()
    print(f"{COUNT - len(failed)} created, sum of squares {total}")


asyncio.run(main())
