"""The programs of examples/python run as they are."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import codeq
import pytest
from server_process import DEV_TOKEN, ServerProcess

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "python"
LINES_MAX = 15

OUTPUT = {
    "quickstart.py": "Hello, world!\n",
    "graceful_shutdown.py": ("interrupted: SHUTDOWN\nshort: finished\nendless: PENDING 0 attempts\n"),
    "retries_and_dead_letters.py": (
        "busy: charged\n"
        "stolen: the card was reported stolen\n"
        "broken: DLQ - RuntimeError: no connection to the bank\n"
        "dead letter: True broken\n"
        "redriven: charged\n"
    ),
    "fan_out.py": "10000 created, sum of squares 333283335000\n",
}
SERVED = {"worker.py", "web_app.py"}
"""Programs that run until they are stopped."""


def env_of(server: ServerProcess) -> dict[str, str]:
    """The environment of a program that uses the server."""
    return {
        "CODEQ_PRODUCER_ADDR": server.producer_addr,
        "CODEQ_WORKER_ADDR": server.worker_addr,
        "CODEQ_TOKEN": DEV_TOKEN,
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }


def test_every_example_is_run_and_listed() -> None:
    programs = {path.name for path in EXAMPLES.glob("*.py")}
    assert programs == {*OUTPUT, *SERVED}
    listed = (EXAMPLES / "README.md").read_text()
    assert [name for name in programs if f"]({name})" not in listed] == []


def test_quickstart_is_short() -> None:
    assert len((EXAMPLES / "quickstart.py").read_text().splitlines()) <= LINES_MAX


@pytest.mark.parametrize("name", OUTPUT)
def test_example_prints_what_it_shows(name: str, server: ServerProcess) -> None:
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        env=env_of(server),
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (ran.returncode, sorted(ran.stdout.splitlines())) == (0, sorted(OUTPUT[name].splitlines())), ran.stderr


def test_worker_example_works_until_it_is_stopped(shared_server: ServerProcess) -> None:
    with (
        subprocess.Popen(
            [sys.executable, str(EXAMPLES / "worker.py")], env=env_of(shared_server), stderr=subprocess.PIPE, text=True
        ) as process,
        codeq.Producer(shared_server.producer_addr, token=DEV_TOKEN) as producer,
    ):
        try:
            done = producer.create_and_wait("PROCESS_ORDER", {"id": "o-1", "items": ["a", "b"]})
            invalid = producer.create_and_wait("PROCESS_ORDER", {"id": "o-2", "items": "a"})
            mail = producer.create_and_wait("SEND_MAIL", "a@example.com")
            process.send_signal(signal.SIGTERM)
            _, told = process.communicate(timeout=30)
        finally:
            process.kill()
    assert done.result == {"order": "o-1", "packed": 2}
    assert invalid.error == "payload is invalid: payload.items: must be a list, not a text"
    assert mail.status == codeq.TaskStatus.COMPLETED
    assert process.returncode == 0
    assert " took 0." in told


if "fastapi==" in (ROOT / "requirements-dev.txt").read_text():

    async def test_web_application_enqueues_and_waits(
        shared_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import httpx
        from worker_runs import running

        for name, value in env_of(shared_server).items():
            monkeypatch.setenv(name, value)
        spec = importlib.util.spec_from_file_location("web_app", EXAMPLES / "web_app.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "web_app", module)  # where its annotations are resolved
        spec.loader.exec_module(module)
        worker = codeq.AsyncWorker(shared_server.worker_addr, token=DEV_TOKEN)
        order = {"id": "o-1", "items": ["a"]}
        async with (
            running(worker, lambda task: task.payload, "PROCESS_ORDER"),
            module.lifespan(module.app),
            httpx.AsyncClient(transport=httpx.ASGITransport(module.app), base_url="http://shop") as web,
        ):
            waited = await web.post("/orders/wait", json=order)
            assert (waited.status_code, waited.json()) == (200, order)
            enqueued = await web.post("/orders", json=order)
            assert enqueued.status_code == 202
            async with codeq.AsyncClient(shared_server.producer_addr, token=DEV_TOKEN) as client:
                done = await client.result(enqueued.json()["task"], wait=20)
            assert done.result == order
            assert (await web.post("/orders", json={"id": 1})).status_code == 422
