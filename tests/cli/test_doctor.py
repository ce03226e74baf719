"""codeq doctor finds each planted fault of a configuration or machine, and says what to do about it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from authority import Authority
from codeq_cli.doctor import Level, examine
from codeq_cli.doctor.addresses import check_ports
from codeq_cli.doctor.disk import judged, mount_of
from codeq_cli.doctor.machine import check_clock
from codeq_cli.server_commands import Mode
from codeq_internal.v1 import raft_rows_pb2, rows_pb2
from codeq_server.config import Address
from codeq_server.core import keys
from codeq_server.replication.raft import log_rows
from codeq_server.storage.identity import next_identity, save
from codeq_server.storage.layout import note_store, prepare_layout, shard_path
from codeq_server.storage.rocks import RocksStore
from recording_server import Run

TOKEN = "7f3a" * 16
ELSEWHERE = "192.0.2.7"
"""An address that no machine has."""


def auth(role: str, token: str) -> dict[str, str]:
    claims = {"subject": role, "scopes": ["codeq:operator" if role == "producer" else "codeq:claim"]}
    events = {} if role == "producer" else {"eventTypes": ["*"]}
    config = {"token": token, **claims, **events, "raw": {"tenantId": "acme"}}
    return {f"{role.upper()}_AUTH_PROVIDER": "static", f"{role.upper()}_AUTH_CONFIG": json.dumps(config)}


@dataclass
class Place:
    """Where a fault is planted.

    Attributes:
        path: An empty folder.
        held: Closes what the fault needs.
    """

    path: Path
    held: ExitStack = field(default_factory=ExitStack)

    @property
    def sound(self) -> dict[str, str]:
        """Variables of a configuration without fault."""
        return {
            "PORT": "0",
            "HTTP_HOST": "127.0.0.1",
            "WORKER_STREAM_ADDR": "127.0.0.1:0",
            "PRODUCER_STREAM_ADDR": "127.0.0.1:0",
            "PERSISTENCE_CONFIG": json.dumps({"path": str(self.store)}),
            **auth("producer", TOKEN),
            **auth("worker", TOKEN[::-1]),
        }

    @property
    def store(self) -> Path:
        return self.path / "store"

    def file(self, text: str, mode: int = 0o600) -> dict[str, str]:
        """Writes a configuration file; returns the variable that names it."""
        path = self.path / "codeq.yaml"
        path.write_text(text)
        path.chmod(mode)
        return {"CODEQ_CONFIG_PATH": str(path)}

    def taken_port(self) -> int:
        taken = self.held.enter_context(socket.create_server(("127.0.0.1", 0)))
        port: int = taken.getsockname()[1]
        return port

    def free_port(self) -> int:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port: int = probe.getsockname()[1]
            return port

    def write(self, rows: Mapping[bytes, bytes], *, newer: bool = False) -> dict[str, str]:
        """Writes rows into a new store."""
        opened = RocksStore(self.store, fsync=False, log=True)
        identity = next_identity(opened, 1, 0, b"r" * 16)
        identity.format += newer
        save(opened, identity)
        opened.write(dict(rows))
        opened.close()
        return {}

    def shards(self, count: int, *, made: int | None = None) -> dict[str, str]:
        """Makes the stores of a server with several shards, or only those of the first ones."""
        prepare_layout(self.store, count)
        for shard in range(count):
            note_store(self.store, shard)
            if made is None or shard < made:
                opened = RocksStore(shard_path(self.store, shard), fsync=False, log=True)
                save(opened, next_identity(opened, count, 0, b"r" * 16, shard=shard))
                opened.close()
        return {"PERSISTENCE_CONFIG": json.dumps({"path": str(self.store), "numShards": count})}

    def raft(self, peers: str = "a=127.0.0.1:7801", **more: str) -> dict[str, str]:
        found = {"RAFT_ENABLED": "true", "RAFT_SELF_ID": "a", "RAFT_BIND_ADDR": f"127.0.0.1:{self.free_port()}"}
        return found | {"RAFT_PEERS": peers, "RAFT_CLUSTER_SECRET": "s" * 32} | more

    def node(self, nodes: str, host: str = "") -> dict[str, str]:
        found = {"CLUSTER_ENABLED": "true", "CLUSTER_SELF_ID": "b", "CLUSTER_NODES": nodes}
        return found | {"CLUSTER_GRPC_ADDR": f"{host}:{self.free_port()}", "CLUSTER_SECRET": "s" * 32}

    def tls(self, days: float = 90, mode: int = 0o600) -> dict[str, str]:
        files = Authority().files(self.path / "tls", days=days)
        files.key.chmod(mode)
        return files.server_env

    def other_key(self) -> dict[str, str]:
        mine, other = Authority().files(self.path / "a"), Authority().files(self.path / "b")
        return {"TLS_CERT_FILE": str(mine.certificate), "TLS_KEY_FILE": str(other.key)}

    def stored_at(self, path: Path) -> dict[str, str]:
        return {"PERSISTENCE_CONFIG": json.dumps({"path": str(path)})}

    def blocked(self) -> Path:
        """Returns a path below a file."""
        (self.path / "file").touch()
        return self.path / "file" / "folder"

    def strange_folder(self) -> dict[str, str]:
        self.store.mkdir()
        (self.store / "notes.txt").touch()
        return {}


@dataclass(frozen=True)
class Fault:
    """A planted fault: variables, and what is found."""

    plant: Callable[[Place], dict[str, str]]
    check: str
    text: str
    remedy: str
    level: Level = Level.ERROR


def warned(plant: Callable[[Place], dict[str, str]], check: str, text: str, remedy: str) -> Fault:
    return Fault(plant, check, text, remedy, Level.WARNING)


def tick(seconds_ahead: int) -> bytes:
    return rows_pb2.TickRow(wall_ms=int(time.time() + seconds_ahead) * 1000).SerializeToString()


NODE = raft_rows_pb2.NodeRow(format=log_rows.FORMAT).SerializeToString()
NO_TOKENS = {"WORKER_AUTH_PROVIDER": "", "WORKER_AUTH_CONFIG": ""}
FOUR = "a=127.0.0.1:7801,b=127.0.0.1:7802,c=127.0.0.1:7803,d=127.0.0.1:7804"

TRACED = {"TRACING_ENABLED": "true"}
LONG = "x" * 300
"""A name that no file system takes: looking it up is an error, as below a folder that may not be searched."""

FAULTS = {
    "unknown key": Fault(lambda at: at.file("prot: 1\n"), "configuration", "prot: unknown key", "correct prot"),
    "malformed value": Fault(lambda _: {"PORT": "eighty"}, "configuration", "PORT: ", "correct PORT"),
    "missing file": Fault(
        lambda at: {"CODEQ_CONFIG_PATH": str(at.path / "none.yaml")},
        "configuration",
        "cannot read",
        "CODEQ_CONFIG_PATH",
    ),
    "unknown variable": Fault(lambda _: {"CODEQ_PPROFF": "1"}, "configuration", "CODEQ_PPROFF", "correct CODEQ_PPROFF"),
    "misspelled variable": warned(
        lambda _: {"PERSISTENCE_CONFG": "{}"}, "configuration", "PERSISTENCE_CONFG", "rename it to PERSISTENCE_CONFIG"
    ),
    "variable without its end": warned(
        lambda _: {"TLS_CERT": "x"}, "configuration", "TLS_CERT is unknown", "rename it to TLS_CERT_FILE"
    ),
    "variable without a word": warned(
        lambda _: {"WEBHOOK_SECRET": "x"}, "configuration", "WEBHOOK_SECRET", "rename it to WEBHOOK_HMAC_SECRET"
    ),
    "variable without underscores": warned(
        lambda _: {"LOGLEVEL": "debug"}, "configuration", "LOGLEVEL", "rename it to LOG_LEVEL"
    ),
    "variable in small letters": warned(
        lambda _: {"log_level": "debug"}, "configuration", "log_level", "rename it to LOG_LEVEL"
    ),
    "misspelled variable of OpenTelemetry": warned(
        lambda _: TRACED | {"OTEL_EXPORTER_OTLP_HEADER": "a=b"},
        "configuration",
        "OTEL_EXPORTER_OTLP_HEADER is unknown",
        "rename it to OTEL_EXPORTER_OTLP_HEADERS",
    ),
    "variable of OpenTelemetry that is not followed": warned(
        lambda _: TRACED | {"OTEL_TRACES_SAMPLER": "always_off"},
        "configuration",
        "OTEL_TRACES_SAMPLER is ignored",
        "set TRACING_SAMPLE_RATIO",
    ),
    "setting without effect": warned(
        lambda _: {"SERVER_ADDRS": "127.0.0.1:9092"}, "configuration", "without effect", "remove SERVER_ADDRS"
    ),
    "no tokens": warned(lambda _: NO_TOKENS, "tokens", "no worker tokens", "set WORKER_AUTH_PROVIDER"),
    "well-known token": warned(lambda _: auth("worker", "dev-token"), "tokens", "everybody knows", "openssl rand"),
    "short token": warned(lambda _: auth("producer", "hunter2"), "tokens", "7 characters", "openssl rand"),
    "readable file": warned(
        lambda at: at.file(f"webhookHmacSecret: {TOKEN}\n", 0o644), "configuration", "other users", "chmod 600"
    ),
    "taken port": Fault(lambda at: {"PORT": str(at.taken_port())}, "ports", "in use", "ss -ltnp"),
    "taken debug port": Fault(
        lambda at: {"CODEQ_PPROF": "1", "CODEQ_PPROF_ADDR": f"127.0.0.1:{at.taken_port()}"},
        "ports",
        "CODEQ_PPROF_ADDR: Address already in use",
        "change CODEQ_PPROF_ADDR",
    ),
    "shared debug port": Fault(
        lambda _: {"CODEQ_PPROF": "1", "CODEQ_PPROF_ADDR": "localhost:6060", "WORKER_STREAM_ADDR": "127.0.0.1:6060"},
        "ports",
        "same port 6060",
        "CODEQ_PPROF_ADDR a port of its own",
    ),
    "foreign host": Fault(lambda _: {"HTTP_HOST": ELSEWHERE}, "ports", ELSEWHERE, "an address of this machine"),
    "shared port": Fault(
        lambda at: at.raft() | {"WORKER_STREAM_ADDR": ":7801", "RAFT_BIND_ADDR": "127.0.0.1:7801"},
        "ports",
        "same port 7801",
        "RAFT_BIND_ADDR a port of its own",
    ),
    "plaintext": warned(lambda _: {"HTTP_HOST": "0.0.0.0"}, "plaintext", "PORT without TLS", "set TLS_CERT_FILE"),
    "unknown name": Fault(
        lambda at: at.raft("a=127.0.0.1:7801,b=nowhere.invalid:7000,c=127.0.0.1:7803"),
        "names",
        "nowhere.invalid leads nowhere",
        "/etc/hosts",
    ),
    "members in a domain that does not exist": Fault(
        lambda _: {
            "RAFT_ENABLED": "true",
            "RAFT_SELF_ID": "codeq-0",
            "RAFT_PEERS_DNS": "members.invalid:7000",
            "RAFT_CLUSTER_SECRET": "s" * 32,
        },
        "names",
        "RAFT_PEERS_DNS: the name codeq-1.members.invalid leads nowhere",
        "getent hosts codeq-1.members.invalid",
    ),
    "unreachable member": Fault(
        lambda at: at.raft(f"a=127.0.0.1:7801,b={ELSEWHERE}:7000,c=192.0.2.8:7000"),
        "cluster",
        "cannot reach 127.0.0.1",
        "set RAFT_BIND_ADDR=:",
    ),
    "own address on loopback": Fault(
        lambda at: at.raft(f"a=127.0.0.1:7801,b={ELSEWHERE}:7000,c=192.0.2.8:7000", RAFT_BIND_ADDR=":7801"),
        "cluster",
        "a=127.0.0.1 is this machine's loopback",
        "an address that the other nodes reach",
    ),
    "own address elsewhere": warned(
        lambda at: at.raft(f"a={ELSEWHERE}:7000,b=192.0.2.8:7000,c=192.0.2.9:7000", RAFT_BIND_ADDR=":7801"),
        "cluster",
        f"{ELSEWHERE}, the address of a, is not one of this machine",
        "RAFT_SELF_ID",
    ),
    "two members": Fault(
        lambda at: at.raft("a=127.0.0.1:7801,b=127.0.0.1:7802", RAFT_BOOTSTRAP="true"),
        "configuration",
        "two members tolerate no failure",
        "RAFT_BOOTSTRAP",
    ),
    "four members": warned(lambda at: at.raft(FOUR), "cluster", "4 members", "use 3 or 5"),
    "expired certificate": Fault(lambda at: at.tls(days=-1), "certificates", "has expired", "replace it"),
    "ending certificate": warned(lambda at: at.tls(days=3), "certificates", "expires on", "renew it"),
    "key of another certificate": Fault(
        Place.other_key, "certificates", "not a certificate and its key", "TLS_KEY_FILE"
    ),
    "readable key": warned(lambda at: at.tls(mode=0o644), "certificates", "can read the private key", "chmod o="),
    "no fsync": warned(
        lambda at: {"PERSISTENCE_CONFIG": json.dumps({"path": str(at.store), "fsyncOnCommit": False})},
        "configuration",
        "fsyncOnCommit is false",
        "fsyncOnCommit to true",
    ),
    "memory": warned(
        lambda _: {"PERSISTENCE_PROVIDER": "memory", "PERSISTENCE_CONFIG": ""},
        "configuration",
        "memory loses every task",
        "PERSISTENCE_PROVIDER=rocksdb",
    ),
    "eatmydata": Fault(
        lambda _: {"LD_PRELOAD": "/usr/lib/libeatmydata.so"}, "configuration", "turns every fsync off", "LD_PRELOAD"
    ),
    "unwritable store": Fault(
        lambda at: at.stored_at(at.blocked()), "folders", "cannot be written", "PERSISTENCE_CONFIG"
    ),
    "unwritable backups": Fault(
        lambda at: {"BACKUP_DIR": str(at.blocked())}, "folders", "cannot be written", "change BACKUP_DIR"
    ),
    "store with too long a name": Fault(
        lambda at: at.stored_at(at.path / LONG), "folders", "File name too long", "change PERSISTENCE_CONFIG"
    ),
    "member's store with too long a name": Fault(
        lambda at: at.raft() | at.stored_at(at.path / LONG), "folders", "File name too long", "PERSISTENCE_CONFIG"
    ),
    "backups with too long a name": Fault(
        lambda at: {"BACKUP_DIR": str(at.path / LONG)}, "folders", "File name too long", "change BACKUP_DIR"
    ),
    "CA with too long a name": Fault(
        lambda at: {"SERVER_TLS_CA_FILE": str(at.path / LONG)},
        "configuration",
        "File name too long",
        "SERVER_TLS_CA_FILE",
    ),
    "certificate of a member with too long a name": Fault(
        lambda at: at.raft(**dict.fromkeys(("RAFT_TLS_CERT", "RAFT_TLS_KEY", "RAFT_TLS_CA"), str(at.path / LONG))),
        "configuration",
        "File name too long",
        "RAFT_TLS_CERT",
    ),
    "backups in the store": Fault(
        lambda at: {"BACKUP_DIR": str(at.store / "backups")}, "folders", "lies in the folder of the store", "beside"
    ),
    "full disk": Fault(
        lambda _: {"DISK_RESERVE_BYTES": str(1 << 50)}, "disk space", "new tasks are rejected", "enlarge"
    ),
    "folder without a store": Fault(Place.strange_folder, "store", "is not empty, and has no store", "an empty folder"),
    "contradicting rows": Fault(
        lambda at: at.write({b"?unknown": b"1"}), "store", "contradict each other in 2 places", "restore a backup"
    ),
    "newer store": Fault(lambda at: at.write({}, newer=True), "store", "has format", "newer server"),
    "store of a member": Fault(
        lambda at: at.write({log_rows.NODE: NODE}), "store", "belongs to a member", "RAFT_ENABLED=true"
    ),
    "store of a single node": Fault(
        lambda at: at.raft() | at.write({keys.TICK: tick(0)}), "store", "single node", "codeq cluster init"
    ),
    "missing store of a shard": Fault(lambda at: at.shards(3, made=2), "store", "store of shard 2 is missing", "mount"),
    "other number of shards": Fault(
        lambda at: at.shards(3) | at.stored_at(at.store), "store", "has numShards 3", "set numShards to 3"
    ),
    "node on the loopback": Fault(
        lambda at: at.node(f"a={ELSEWHERE}:9090,b=127.0.0.1:9090"),
        "cluster",
        "other nodes are elsewhere",
        "an address that the other nodes reach",
    ),
    "listener for nodes on the loopback": Fault(
        lambda at: at.node(f"a={ELSEWHERE}:9090,b={ELSEWHERE}:9091", host="127.0.0.1"),
        "cluster",
        "cannot reach 127.0.0.1",
        "set CLUSTER_GRPC_ADDR=:",
    ),
    "unknown name of a node": Fault(
        lambda at: at.node("a=no-such-host.invalid:9090,b=127.0.0.1:9090"), "names", "leads nowhere", "getent hosts"
    ),
    "clock behind": Fault(lambda at: at.write({keys.TICK: tick(3600)}), "clock", "s behind the last write", "correct"),
}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    with place.held:
        yield place


def test_a_sound_configuration_has_nothing_to_mend(place: Place) -> None:
    findings = examine(None, place.sound, dev=False)
    assert [each for each in findings if each.level is Level.ERROR] == []
    about_the_machine = {"clock", "fsync", "open files", "disk space"}
    assert {each.check for each in findings if each.level is Level.WARNING} <= about_the_machine
    assert {"configuration", "tokens", "versions", "ports", "folders", "store"} <= {each.check for each in findings}
    assert not place.store.exists()


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_with_its_remedy(place: Place, name: str) -> None:
    fault = FAULTS[name]
    findings = examine(None, place.sound | fault.plant(place), dev=False)
    alike = [each for each in findings if each.check == fault.check and each.level is fault.level]
    assert any(fault.text in each.text and fault.remedy in each.remedy + each.text for each in alike), findings
    assert all(each.remedy for each in findings if each.level is not Level.OK)
    assert TOKEN not in repr(findings)


def test_stores_of_several_shards_have_nothing_to_mend(place: Place) -> None:
    findings = examine(None, place.sound | place.shards(2), dev=False)
    assert [each for each in findings if each.level is Level.ERROR] == []
    assert {f"the rows of {place.store / name} agree" for name in ("shard0", "shard1")} <= {f.text for f in findings}


def test_a_gateway_needs_the_names_of_its_servers(place: Place) -> None:
    variables = {"SERVER_ADDRS": "nowhere.invalid:9092", "GATEWAY_SECRET": "g" * 32, "PORT": "0", "HTTP_HOST": "::1"}
    found = [each for each in examine(None, variables, dev=False, mode=Mode.GATEWAY) if each.check == "names"]
    assert [(each.level, "SERVER_ADDRS" in each.text) for each in found] == [(Level.ERROR, True)]


def test_a_port_among_those_of_outgoing_connections_is_a_warning(place: Place) -> None:
    port = place.free_port()
    listeners = {"PORT": Address("127.0.0.1", port)}
    found = [*check_ports(listeners, running=False, ephemeral=f"{port} {port}")]
    assert [each.level for each in found] == [Level.OK, Level.WARNING]
    assert f"below {port}" in found[1].remedy


@pytest.mark.parametrize(
    ("one", "other", "is_shared"),
    [
        ("127.0.0.1", "10.0.0.1", False),
        ("0.0.0.0", "127.0.0.1", True),
        ("", "127.0.0.1", True),
        ("localhost", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.1", True),
    ],
)
def test_listeners_share_a_port_only_if_their_hosts_do(one: str, other: str, is_shared: bool) -> None:
    listeners = {"WORKER_STREAM_ADDR": Address(one, 9091), "RAFT_BIND_ADDR": Address(other, 9091)}
    found = [each.text for each in check_ports(listeners, running=True)]
    assert ("WORKER_STREAM_ADDR and RAFT_BIND_ADDR name the same port 9091" in found) == is_shared


def test_grpc_listeners_on_one_port_but_different_hosts_are_an_error() -> None:
    listeners = {"WORKER_STREAM_ADDR": Address("", 9091), "PRODUCER_STREAM_ADDR": Address("127.0.0.1", 9091)}
    found = [each for each in check_ports(listeners, running=True) if each.level is Level.ERROR]
    assert any("name the same port 9091" in each.text for each in found)


@pytest.mark.parametrize(
    ("seconds", "level", "part"),
    [
        (0.05, Level.WARNING, "slow"),
        (0.001, Level.OK, "1.00 ms"),
        (0.000_005, Level.WARNING, "faster than a disk can be"),
    ],
)
def test_the_time_of_a_fsync_is_judged(seconds: float, level: Level, part: str) -> None:
    [found] = judged(seconds)
    assert (found.level, part in found.text) == (level, True)


def test_the_file_system_of_a_path_is_the_innermost_mount() -> None:
    mounts = (
        "1 0 8:1 / / rw - ext4 /dev/sda rw,barrier=0\n"
        "2 1 0:5 / /srv/with\\040space rw,noatime - tmpfs tmpfs rw\n"
        "3 1 0:6 / /srv rw - nfs4 host:/srv rw,vers=4.2\n"
    )
    kinds = [mount_of(Path(path), mounts) for path in ("/srv/with space/store", "/srv/store", "/home")]
    assert [None if each is None else each.kind for each in kinds] == ["tmpfs", "nfs4", "ext4"]
    assert kinds[2] is not None
    assert "barrier=0" in kinds[2].options
    assert mount_of(Path("/x"), "unreadable") is None


def test_a_clock_in_the_past_is_an_error() -> None:
    [found] = check_clock(now=0.0)
    assert (found.level, "1970-01-01" in found.text) == (Level.ERROR, True)


def test_too_few_open_files_are_an_error(place: Place, plain_environment: dict[str, str]) -> None:
    command = f"ulimit -n 256; exec {sys.executable} -m codeq_cli.main doctor"
    done = subprocess.run(
        ["/bin/sh", "-c", command], env=plain_environment | place.sound, capture_output=True, timeout=60, check=False
    )
    [found] = [each for each in json.loads(done.stdout)["findings"] if each["check"] == "open files"]
    assert (done.returncode, found["level"]) == (1, "error")
    assert "LimitNOFILE" in found["remedy"]


def test_doctor_without_a_configuration_warns_and_exits_with_code_0(run: Run) -> None:
    ports = {"PORT": "0", "WORKER_STREAM_ADDR": ":0", "PRODUCER_STREAM_ADDR": ":0"}
    done = run("doctor", **ports)
    report = json.loads(done.stdout)
    assert (done.returncode, done.stderr, report["errors"]) == (0, b"", 0)
    missing = [each for each in report["findings"] if each["check"] == "tokens" and each["level"] == "warning"]
    assert ["producer" in missing[0]["text"], "worker" in missing[1]["text"]] == [True, True]
    assert b"no producer tokens" not in run("doctor", "--dev", **ports).stdout


def test_doctor_shows_each_fault_with_its_remedy_on_a_line_of_its_own(run: Run, place: Place) -> None:
    done = run("doctor", "-o", "table", **place.sound | {"PORT": str(place.taken_port())})
    lines = done.stdout.decode().splitlines()
    [number] = [number for number, line in enumerate(lines) if line.startswith("ERROR")]
    assert (done.returncode, lines[number + 1].strip()[:3]) == (1, "-> ")
    assert lines[-1].startswith("1 to mend, ")


def test_ports_in_use_are_fine_while_a_server_has_the_store_open(run: Run, place: Place) -> None:
    opened = RocksStore(place.store, fsync=False)
    done = run("doctor", **place.sound | {"PORT": str(place.taken_port())})
    opened.close()
    report = json.loads(done.stdout)
    assert (done.returncode, report["errors"]) == (0, 0)
    assert any("a server is running" in each["text"] for each in report["findings"])
