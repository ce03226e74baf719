"""Retries a task after a delay, lets another one fail for good, and redrives a third from the dead-letter queue."""

from __future__ import annotations

import threading

import codeq

worker = codeq.Worker()
is_repaired = threading.Event()


@worker.task("CHARGE")
def charge(task: codeq.Task[str]) -> str:
    """What a handler raises decides what becomes of its task."""
    match task.payload:
        case "busy" if task.attempts == 1:
            raise codeq.RetryAfter(1, "the bank is busy")
        case "stolen":
            raise codeq.NonRetryable("the card was reported stolen")
        case "broken" if not is_repaired.is_set():
            raise RuntimeError("no connection to the bank")  # retried by the server's backoff, up to max_attempts
    return "charged"


threading.Thread(target=worker.run, daemon=True).start()
with codeq.Producer() as producer, codeq.Client() as client:
    print("busy:", producer.create_and_wait("CHARGE", "busy").result)
    print("stolen:", producer.create_and_wait("CHARGE", "stolen").error)
    broken = producer.create_and_wait("CHARGE", "broken", max_attempts=1)
    print("broken:", broken.status, "-", broken.error)
    for letter in client.iter_dead_letters("CHARGE"):
        print("dead letter:", letter.id == broken.task_id, letter.payload)
    is_repaired.set()
    client.redrive(broken.task_id)
    print("redriven:", client.result(broken.task_id, wait=20).result)
worker.stop()
