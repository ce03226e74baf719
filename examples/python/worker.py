"""A worker with typed payloads, progress, a limit, a timeout and middleware. Stop it with Ctrl-C or SIGTERM."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import codeq


@dataclass
class Order:
    """Payload of PROCESS_ORDER."""

    id: str
    items: list[str]


log = logging.getLogger(__name__)
worker = codeq.Worker(concurrency=32)


@worker.middleware
def timed(task: codeq.Task, call_next: codeq.Handler) -> object:
    """Logs how long each handler takes."""
    begun = time.monotonic()
    try:
        return call_next(task)
    finally:
        log.info("%s took %.3f s", task.id, time.monotonic() - begun)


@worker.task("PROCESS_ORDER", limit=8, timeout=60)
def process_order(task: codeq.Task[Order]) -> object:
    """Packs the items of an order; at most eight orders at once."""
    order = task.payload
    for number, _ in enumerate(order.items, 1):
        task.progress({"packed": number, "of": len(order.items)})
    return {"order": order.id, "packed": len(order.items)}


@worker.task("SEND_MAIL")
async def send_mail(task: codeq.Task[str]) -> None:
    """Async handlers are cancelled when their lease is lost."""
    log.info("mail to %s", task.payload)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    worker.run()
