"""Creates tasks at a steady rate and works on them, so that there is something to see: TASKS_PER_SECOND, COMMAND."""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import codeq

RATE = float(os.environ.get("TASKS_PER_SECOND", "50"))
COMMAND = os.environ.get("COMMAND", "LOAD")
FAILED_SHARE = 0.02
WORK_SECONDS = 0.05


def work(task: codeq.Task) -> object:
    """Takes some time; a few tasks fail for good."""
    time.sleep(random.expovariate(1 / WORK_SECONDS))
    return codeq.Failed("bad luck") if random.random() < FAILED_SHARE else {"seen": task.payload["number"]}


stopped = threading.Event()
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: stopped.set())
worker = codeq.Worker(concurrency=64)
worker.task(COMMAND)(work)
working = threading.Thread(target=worker.run)
working.start()
with codeq.Producer() as producer:
    due, count = time.monotonic(), 0
    while not stopped.wait(max(0.0, due - time.monotonic())):
        try:
            producer.create(COMMAND, {"number": count})
        except codeq.CodeqError as error:
            print(f"create failed: {error}", flush=True)
        due, count = max(due + 1 / RATE, time.monotonic() - 1), count + 1
worker.stop()
working.join()
