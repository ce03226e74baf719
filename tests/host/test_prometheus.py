"""Prometheus with the alerts and dashboards of this project: each query finds series, and faults fire the alerts."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from authority import Authority, Files, replace, trusting
from cluster_client import Follower
from cluster_process import TOKEN, ClusterProcess
from host_tools import need, run
from prometheus_process import ALERTS, Prometheus
from server_process import DEV_TOKEN, ServerProcess
from small_disk import fill, small_disk

pytestmark = [pytest.mark.host, pytest.mark.timeout(300)]

OBSERVABILITY = Path(__file__).resolve().parents[2] / "deploy" / "observability"
DASHBOARDS = sorted((OBSERVABILITY / "grafana").glob("*.json"))
RESERVE_BYTES = 64 << 20
BATCH = 500
SELECTOR = re.compile(r"\b((?:codeq|process)_[a-z0-9_]+|up)(\{[^}]*\})?(?=\s*[\[),/<>=-]|\s|$)")


class Installation:
    """A single server with TLS on a small disk, three nodes of a cluster, and Prometheus, which scrapes them all."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.disk = stack.enter_context(small_disk(folder / "disk"))
        self.files: Files = Authority().files(folder / "certificates")
        env = {"DISK_RESERVE_BYTES": str(RESERVE_BYTES), **self.files.server_env}
        self.single = stack.enter_context(
            ServerProcess(folder / "single", store=self.disk / "store", env=env, apart=False)
        )
        self.cluster = stack.enter_context(ClusterProcess(folder / "cluster"))
        asyncio.run(self.cluster_votes())
        jobs = {
            "codeq": [self.single.http_url],
            "codeq-cluster": list(self.cluster.addresses("http_url").values()),
        }
        self.prometheus = stack.enter_context(Prometheus(folder / "prometheus", jobs, self.files.ca))
        trust = trusting(self.files)
        self._of_single = stack.enter_context(httpx.Client(verify=trust, headers=_bearer(DEV_TOKEN)))
        self._of_cluster = stack.enter_context(httpx.Client(headers=_bearer(TOKEN) | {"X-CodeQ-Forward": "1"}))

    async def cluster_votes(self) -> None:
        """Waits until all nodes of the cluster vote."""
        async with Follower(list(self.cluster.addresses("grpc_addr").values()), TOKEN) as client:
            await self.cluster.all_vote(client)

    def call(self, path: str, body: object) -> Any:
        """Makes a call to the single server and returns its reply."""
        return _posted(self._of_single, self.single.http_url, path, body)

    def call_cluster(self, path: str, body: object) -> Any:
        """Makes a call to the cluster and returns its reply."""
        url = next(node.http_url for node in self.cluster.nodes.values() if node.is_running)
        return _posted(self._of_cluster, url, path, body)


Call = Callable[[str, object], Any]


def work(call: Call, command: str, outcome: str = "result") -> None:
    """Has a task of a command end: `result`, `nack` or `fail`."""
    task = call("/tasks/claim", {"commands": [command]})
    if outcome == "nack":
        call(f"/tasks/{task['id']}/nack", {})
    else:
        ended = {"status": "COMPLETED"} if outcome == "result" else {"status": "FAILED", "error": "broken"}
        call(f"/tasks/{task['id']}/result", ended)


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _posted(client: httpx.Client, url: str, path: str, body: object) -> Any:
    reply = client.post(f"{url}/v1/codeq{path}", json=body)
    assert reply.is_success, reply.text
    return reply.json() if reply.content else None


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    """An installation on which tasks were worked."""
    need("prometheus")
    with ExitStack() as stack:
        made = Installation(tmp_path, stack)
        made.prometheus.scraped()
        for call in (made.call, made.call_cluster):
            call("/tasks", {"command": "good", "payload": 1})
        made.prometheus.scraped()
        for call in (made.call, made.call_cluster):
            work(call, "good")
        made.prometheus.scraped()
        yield made


