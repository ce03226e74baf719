"""Artifacts of results, against a real server: by URL and by content, through every call that ends a task."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import codeq
import httpx
import pytest
from server_process import DEV_TOKEN, ServerProcess

SECONDS_MAX = 30
CONTENT = bytes(range(256)) * 40
CONTENT_BYTES_MAX = 20_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that accepts artifact contents up to CONTENT_BYTES_MAX bytes."""
    env = {"ARTIFACT_BYTES_MAX": str(CONTENT_BYTES_MAX)}
    with ServerProcess(tmp_path_factory.mktemp("artifacts"), env=env) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[codeq.Client]:
    """A client of the server."""
    with codeq.Client(server.producer_addr, token=DEV_TOKEN) as opened:
        yield opened


def rest(server: ServerProcess, method: str, path: str, body: object = None, token: str = DEV_TOKEN) -> httpx.Response:
    """Makes one HTTP call."""
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.request(method, f"{server.http_url}/v1/codeq{path}", headers=headers, json=body, timeout=SECONDS_MAX)


def files(server: ServerProcess) -> list[Path]:
    """Returns every file below the artifact folder."""
    return sorted(path for path in (server.store.parent / "artifacts").rglob("*") if not path.is_dir())


def test_artifact_folder_is_not_created_before_it_is_needed(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server") as server, codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
        other = ServerProcess(tmp_path / "other", flags=["--worker-stream-addr", server.worker_addr])
        assert other.spawn().wait(SECONDS_MAX) == 1
        other.close()
        client.complete(claimed(client, "none"), 1)
        beside = [path.name for path in server.store.parent.iterdir() if path.is_dir()]
        assert beside == [server.store.name]
        assert not (other.store.parent / "artifacts").exists()


def text(content: bytes) -> str:
    """Returns content as encoded in a request."""
    return base64.b64encode(content).decode()


def claimed(client: codeq.Client, command: str) -> codeq.Task:
    """Returns a task just created and claimed."""
    client.create(command)
    [task] = client.claim([command])
    return task


def eventually(condition: Callable[[], bool]) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, "the condition does not come true"
        time.sleep(0.02)


# -- POST /tasks/{id}/result: artifacts[]; GET /tasks/{id}/artifacts/{name} ------------------------------------------


def test_artifacts_are_listed_in_order_and_fetched(server: ServerProcess, client: codeq.Client) -> None:
    task = claimed(client, "art-rest")
    artifacts = [
        {"name": "report ü 1.html", "contentBase64": text(CONTENT).rstrip("="), "contentType": "text/html"},
        {"name": "far", "url": "https://files.example/far.bin"},
        {"name": "empty", "contentBase64": ""},
    ]
    answer = rest(server, "POST", f"/tasks/{task.id}/result", {"status": "COMPLETED", "artifacts": artifacts})
    assert answer.status_code == 200, answer.text
    digest = hashlib.sha256(CONTENT).hexdigest()
    told = [
        {"name": "report ü 1.html", "size": len(CONTENT), "contentType": "text/html", "sha256": digest},
        {"name": "far", "url": "https://files.example/far.bin"},
        {"name": "empty", "size": 0, "sha256": hashlib.sha256(b"").hexdigest()},
    ]
    assert answer.json()["artifacts"] == told
    assert rest(server, "GET", f"/tasks/{task.id}/result").json()["result"]["artifacts"] == told
    got = rest(server, "GET", f"/tasks/{task.id}/artifacts/report%20%C3%BC%201.html")
    assert (got.status_code, got.content, got.headers["content-type"]) == (200, CONTENT, "text/html")
    assert got.headers["content-disposition"] == (
        "attachment; filename=\"report _ 1.html\"; filename*=UTF-8''report%20%C3%BC%201.html"
    )
    assert got.headers["x-content-type-options"] == "nosniff"
    empty = rest(server, "GET", f"/tasks/{task.id}/artifacts/empty")
    assert (empty.status_code, empty.content) == (200, b"")
    assert client.artifact(task.id, "report ü 1.html").content == CONTENT


def test_download_of_a_missing_or_external_artifact_is_not_found(server: ServerProcess, client: codeq.Client) -> None:
    task = claimed(client, "art-404")
    assert rest(server, "GET", f"/tasks/{task.id}/artifacts/a").json()["reason"] == "ARTIFACT_NOT_FOUND"
    client.submit(task, codeq.Failed("broken", [codeq.NewArtifact("a", url="s3://bucket/a")]))
    for name in ("a", "b"):
        answer = rest(server, "GET", f"/tasks/{task.id}/artifacts/{name}")
        assert (answer.status_code, answer.json()["reason"]) == (404, "ARTIFACT_NOT_FOUND")
    with pytest.raises(codeq.ArtifactNotFound):
        client.artifact(task.id, "a")
    assert rest(server, "GET", "/tasks/nobody/artifacts/a").json()["reason"] == "TASK_NOT_FOUND"
    assert rest(server, "GET", f"/tasks/{task.id}/artifacts/a", token="wrong").status_code == 401


def test_each_batch_item_keeps_its_artifacts(server: ServerProcess, client: codeq.Client) -> None:
    tasks = [claimed(client, "art-batch") for _ in range(3)]
    items: list[dict[str, Any]] = [
        {"taskId": task.id, "status": "COMPLETED", "artifacts": [{"name": "n", "contentBase64": text(b"%d" % number)}]}
        for number, task in enumerate(tasks)
    ]
    items[1]["leaseToken"] = "1"
    before = len(files(server))
    answers = rest(server, "POST", "/tasks/batch/results", {"results": items}).json()["results"]
    assert [answer.get("error", {}).get("reason") for answer in answers] == [None, "STALE_LEASE_TOKEN", None]
    assert client.artifact(tasks[0].id, "n").content == b"0"
    assert client.artifact(tasks[2].id, "n").content == b"2"
    assert len(files(server)) == before + 2


def test_worker_sends_artifacts_with_its_outcome(server: ServerProcess, client: codeq.Client) -> None:
    worker = codeq.Worker(server.worker_addr, token=DEV_TOKEN)
    done = threading.Event()

    @worker.task("art-stream")
    def work(task: codeq.Task) -> codeq.Completed | codeq.Failed:
        if task.payload == "fail":
            return codeq.Failed("no", [codeq.NewArtifact("log", b"lines")])
        return codeq.Completed({"ok": True}, [codeq.NewArtifact("out", CONTENT, content_type="image/png")])

    good, bad = client.create("art-stream"), client.create("art-stream", "fail")
    thread = threading.Thread(target=lambda: (worker.run(), done.set()))
    thread.start()
    try:
        result = client.result(good.id, wait=SECONDS_MAX)
        assert [(each.name, each.size, each.content_type) for each in result.artifacts] == [
            ("out", len(CONTENT), "image/png")
        ]
        assert client.artifact(good.id, "out").content == CONTENT
        assert client.result(bad.id, wait=SECONDS_MAX).error == "no"
        assert client.artifact(bad.id, "log").content == b"lines"
    finally:
        worker.stop()
        thread.join(SECONDS_MAX)


# -- rejections leave nothing behind --------------------------------------------------------------------------------


def test_rejected_result_leaves_no_file(server: ServerProcess, client: codeq.Client) -> None:
    task = claimed(client, "art-stale")
    before = files(server)
    outcome = codeq.Completed(1, [codeq.NewArtifact("a", CONTENT)])
    for token in (1, (task.lease_token or 0) + 1):
        with pytest.raises(codeq.StaleLeaseToken):
            client.submit(task, outcome, lease_token=token)
    assert files(server) == before
    client.nack(task, delay=0)
    with pytest.raises(codeq.LeaseLost):
        client.submit(task, outcome)
    assert files(server) == before


def test_repeated_result_returns_the_stored_record_and_a_different_one_is_rejected(
    server: ServerProcess, client: codeq.Client
) -> None:
    task = claimed(client, "art-again")
    outcome = codeq.Completed(1, [codeq.NewArtifact("a", CONTENT)])
    client.submit(task, outcome)
    before = files(server)
    assert [each.name for each in client.submit(task, outcome).artifacts] == ["a"]
    for other in (b"x", CONTENT[1:] + b"x"):
        with pytest.raises(codeq.LeaseLost):
            client.submit(task, codeq.Completed(1, [codeq.NewArtifact("a", other)]))
    assert files(server) == before
    assert client.artifact(task.id, "a").content == CONTENT


def test_concurrent_identical_results_store_one_file(server: ServerProcess, client: codeq.Client) -> None:
    task = claimed(client, "art-race")
    before = len(files(server))
    contents = [bytes([number % 4]) * 5000 for number in range(16)]

    def submit(content: bytes) -> bytes | None:
        try:
            client.submit(task, codeq.Completed(1, [codeq.NewArtifact("a", content)]))
        except codeq.LeaseLost:
            return None
        return content

    with ThreadPoolExecutor(16) as threads:
        taken = {content for content in threads.map(submit, contents) if content is not None}
    assert len(taken) == 1
    assert client.artifact(task.id, "a").content == taken.pop()
    assert len(files(server)) == before + 1


@pytest.mark.parametrize(
    ("artifact", "field"),
    [
        ({"name": "../x", "contentBase64": "YQ"}, "artifacts[0].name"),
        ({"name": "..", "contentBase64": "YQ"}, "artifacts[0].name"),
        ({"name": "a/b", "contentBase64": "YQ"}, "artifacts[0].name"),
        ({"name": "a\\b", "contentBase64": "YQ"}, "artifacts[0].name"),
        ({"name": "a\nb", "contentBase64": "YQ"}, "artifacts[0].name"),
        ({"name": "", "contentBase64": "YQ"}, "artifacts[0].name"),
        ({"name": "a" * 129, "contentBase64": "YQ"}, "artifacts[0].name"),
        (
            {"name": "a", "contentBase64": "YQ", "contentType": "text/html\r\nSet-Cookie: a=b"},
            "artifacts[0].contentType",
        ),
        ({"name": "a", "contentBase64": "*"}, "artifacts[0].contentBase64"),
        ({"name": "a", "contentBase64": "YQ", "url": "http://a"}, "artifacts[0]"),
        ({"name": "a"}, "artifacts[0]"),
        ({"name": "a", "url": "http://a\nb"}, "artifacts[0].url"),
        ({"name": "a", "contentBase64": "YQ", "path": "/etc/passwd"}, "artifacts[0].path"),
    ],
)
def test_malformed_artifact_is_rejected_with_its_field(
    server: ServerProcess, client: codeq.Client, artifact: dict[str, str], field: str
) -> None:
    task = claimed(client, "art-malformed")
    before = files(server)
    body = {"status": "COMPLETED", "artifacts": [artifact]}
    answer = rest(server, "POST", f"/tasks/{task.id}/result", body)
    assert (answer.status_code, answer.json()["reason"]) == (400, "INVALID_FIELD"), answer.text
    assert {detail["field"] for detail in answer.json()["details"]} == {field}
    assert files(server) == before
    assert client.get(task.id).status is codeq.TaskStatus.CLAIMED


def test_duplicate_artifact_name_is_rejected(client: codeq.Client) -> None:
    task = claimed(client, "art-twice")
    with pytest.raises(codeq.InvalidField):
        client.submit(task, codeq.Completed(1, [codeq.NewArtifact("a", b"1"), codeq.NewArtifact("a", b"2")]))


def test_artifact_beyond_its_limit_is_rejected_as_too_large(server: ServerProcess, client: codeq.Client) -> None:
    task = claimed(client, "art-large")
    before = files(server)
    with pytest.raises(codeq.TooLarge):
        client.submit(task, codeq.Completed(1, [codeq.NewArtifact("a", bytes(CONTENT_BYTES_MAX + 1))]))
    assert files(server) == before
    client.submit(task, codeq.Completed(1, [codeq.NewArtifact("a", bytes(CONTENT_BYTES_MAX))]))


# -- tenants ------------------------------------------------------------------------------------------------------


def test_artifact_of_another_tenant_is_not_found(tmp_path: Path) -> None:
    scopes = '"scopes":["codeq:claim","codeq:result"],"eventTypes":["*"]'
    env = {
        "PRODUCER_AUTH_PROVIDER": "static",
        "PRODUCER_AUTH_CONFIG": '{"token":"one","subject":"p","raw":{"tenantId":"acme","role":"ADMIN"}}',
        "WORKER_AUTH_PROVIDER": "static",
        "WORKER_AUTH_CONFIG": f'{{"token":"two","subject":"w",{scopes},"raw":{{"tenantId":"other"}}}}',
        "ALLOW_PRODUCER_AS_WORKER": "true",
    }
    with ServerProcess(tmp_path / "server", env=env, dev=False) as server:
        task = rest(server, "POST", "/tasks", {"command": "a", "taskId": "mine"}, "one").json()
        assert rest(server, "POST", "/tasks/claim", {"commands": ["a"]}, "one").status_code == 200
        body = {"status": "COMPLETED", "artifacts": [{"name": "a", "contentBase64": text(b"secret")}]}
        assert rest(server, "POST", f"/tasks/{task['id']}/result", body, "one").status_code == 200
        assert rest(server, "GET", "/tasks/mine/artifacts/a", token="one").content == b"secret"
        answer = rest(server, "GET", "/tasks/mine/artifacts/a", token="two")
        assert (answer.status_code, answer.json()["reason"]) == (404, "TASK_NOT_FOUND")


# -- the folder -----------------------------------------------------------------------------------------------------


def test_symlink_in_the_artifact_folder_is_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with ServerProcess(tmp_path / "server") as server, codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
        first = claimed(client, "art-link")
        client.submit(first, codeq.Completed(1, [codeq.NewArtifact("a", b"first")]))
        [file] = files(server)
        # The bucket becomes a link: nothing is written or read through it.
        bucket = file.parent
        bucket.rename(outside / "bucket")
        bucket.symlink_to(outside / "bucket")
        second = claimed(client, "art-link")
        with pytest.raises(codeq.ServerFault):
            client.submit(second, codeq.Completed(1, [codeq.NewArtifact("a", b"second")]))
        with pytest.raises(codeq.ServerFault):
            client.artifact(first.id, "a")
        assert [path.name for path in (outside / "bucket").iterdir()] == [file.name]
        # The file becomes a link: it is not read through.
        bucket.unlink()
        (outside / "bucket").rename(bucket)
        file.unlink()
        (outside / "secret").write_bytes(b"first")
        file.symlink_to(outside / "secret")
        with pytest.raises(codeq.ServerFault):
            client.artifact(first.id, "a")
        client.submit(second, codeq.Completed(1, [codeq.NewArtifact("a", b"second")]))
        assert client.artifact(second.id, "a").content == b"second"


def test_artifact_with_a_modified_file_is_not_served(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server") as server, codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
        task = claimed(client, "art-damage")
        client.submit(task, codeq.Completed(1, [codeq.NewArtifact("a", CONTENT)]))
        [file] = files(server)
        file.write_bytes(CONTENT[:-1] + b"!")
        answer = rest(server, "GET", f"/tasks/{task.id}/artifacts/a")
        assert (answer.status_code, answer.json()["reason"]) == (500, "CORRUPT_DATA")
        file.unlink()
        assert rest(server, "GET", f"/tasks/{task.id}/artifacts/a").json()["reason"] == "CORRUPT_DATA"


def test_artifacts_are_removed_with_their_task(tmp_path: Path) -> None:
    with (
        ServerProcess(tmp_path / "server", env={"RETENTION_SECONDS": "1"}) as server,
        codeq.Client(server.producer_addr, token=DEV_TOKEN) as client,
    ):
        task = claimed(client, "art-gone")
        client.submit(task, codeq.Completed(1, [codeq.NewArtifact("a", b"1"), codeq.NewArtifact("b", b"2")]))
        eventually(lambda: not files(server))
        with pytest.raises(codeq.TaskNotFound):
            client.artifact(task.id, "a")


def test_artifact_content_without_a_store_on_disk_is_rejected(tmp_path: Path) -> None:
    with (
        ServerProcess(tmp_path / "server", env={"PERSISTENCE_PROVIDER": "memory"}) as server,
        codeq.Client(server.producer_addr, token=DEV_TOKEN) as client,
    ):
        task = claimed(client, "art-memory")
        with pytest.raises(codeq.InvalidField):
            client.submit(task, codeq.Completed(1, [codeq.NewArtifact("a", b"1")]))
        client.submit(task, codeq.Completed(1, [codeq.NewArtifact("a", url="https://a")]))


# -- crashes ----------------------------------------------------------------------------------------------------------


def work(server: ServerProcess, command: str, acknowledged: dict[str, bytes], stop: threading.Event) -> None:
    """Creates, claims and ends tasks with one artifact each until stopped."""
    with codeq.Client(server.producer_addr, token=DEV_TOKEN, timeout_seconds=5) as client:
        while not stop.is_set():
            try:
                client.create(command)
                for task in client.claim([command]):
                    content = os.urandom(3000)
                    client.submit(task, codeq.Completed(1, [codeq.NewArtifact("a", content)]))
                    acknowledged[task.id] = content
            except codeq.CodeqError:
                stop.wait(0.02)  # the server is down


def ended_tasks(client: codeq.Client) -> int:
    """Returns the number of COMPLETED tasks."""
    count, token = 0, ""
    while True:
        page, token = client.tasks(statuses=["COMPLETED"], page_size=500, page_token=token)
        count += len(page)
        if not token:
            return count


def test_server_killed_under_load_keeps_acknowledged_artifacts_and_leaks_no_file(tmp_path: Path) -> None:
    acknowledged: dict[str, bytes] = {}
    stop = threading.Event()
    with ServerProcess(tmp_path / "server") as server, ThreadPoolExecutor(4) as threads:
        for number in range(4):
            threads.submit(work, server, f"kill-{number}", acknowledged, stop)
        try:
            for _ in range(4):
                wanted = len(acknowledged) + 20
                eventually(lambda wanted=wanted: len(acknowledged) > wanted)  # type: ignore[misc]
                server.restart()
        finally:
            stop.set()
            threads.shutdown()
        server.restart()  # the load has ended, so nobody needs the remaining files
        with codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
            for task_id, content in acknowledged.items():
                assert client.artifact(task_id, "a").content == content
            ended = ended_tasks(client)
        assert ended >= len(acknowledged)
        eventually(lambda: len(files(server)) == ended)


async def test_client_that_disconnects_during_an_artifact_write_leaves_no_file(tmp_path: Path) -> None:
    """The file is removed if the caller is gone before its result is stored; otherwise it stays."""
    with ServerProcess(tmp_path / "server") as server, codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
        tasks = [claimed(client, "art-left") for _ in range(8)]
        for number, task in enumerate(tasks):
            async with codeq.AsyncClient(server.producer_addr, token=DEV_TOKEN) as leaving:
                outcome = codeq.Completed(1, [codeq.NewArtifact("a", bytes(4 << 20))])
                call = asyncio.create_task(leaving.submit(task, outcome))
                await asyncio.sleep(0.004 * number)
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)
        ended = [task for task in tasks if await asyncio.to_thread(_has_ended, client, task)]
        eventually(lambda: len(files(server)) == len(ended))


def _has_ended(client: codeq.Client, task: codeq.Task) -> bool:
    try:
        client.nack(task, delay=3600)
    except codeq.LeaseLost:
        return True
    return False
