"""Load whose tasks have webhooks, and the promises about callbacks."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from typing import Any, Final

from callback_receiver import Received, Receiver
from cluster_ledger import Attempt, Ledger
from cluster_load import Load
from codeq.v1 import task_pb2
from codeq.webhooks import WebhookRejected, verify
from fault_run import Run

SECRET: Final = "secret-of-the-faults"
SETTINGS: Final = {"WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8", "WEBHOOK_HMAC_SECRET": SECRET}
"""Variables of the servers."""
REJECTED_SHARE: Final = 0.03
"""Share of the requests that the receiver rejects for now."""
ARRIVE_SECONDS_MAX: Final = 240
"""Time within which all callbacks arrive after the drain; a retry under way when a leader dies waits for a minute."""
ONCE_MIN: Final = 0.99
"""Share of callbacks that are accepted exactly once if no server dies."""


class CallbackLoad(Load):
    """Producers whose tasks all have a webhook, and its receiver.

    Attributes:
        receiver: The receiver, which rejects some requests for now.
    """

    def __init__(self, addresses: list[str], ledger: Ledger, seed: int, *, fill: int = 0) -> None:
        super().__init__(addresses, ledger, seed, fill=fill)
        self.receiver = Receiver().__enter__()
        self.receiver.answer = self._answer
        self.accepted_requests: list[Received] = []
        self._moods = random.Random(seed)

    def _answer(self, request: Received) -> int:
        if self._moods.random() < REJECTED_SHARE:
            return 503
        self.accepted_requests.append(request)
        return 200

    def _spec(self, attempt: Attempt) -> task_pb2.TaskSpec:
        spec = super()._spec(attempt)
        spec.webhook = f"{self.receiver.url}/hook"
        return spec

    async def close(self) -> None:
        """Ends everything."""
        await super().close()
        self.receiver.__exit__()


class CallbackRun(Run):
    """A cluster under load with webhooks."""

    load_type = CallbackLoad
    load: CallbackLoad

    async def _judge_results(self) -> None:
        await super()._judge_results()
        ends = {task_id: status for task_id, (_, status) in (await self._found()).items()}
        requests = self.load.accepted_requests
        for _ in range(ARRIVE_SECONDS_MAX):
            if ends.keys() <= {each.json["taskId"] for each in requests}:
                break
            await asyncio.sleep(1)
        judge_callbacks(self.ledger, ends, requests)


class UndisturbedCallbackRun(CallbackRun):
    """A run in which no server dies, so that nearly every callback is accepted exactly once."""

    async def _judge_results(self) -> None:
        await super()._judge_results()
        counts = self.ledger.counts
        if counts["callbacks repeated"] > (1 - ONCE_MIN) * counts["callbacks"]:
            self.ledger.problem(f"{counts['callbacks repeated']} of {counts['callbacks']} callbacks were repeated")


def judge_callbacks(ledger: Ledger, ends: dict[str, str], requests: list[Received]) -> None:
    """Checks that each end was reported as it was, at least once, with one id and a valid signature.

    Args:
        ledger: Gets the problems and counts.
        ends: Status of each ended task by id.
        requests: Requests that the receiver accepted.
    """
    ids: defaultdict[str, list[str]] = defaultdict(list)
    for request in requests:
        told: dict[str, Any] = request.json
        task_id = told["taskId"]
        try:
            delivery_id = verify(request.body, request.headers, [SECRET], now=request.at)
        except WebhookRejected:
            ledger.problem(f"callbacks: a request for {task_id} is not signed")
            continue
        ids[task_id].append(delivery_id)
        if delivery_id != told["deliveryId"]:
            ledger.problem(f"callbacks: {task_id} has the id {delivery_id} in its headers, and another one in its body")
        if ends.get(task_id) != told["status"]:
            ledger.problem(f"callbacks: {task_id} was reported as {told['status']}, and is {ends.get(task_id)}")
        end = ledger.ends.get(task_id)
        if end is not None and end.status == "COMPLETED" and b'"result": ' + end.result not in request.body:
            ledger.problem(f"callbacks: {task_id} was reported with another result than {end.result!r}")
    for task_id in ends:
        if not ids[task_id]:
            ledger.problem(f"callbacks: the end of {task_id} was not reported")
        elif len(set(ids[task_id])) > 1:
            ledger.problem(f"callbacks: {task_id} has the ids {sorted(set(ids[task_id]))}")
    ledger.counts["callbacks"] = len(ends)
    ledger.counts["callbacks repeated"] = sum(len(each) > 1 for each in ids.values())
