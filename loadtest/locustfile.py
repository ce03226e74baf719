"""Loads a server over REST with Locust: users that create tasks, and users that claim and complete them.

    locust -f loadtest/locustfile.py --host http://localhost:8080 --headless -u 40 -t 60s

Name user classes at the end to run only those: `Producer`, `Worker`. Variables, with their defaults:

    CODEQ_PRODUCER_TOKEN  dev-token   token that creates
    CODEQ_WORKER_TOKEN    dev-token   token that claims
    COMMAND               LOAD        command of the tasks
    RATE                  10          tasks per second of each producer
    PRIORITIES            5           priorities, from which one is drawn for each task: 9,5,0
    DELAYED               0           share of the tasks that are delayed, from 0 to 1
    DELAY_SECONDS         30          longest delay
    LEASE_SECONDS         60          lease of a claim
    WAIT_SECONDS          5           longest wait of a claim
    FAILED_MAX            0.01        share of failed requests from which the run fails
    CLAIM_P99_MS          0           longest 99th percentile of claims that found a task; 0: not checked
"""

from __future__ import annotations

import os
import random
import time
from typing import Any

from locust import FastHttpUser, constant, constant_throughput, events, task

COMMAND = os.environ.get("COMMAND", "LOAD")
PRIORITIES = [int(each) for each in os.environ.get("PRIORITIES", "5").split(",")]
DELAYED = float(os.environ.get("DELAYED", "0"))
DELAY_SECONDS = int(os.environ.get("DELAY_SECONDS", "30"))
LEASE_SECONDS = int(os.environ.get("LEASE_SECONDS", "60"))
WAIT_SECONDS = int(os.environ.get("WAIT_SECONDS", "5"))
FAILED_MAX = float(os.environ.get("FAILED_MAX", "0.01"))
CLAIM_P99_MS = float(os.environ.get("CLAIM_P99_MS", "0"))
TASKS = "/v1/codeq/tasks"
CREATE, CLAIM, EMPTY, COMPLETE = "create", "claim", "claim (no task)", "complete"


def _token(role: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {os.environ.get(f'CODEQ_{role}_TOKEN', 'dev-token')}"}


class Producer(FastHttpUser):
    """Creates tasks at a steady rate."""

    wait_time = constant_throughput(float(os.environ.get("RATE", "10")))

    @task
    def create(self) -> None:
        """Creates a task."""
        body: dict[str, Any] = {
            "command": COMMAND,
            "payload": {"at": time.time()},
            "priority": random.choice(PRIORITIES),
        }
        if random.random() < DELAYED:
            body["delaySeconds"] = random.randint(1, DELAY_SECONDS)
        self.client.post(TASKS, json=body, headers=_token("PRODUCER"), name=CREATE)


class Worker(FastHttpUser):
    """Claims a task, waiting for one, and completes it at once."""

    wait_time = constant(0)

    @task
    def work(self) -> None:
        """Claims and completes a task."""
        body = {"commands": [COMMAND], "leaseSeconds": LEASE_SECONDS, "waitSeconds": WAIT_SECONDS}
        headers = _token("WORKER")
        with self.client.post(f"{TASKS}/claim", json=body, headers=headers, name=CLAIM, catch_response=True) as claimed:
            if claimed.status_code == 204:
                claimed.request_meta["name"] = EMPTY  # its time is the wait
                return
            if claimed.status_code != 200:
                return  # counts as failed
            task_id = claimed.json()["id"]
        body = {"status": "COMPLETED", "result": {}}
        self.client.post(f"{TASKS}/{task_id}/result", json=body, headers=headers, name=COMPLETE)


@events.quitting.add_listener
def judge(environment: Any, **_: Any) -> None:
    """Fails the run if too many requests of a kind have failed, or claims were too slow."""
    problems = [
        f"{each.name}: {each.num_failures} of {each.num_requests} have failed"
        for each in environment.stats.entries.values()
        if each.fail_ratio >= FAILED_MAX
    ]
    if CLAIM_P99_MS:
        p99 = environment.stats.get(CLAIM, "POST").get_response_time_percentile(0.99) or 0
        if p99 > CLAIM_P99_MS:
            problems.append(f"{CLAIM}: the 99th percentile is {p99:.0f} ms")
    for problem in problems:
        print(f"loadtest: {problem}")
    environment.process_exit_code = 1 if problems else 0
