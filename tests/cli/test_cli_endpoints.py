"""Several endpoints, leaders, and the tokens of workers."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import grpc
from recording_server import RecordingServer, Run, recording_server


def _unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def test_unreachable_endpoint_is_skipped(run: Run, recorder: RecordingServer) -> None:
    recorder.reply(b"{}")
    nobody = f"http://127.0.0.1:{_unused_port()}"
    both = f"{nobody},{recorder.endpoint}"
    assert run("--endpoint", both, "task", "create", "A", "--payload", "1").returncode == 0
    done = run("--endpoint", f"{nobody},{nobody}/again,http://127.0.0.1:{_unused_port()}", "task", "get", "t1")
    assert (done.returncode, done.stderr.count(b"Connection refused")) == (4, 2)


def test_endpoint_that_knows_no_leader_is_skipped(run: Run, recorder: RecordingServer) -> None:
    with recording_server() as other:
        other.reply(b'{"error":"no leader","code":"UNAVAILABLE","reason":"NOT_LEADER"}', 503)
        recorder.reply(b"{}")
        both = f"{other.endpoint},{recorder.endpoint}"
        assert run("--endpoint", both, "task", "create", "A", "--payload", "1").returncode == 0


def test_write_with_an_unknown_outcome_is_not_sent_to_another_endpoint(run: Run, recorder: RecordingServer) -> None:
    with recording_server() as other:
        other.reply(b'{"error":"unknown","code":"UNAVAILABLE","reason":"OUTCOME_UNKNOWN"}', 503)
        done = run("--endpoint", f"{other.endpoint},{recorder.endpoint}", "task", "create", "A", "--payload", "1")
    assert (done.returncode, recorder.requests) == (1, [])


def test_rejection_after_a_redirect_names_the_rejecting_server(client: Run, recorder: RecordingServer) -> None:
    with recording_server() as leader:
        recorder.location = f"{leader.endpoint}/v1/codeq/tasks/t1"
        recorder.reply(b'{"error":"node-b leads","code":"UNAVAILABLE","reason":"NOT_LEADER"}', 307)
        leader.reply(b'{"error":"no task","code":"NOT_FOUND","reason":"TASK_NOT_FOUND"}', 404)
        done = client("task", "get", "t1")
    assert done.stderr.decode() == f"error: no task (from {leader.endpoint}) (TASK_NOT_FOUND)\n"


def test_error_names_the_lost_leader_rather_than_the_endpoint(client: Run, recorder: RecordingServer) -> None:
    gone = f"http://127.0.0.1:{_unused_port()}"
    recorder.location = f"{gone}/v1/codeq/tasks/t1"
    recorder.reply(b'{"error":"node-b leads","code":"UNAVAILABLE","reason":"NOT_LEADER"}', 307)
    done = client("task", "get", "t1")
    assert done.stderr.decode() == (
        f"error: {gone}: Connection refused (the leader named by {recorder.endpoint}) (CONNECTION_FAILED)\n"
    )


def test_worker_commands_send_the_worker_token(run: Run, recorder: RecordingServer) -> None:
    tokens = {"CODEQ_ENDPOINT": recorder.endpoint, "CODEQ_TOKEN": "producer", "CODEQ_WORKER_TOKEN": "worker"}
    calls = ("create A --payload 1", "claim", "heartbeat t", "complete t", "nack t", "abandon t", "progress t 1")
    for call in (*calls, "fail t --error x", "cancel t", "claim --token mine"):
        recorder.reply(b"{}")
        assert run("task", *call.split(), **tokens).returncode == 0
    sent_tokens = [request.headers["authorization"].split()[1] for request in recorder.requests]
    assert sent_tokens == ["producer", *["worker"] * 7, "producer", "mine"]


def test_grpc_port_given_as_an_endpoint_is_recognised(run: Run) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        done = run("--endpoint", endpoint, "task", "list")
    finally:
        server.stop(None)
    text = f"error: {endpoint} is a gRPC port; REST has a port of its own, by default 8080 (CONNECTION_FAILED)\n"
    assert (done.returncode, done.stderr.decode()) == (4, text)


def test_error_says_that_a_port_speaks_another_protocol(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        pool.submit(_greet, listener)
        done = run("--endpoint", endpoint, "task", "list")
    assert (done.returncode, done.stderr.decode()) == (
        4,
        f"error: {endpoint} does not speak HTTP/1.1 (CONNECTION_FAILED)\n",
    )


def _greet(listener: socket.socket) -> None:
    """Answers a request as a mail server would."""
    connection, _ = listener.accept()
    with connection:
        connection.sendall(b"220 mail ready\r\n")
        connection.recv(65_536)
