"""A worker in a process of its own: prints each task it receives, and settles it on a line from stdin."""

from __future__ import annotations

import sys
import threading

import codeq

reading = threading.Lock()
worker = codeq.Worker(concurrency=2, lease_seconds=1)


@worker.task(sys.argv[1])
def handle(task: codeq.Task) -> str:
    """Waits for a line on the standard input."""
    print(task.id, task.lease_token, flush=True)
    with reading:
        return sys.stdin.readline().strip()


worker.run()
print("ended", worker.stats.settled, flush=True)
