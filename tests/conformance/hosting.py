"""Operations of the runner that steps name with `host`: servers, scripted peers, the driver's process, and loads.

A dot in a step's name is an underscore here. Each takes the run and the step's arguments, and returns what the step
compares.
"""

from __future__ import annotations

import itertools
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import httpx
from driver_process import Refused
from matching import mismatch
from server_process import ServerProcess

if TYPE_CHECKING:
    from case_run import CaseRun

HTTP_SECONDS: Final = 30.0
SETTLE_SECONDS_MAX: Final = 45.0
POLL_SECONDS: Final = 0.1
CUT_SECONDS_MAX: Final = 100.0
"""Streams that are cut again and again reconnect with delays of up to 10 s."""

ATTEMPTS_MAX: Final = 100
"""Deliveries of a task while its connection is cut; each cut costs one."""

CREATORS: Final = 8
"""Callers that create tasks without a pause while the leader changes."""

BEFORE: Final = 50
AFTER: Final = 200
"""Tasks created before the leader is killed, and after the next one has accepted its first."""


def server_stop(run: CaseRun) -> dict[str, Any]:
    """Asks the case's own server to stop, and waits for its end."""
    return {"code": _own(run).stop()}


def server_drain(run: CaseRun) -> dict[str, Any]:
    """Asks the case's own server to stop, without waiting."""
    _own(run).signal(signal.SIGTERM)
    return {}


def server_kill(run: CaseRun) -> dict[str, Any]:
    """Kills the case's own server."""
    _own(run).kill()
    return {}


def server_start(run: CaseRun) -> dict[str, Any]:
    """Starts the case's own server, on the same ports and store as before."""
    _own(run).start()
    return {}


def server_wait(run: CaseRun) -> dict[str, Any]:
    """Waits for the end of the case's own server."""
    return {"code": _own(run).wait()}


