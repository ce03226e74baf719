"""The programs of the SDK's README run as printed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import codeq
from server_process import DEV_TOKEN, ServerProcess

README = Path(__file__).resolve().parents[2] / "sdks" / "python" / "README.md"
LINES_MAX = 15


def test_readme_programs_create_and_complete_a_task(shared_server: ServerProcess) -> None:
    producer, worker, *_ = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert max(len(program.splitlines()) for program in (producer, worker)) <= LINES_MAX
    env = {"CODEQ_PRODUCER_ADDR": shared_server.producer_addr, "CODEQ_WORKER_ADDR": shared_server.worker_addr}
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
