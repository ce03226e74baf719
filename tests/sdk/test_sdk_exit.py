"""Every call ends within its timeout, even during interpreter shutdown and in signal handlers."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator

import codeq
import pytest
from server_process import DEV_TOKEN, ServerProcess

TIMEOUT_SECONDS = 5.0
PROCESS_SECONDS_MAX = 45.0
"""Time for Python to start on a busy machine, and for all calls of a program to end."""

PROGRAM = """
import atexit, logging, os, signal, sys, threading, time
import codeq

codeq.Producer  # imported: at its very end the interpreter imports nothing
ADDRESS, COMMAND = {address!r}, {command!r}

def producer():
    return codeq.Producer(ADDRESS, token={token!r}, timeout_seconds={timeout})

def attempt(call):
    # Tells on the standard output how a call ended, and complains when it took longer than it may.
    begin = time.monotonic()
    try:
        call()
        told = "done"
    except codeq.CodeqError as error:
        told = type(error).__name__
    late = time.monotonic() - begin > {timeout} + 2
    os.write(1, ("late " if late else "").encode() + told.encode() + b"\\n")

"""

WHENEVER = {
    "atexit": """
        used = producer()
        used.create(COMMAND) if UP else None
        atexit.register(lambda: attempt(used.close))
        atexit.register(lambda: attempt(lambda: used.create(COMMAND)))
    """,
    "atexit, registered first": """
        holder = []
        atexit.register(lambda: attempt(holder[0].close))
        atexit.register(lambda: attempt(lambda: holder[0].create(COMMAND)))
        holder.append(producer())
        holder[0].create(COMMAND) if UP else None
    """,
    "a new producer in atexit": """
        atexit.register(lambda: attempt(lambda: producer().create(COMMAND)))
        atexit.register(lambda: attempt(producer().close))
    """,
    "flush of a log handler": """
        class Shipping(logging.Handler):
            def __init__(self):
                super().__init__()
                self.producer = producer()
            def emit(self, record):
                pass
            def flush(self):
                attempt(lambda: self.producer.create(COMMAND))
            def close(self):
                attempt(self.producer.close)
        shipping = Shipping()
        logging.getLogger().addHandler(shipping)
        shipping.producer.create(COMMAND) if UP else None
    """,
    "del": """
        class Holder:
            def __init__(self):
                self.producer = producer()
                self.attempt = attempt
                self.command = COMMAND
            def __del__(self):
                self.attempt(lambda: self.producer.create(self.command))
                self.attempt(self.producer.close)
        holder = Holder()
        holder.producer.create(COMMAND) if UP else None
    """,
    "del of a new one": """
        class Holder:
            make, attempt, command = staticmethod(producer), staticmethod(attempt), COMMAND
            def __del__(self):
                new = self.make()
                self.attempt(lambda: new.create(self.command))
                self.attempt(new.close)
        holder = Holder()
    """,
    "del on the SDK's thread": """
        class Holder:
            def __init__(self):
                self.producer = producer()
            def __del__(self):
                attempt(lambda: self.producer.create(COMMAND))
                attempt(self.producer.close)
                over.set()
        from codeq import runtime
        over = threading.Event()
        bag = [Holder()]
        bag[0].producer.create(COMMAND) if UP else None
        runtime.loop().call_soon_threadsafe(bag.clear)
        over.wait(30)
    """,
    "handler of a signal": """
        used = producer()
        got = []
        def on_signal(number, frame):
            got.append(number)
            attempt(lambda: used.create(COMMAND))
        signal.signal(signal.SIGALRM, on_signal)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        end = time.monotonic() + 1.5
        while time.monotonic() < end or not got:
            try:
                used.create(COMMAND)
            except codeq.CodeqError:
                pass
        attempt(used.close)
    """,
    "client in atexit": """
        client = codeq.Client(ADDRESS, token={token!r}, timeout_seconds={timeout})
        client.create(COMMAND) if UP else None
        atexit.register(lambda: attempt(client.close))
        atexit.register(lambda: attempt(lambda: client.create(COMMAND)))
    """,
    "a thread that is left alone": """
        used = producer()
        threading.Thread(target=lambda: [used.create(COMMAND) for _ in iter(int, 1)], daemon=True).start()
        time.sleep(0.2)
        attempt(lambda: None)
        attempt(lambda: None)
    """,
}


def run(whenever: str, address: str, *, up: bool) -> list[str]:
    """Runs a program to its end; returns how its calls ended."""
    values = {"address": address, "command": "exit", "token": DEV_TOKEN, "timeout": TIMEOUT_SECONDS}
    body = textwrap.dedent(WHENEVER[whenever])
    code = PROGRAM.format(**values) + f"UP = {up}\n"
    code += body.replace("{token!r}", repr(DEV_TOKEN)).replace("{timeout}", str(TIMEOUT_SECONDS))
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PROCESS_SECONDS_MAX, check=False
    )
    print(ended.stderr)
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr
    return ended.stdout.splitlines()


@pytest.fixture(scope="module")
def silent_address() -> Iterator[str]:
    """A server that accepts connections and sends nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("whenever", WHENEVER)
def test_call_succeeds_even_during_exit_and_in_signal_handlers(whenever: str, shared_server: ServerProcess) -> None:
    assert run(whenever, shared_server.producer_addr, up=True) == ["done", "done"]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "silent"])
@pytest.mark.parametrize("whenever", [name for name in WHENEVER if name != "a thread that is left alone"])
def test_call_without_a_server_respects_its_timeout_even_during_exit(
    whenever: str, address: str, silent_address: str
) -> None:
    create, other = run(whenever, silent_address if address == "silent" else address, up=False)
    told = {create, other}
    assert told <= {"done", "DeadlineExceeded", "NotSent", "Unavailable", "OutcomeUnknown"}
    assert told != {"done"}


@pytest.mark.parametrize("kind", ["Client", "Producer"])
def test_hanging_token_function_does_not_delay_calls_close_or_exit(kind: str) -> None:
    code = f"""
import time, codeq, threading
begin = time.monotonic()
client = codeq.{kind}("127.0.0.1:1", token=lambda: time.sleep(600), timeout_seconds=1)
for _ in range(3):
    try:
        client.create("X")
    except codeq.CodeqError as error:
        print(type(error).__name__)
client.close()
print(time.monotonic() - begin < 15, threading.active_count() < 5)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PROCESS_SECONDS_MAX, check=True
    )
    *errors, within = ended.stdout.splitlines()
    assert set(errors) <= {"DeadlineExceeded", "Unavailable"}
    assert within == "True True"


def test_create_that_cannot_be_sent_raises_one_clear_error() -> None:
    with codeq.Producer("127.0.0.1:1", timeout_seconds=30) as producer:
        begin = time.monotonic()
        with pytest.raises(codeq.InvalidField, match="4300 digits"):
            producer.create("X", 10**5000)
        assert time.monotonic() - begin < 20
