"""A cluster whose listeners, forwarded calls and members' transport all use TLS."""

from __future__ import annotations

import json
from pathlib import Path

import codeq
import httpx
import pytest
from authority import Authority, replace, trusting
from cluster_process import TENANT, TOKEN, ClusterProcess
from tls_clients import QUICK, addresses, serial, until

FORWARDED = {"Authorization": f"Bearer {TOKEN}", "X-CodeQ-Forward": "1"}
ELECTION_SECONDS_MAX = 60


@pytest.mark.timeout(300)
def test_cluster_moves_to_another_authority_node_by_node_and_forwards_calls_meanwhile(tmp_path: Path) -> None:
    old, new = Authority("old"), Authority("new")
    files = old.files(tmp_path / "certificates")
    env = files.server_env | {
        "SERVER_TLS_CA_FILE": str(files.ca),
        "RAFT_TLS_CERT": str(files.certificate),
        "RAFT_TLS_KEY": str(files.key),
        "RAFT_TLS_CA": str(files.ca),
        "LOG_LEVEL": "info",
    }
    with (
        ClusterProcess(tmp_path / "cluster", env=env, place=lambda _: {"prefix": QUICK}) as cluster,
        codeq.Client(
            list(cluster.addresses("grpc_addr").values()),
            token=TOKEN,
            tls=codeq.TlsFiles(ca=files.ca),
            timeout_seconds=ELECTION_SECONDS_MAX,
        ) as client,
    ):
        nodes = list(cluster.nodes.values())

        def all_forward() -> bool:
            with httpx.Client(verify=trusting(files), headers=FORWARDED, timeout=30) as http:
                sent = [http.post(f"{node.http_url}/v1/codeq/tasks", json={"command": "A"}) for node in nodes]
            return [reply.status_code for reply in sent] == [202] * len(nodes)

        client.create("A")
        until(all_forward)
        replace(files.ca, old.pem + new.pem)
        fresh = new.sign()
        files.write(fresh)
        for node in nodes:
            until(lambda node=node: [serial(address) for address in addresses(node)] == [fresh.serial] * 3)
            until(lambda node=node: node.log.count('"files":"members"') >= 1)
        changes = [node.log.count('"files":"members"') for node in nodes]
        replace(files.ca, new.pem)
        for node, before in zip(nodes, changes, strict=True):
            until(lambda node=node, before=before: node.log.count('"files":"members"') > before)
        for node in nodes:  # each comes back over new connections only
            node.restart()
            client.create("A")
            until(all_forward)


@pytest.mark.timeout(300)
def test_followers_forward_calls_with_the_certificates_of_their_clients(tmp_path: Path) -> None:
    authority = Authority()
    files = authority.files(tmp_path / "certificates")
    shop = authority.files(tmp_path / "shop", "shop")
    identities = {"identities": [{"match": "shop", "tenant": TENANT}]}
    env = files.server_env | {
        "SERVER_TLS_CA_FILE": str(files.ca),
        "TLS_CLIENT_CA_FILE": str(files.ca),
        "PRODUCER_AUTH_PROVIDER": "mtls",
        "PRODUCER_AUTH_CONFIG": json.dumps(identities),
        "RAFT_CLUSTER_SECRET": "secret-of-members",
    }
    with ClusterProcess(tmp_path / "cluster", env=env) as cluster:
        nodes = list(cluster.nodes.values())

        def made() -> list[int]:
            context = trusting(shop, certificate=True)
            with httpx.Client(verify=context, headers={"X-CodeQ-Forward": "1"}, timeout=30) as http:
                sent = [http.post(f"{node.http_url}/v1/codeq/tasks", json={"command": "A"}) for node in nodes]
            return [reply.status_code for reply in sent]

        until(lambda: made() == [202] * len(nodes))
        with httpx.Client(verify=trusting(files), headers={"X-CodeQ-Forward": "1"}, timeout=30) as http:
            for node in nodes:
                assert http.post(f"{node.http_url}/v1/codeq/tasks", json={"command": "A"}).status_code == 401
