"""Callers that race to create the same tasks over all processes and nodes of a server: exactly one creates each."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx
from server_process import DEV_TOKEN, ServerProcess

CALLERS = 32
KEYS = 6
NEW, KNOWN, TAKEN, UNAVAILABLE = 202, 200, 409, 503
"""Statuses of a create: the first one, others with its key, others with its chosen id, and one without a leader."""


class Race:
    """Tasks with keys and chosen ids, for which callers race once and then again.

    Args:
        name: Distinguishes the tasks from those of other races.
    """

    def __init__(self, name: str) -> None:
        body = {"command": "raced", "payload": 1}
        keyed = [{**body, "idempotencyKey": f"{name}-{number}"} for number in range(KEYS)]
        ordered = [{**body, "idempotencyKey": f"{name}-o{number}", "orderingKey": "o"} for number in range(KEYS)]
        chosen = [{**body, "taskId": f"{name}-{number}"} for number in range(KEYS)]
        self._bodies = [*keyed, *ordered, *chosen]
        self._ids: list[str] = []
        self._repeated = 0

    def run(self, nodes: Sequence[ServerProcess]) -> None:
        """Lets the callers race, each over a connection of its own.

        Raises:
            AssertionError: A task was created twice or not at all.
        """
        self._repeated = 0
        answers = asyncio.run(self._answers([node.http_url for node in nodes]))
        first = 0 if self._ids else 1
        ids = []
        for body, given in zip(self._bodies, zip(*answers, strict=True), strict=True):
            others = TAKEN if "taskId" in body else KNOWN
            statuses = Counter(status for status, _ in given)
            if self._repeated and not statuses[NEW]:
                statuses += Counter({NEW: first, others: -first})  # the answer that says so may be lost
            assert statuses == +Counter({NEW: first, others: CALLERS - first}), (body, statuses)
            [task_id] = {task_id for _, task_id in given if task_id} or {body.get("taskId", "")}
            ids.append(task_id)
        assert self._ids in ([], ids)
        self._ids = ids

    async def _answers(self, urls: Sequence[str]) -> list[list[tuple[int, str]]]:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(self._ask(urls[number % len(urls)])) for number in range(CALLERS)]
        return [each.result() for each in asked]

    async def _ask(self, url: str) -> list[tuple[int, str]]:
        """Creates each task; returns statuses and ids."""
        headers = {"Authorization": f"Bearer {DEV_TOKEN}"}
        answers = []
        async with httpx.AsyncClient(base_url=f"{url}/v1/codeq", headers=headers, timeout=30) as client:
            for body in self._bodies:
                while (answer := await client.post("/tasks", json=body)).status_code == UNAVAILABLE:
                    self._repeated += 1
                content: dict[str, Any] = answer.json()
                answers.append((answer.status_code, content.get("id", "") if answer.is_success else ""))
        return answers