def peer_seen(run: CaseRun, peer: str, where: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns what a scripted server was sent, as far as it matches."""
    assert run.peers is not None
    found = run.peers.by_name[peer]
    entries = [entry for entry in list(found.seen) if mismatch(where or {}, entry) is None]
    gaps = [after["at"] - before["at"] for before, after in itertools.pairwise(entries)]
    return {"count": len(entries), "entries": entries, "streams": found.streams, "gaps": gaps}


def events(run: CaseRun, where: Mapping[str, Any]) -> dict[str, Any]:
    """Counts the events of the case that match, and the tasks that they name."""
    wanted = run.named(where)
    found = [event for event in run.driver.events[run.first_event :] if mismatch(wanted, event) is None]
    return {"count": len(found), "tasks": len({event.get("id") for event in found}), "events": found}


def driver_end(run: CaseRun) -> dict[str, Any]:
    """Ends the driver's input; returns its exit code, None if it had to be killed."""
    return {"code": run.driver.close()}


def driver_log(run: CaseRun, pattern: str) -> dict[str, Any]:
    """Counts the lines that the driver logged and in which an expression is found, in any case."""
    found = [line for line in run.driver.log.splitlines() if re.search(pattern, line, re.IGNORECASE)]
    return {"count": len(found), "lines": found}


def cuts(run: CaseRun, tasks: int, pairs: int, concurrency: int, work_seconds: float, lease_seconds: int) -> Any:
    """Creates tasks and works on them while the proxy cuts all connections; returns what came of it.

    Args:
        run: The run.
        tasks: Number of tasks.
        pairs: Number of producers, and of workers, each with a connection of its own.
        concurrency: Tasks that each worker runs at once.
        work_seconds: Length of a task.
        lease_seconds: Length of the leases.
    """
    assert run.proxy is not None
    common = {"addresses": [run.proxy.address], "token": run.variables["token"]["all"]}
    behaviour = [{"match": {}, "do": [["sleep", work_seconds], ["complete", 1]]}]
    worker = {"commands": ["A"], "concurrency": concurrency, "leaseSeconds": lease_seconds, "behaviour": behaviour}
    template = {"command": "A", "payload": {}, "maxAttempts": ATTEMPTS_MAX}
    load = {"count": tasks // pairs, "template": template, "inFlight": 32}
    creating = []
    for number in range(pairs):
        run.open("worker", f"w{number}", "run", common | worker)
        name = run.open("producer", f"p{number}", "open", common | {"requestKeys": True, "timeoutSeconds": 60})
        creating.append(run.driver.begin("producer.create_all", {"name": name, **load}))
    made = [run.driver.reply(each, "producer.create_all", CUT_SECONDS_MAX) for each in creating]
    ids = {task for each in made for task in each["ids"] if task}
    usage: dict[str, Any] = {}

    def are_done() -> bool:
        usage.update(_get(run, run.variables["http"], "/usage")["usage"])
        return int(usage["completedTotal"]) >= len(ids)

    _until(are_done, CUT_SECONDS_MAX)
    seen = [events(run, {"event": "task", "worker": f"w{number}"}) for number in range(pairs)]
    runs = Counter(event["id"] for each in seen for event in each["events"])
    in_flight = run.proxy.cuts * pairs * concurrency
    return {
        "cuts": run.proxy.cuts,
        "created": len(ids),
        "errors": [error for each in made for error in each["errors"]],
        "createdTotal": int(usage["createdTotal"]),
        "completedTotal": int(usage["completedTotal"]),
        "worked": len(runs),
        "duplicates": runs.total() - len(runs),
        "inFlightAtCuts": in_flight,
        "excess": max(0, runs.total() - len(runs) - in_flight),
    }


def leader_change(run: CaseRun, lease_seconds: int) -> dict[str, Any]:
    """Kills the leader of the cluster under a producer and a worker; returns what came of it."""
    cluster, command = run.world.cluster(), f"A-{run.variables['unique']}"
    common = {"addresses": run.variables["nodes"], "token": run.variables["token"]["all"]}
    behaviour = [{"match": {}, "do": ["complete", 1]}]
    worker = {"commands": [command], "concurrency": 64, "leaseSeconds": lease_seconds, "behaviour": behaviour}
    run.open("worker", "w", "run", common | worker)
    name = run.open("producer", "p", "open", common | {"timeoutSeconds": 30})
    load = _Creating(lambda: run.driver.call("producer.create", {"name": name, "command": command, "payload": 1}))
    leader = ""
    try:
        load.wait_for(BEFORE)
        node = next(node for node in cluster.nodes.values() if node.is_running)
        leader = _until(lambda: _get(run, node.http_url, "/cluster/topology").get("leaderId") or "")
        cluster.nodes[leader].kill()
        count = len(load.made)
        load.wait_for(count + AFTER)
    finally:
        load.end()
        cluster.start()
    ids = {task for _, task in load.made}
    worked: Counter[str] = Counter()

    def are_worked() -> bool:
        worked.clear()
        worked.update(event["id"] for event in events(run, {"event": "task"})["events"])
        return ids <= worked.keys()

    _until(are_worked)
    times = [at for at, _ in load.made]
    return {
        "errors": load.errors,
        "created": len(ids),
        "ids": len(load.made) - len(ids),
        "lost": len(ids - worked.keys()),
        "unknown": len(worked.keys() - ids),
        "gap": max(after - before for before, after in itertools.pairwise(times)),
    }


class _Creating:
    """Callers that create tasks one after the other, until `end`."""

    def __init__(self, create: Callable[[], Mapping[str, Any]]) -> None:
        self.made: list[tuple[float, str]] = []
        self.errors: list[Any] = []
        self._create = create
        self._changed = threading.Condition()
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CREATORS)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, count: int) -> None:
        """Waits until this many tasks are created, or a call has failed."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.made) >= count or self.errors, SETTLE_SECONDS_MAX)

    def end(self) -> None:
        """Stops creating."""
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._enough.is_set():
            try:
                task = self._create()["taskId"]
            except Refused as refused:
                with self._changed:
                    self.errors.append(refused.error)
                    self._changed.notify_all()
                return
            with self._changed:
                self.made.append((time.monotonic(), task))
                self._changed.notify_all()


def _own(run: CaseRun) -> ServerProcess:
    assert run.server is not None
    assert run.case.server == "own"
    return run.server


def _get(run: CaseRun, http_url: str, path: str) -> Any:
    token = run.variables["token"]["all"]
    answer = httpx.get(f"{http_url}/v1/codeq{path}", headers={"Authorization": f"Bearer {token}"}, timeout=HTTP_SECONDS)
    return answer.raise_for_status().json()


def _until(condition: Callable[[], Any], seconds: float = SETTLE_SECONDS_MAX) -> Any:
    """Returns the first true value of a condition, or its last one when the time is up."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return value
