"""codeq health: asks the process that has this configuration."""

from __future__ import annotations

from pathlib import Path

from recording_server import RecordingServer, Run


def port_of(recorder: RecordingServer) -> str:
    return recorder.endpoint.rpartition(":")[2]


def test_health_asks_at_the_port_of_the_configuration(run: Run, recorder: RecordingServer) -> None:
    recorder.reply(b'{"status":"ok"}\n')

    done = run("health", PORT=port_of(recorder))

    assert (done.returncode, done.stdout) == (0, b'{"status":"ok"}\n')
    assert recorder.request.path == "/healthz"


def test_health_reads_the_configuration_file(run: Run, recorder: RecordingServer, tmp_path: Path) -> None:
    file = tmp_path / "codeq.yml"
    file.write_text(f"port: {port_of(recorder)}\nhttpHost: 127.0.0.1\n")
    recorder.reply(b"fine")

    assert run("health", CODEQ_CONFIG_PATH=str(file)).returncode == 0


def test_health_with_ready_says_why_the_server_is_not_ready(run: Run, recorder: RecordingServer) -> None:
    recorder.reply(b"no leader", status=503)

    done = run("health", "--ready", PORT=port_of(recorder))

    assert done.returncode == 1
    assert recorder.request.path == "/readyz"
    assert b"no leader" in done.stderr


def test_health_without_a_server_is_a_failed_connection(run: Run) -> None:
    done = run("health", PORT="1")

    assert done.returncode == 4
    assert b"localhost:1" in done.stderr
