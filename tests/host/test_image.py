"""The image: built without a registry, started as documented, stopped, killed and started again."""

from __future__ import annotations

import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from base_image import cached_base
from host_container import Container, Images
from host_tools import need, need_root, run

pytestmark = [pytest.mark.host, pytest.mark.timeout(900)]

IMAGE = "localhost/codeq:host-test"
USER_ID = 10001
HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
ENVIRONMENT, ONE_TASK, STATUS = ((HERE / name).read_text() for name in ("documented.env", "one_task.sh", "status.sh"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    """Images, including the image of this checkout."""
    need_root()
    need("buildah", "debootstrap", "tar")
    directory = tmp_path_factory.mktemp("images")
    made = Images(directory)
    try:
        made.import_base(cached_base(), "localhost/codeq-base:host-test")
        made.build(CHECKOUT, "localhost/codeq-base:host-test", IMAGE)
        yield made
    finally:
        made.close()
        shutil.rmtree(directory)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports


@pytest.fixture
def container(images: Images, tmp_path: Path) -> Iterator[Container]:
    """A container with the documented environment, on free ports; its user owns the volume, as engines ensure."""
    environment = dict(line.split("=", 1) for line in ENVIRONMENT.strip().splitlines())
    port, worker, producer = free_ports(3)
    environment |= {"PORT": str(port), "WORKER_STREAM_ADDR": f":{worker}", "PRODUCER_STREAM_ADDR": f":{producer}"}
    volume = tmp_path / "volume"
    volume.mkdir()
    shutil.chown(volume, USER_ID, USER_ID)
    made = Container(images, IMAGE, environment, volume)
    try:
        yield made
        print(made.log)
    finally:
        made.close()


def shell(script: str, container: Container, **variables: str) -> str:
    """Runs a script against the container's port and returns its output."""
    assignments = "".join(f"{name}={value}\n" for name, value in variables.items())
    text = assignments + script.replace("localhost:8080", f"localhost:{container.port}")
    return run("bash", "-euo", "pipefail", "-c", text).strip()


def test_image_settings_match_the_documentation(images: Images) -> None:
    settings = images.settings(IMAGE)
    assert settings["Entrypoint"] == ["/app/codeq-server"]
    assert settings["User"].split(":")[0] == str(USER_ID)
    assert set(settings["ExposedPorts"]) == {"8080/tcp", "9091/tcp", "9092/tcp"}
    assert set(settings["Volumes"]) == {"/var/lib/codeq/pebble", "/var/lib/codeq/artifacts"}
    assert settings["Labels"]["org.opencontainers.image.title"] == "codeq"


def test_container_keeps_a_completed_task_across_a_restart_and_a_kill(container: Container) -> None:
    need("curl", "jq")
    container.start()
    assert container.server().uids().real == USER_ID
    task_id = shell(ONE_TASK, container)
    assert shell(STATUS, container, TASK_ID=task_id) == '"COMPLETED"'

    assert container.end(signal.SIGTERM) == 0
    container.start()
    assert shell(STATUS, container, TASK_ID=task_id) == '"COMPLETED"'

    assert container.end(signal.SIGKILL) != 0
    container.start()
    assert shell(STATUS, container, TASK_ID=task_id) == '"COMPLETED"'


def test_container_health_check_reflects_the_server_state(images: Images, container: Container) -> None:
    health_check = images.settings(IMAGE)["Healthcheck"]["Test"]
    assert health_check[0] == "CMD"
    container.start()
    container.run(*health_check[1:])
    container.end(signal.SIGTERM)
    with pytest.raises(AssertionError, match="Connection refused"):
        container.run(*health_check[1:])


def test_container_user_owns_only_its_volumes(container: Container) -> None:
    container.run("sh", "-c", 'test "$(id -u)" = 10001 && touch /var/lib/codeq/pebble/a /var/lib/codeq/artifacts/a')
    with pytest.raises(AssertionError, match="Permission denied"):
        container.run("touch", "/app/a")
