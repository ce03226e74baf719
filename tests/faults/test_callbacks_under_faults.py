"""Servers are killed or cut off while the ends of tasks are reported: every end is reported, signed, with one id."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from pathlib import Path

import pytest
from callback_faults import CALLBACK_FAULTS
from callback_load import SECRET, judge_callbacks
from callback_receiver import Received
from cluster_ledger import End, Ledger
from fault_kinds import Fault, play
from fault_run import assert_clean


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", CALLBACK_FAULTS)
async def test_every_end_is_reported_at_least_once(tmp_path: Path, kind: type[Fault]) -> None:
    verdict, cluster = await play(kind(1), tmp_path, 1, 2)
    assert_clean(verdict, cluster)
    assert verdict.counts["callbacks"] >= verdict.ended


def request(task_id: str = "t", delivery_id: str = "d", secret: str = SECRET, **more: str) -> Received:
    told = {"taskId": task_id, "status": "COMPLETED", "result": 1, "deliveryId": delivery_id} | more
    body, now = json.dumps(told).encode(), time.time()
    signature = hmac.new(secret.encode(), f"{int(now)}.".encode() + body, hashlib.sha256).hexdigest()
    headers = {"x-codeq-timestamp": str(int(now)), "x-codeq-signature": signature, "webhook-id": delivery_id}
    return Received("/hook", headers, body, now)


@pytest.mark.parametrize(
    ("requests", "problem"),
    [
        ([request()], ""),
        ([request(), request()], ""),
        ([], "not reported"),
        ([request(secret="some other secret")], "not signed"),
        ([request(), request(delivery_id="e")], "has the ids"),
        ([request(status="FAILED")], "reported as FAILED"),
        ([request(result="2")], "another result"),
        ([request(), request("u")], "reported as COMPLETED, and is None"),
    ],
)
def test_judge_notices_every_broken_promise_about_callbacks(requests: list[Received], problem: str) -> None:
    ledger = Ledger()
    ledger.ends["t"] = End(1, "COMPLETED", b"1")
    judge_callbacks(ledger, {"t": "COMPLETED"}, requests)
    assert bool(ledger.problems) == bool(problem)
    assert problem in " ".join(ledger.problems)
    assert ledger.counts["callbacks repeated"] == (len(requests) > 1 and requests[1].json["taskId"] == "t")
