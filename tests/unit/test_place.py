"""What the process of one shard takes from the settings of its server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from codeq_server.config import Address, load
from codeq_server.node.owners import owners_of
from codeq_server.node.place import Place

PLACE = Place(shard=1, ports=(7101, 7102, 7103), secret="s" * 64, http=8080, worker=9091, producer=0)
SERVER = {
    "PERSISTENCE_CONFIG": '{"path":"/srv/store","numShards":3}',
    "BACKUP_DIR": "/srv/backups",
    "PRODUCER_STREAM_ADDR": "",
    "CODEQ_PPROF": "1",
    "READY_FILE": "/srv/ready.json",
}


def test_process_has_folders_and_a_port_for_profiles_of_its_own() -> None:
    settings = PLACE.settings(load(None, SERVER, {}, dev=True))
    assert (settings.persistence.path, settings.backup_dir) == (Path("/srv/store/shard1"), Path("/srv/backups/shard1"))
    assert settings.artifacts_path == Path("/srv/store/artifacts")
    assert settings.codeq_pprof_addr == Address("127.0.0.1", 6061)
    assert settings.ready_file is None
    assert (settings.port, settings.worker_stream_addr, settings.producer_stream_addr) == (
        8080,
        Address("127.0.0.1", 9091),
        None,
    )


def test_artifacts_stay_where_the_server_has_them() -> None:
    settings = PLACE.settings(load(None, SERVER | {"LOCAL_ARTIFACTS_DIR": "/srv/artifacts"}, {}, dev=True))
    assert settings.artifacts_path == Path("/srv/artifacts")


def test_processes_share_ports_and_nodes_do_not() -> None:
    processes = owners_of(None, PLACE)
    assert processes is not None
    assert (processes.mine.shard, processes.processes, processes.addresses[2]) == (1, 3, "127.0.0.1:7103")
    cluster = {"CLUSTER_ENABLED": "true", "CLUSTER_SELF_ID": "b", "CLUSTER_NODES": "b=host-b:9090,a=host-a:9090"}
    nodes = owners_of(load(None, cluster, {}, dev=True).cluster, None)
    assert nodes is not None
    assert (nodes.mine.shard, nodes.processes, nodes.addresses) == (1, 1, ("host-a:9090", "host-b:9090"))
    assert owners_of(None, None) is None


def test_process_of_a_group_has_its_own_place_between_nodes() -> None:
    raft = SERVER | {
        "RAFT_ENABLED": "true",
        "RAFT_SELF_ID": "b",
        "RAFT_BIND_ADDR": "127.0.0.2:7000",
        "RAFT_PEERS": "a=127.0.0.1:7000,b=127.0.0.2:7000,c=127.0.0.3:7000",
        "RAFT_CLUSTER_SECRET": "secret of the nodes",
    }
    place = replace(PLACE, raft=(7201, 7202, 7203), peers=(7301, 7302, 7303))
    settings = place.settings(load(None, raft, {}, dev=True))
    assert settings.raft is not None
    assert settings.raft.bind_addr == Address("127.0.0.1", 7202)
    owners = owners_of(None, place, settings.raft)
    assert owners is not None
    assert owners.groups is not None
    assert (owners.groups.mine, owners.groups.listen) == ("b", Address("127.0.0.1", 7302))
    other = owners_of(None, replace(place, shard=2, secret="another start"), settings.raft)
    assert other is not None
    owners.mine.check(f"{other.mine.shard} to {owners.mine.shard} of 3")
    owners.mine.check("1 to 1 of 3")  # the same shard at another node
    assert owners.mine.secret == other.mine.secret  # the same on every node
    assert owners.mine.secret not in (PLACE.secret, settings.raft.cluster_secret)
