"""The SDK README's recipes for forking servers, run as printed under those servers."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import codeq
from server_process import DEV_TOKEN, ServerProcess, reserved_port

README = Path(__file__).resolve().parents[2] / "sdks" / "python" / "README.md"
SECONDS_MAX = 45.0
REQUESTS = 12

SHOP = """
import os, codeq
producer = None
before_the_fork = codeq.Producer()
before_the_fork.create("prefork", "of the parent")

def application(environ, start_response):
    try:
        before_the_fork.create("prefork")
        inherited = "no error"
    except codeq.CodeqError as error:
        inherited = error.reason
    task_id = producer.create("prefork", os.getpid())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {task_id} {inherited}".encode()]
"""

ASGI = """
import os, types

app = types.SimpleNamespace(state=types.SimpleNamespace())

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        async with lifespan(app):
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    task_id = await app.state.producer.create("prefork", os.getpid())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"{os.getpid()} {task_id} FORKED".encode()})
"""


def recipe(word: str) -> str:
    """The program of the README that contains a word."""
    [program] = [
        each for each in re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL) if word in each
    ]
    return str(program)


@contextlib.contextmanager
def serving(folder: Path, server: ServerProcess, *command: str) -> Iterator[str]:
    """Runs a web server; yields its URL; ends it."""
    environment = {**os.environ, "CODEQ_PRODUCER_ADDR": server.producer_addr, "CODEQ_TOKEN": DEV_TOKEN}
    reserved = reserved_port()
    port = reserved.getsockname()[1]
    command = tuple(each.replace("PORT", str(port)) for each in command)
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=folder, env=environment, stdout=log, stderr=log
        )
        try:
            yield f"http://127.0.0.1:{port}"
            process.terminate()
            assert process.wait(SECONDS_MAX) in {0, -15}
        finally:
            process.kill()
            process.wait()
            reserved.close()
            print((folder / "log").read_text())


def answers(url: str, processes: int) -> list[list[str]]:
    """Sends requests until this many processes have answered, at least REQUESTS of them."""
    deadline = time.monotonic() + SECONDS_MAX
    found: list[list[str]] = []
    while len(found) < REQUESTS or len({pid for pid, *_ in found}) < processes:
        assert time.monotonic() < deadline, found
        try:
            with urllib.request.urlopen(url, timeout=SECONDS_MAX) as reply:
                found.append(reply.read().decode().split())
        except ConnectionError:
            time.sleep(0.05)
        except urllib.error.URLError:
            time.sleep(0.05)
    return found


def check(found: list[list[str]], server: ServerProcess) -> None:
    with codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
        for pid, task_id, inherited in found:
            assert inherited == "FORKED"
            assert client.get(task_id).payload == int(pid)


def test_producers_work_under_gunicorn_with_preload(shared_server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "gunicorn.conf.py").write_text(recipe("post_fork"))
    command = ("gunicorn", "--bind", "127.0.0.1:PORT", "--workers", "2", "shop:application")
    with serving(tmp_path, shared_server, *command) as url:
        check(answers(url, 2), shared_server)


def test_producers_work_under_uvicorn_with_workers(shared_server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(recipe("lifespan") + ASGI)
    command = ("uvicorn", "--host", "127.0.0.1", "--port", "PORT", "--workers", "2", "shop:application")
    with serving(tmp_path, shared_server, *command) as url:
        check(answers(url, 2), shared_server)


def test_producers_work_in_process_pools(shared_server: ServerProcess, tmp_path: Path) -> None:
    environment = {**os.environ, "CODEQ_PRODUCER_ADDR": shared_server.producer_addr, "CODEQ_TOKEN": DEV_TOKEN}
    program = tmp_path / "pool.py"
    used_before = 'import codeq\nbefore = codeq.Producer()\nbefore.create("prefork")\n'
    for method in ("fork", "forkserver", "spawn"):
        program.write_text(used_before + recipe("initializer").replace('"fork"', f'"{method}"'))
        command = [sys.executable, str(program)]
        out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=SECONDS_MAX)
        ids = out.stdout.split()
        assert len(ids) == 20
        with codeq.Client(shared_server.producer_addr, token=DEV_TOKEN) as client:
            assert sorted(client.get(each).payload for each in ids) == list(range(20))  # type: ignore[type-var]
