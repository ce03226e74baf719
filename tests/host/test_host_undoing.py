"""Networks, mounts and servers of the tests are removed again when a set-up or a test fails halfway."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from controllers import Kubernetes
from host_images import Image
from host_tools import need, need_root
from namespaces import Namespaces
from small_disk import small_disk

pytestmark = pytest.mark.host

IP_FREEBIND = 15
"""Linux's option of a socket that binds to an address which no interface has yet."""


def links() -> set[str]:
    """Returns the network interfaces and namespaces that this process has made."""
    made = f"cq{os.getpid()}"
    spaces = Path("/run/netns")
    names = [*Path("/sys/class/net").iterdir(), *(spaces.iterdir() if spaces.exists() else ())]
    return {path.name for path in names if path.name.startswith(made)}


@pytest.fixture(autouse=True)
def rooted() -> None:
    need_root()
    need("ip")


def test_a_network_whose_second_namespace_cannot_be_made_is_removed() -> None:
    with pytest.raises(AssertionError, match="ip netns add"), Namespaces(["one", "no/such/folder"]):
        pytest.fail("the network was made")
    assert links() == set()


def test_namespaces_and_bridge_go_even_if_one_namespace_cannot_be_removed() -> None:
    spaces = Namespaces(["one", "two"])
    stuck = Path("/run/netns", spaces.space("stuck"))

    def use() -> None:
        with spaces:
            stuck.mkdir()
            spaces.hosts["stuck"] = "192.0.2.77"

    try:
        with pytest.raises(AssertionError, match="ip netns del"):
            use()
        assert links() == {stuck.name}
    finally:
        stuck.rmdir()


def test_a_small_disk_is_unmounted_after_a_failure_even_with_files_open(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with pytest.raises(ZeroDivisionError), small_disk(path), (path / "open").open("w"):
        raise ZeroDivisionError
    assert not path.is_mount()
    path.rmdir()


def test_a_kubernetes_without_its_name_server_leaves_no_network(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        taken.bind((Namespaces().gateway, 53))
        with pytest.raises(OSError, match="in use"), Kubernetes(tmp_path, Image(tmp_path, {})):
            pytest.fail("it was set up")
    assert links() == set()
