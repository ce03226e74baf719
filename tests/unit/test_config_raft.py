"""Configuration of Raft: the documented variables, their defaults, and impossible combinations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from codeq_server.config import Address, ConfigError, RaftSettings, check, load, refuse_pair

TOKENS = {
    "PRODUCER_AUTH_PROVIDER": "static",
    "PRODUCER_AUTH_CONFIG": '"p-secret"',
    "WORKER_AUTH_PROVIDER": "static",
    "WORKER_AUTH_CONFIG": '{"token":"w-secret","scopes":["codeq:claim"],"eventTypes":["*"]}',
}
PEERS = {"node-a": "node-a:7000", "node-b": "node-b:7000", "node-c": "node-c:7000"}
DOCUMENTED = {
    "PERSISTENCE_PROVIDER": "pebble",
    "PERSISTENCE_CONFIG": '{"path":"/var/lib/codeq/pebble"}',
    "RAFT_ENABLED": "true",
    "RAFT_SELF_ID": "node-a",
    "RAFT_BIND_ADDR": ":7000",
    "RAFT_BOOTSTRAP": "true",
    "RAFT_PEERS": "node-a=node-a:7000,node-b=node-b:7000,node-c=node-c:7000",
    "RAFT_PEER_HTTP_ADDRS": "node-a=http://node-a:8080,node-b=http://node-b:8080/,node-c=http://node-c:8080",
    "RAFT_MUX_ENABLED": "true",
    "RAFT_HEARTBEAT_MS": "1000",
    "RAFT_ELECTION_MS": "1000",
    "RAFT_LEADER_LEASE_MS": "500",
    "RAFT_COMMIT_MS": "50",
    "RAFT_APPLY_TIMEOUT_SECONDS": "10",
    "RAFT_TOPIC_CATALOG_PROTOCOL": "v1",
}
ALONE = {"RAFT_ENABLED": "true", "RAFT_SELF_ID": "a", "RAFT_BIND_ADDR": "10.0.0.1:7000"}


def raft(environment: Mapping[str, str]) -> RaftSettings:
    settings = load(None, {**TOKENS, **environment}, {}, dev=False).raft
    assert settings is not None
    return settings


def refusal(environment: Mapping[str, str]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(None, {**TOKENS, **environment}, {}, dev=False)
    assert "\n" not in str(caught.value)
    return caught.value


def test_raft_is_off_unless_configured() -> None:
    assert load(None, TOKENS, {}, dev=False).raft is None


def test_raft_accepts_every_documented_variable() -> None:
    settings = raft(DOCUMENTED)
    assert settings.self_id == "node-a"
    assert settings.bind_addr == Address("", 7000)
    assert settings.bootstrap
    assert settings.peers == PEERS
    assert settings.peer_http_addrs == {name: f"http://{name}:8080" for name in PEERS}
    assert settings.peer_grpc_addrs == {name: f"{name}:9092" for name in PEERS}
    assert (settings.election_ms, settings.heartbeat_ms, settings.apply_timeout_seconds) == (1000, 100, 10)
    assert settings.tls_cert is None


def test_raft_settings_from_the_file_equal_those_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "codeq.yaml"
    names = "{node-a: 'node-a:7000', node-b: 'node-b:7000', node-c: 'node-c:7000'}"
    file.write_text(
        f"raft:\n  enabled: true\n  selfId: node-a\n  bindAddr: ':7000'\n  bootstrap: true\n  peers: {names}\n"
        "  peerHTTPAddrs: {node-a: http://node-a:8080, node-b: http://node-b:8080, node-c: http://node-c:8080}\n"
        "  heartbeatMS: 1000\n  electionMS: 1000\n  muxEnabled: true\n"
        "  leaderLeaseMS: 500\n  commitMS: 50\n  topicCatalogProtocol: v1\n"
    )
    assert load(str(file), TOKENS, {}, dev=False).raft == raft(DOCUMENTED)


def test_single_variables_override_keys_of_the_raft_json_variable(tmp_path: Path) -> None:
    file = tmp_path / "codeq.yaml"
    file.write_text("raft: {enabled: true, selfId: node-x, electionMS: 3000}\n")
    environment = TOKENS | {"RAFT_SELF_ID": "node-b", "RAFT_PEERS": json.dumps(PEERS)}
    settings = load(str(file), environment, {}, dev=False).raft
    assert settings is not None
    assert (settings.self_id, settings.election_ms, settings.peers) == ("node-b", 3000, PEERS)
    assert not settings.bootstrap


def test_raft_without_peers_is_a_group_of_one_node() -> None:
    assert raft(ALONE | {"RAFT_BOOTSTRAP": "true"}).peers == {"a": "10.0.0.1:7000"}


def test_disabled_raft_ignores_its_other_settings() -> None:
    assert load(None, TOKENS | DOCUMENTED | {"RAFT_ENABLED": "false"}, {}, dev=False).raft is None


def test_two_members_may_continue_a_group_but_not_bootstrap_one() -> None:
    pair = ALONE | {"RAFT_PEERS": "a=a:7000,b=b:7000"}
    refuse_pair(raft(pair))
    refuse_pair(raft(ALONE | {"RAFT_BOOTSTRAP": "true"}))
    with pytest.raises(ConfigError) as refused:
        refuse_pair(raft(pair | {"RAFT_BOOTSTRAP": "true"}))
    assert refused.value.key == "RAFT_BOOTSTRAP"


@pytest.mark.parametrize(
    ("election", "heartbeat", "effective"),
    [("1000", "200", 200), ("1000", "201", 100), ("2000", "2000", 200), ("5000", "30", 30), ("300", None, 30)],
)
def test_raft_heartbeat_that_is_too_long_becomes_a_tenth_of_the_election_timeout(
    election: str, heartbeat: str | None, effective: int
) -> None:
    given = {} if heartbeat is None else {"RAFT_HEARTBEAT_MS": heartbeat}
    assert raft(ALONE | given | {"RAFT_ELECTION_MS": election}).heartbeat_ms == effective


def test_raft_client_addresses_default_to_the_nodes_own_ports() -> None:
    peers = {"RAFT_PEERS": "a=h1:7000,b=h2:7001,c=[::1]:7000"}
    assert raft(ALONE | peers | {"PRODUCER_STREAM_ADDR": ":9999", "RAFT_PEER_GRPC_ADDRS": "b=x:1"}).peer_grpc_addrs == {
        "a": "h1:9999",
        "b": "x:1",
        "c": "[::1]:9999",
    }
    assert raft(ALONE | peers | {"PRODUCER_STREAM_ADDR": ""}).peer_grpc_addrs["a"] == "h1:9091"
    assert raft(ALONE | peers | {"PRODUCER_STREAM_ADDR": "", "WORKER_STREAM_ADDR": ""}).peer_grpc_addrs == {}


def test_raft_client_addresses_are_not_guessed_for_members_on_one_host() -> None:
    one_host = {"RAFT_PEERS": "a=localhost:7001,b=localhost:7002,c=localhost:7003"}
    assert raft(ALONE | one_host).peer_grpc_addrs == {}
    named = "a=localhost:1,b=localhost:2,c=localhost:3"
    assert len(raft(ALONE | one_host | {"RAFT_PEER_GRPC_ADDRS": named}).peer_grpc_addrs) == 3


def test_raft_secret_is_derived_from_the_producer_token_unless_configured() -> None:
    first, again = raft(ALONE), raft(ALONE | {"RAFT_SELF_ID": "b", "ALLOW_PRODUCER_AS_WORKER": "true"})
    assert first.cluster_secret == again.cluster_secret
    assert len(first.cluster_secret) == 64
    assert raft(ALONE | {"PRODUCER_AUTH_CONFIG": '"other"'}).cluster_secret != first.cluster_secret
    configured = raft(ALONE | {"RAFT_CLUSTER_SECRET": "sixteen characters"}).cluster_secret
    assert configured not in {first.cluster_secret, "sixteen characters"}


def test_raft_tls_requires_all_three_files(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("CERT", "KEY", "CA")}
    for path in files.values():
        path.touch()
    environment = {f"RAFT_TLS_{name}": str(path) for name, path in files.items()}
    settings = raft(ALONE | environment)
    assert (settings.tls_cert, settings.tls_key, settings.tls_ca) == tuple(files.values())
    del environment["RAFT_TLS_KEY"]
    assert refusal(ALONE | environment).key == "RAFT_TLS_KEY"
    assert refusal(ALONE | environment | {"RAFT_TLS_KEY": str(tmp_path / "no")}).key == "RAFT_TLS_KEY"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RAFT_ENABLED", "perhaps"),
        ("RAFT_SELF_ID", ""),
        ("RAFT_SELF_ID", "two words"),
        ("RAFT_SELF_ID", "node-d"),
        ("RAFT_BIND_ADDR", "7000"),
        ("RAFT_BIND_ADDR", "host:port"),
        ("RAFT_BIND_ADDR", ":0"),
        ("RAFT_BIND_ADDR", ":70000"),
        ("RAFT_BOOTSTRAP", "first"),
        ("RAFT_PEERS", "node-a"),
        ("RAFT_PEERS", "node-a=:7000"),
        ("RAFT_PEERS", "node-a=node-a"),
        ("RAFT_PEERS", "node-a=node-a:0"),
        ("RAFT_PEERS", "node-a=http://node-a:7000"),
        ("RAFT_PEERS", "node-a=node-a:7000,node-a=node-b:7000"),
        ("RAFT_PEERS", "node-a=node-a:7000,node-b=node-a:7000"),
        ("RAFT_PEERS", "node-a=node-a:7000,node b=node-b:7000"),
        ("RAFT_PEERS", '{"node-a": 7000}'),
        ("RAFT_PEERS", '{"node-a": "node-a:7000", "node-a": "node-b:7000"}'),
        ("RAFT_PEERS", '{"node-a": '),
        ("RAFT_PEERS", ",".join(f"node-{name}=node-{name}:7000" for name in "abcdefghij")),
        ("RAFT_PEER_HTTP_ADDRS", "node-a=node-a:8080"),
        ("RAFT_PEER_HTTP_ADDRS", "node-a=ftp://node-a"),
        ("RAFT_PEER_HTTP_ADDRS", "node-a=http://"),
        ("RAFT_PEER_HTTP_ADDRS", "node-a=http://node-a:8080?x=1"),
        ("RAFT_PEER_HTTP_ADDRS", "node-a=http://node-a:80808"),
        ("RAFT_PEER_HTTP_ADDRS", "node-d=http://node-d:8080"),
        ("RAFT_PEER_HTTP_ADDRS", "node-a=http://node-a:8080,node-b=http://node-a:8080"),
        ("RAFT_PEER_GRPC_ADDRS", "node-a=http://node-a:9092"),
        ("RAFT_PEER_GRPC_ADDRS", "node-d=node-d:9092"),
        ("RAFT_CLUSTER_SECRET", "short"),
        ("RAFT_HEARTBEAT_MS", "0"),
        ("RAFT_ELECTION_MS", "199"),
        ("RAFT_ELECTION_MS", "soon"),
        ("RAFT_LEADER_LEASE_MS", "-1"),
        ("RAFT_COMMIT_MS", "fast"),
        ("RAFT_APPLY_TIMEOUT_SECONDS", "0"),
        ("RAFT_TOPIC_CATALOG_PROTOCOL", "v2"),
        ("RAFT_MUX_ENABLED", "both"),
        ("RAFT_PEER", "node-a=node-a:7000"),
    ],
)
def test_raft_error_names_an_unusable_variable(variable: str, value: str) -> None:
    assert refusal(DOCUMENTED | {variable: value}).key == variable


@pytest.mark.parametrize(
    ("environment", "key"),
    [
        ({"CLUSTER_ENABLED": "true"}, "CLUSTER_ENABLED"),
        ({"PERSISTENCE_PROVIDER": "memory", "PERSISTENCE_CONFIG": ""}, "RAFT_ENABLED"),
        ({"PERSISTENCE_PROVIDER": "redis"}, "PERSISTENCE_PROVIDER"),
        ({"LOCAL_ARTIFACTS_DIR": "/srv/artifacts"}, "LOCAL_ARTIFACTS_DIR"),
        ({"RAFT_PEERS": "", "RAFT_PEER_HTTP_ADDRS": ""}, "RAFT_PEERS"),
        ({"RAFT_ENABLED": ""}, "RAFT_SELF_ID"),
    ],
)
def test_raft_error_names_the_key_of_an_impossible_combination(environment: dict[str, str], key: str) -> None:
    assert refusal(DOCUMENTED | environment).key == key


@pytest.mark.parametrize(
    ("part", "key", "text"),
    [
        ("cluster", "cluster.enabled", "and RAFT_ENABLED are mutually exclusive"),
        ("sharding", "sharding", "sharding and raft are mutually exclusive"),
    ],
)
def test_raft_error_names_a_section_of_the_file_that_conflicts_with_raft(
    tmp_path: Path, part: str, key: str, text: str
) -> None:
    file = tmp_path / "codeq.yaml"
    file.write_text(f"{part}: {{enabled: true}}\n")
    with pytest.raises(ConfigError, match=text) as caught:
        load(str(file), TOKENS | DOCUMENTED, {}, dev=False)
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("raft: yes", "raft"),
        ("raft: {enable: true}", "raft.enable"),
        ("raft: {enabled: 'true'}", "raft.enabled"),
        ("raft: {enabled: true, selfId: a, peers: [a]}", "raft.peers"),
        ("raft: {enabled: true, selfId: a, peers: {a: 1}}", "raft.peers"),
        ("raft: {enabled: true, selfId: a, electionMS: 5}", "raft.electionMS"),
        ("raft: {selfId: a}", "raft.selfId"),
    ],
)
def test_raft_error_names_the_key_of_an_unusable_file(tmp_path: Path, text: str, key: str) -> None:
    file = tmp_path / "codeq.yaml"
    file.write_text(text + "\n")
    with pytest.raises(ConfigError) as caught:
        load(str(file), TOKENS, {}, dev=False)
    assert caught.value.key == key


def test_raft_binds_only_loopback_in_dev_mode() -> None:
    peers = {"RAFT_ENABLED": "true", "RAFT_SELF_ID": "a", "RAFT_PEERS": "a=localhost:7000"}
    settings = load(None, peers, {}, dev=True).raft
    assert settings is not None
    assert settings.bind_addr == Address("127.0.0.1", 7000)
    with pytest.raises(ConfigError, match="RAFT_BIND_ADDR"):
        load(None, peers | {"RAFT_BIND_ADDR": "0.0.0.0:7000"}, {}, dev=True)


def test_config_check_shows_raft_without_its_secret() -> None:
    secret = {"RAFT_CLUSTER_SECRET": "a secret of the cluster"}
    shown = check(None, TOKENS | DOCUMENTED | secret, {}, dev=False)["raft"]
    assert isinstance(shown, dict)
    assert shown["peers"] == PEERS
    assert (shown["electionMS"], shown["heartbeatMS"], shown["clusterSecret"]) == (1000, 100, "***")
    assert raft(DOCUMENTED | secret).cluster_secret not in repr(raft(DOCUMENTED | secret))
    assert check(None, TOKENS, {}, dev=False)["raft"] == {"enabled": False}


BY_DNS = {"RAFT_ENABLED": "true", "RAFT_PEERS_DNS": "codeq-members.ns.svc:7000"}


def test_members_found_by_dns_have_numbered_names_and_the_first_founds() -> None:
    first = raft(BY_DNS | {"RAFT_SELF_ID": "codeq-0", "RAFT_EXPECTED_NODES": "3"})
    fifth = raft(BY_DNS | {"RAFT_SELF_ID": "codeq-4", "RAFT_EXPECTED_NODES": "3"})
    assert first.peers == {f"codeq-{number}": f"codeq-{number}.codeq-members.ns.svc:7000" for number in range(3)}
    assert list(fifth.peers) == [f"codeq-{number}" for number in range(5)]
    assert (first.bootstrap, fifth.bootstrap) == (True, False)
    assert first.peer_http_addrs == {"codeq-0": "http://codeq-0.codeq-members.ns.svc:8080"}
    assert fifth.peer_grpc_addrs["codeq-4"] == "codeq-4.codeq-members.ns.svc:9092"
    assert not raft(BY_DNS | {"RAFT_SELF_ID": "codeq-0", "RAFT_BOOTSTRAP": "false"}).bootstrap
    assert first.numbered is not None
    assert first.numbered.address_of("codeq-4") == fifth.peers["codeq-4"]
    assert [first.numbered.address_of(name) for name in ("codeq-9", "codeq-00", "other-1", "codeq")] == [""] * 4


def test_configured_address_for_redirects_replaces_the_one_found_by_dns() -> None:
    outside = {"RAFT_SELF_ID": "codeq-1", "RAFT_PEER_HTTP_ADDRS": "codeq-1=https://one.example"}
    assert raft(BY_DNS | outside).peer_http_addrs == {"codeq-1": "https://one.example"}


def test_name_of_a_node_defaults_to_the_first_part_of_the_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "codeq-2.codeq-members.ns.svc")
    assert raft(BY_DNS).self_id == "codeq-2"
    assert raft({"RAFT_ENABLED": "true", "RAFT_BIND_ADDR": "10.0.0.1:7000"}).self_id == "codeq-2"
    monkeypatch.setattr("socket.gethostname", lambda: "_")
    assert "host name '_'" in str(refusal(BY_DNS))


@pytest.mark.parametrize(
    ("environment", "key"),
    [
        ({"RAFT_SELF_ID": "node-a"}, "RAFT_SELF_ID"),
        ({"RAFT_SELF_ID": "codeq-9"}, "RAFT_SELF_ID"),
        ({"RAFT_SELF_ID": "codeq-01"}, "RAFT_SELF_ID"),
        ({"RAFT_SELF_ID": "a-0", "RAFT_PEERS": "a-0=a:7000"}, "RAFT_PEERS"),
        ({"RAFT_SELF_ID": "a-0", "RAFT_BOOTSTRAP": "true"}, "RAFT_BOOTSTRAP"),
        ({"RAFT_SELF_ID": "a-0", "RAFT_EXPECTED_NODES": "2"}, "RAFT_EXPECTED_NODES"),
        ({"RAFT_SELF_ID": "a-0", "RAFT_EXPECTED_NODES": "10"}, "RAFT_EXPECTED_NODES"),
        ({"RAFT_SELF_ID": "a-0", "RAFT_PEERS_DNS": "10.0.0.1:7000"}, "RAFT_PEERS_DNS"),
        ({"RAFT_SELF_ID": "a-0", "RAFT_PEERS_DNS": "[::1]:7000"}, "RAFT_PEERS_DNS"),
        ({"RAFT_SELF_ID": "a-0", "RAFT_PEERS_DNS": "members"}, "RAFT_PEERS_DNS"),
        ({"RAFT_SELF_ID": "a-0", "RAFT_PEERS_DNS": "members:0"}, "RAFT_PEERS_DNS"),
        ({"RAFT_SELF_ID": "a-0", "RAFT_PEERS_DNS": "members..svc:7000"}, "RAFT_PEERS_DNS"),
    ],
)
def test_settings_that_do_not_fit_members_found_by_dns_are_rejected_by_name(
    environment: dict[str, str], key: str
) -> None:
    assert refusal(BY_DNS | environment).key == key


def test_expected_nodes_without_dns_are_rejected() -> None:
    assert refusal(ALONE | {"RAFT_EXPECTED_NODES": "3"}).key == "RAFT_EXPECTED_NODES"


GROUPS = {"PERSISTENCE_CONFIG": '{"numShards":4}'}
SECRET = {"RAFT_CLUSTER_SECRET": "secret of the nodes"}
IDENTITIES = {"identities": [{"match": "a", "tenant": "acme", "scopes": ["codeq:claim"], "eventTypes": ["*"]}]}


def test_each_shard_may_have_a_group() -> None:
    settings = load(None, TOKENS | DOCUMENTED | GROUPS, {}, dev=False)
    assert settings.raft is not None
    assert (settings.num_shards, settings.raft.peers) == (4, PEERS)


@pytest.mark.parametrize(
    ("environment", "key"),
    [
        ({"RAFT_PEERS": '{"node-a":"node-a:7000"}', "RAFT_PEER_HTTP_ADDRS": ""}, "RAFT_PEERS"),
        (BY_DNS | {"RAFT_SELF_ID": "codeq-0", "RAFT_PEERS": "", "RAFT_PEER_HTTP_ADDRS": ""}, "RAFT_PEERS_DNS"),
    ],
)
def test_what_several_groups_lack_is_rejected_by_name(environment: dict[str, str], key: str) -> None:
    refused = refusal(DOCUMENTED | GROUPS | environment)
    assert refused.key == key
    assert "numShards" in str(refused)


def test_certificates_are_no_identities_with_several_groups() -> None:
    files = {name: str(Path(__file__)) for name in ("TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CLIENT_CA_FILE")}
    files["SERVER_TLS_CA_FILE"] = str(Path(__file__))
    mtls = {"WORKER_AUTH_PROVIDER": "mtls", "WORKER_AUTH_CONFIG": json.dumps(IDENTITIES)}
    assert load(None, TOKENS | DOCUMENTED | files | mtls | SECRET, {}, dev=False).auth.takes_certificates
    refused = refusal(DOCUMENTED | GROUPS | files | mtls | SECRET)
    assert (refused.key, "numShards above 1" in str(refused)) == ("WORKER_AUTH_PROVIDER", True)
