"""A FastAPI application that enqueues orders, and waits for those that a caller wants to see done.

Run it with `uvicorn web_app:app`, and worker.py beside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import codeq
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel


class Order(BaseModel):
    """Body of a request, and payload of a task."""

    id: str
    items: list[str]


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Each process of the server has a producer of its own."""
    async with codeq.AsyncProducer(request_keys=True) as producer:
        app.state.producer = producer
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/orders", status_code=202)
async def enqueue(order: Order, request: Request) -> dict[str, str]:
    """Enqueues an order and returns the id of its task."""
    return {"task": await request.app.state.producer.create("PROCESS_ORDER", order)}


@app.post("/orders/wait")
async def process(order: Order, request: Request) -> object:
    """Enqueues an order and returns its result, if there is one within 20 seconds."""
    try:
        done = await request.app.state.producer.create_and_wait("PROCESS_ORDER", order, timeout_seconds=20)
    except codeq.DeadlineExceeded as error:
        raise HTTPException(504, error.message) from None
    if done.status != codeq.TaskStatus.COMPLETED:
        raise HTTPException(502, done.error)
    return done.result
