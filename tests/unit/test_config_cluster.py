"""Configuration of a static cluster: the documented variables, the order of nodes, and impossible combinations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from codeq_server.config import Address, ClusterSettings, ConfigError, check, load
from test_config_raft import TOKENS

NODES = {"b": "host-b:9090", "a": "host-a:9090"}
DOCUMENTED = {
    "CLUSTER_ENABLED": "true",
    "CLUSTER_SELF_ID": "b",
    "CLUSTER_GRPC_ADDR": ":9090",
    "CLUSTER_NODES": "b=host-b:9090,a=host-a:9090",
}
TLS = {"TLS_CERT_FILE": "/tls/cert.pem", "TLS_KEY_FILE": "/tls/key.pem"}


def cluster(environment: Mapping[str, str]) -> ClusterSettings:
    settings = load(None, {**TOKENS, **environment}, {}, dev=False).cluster
    assert settings is not None
    return settings


def test_static_cluster_accepts_every_documented_variable() -> None:
    settings = cluster(DOCUMENTED)
    assert (settings.self_id, settings.grpc_addr, settings.nodes) == ("b", Address("", 9090), NODES)
    assert (settings.names, settings.shard) == (["a", "b"], 1)
    assert load(None, TOKENS | DOCUMENTED, {}, dev=False).num_shards == 2


def test_nodes_are_listed_in_the_file_or_as_json_in_the_variable(tmp_path: Path) -> None:
    file = tmp_path / "codeq.yaml"
    listed = "[{id: b, grpcAddr: 'host-b:9090'}, {id: a, grpcAddr: 'host-a:9090'}]"
    file.write_text(f"cluster: {{enabled: true, selfId: b, grpcAddr: ':9090', nodes: {listed}}}\n")
    assert load(str(file), TOKENS, {}, dev=False).cluster == cluster(DOCUMENTED)
    for text in (
        '[{"id":"b","grpcAddr":"host-b:9090"},{"id":"a","grpcAddr":"host-a:9090"}]',
        '{"b":"host-b:9090","a":"host-a:9090"}',
    ):
        assert cluster(DOCUMENTED | {"CLUSTER_NODES": text}) == cluster(DOCUMENTED)


def test_secret_follows_from_the_only_producer_token_and_is_never_shown() -> None:
    derived = cluster(DOCUMENTED).secret
    given = cluster(DOCUMENTED | {"CLUSTER_SECRET": "a secret of the nodes"}).secret
    assert derived != given
    assert {len(derived), len(given)} == {64}
    shown = check(None, TOKENS | DOCUMENTED, {}, dev=False)["cluster"]
    assert isinstance(shown, dict)
    assert shown["secret"] == "***"


@pytest.mark.parametrize(
    ("environment", "key", "text"),
    [
        ({"CLUSTER_NODES": "b=host-b:9090"}, "CLUSTER_NODES", "at least 2"),
        ({"CLUSTER_NODES": "b=host-b:9090,b=host-c:9090"}, "CLUSTER_NODES", "b is given twice"),
        ({"CLUSTER_NODES": "b=host-b,a=host-a:9090"}, "CLUSTER_NODES", "address of b"),
        ({"CLUSTER_NODES": '[{"id":"b"}]'}, "CLUSTER_NODES", "id and grpcAddr"),
        ({"CLUSTER_NODES": "[7"}, "CLUSTER_NODES", "not valid JSON"),
        ({"CLUSTER_NODES": ",".join(f"n{n}=host:{n + 1}" for n in range(33))}, "CLUSTER_NODES", "at most 32"),
        ({"CLUSTER_SELF_ID": ""}, "CLUSTER_SELF_ID", "is required"),
        ({"CLUSTER_SELF_ID": "c"}, "CLUSTER_SELF_ID", "c is not among"),
        ({"CLUSTER_ENABLED": ""}, "CLUSTER_SELF_ID", "without CLUSTER_ENABLED=true"),
        ({"CLUSTER_SECRET": "short"}, "CLUSTER_SECRET", "16 to 1024"),
        ({"PERSISTENCE_CONFIG": '{"numShards":2}'}, "PERSISTENCE_CONFIG.numShards", "1 with CLUSTER_ENABLED"),
        ({"PERSISTENCE_PROVIDER": "memory"}, "CLUSTER_ENABLED", "store on disk"),
        (TLS, "SERVER_TLS_CA_FILE", "nodes call each other"),
    ],
)
def test_error_names_the_setting_and_its_problem(environment: dict[str, str], key: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, TOKENS | DOCUMENTED | environment, {}, dev=False)
    assert (caught.value.key, text in str(caught.value)) == (key, True), str(caught.value)


def test_settings_of_a_cluster_that_is_switched_off_draw_a_note() -> None:
    settings = load(None, TOKENS | DOCUMENTED | {"CLUSTER_ENABLED": "false"}, {}, dev=False)
    assert settings.cluster is None
    assert any("CLUSTER_NODES" in note.key and "CLUSTER_ENABLED is false" in note.message for note in settings.notes)
