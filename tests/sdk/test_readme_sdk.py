"""The programs of the SDK's README run as printed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import codeq
from server_process import DEV_TOKEN, ServerProcess

README = Path(__file__).resolve().parents[2] / "sdks" / "python" / "README.md"
LINES_MAX = 15


def programs() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def env_of(server: ServerProcess) -> dict[str, str]:
    """The addresses of the server, instead of the default ones. The programs name the token."""
    return {
        "CODEQ_PRODUCER_ADDR": server.producer_addr,
        "CODEQ_WORKER_ADDR": server.worker_addr,
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }


def test_quick_start_is_the_first_program_and_prints_what_the_readme_says(shared_server: ServerProcess) -> None:
    quick_start = programs()[0]
    assert len(quick_start.splitlines()) <= LINES_MAX
    [printed] = re.findall(r"prints `(.*?)`:", README.read_text())
    ran = subprocess.run(
        [sys.executable, "-c", quick_start],
        env=env_of(shared_server),
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{printed}\n", "")


def test_readme_programs_create_and_complete_a_task(shared_server: ServerProcess) -> None:
    _, producer, worker, *_ = programs()
    assert max(len(program.splitlines()) for program in (producer, worker)) <= LINES_MAX
    env = env_of(shared_server)
    created = subprocess.run(
        [sys.executable, "-c", producer], env=env, check=True, capture_output=True, text=True, timeout=30
    )
    task_id = created.stdout.strip()
    assert created.stderr == ""
    with (
        subprocess.Popen([sys.executable, "-c", worker], env=env, stderr=subprocess.PIPE, text=True) as process,
        codeq.Client(shared_server.producer_addr, token=DEV_TOKEN) as client,
    ):
        try:
            record = client.result(task_id, wait=30)
            process.send_signal(signal.SIGTERM)
            _, complaints = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (record.status, record.result) == ("COMPLETED", {"shipped": "42"})
    assert (process.returncode, complaints) == (0, "")
