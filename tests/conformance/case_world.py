"""What the cases of one test process share: servers, an issuer of tokens, and running drivers."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

import driver_builds
import pytest
import yaml
from cluster_process import TOKEN, ClusterProcess
from driver_process import DriverProcess, environment
from jwks_issuer import AUDIENCE, Issuer, Signer, certificate
from server_process import ServerProcess

CLUSTER_TOKEN: Final = TOKEN
"""The token of every case on the cluster, whose nodes know no issuer."""

SERVERS: Final[Mapping[str, Mapping[str, str]]] = {
    "main": {"BACKOFF_BASE_SECONDS": "1"},
    "bare": {"DISK_RESERVE_BYTES": str(1 << 50)},
    "own": {"BACKOFF_BASE_SECONDS": "1"},
    "tls": {},
}
"""Settings of the servers by name: `main` is shared and makes backups; `bare` is shared and makes none, and its disk
counts as full; `own` is for one case, which may stop, kill and restart it; `tls` is shared and speaks TLS over gRPC."""

_TOKENS: Final[Mapping[str, Mapping[str, Any]]] = yaml.safe_load(Path(__file__).with_name("tokens.yaml").read_text())
_SIGNER: Final = Signer("conformance", "ES256")


class Tokens(Mapping[str, str | None]):
    """The tokens of a case by name, signed when they are first asked for; `none` is no token."""

    def __init__(self, issuer: str, tenant: str) -> None:
        self._issuer, self._tenant = issuer, tenant
        self._signed: dict[str, str | None] = {"none": None, "garbage": "garbage"}

    def __getitem__(self, name: str) -> str | None:
        if name not in self._signed:
            claims = dict(_TOKENS[name])
            audiences = [f"{AUDIENCE}-{role}" for role in claims.pop("for")]
            expires = int(time.time()) + claims.pop("expires", 600)
            usual = {"iss": self._issuer, "aud": audiences, "sub": "tester", "exp": expires, "tenantId": self._tenant}
            self._signed[name] = _SIGNER.sign(usual | claims)
        return self._signed[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*_TOKENS, "none", "garbage"))

    def __len__(self) -> int:
        return len(_TOKENS) + 2


class SameToken(Mapping[str, str]):
    """One token under every name."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __getitem__(self, name: str) -> str:
        return self._token

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class World:
    """Starts what cases need, and ends it with the test process.

    Attributes:
        authority: File with the CA of the server that speaks TLS, once it runs.
    """

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._closing = contextlib.ExitStack()
        self.authority = ""
        self._issuer = Issuer(_SIGNER)
        self._servers: dict[str, ServerProcess] = {}
        self._cluster: ClusterProcess | None = None
        self._drivers: dict[str, DriverProcess] = {}
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        self._closing.enter_context(self._issuer)
        return self

    def __exit__(self, *_: object) -> None:
        for driver in self._drivers.values():
            driver.close()
        self._closing.close()

    @property
    def issuer(self) -> str:
        """Name of the issuer of tokens."""
        return self._issuer.url

    def server(self, name: str) -> ServerProcess:
        """Returns a shared server; starts it if need be."""
        if name not in self._servers:
            self._servers[name] = self._closing.enter_context(self.new_server(name))
        return self._servers[name]

    def new_server(self, name: str) -> ServerProcess:
        """Returns a server with the settings of that name, not started."""
        folder = self._folders.mktemp(f"server-{name}")
        env = dict(SERVERS[name])
        for role in ("PRODUCER", "WORKER"):
            config = {
                "issuer": self._issuer.url,
                "jwksUrl": f"{self._issuer.url}/keys",
                "audience": f"{AUDIENCE}-{role.lower()}",
                "allowedClockSkewSeconds": 0,
            }
            env |= {f"{role}_AUTH_PROVIDER": "jwks", f"{role}_AUTH_CONFIG": json.dumps(config)}
        if name == "main":
            env["BACKUP_DIR"] = str(folder / "backups")
        if name == "tls":
            authority, chain = certificate(folder)
            self.authority = str(authority)
            env |= {"GRPC_TLS_CERT_FILE": str(chain), "GRPC_TLS_KEY_FILE": str(chain)}
        return ServerProcess(folder, env=env, dev=False)

    def cluster(self) -> ClusterProcess:
        """Returns a cluster of three nodes; starts those that do not run."""
        if self._cluster is None:
            self._cluster = self._closing.enter_context(ClusterProcess(self._folders.mktemp("cluster")))
        return self._cluster.start()

    def driver(self, name: str) -> DriverProcess:
        """Returns the shared process of a driver; starts it if it does not run.

        Raises:
            DriverMissing: There is no such driver, or it does not compile.
        """
        found = self._drivers.get(name)
        if found is None or not found.is_running:
            found = self._drivers[name] = self.new_driver(name)
        return found

    def new_driver(self, name: str, env: Mapping[str, str] | None = None) -> DriverProcess:
        """Starts a process of a driver. Raises as `driver` does."""
        shared = self._folders.getbasetemp().parent
        log = self._folders.mktemp(f"driver-{name}") / "stderr.log"
        return DriverProcess(name, driver_builds.command(name, shared), environment(**(env or {})), log)

    def forget(self, driver: DriverProcess) -> None:
        """Ends a shared driver that may be in a bad state; the next case gets a new one."""
        if self._drivers.get(driver.name) is driver:
            del self._drivers[driver.name]
            driver.close()

    def number(self) -> int:
        """Returns a number that no other case of this process has."""
        return next(self._numbers)
