"""Open files are divided so that connections never take the share of the store."""

from __future__ import annotations

import subprocess
import sys

import pytest
from codeq_server.node.descriptors import COPIES_MAX, FILES_MAX, FILES_MIN, OWN_FILES, share, tunnels_in

RAISE = (
    "from codeq_server.node.descriptors import *\n"
    "try: print(raise_limit())\nexcept TooFewFilesError as error: print(error)"
)


def raised(limits: str) -> str:
    """Returns the outcome of a process that starts with these limits on open files."""
    command = ["sh", "-c", f'{limits} && exec "$@"', "sh", sys.executable, "-c", RAISE]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


@pytest.mark.parametrize("limit", [FILES_MIN, 1024, 4096, 20_000, FILES_MAX])
@pytest.mark.parametrize(("ports", "peers"), [(2, 64), (2, 0), (1, 0), (0, 0)])
def test_shares_of_open_files_never_exceed_the_limit(limit: int, ports: int, peers: int) -> None:
    files = share(limit, http=8192, grpc=2048, grpc_ports=ports, peers=peers)
    copies = COPIES_MAX * files.copy if peers else 0
    taken = OWN_FILES + files.store + copies + files.http + ports * files.grpc + files.peers + files.backlog
    assert taken <= limit
    assert files.http >= 32
    assert not ports or files.grpc >= 32


def test_configured_limits_apply_if_open_files_are_plentiful() -> None:
    files = share(FILES_MAX, http=8192, grpc=2048, grpc_ports=2, peers=64)
    assert (files.http, files.grpc, files.peers) == (8192, 2048, 64)


def test_parent_passes_on_as_many_connections_as_it_may_open_files_for() -> None:
    assert [tunnels_in(limit) for limit in (FILES_MIN, 1024, FILES_MAX)] == [128, 384, 32_640]


def test_soft_limit_is_raised_to_the_hard_limit() -> None:
    assert raised("ulimit -Sn 600 && ulimit -Hn 3000") == "3000"


def test_error_names_a_limit_that_is_too_low() -> None:
    text = raised(f"ulimit -n {FILES_MIN - 1}")
    assert "RLIMIT_NOFILE" in text
    assert str(FILES_MIN) in text
