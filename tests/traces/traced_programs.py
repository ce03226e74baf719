"""The programs of this folder that create tasks and work on them, each with an SDK and OpenTelemetry."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from otlp_collector import Collector
from program_builds import build_once
from server_process import DEV_TOKEN, ServerProcess

LANGUAGES: Final = ("python", "go", "ts")
SECONDS_MAX: Final = 60
_ROOT: Final = Path(__file__).resolve().parents[2]
_PROGRAMS: Final = Path(__file__).with_name("programs")


class Programs:
    """Starts the programs against a server and a collector.

    Args:
        folder: Where they are built, for all processes of the test run.
    """

    def __init__(self, folder: Path) -> None:
        program = folder / "traced-program"
        build_once(program, ["go", "build", "-o", str(program), "."], _PROGRAMS / "go")
        build_once(folder / "traced-ts.built", ["npm", "run", "--silent", "build"], _ROOT / "sdks" / "ts")
        self._commands = {
            "python": [sys.executable, str(_PROGRAMS / "python" / "program.py")],
            "go": [str(program)],
            "ts": ["node", str(_PROGRAMS / "ts" / "program.mjs")],
        }

    def create(self, language: str, commands: Sequence[str], server: ServerProcess, collector: Collector) -> None:
        """Creates a task of each command and waits for their ends; its service is called "LANGUAGE-producer"."""
        with self._started(language, "create", commands, server, collector) as program:
            output, _ = program.communicate(timeout=SECONDS_MAX)
        assert len(output.splitlines()) == len(commands)

    @contextmanager
    def working(
        self, language: str, commands: Sequence[str], server: ServerProcess, collector: Collector
    ) -> Iterator[None]:
        """Works on tasks of these commands meanwhile; its service is called "LANGUAGE-worker"."""
        with self._started(language, "work", commands, server, collector) as program:
            yield
            program.send_signal(signal.SIGTERM)
            program.communicate(timeout=SECONDS_MAX)

    @contextmanager
    def _started(
        self, language: str, what: str, commands: Sequence[str], server: ServerProcess, collector: Collector
    ) -> Iterator[subprocess.Popen[str]]:
        role = {"create": "producer", "work": "worker"}[what]
        env = os.environ | {
            "CODEQ_TOKEN": DEV_TOKEN,
            "CODEQ_PRODUCER_ADDR": server.producer_addr,
            "CODEQ_WORKER_ADDR": server.worker_addr,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc_url,
            "OTEL_SERVICE_NAME": f"{language}-{role}",
            "OTLP_JSON_URL": collector.http_url,
        }
        command = [*self._commands[language], what, *commands]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as program:
            try:
                yield program
            finally:
                program.kill()
        assert program.returncode == 0