def expressions() -> Iterator[str]:
    """Yields every expression of the dashboards and alerts, with the values of the dashboards' variables."""
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            yield from [target["expr"] for target in panel["targets"]]
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        yield from [rule["expr"] for rule in group["rules"]]


def selectors(expression: str) -> Iterator[str]:
    """Yields the selectors of an expression; one for each value where a label may have several."""
    plain = expression.replace("$job", ".*").replace("$command", ".*")
    for name, labels in SELECTOR.findall(plain):
        several = re.search(r'(\w+)=~"(\w+(?:\|\w+)+)"', labels)
        for value in several[2].split("|") if several else [""]:
            yield name + (labels.replace(several[0], f'{several[1]}="{value}"') if several else labels)


def test_every_query_of_dashboards_and_alerts_finds_series(installation: Installation) -> None:
    wanted = sorted({selector for expression in expressions() for selector in selectors(expression)})
    assert len(wanted) > 60
    # Statuses and codes of calls appear with the first such call; no call fails here.
    wanted = [each for each in wanted if not re.search(r'(status=~"5|code="(?!OK))', each)]
    absent = [each for each in wanted if not installation.prometheus.query(each)]
    assert absent == [], installation.prometheus.scrapes()


def test_faults_fire_their_alerts_and_nothing_else_does(installation: Installation) -> None:
    prometheus, single = installation.prometheus, installation.single
    # The former predicts a day from the last hours, of which there are none; the disk of a busy machine may be slow.
    fired = {"CodeqDiskFilling", "CodeqSyncSlow"}
    assert prometheus.firing() <= fired

    def fires(*names: str) -> None:
        """Waits until all of these alerts fire; others that fire must have been named before."""
        fired.update(names)
        prometheus.eventually(lambda: set(names) <= prometheus.firing(), f"{names}: {prometheus.firing()}")
        assert prometheus.firing() <= fired

    def ends(name: str) -> None:
        prometheus.eventually(lambda: name not in prometheus.firing(), f"{name} ends")
        fired.discard(name)

    installation.call("/tasks", {"command": "bad", "payload": 1, "maxAttempts": 1})
    installation.call("/tasks", {"command": "bad", "payload": 1})
    prometheus.scraped()
    work(installation.call, "bad", "nack")
    work(installation.call, "bad", "fail")
    fires("CodeqDLQGrowing", "CodeqHighFailureRate")

    installation.call("/tasks", {"command": "late", "payload": 1})
    fires("CodeqNoTasksClaimed")
    work(installation.call, "late")
    ends("CodeqNoTasksClaimed")

    for _ in range(1001 // BATCH + 1):
        installation.call("/tasks/batch", {"tasks": [{"command": "good", "payload": 1}] * BATCH})
    fires("CodeqQueueBacklogHigh")

    ballast = fill(installation.disk, RESERVE_BYTES // 2)
    fires("CodeqStorageFull")
    ballast.unlink()
    ends("CodeqStorageFull")

    replace(installation.files.certificate, b"no certificate")
    fires("CodeqCertificateRejected")

    single.kill()
    fires("CodeqTargetDown")

    names = list(installation.cluster.nodes)
    leader = next(name for name in names if prometheus.query(_role(installation, name)))
    followers = [name for name in names if name != leader]
    installation.cluster.nodes[followers[0]].kill()
    fires("CodeqMemberAway")
    installation.cluster.nodes[followers[1]].kill()
    fires("CodeqNoLeader")
    installation.cluster.nodes[followers[0]].start()
    ends("CodeqNoLeader")


def _role(installation: Installation, name: str) -> str:
    target = httpx.URL(installation.cluster.nodes[name].http_url).netloc.decode()
    return f'codeq_raft_role{{instance="{target}", role="leader"}} == 1'


def test_rules_are_valid_and_fire_for_their_series() -> None:
    need("promtool")
    run("promtool", "check", "rules", ALERTS)
    run("promtool", "test", "rules", OBSERVABILITY / "alerts_test.yml")
