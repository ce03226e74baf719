"""Creates a task, works on it, and checks its result: run by `helm test`."""

from __future__ import annotations

import os
import sys
import threading

import codeq

COMMAND = "CODEQ_HELM_TEST"
SECONDS_MAX = 60

worker = codeq.Worker(token=os.environ["WORKER_TOKEN"])
worker.task(COMMAND)(lambda task: {"greeting": f"Hello, {task.payload}!"})
threading.Thread(target=worker.run, daemon=True).start()

with codeq.Producer(token=os.environ["PRODUCER_TOKEN"]) as producer:
    result = producer.create_and_wait(COMMAND, "world", timeout_seconds=SECONDS_MAX).result
worker.stop()
print(f"the task's result: {result}")
sys.exit(result != {"greeting": "Hello, world!"})
