"""Creates tasks and works on them until SIGTERM, then waits for the rest, and prints what came of them as JSON.

It prints a line after its first task, and creates at least CREATED_MIN.

Runs in a pod, with the SDK of the image.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import codeq

COMMAND = "POD_LOAD"
PAUSE_SECONDS = 0.02
REST_SECONDS_MAX = 90.0
CREATED_MIN = 100
BEGUN = "the first task is created"

stopped = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopped.set())
worked: set[int] = set()
worker = codeq.Worker(token=os.environ["WORKER_TOKEN"], concurrency=16)
worker.task(COMMAND)(lambda task: worked.add(task.payload["number"]))
working = threading.Thread(target=worker.run)
working.start()
created: list[int] = []
failures: list[str] = []
longest, count = 0.0, 0
with codeq.Producer(token=os.environ["PRODUCER_TOKEN"]) as producer:
    while not stopped.wait(PAUSE_SECONDS) or (len(created) < CREATED_MIN and not failures):
        began, count = time.monotonic(), count + 1
        try:
            producer.create(COMMAND, {"number": count})
            created.append(count)
            if len(created) == 1:
                print(BEGUN, flush=True)
        except codeq.CodeqError as error:
            failures.append(f"{type(error).__name__}: {error}")
        longest = max(longest, time.monotonic() - began)
deadline = time.monotonic() + REST_SECONDS_MAX
while not worked.issuperset(created) and time.monotonic() < deadline:
    time.sleep(PAUSE_SECONDS)
worker.stop()
working.join()
lost = sorted(set(created) - worked)
print(json.dumps({"created": len(created), "lost": lost, "failures": failures, "longest": longest}), flush=True)
