"""Creates a task, works on it, and prints the result."""

from __future__ import annotations

import threading

import codeq

worker = codeq.Worker()
worker.task("GREET")(lambda task: f"Hello, {task.payload}!")
threading.Thread(target=worker.run, daemon=True).start()

with codeq.Producer() as producer:
    print(producer.create_and_wait("GREET", "world").result)
worker.stop()
