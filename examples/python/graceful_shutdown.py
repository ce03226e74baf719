"""Stops a worker so that no work is lost: running tasks finish, or go back to the server without costing an attempt.

SIGTERM and SIGINT do the same as `worker.stop()` here; a second signal stops the worker at once.
"""

from __future__ import annotations

import threading

import codeq

worker = codeq.Worker(concurrency=2, drain_seconds=10)
begun = threading.Barrier(3)


@worker.task("SLOW")
def slow(task: codeq.Task[str]) -> str:
    """Ends early when the worker's time to drain is over; `task.cancel_reason` then says SHUTDOWN."""
    begun.wait()
    if task.payload == "endless":
        task.lost.wait()
        print("interrupted:", task.cancel_reason)
        return "nobody reads this"
    return "finished"


with codeq.Producer() as producer, codeq.Client() as client:
    short, endless = producer.create("SLOW", "short"), producer.create("SLOW", "endless")
    running = threading.Thread(target=worker.run)
    running.start()
    begun.wait()  # both are running
    worker.stop(drain_seconds=1)
    running.join()
    print("short:", client.result(short, wait=10).result)
    again = client.get(endless)
    print("endless:", again.status, again.attempts, "attempts")
